"""Terminal output of a hyper-parameter search: progress while it runs, and its result."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from relrank.cli.live_progress import LiveProgress, plain_table
from relrank.cli.progress import print_plain
from relrank.study.cell import Cell
from relrank.study.number_format import duration
from relrank.study.optuna_search import ArmSearch
from relrank.study.optuna_storage import STATES, OptunaTrial
from relrank.study.progress import time_left
from relrank.study.search_space import Values


class LiveSearch(LiveProgress):
    """A search callback that shows finished searches, the running trial and time left; in files, a line per trial."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._searches: list[ArmSearch] = []
        self._planned = self._finished = self._made = self._told = 0
        self._to_come: dict[str, int] = {}
        self._durations: dict[str, list[float]] = {}
        self._cell: Cell | None = None
        self._best = float("-inf")

    def plan(self, cells: Sequence[Cell], trials: int, finished: dict[tuple[str, str], int]) -> None:
        """Set the planned cells, trials per cell, and trials that exist, by model and arm."""
        self._searches, self._to_come = [], {}
        reused = sum(finished.values()) - self._made - self._told
        self._told += reused
        for cell in cells:
            to_come = trials - finished[cell.model.name, cell.arm.name]
            self._to_come[cell.model.name] = self._to_come.get(cell.model.name, 0) + to_come
        self._planned, self._finished = len(cells) * trials, sum(finished.values())
        if reused:
            self._console.print(f"{self._told} of {self._planned} trials were finished earlier and are reused")
        self._bar.update(self._task, total=self._planned, completed=self._finished)

    def fitted(self, trials: int, round_seconds: float, seconds: float) -> None:
        """Say how many trials fit into the limit, and what one more of each costs."""
        one, limit = f"one trial of every model and arm took {duration(round_seconds)}", duration(seconds)
        if round_seconds > seconds:
            print_plain(self._console, f"{one}, more than {limit}: no further ones")
        elif trials * round_seconds > seconds:
            print_plain(self._console, f"{one}; the {trials} of each that exist are more than fit into {limit}")
        else:
            total = f"about {duration(trials * round_seconds)} in all"
            print_plain(self._console, f"{one}; {trials} of each, {total}, are within {limit}")

    def start(self, cell: Cell) -> None:
        """A cell's search starts or resumes."""
        self._cell, self._best = cell, float("-inf")
        self.on_status("")

    def on_status(self, message: str) -> None:
        """Show the running trial's status, at most ten times a second."""
        assert self._cell is not None
        if message and time.monotonic() - self._shown < 0.1:
            return
        self._shown = time.monotonic()
        best = f", best {self._best:.4f}" if self._best > float("-inf") else ""
        where = f"{self._cell.model.name} · {self._cell.arm.name}{best}"
        left = time_left(self._to_come, self._durations)
        self._bar.update(self._task, description=escape(f"{where}  {message}"), left=str(left or ""))
        if self._console.is_terminal:
            tables = [_table(self._searches)] if self._searches else []
            self._live.update(Group(*tables, self._bar), refresh=True)

    def trial_done(self, attempt: OptunaTrial) -> None:
        """A trial has ended."""
        assert self._cell is not None
        cell, self._finished, self._made = self._cell, self._finished + 1, self._made + 1
        self._to_come[cell.model.name] -= 1
        self._durations.setdefault(cell.model.name, []).append(attempt.seconds)
        self._best = max(self._best, float("-inf") if attempt.metric is None else attempt.metric)
        if not self._console.is_terminal:
            end = attempt.state if attempt.metric is None else f"{cell.study.metric} {attempt.metric:.4f}"
            where = f"{cell.model.name} · {cell.arm.name}"
            text = f"{where} trial {attempt.number}: {end}, {attempt.seconds:.1f} s"
            print_plain(self._console, f"[{self._finished}/{self._planned}] {text}")
        self._bar.update(self._task, completed=self._finished)

    def done(self, search: ArmSearch) -> None:
        """A cell's search has ended."""
        self._searches.append(search)


def print_searches(console: Console, searches: Sequence[ArmSearch]) -> None:
    """Print the searches as a table, the chosen values, and why trials failed."""
    console.print(_table(searches))
    console.print(
        "trials: complete / pruned / failed · default: the first trial, with default values · all on validation data",
        style="dim",
        highlight=False,
    )
    for s in searches:
        default, best = s.trials[0], s.best
        chosen = "nothing" if best is None else "the defaults" if best is default else formatted(best.values)
        lines = [f"{s.cell.model.name} on {s.cell.arm.name}: {chosen}"]
        errors = [t.error for t in s.trials if t.error]
        if errors:
            lines.append(f"{len(errors)} failed, first: {errors[0]}")
        console.print("· " + "; ".join(lines), highlight=False, markup=False)


def _table(searches: Sequence[ArmSearch]) -> Table:
    table = plain_table(f"best on validation, {searches[0].cell.study.metric}")
    for heading in ("model", "arm", "trials", "default", "best", "seconds"):
        is_number = heading in ("default", "best", "seconds")
        table.add_column(heading, justify="right" if is_number else "left", no_wrap=heading != "arm")
    for s in searches:
        counts = " / ".join(str(s.count(state)) for state in STATES.values())
        default, best = s.trials[0], s.best
        table.add_row(
            s.cell.model.name,
            Text(s.cell.arm.name),
            counts,
            default.state if default.metric is None else f"{default.metric:.4f}",
            "none" if best is None else f"{best.metric:.4f}",
            f"{sum(t.seconds for t in s.trials):.0f}",
        )
    return table


def formatted(values: Values) -> str:
    """Hyper-parameter values as text: ``lr 0.0123, dim 64``."""
    numbers = ((n, f"{v:.3g}" if isinstance(v, float) else str(v)) for n, v in values.items())
    return ", ".join(f"{name} {text}" for name, text in numbers)
