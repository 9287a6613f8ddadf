"""Progress of a study in a notebook, a terminal or a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from relrank.graph.relation import NO_TITLES, Titles
from relrank.io.html import escaped
from relrank.report import answer
from relrank.study.cell import Cell, cell_title
from relrank.study.number_format import duration
from relrank.study.progress import StudyProgress
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


class DisplayedProgress(StudyProgress):
    """A study callback that shows how many cells are done, the time left, which cells run, and the answer so far."""

    def __init__(
        self, display: Display, titles: Titles = NO_TITLES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._display, self._titles, self._began = display, titles, clock()
        self._answer = ""

    def worker_lost(self, cell: Cell, why: str) -> None:
        """A cell starts again."""
        super().worker_lost(cell, why)
        self._display.note(f"{cell_title(cell, self._titles)} starts again, its process was lost: {why}")

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Cells are left out."""
        super().skipped(cells, why)
        self._display.note(why)

    def provisional(self, assemble: Callable[[], StudyResult]) -> None:
        """Show what the finished cells say so far."""
        result = assemble()
        self._answer = f"so far: {result.card['progress']['so_far'] or answer(result)}"
        self.changed()

    def end(self, complete: bool) -> None:
        """Replace the bar by a sentence."""
        reused = f", {self.n_reused:,} of them from an earlier run" if self.n_reused else ""
        rest = "" if complete else f" of {self.total:,}; run again to go on"
        took = duration(self._clock() - self._began)
        self._display.show(f"{self.n_done:,} cells{reused}{rest}, {took}", last=True)

    def changed(self) -> None:
        """Show it."""
        left = self.time_left
        text = f"{self.n_done:,} of {self.total:,} cells" + (f", {left}" if left is not None else "")
        names = [(cell_title(one.cell, self._titles), one.message) for one in self.running.values()]
        running = [f"{name}: {message}" if message else name for name, message in names]
        details = [*([self._answer] if self._answer else []), *running[:8]]
        self._display.show(text, self.n_done / max(self.total, 1), details)


@contextmanager
def study_progress(quiet: bool, titles: Titles = NO_TITLES) -> Iterator[DisplayedProgress]:
    """A callback whose display ends with a sentence, also after an error or an interrupt."""
    callback = DisplayedProgress(Display(quiet), titles)
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
    display.show(f"{what}: {duration(time.monotonic() - began)}", last=True)


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
