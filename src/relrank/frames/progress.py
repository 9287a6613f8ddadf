"""Progress of a study in a notebook, a terminal or a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from relrank.io.html import escaped
from relrank.report import answer
from relrank.study.callbacks import NullCallback
from relrank.study.cell import Cell
from relrank.study.cell_store import CellResult
from relrank.study.result import StudyResult

INTERVAL = 0.2
"""Seconds between two updates of a display."""
LOG_INTERVAL = 10.0
"""Seconds between two lines in a file or a pipe."""


class Display:
    """A line of text with a bar, which is replaced while work goes on.

    In a notebook it is an output of its own; in a terminal the last line; elsewhere a new line now and then.

    Args:
        quiet: show nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet, self._last, self._handle = quiet, -LOG_INTERVAL, None
        self._notebook = not quiet and in_notebook()
        self._width = 0

    def show(self, text: str, share: float | None = None, details: Sequence[str] = (), last: bool = False) -> None:
        """Replace the line.

        Args:
            text: of the line.
            share: that is done, for the bar, if known.
            details: further lines, in a notebook only.
            last: whether the work has ended, after which the line stays.
        """
        now = time.monotonic()
        terminal = sys.stderr is not None and sys.stderr.isatty()
        if self._quiet or (
            not last and now - self._last < (INTERVAL if self._notebook or terminal else LOG_INTERVAL)
        ):
            return
        self._last = now
        if self._notebook:
            self._display(progress_html(text, None if last else share, details))
        elif terminal:
            line = text if last else f"{bar(share)} {text}"
            line = line[: _columns() - 1]
            sys.stderr.write("\r" + line.ljust(self._width) + ("\n" if last else ""))
            sys.stderr.flush()
            self._width = 0 if last else len(line)
        else:
            print(text, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line of its own, which stays."""
        if self._quiet:
            return
        if self._notebook:
            from IPython.display import HTML, display

            display(HTML(f"<div>{escaped(text)}</div>"))  # type: ignore[no-untyped-call]
            return
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            self._width = 0
        print(text, file=sys.stderr, flush=True)

    def _display(self, page: str) -> None:
        from IPython.display import HTML, display

        if self._handle is None:
            self._handle = display(HTML(page), display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(HTML(page))


class StudyProgress(NullCallback):
    """A study callback that shows how many cells are done, the time left, which cells run, and the answer so far.

    The total is an estimate where results decide which further cells there are. The time left follows from each
    model's mean time so far.
    """

    def __init__(self, display: Display, clock: Callable[[], float] = time.monotonic) -> None:
        self._display, self._clock = display, clock
        self._began = clock()
        self._left: dict[str, Cell] = {}
        self._expected: dict[str, int] = {}
        """Estimated number of cells of each model that have not finished."""
        self._answer = ""
        self._running: dict[str, tuple[float, str]] = {}
        self._seconds: dict[str, list[float]] = {}
        self._planned = self.done_cells = self.reused = 0

    @property
    def total(self) -> int:
        """Number of cells: those planned, or an estimate that includes later ones."""
        return max(self._planned, self.done_cells + sum(n for n in self._expected.values() if n > 0))

    def begin(self, expected: Mapping[str, int]) -> None:
        """The study begins, with an estimate of its number of cells by model."""
        self._expected = dict(expected)
        self._show()

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Add cells, of which an earlier run has finished some."""
        self._planned += len(cells)
        self.reused += finished
        self._left |= {_name(cell): cell for cell in cells}
        self._show()

    def start(self, cell: Cell) -> None:
        """A cell starts."""
        self._running[_name(cell)] = self._clock(), ""
        self._show()

    def on_status(self, cell: Cell, message: str) -> None:
        """Show what a running cell says."""
        began, _ = self._running.get(_name(cell), (self._clock(), ""))
        self._running[_name(cell)] = began, message
        self._show()

    def worker_lost(self, cell: Cell, why: str) -> None:
        """A cell starts again."""
        self._running.pop(_name(cell), None)
        self._display.note(f"{_name(cell)} starts again, its process was lost: {why}")

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell has a result."""
        self.done_cells += 1
        self._expected[result.model] = self._expected.get(result.model, 0) - 1
        self._left.pop(_name(cell), None)
        began, _ = self._running.pop(_name(cell), (None, ""))
        if fresh and began is not None:
            self._seconds.setdefault(result.model, []).append(self._clock() - began)
        self._show()

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Cells are left out."""
        for cell in cells:
            self._running.pop(_name(cell), None)
            self._planned -= self._left.pop(_name(cell), None) is not None
            self._expected[cell.model.name] = self._expected.get(cell.model.name, 0) - 1
        self._display.note(why)

    def provisional(self, assemble: Callable[[], StudyResult]) -> None:
        """Show what the finished cells say so far."""
        result = assemble()
        self._answer = f"so far: {result.card['progress']['so_far'] or answer(result)}"
        self._show()

    def seconds_left(self) -> float | None:
        """Estimate of the time left; None before the first cell has finished in this run."""
        means = {model: sum(each) / len(each) for model, each in self._seconds.items()}
        if not means:
            return None
        planned: dict[str, int] = {}
        for cell in self._left.values():
            planned[cell.model.name] = planned.get(cell.model.name, 0) + 1
        waiting = {name: max(planned.get(name, 0), self._expected.get(name, 0)) for name in planned | self._expected}
        seconds = sum(n * means.get(name, max(means.values())) for name, n in waiting.items())
        return seconds / max(len(self._running), 1)

    def end(self, complete: bool) -> None:
        """Replace the bar by a sentence."""
        reused = f", {self.reused:,} of them from an earlier run" if self.reused else ""
        rest = "" if complete else f" of {self.total:,}; run again to go on"
        took = _duration(self._clock() - self._began)
        self._display.show(f"{self.done_cells:,} cells{reused}{rest}, {took}", last=True)

    def _show(self) -> None:
        left = self.seconds_left()
        text = f"{self.done_cells:,} of {self.total:,} cells" + (f", about {_duration(left)} left" if left else "")
        running = [f"{name}{f': {message}' if message else ''}" for name, (_, message) in self._running.items()]
        details = [*([self._answer] if self._answer else []), *running[:8]]
        self._display.show(text, self.done_cells / max(self.total, 1), details)


@contextmanager
def study_progress(quiet: bool) -> Iterator[StudyProgress]:
    """A callback whose display ends with a sentence, also after an error or an interrupt."""
    callback = StudyProgress(Display(quiet))
    with ExitStack() as stack:
        stack.callback(callback.end, False)
        yield callback
        stack.pop_all()
    callback.end(True)


@contextmanager
def step_progress(what: str, quiet: bool) -> Iterator[Callable[[str, int, int | None], None]]:
    """A progress function of one long step, such as reading; its display ends with the time it took."""
    display, began = Display(quiet), time.monotonic()
    display.show(what)

    def progress(description: str, done: int, total: int | None) -> None:
        share = done / total if total else None
        display.show(f"{what}: {description}, {done:,}" + (f" of {total:,}" if total else ""), share)

    yield progress
    display.show(f"{what}: {_duration(time.monotonic() - began)}", last=True)


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, which shows HTML."""
    shell: Any = sys.modules.get("IPython")
    instance = shell.get_ipython() if shell is not None else None
    return instance is not None and hasattr(instance, "kernel")


def progress_html(text: str, share: float | None, details: Sequence[str] = ()) -> str:
    """A line with a bar, and further lines below; everything is escaped."""
    meter = "" if share is None else f'<progress value="{share:.4f}" max="1" style="width:16em"></progress> '
    lines = "".join(f'<div style="opacity:.7;font-size:.9em">{escaped(line)}</div>' for line in details)
    return f'<div style="font-variant-numeric:tabular-nums">{meter}{escaped(text)}{lines}</div>'


def bar(share: float | None, width: int = 20) -> str:
    """A bar of characters; dots where the share is unknown."""
    if share is None:
        return "." * 3
    full = round(min(max(share, 0.0), 1.0) * width)
    return "[" + "#" * full + "-" * (width - full) + "]"


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _name(cell: Cell) -> str:
    return f"{cell.model.name}, {cell.arm.name}, split {cell.split_context.seed}"
