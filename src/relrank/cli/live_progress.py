"""What the live displays share: a bar above which tables stand, a table's looks, and a guess at the time left."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table


class LiveProgress:
    """A bar that is shown while the block runs; time left is guessed from what each model took so far."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}")
        )
        self._task = self._bar.add_task("", total=None, left="")
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._planned = self._finished = 0
        self._waiting: dict[str, int] = {}
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
        known = {m: sum(s) / len(s) for m, s in self._seconds.items()}
        if not known:
            return ""
        guess = sum(n * known.get(m, max(known.values())) for m, n in self._waiting.items())
        guess /= max(at_once, 1)
        return f"about {guess:.0f} s left" if guess < 90 else f"about {guess / 60:.0f} min left"


def plain_table(title: str) -> Table:
    """A table as all of them look: a title on the left, one rule under the headings."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
