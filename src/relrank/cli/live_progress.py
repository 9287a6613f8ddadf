"""Base of the live displays: a progress bar with an estimate of the time left, and the style of tables."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table


class LiveProgress:
    """A progress bar shown while the block runs; the time left is estimated from each model's mean time."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._bar.add_task("", total=None, left="")
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._planned = self._finished = 0
        self._waiting: dict[str, int] = {}
        self._expected: dict[str, int] = {}
        """Estimated number of cells of each model, planned ones included, less the finished ones."""
        self._seconds: dict[str, list[float]] = {}
        self._shown = 0.0

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def _left(self, at_once: int = 1) -> str:
        means = {model: sum(seconds) / len(seconds) for model, seconds in self._seconds.items()}
        if not means:
            return ""
        waiting = {m: max(n, self._expected.get(m, 0)) for m, n in self._waiting.items()} | {
            m: n for m, n in self._expected.items() if m not in self._waiting
        }
        seconds = sum(n * means.get(model, max(means.values())) for model, n in waiting.items())
        # a model without a finished cell may take longer than all others
        about = "about" if all(model in means for model, n in waiting.items() if n > 0) else "at least"
        seconds /= max(at_once, 1)
        return f"{about} {seconds:.0f} s left" if seconds < 90 else f"{about} {seconds / 60:.0f} min left"

    @property
    def _total(self) -> int:
        """Number of cells: those planned, or an estimate that includes later batches."""
        return max(self._planned, self._finished + sum(n for n in self._expected.values() if n > 0))


def plain_table(title: str) -> Table:
    """A table with its title on the left and one rule under the headings."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
