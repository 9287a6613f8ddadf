"""Terminal output that several commands share: progress bars, status lines, plain text."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn, TaskID
    from rich.status import Status

    from relrank.tables.fetch import Progress as ProgressCallback

STATUS_INTERVAL = 5.0
"""Seconds between two status lines if the output is not a terminal."""


@contextmanager
def progress_bars(console: Console, counter: ProgressColumn | None = None) -> Iterator[ProgressCallback]:
    """One bar per long task, removed when the block ends; nothing is shown if the console is not a terminal."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), counter or MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}
    with ExitStack() as stack:

        def progress(description: str, done: int, total: int | None) -> None:
            if not tasks:
                stack.enter_context(bar)
            if description not in tasks:
                tasks[description] = bar.add_task(escape(description), total=total)
            bar.update(tasks[description], completed=done, total=total)

        yield progress


def status_callback(console: Console, status: Status, title: str) -> Callable[[str], None]:
    """Show a fit's status: one changing line on a terminal, a line every few seconds in a file or a pipe."""
    last = -STATUS_INTERVAL

    def on_status(text: str) -> None:
        nonlocal last
        if console.is_terminal:
            status.update(f"{title}: {text}")
        elif time.monotonic() - last >= STATUS_INTERVAL:
            last = time.monotonic()
            print_plain(console, f"{title}: {text}")

    return on_status


def print_plain(console: Console, text: str, style: str = "") -> None:
    """Print text as it is: without markup, highlighting or line breaks."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
