"""What a task gets and gives: the context that runs everybody, and the rows of the table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from speed import processes
from speed.environments import Environments, Skipped
from speed.inputs import INPUTS
from speed.roofline import Roofline

HERE = Path(__file__).parent
TASKS = tuple(sorted(path.stem for path in (HERE / "tasks").glob("[a-z]*.py")))
"""Every file in ``tasks/``."""


@dataclass(frozen=True)
class Target:
    """A promise and what came of it.

    Attributes:
        text: what was promised, as in "at least 40 × faster than PyG".
        found: the figure that the promise is about; None where it was not measured, or does not count.
        wanted: its limit.
        at_least: whether the limit is the least that is wanted, or the most.
    """

    text: str
    found: float | None
    wanted: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the figure is there, and on the right side of the limit."""
        if self.found is None:
            return False
        return self.found >= self.wanted if self.at_least else self.found <= self.wanted

    @property
    def missed_by(self) -> float:
        """The share of the limit that is missing, 0 where it is met or not known."""
        return 0.0 if self.met or self.found is None else abs(self.found - self.wanted) / self.wanted


@dataclass(frozen=True)
class Timed:
    """A peer's answer."""

    peer: str
    version: str
    task: str
    seconds: list[float]
    peak_mb: float
    figures: dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        task: as its file is called.
        data: what it was done on.
        who: as the reader knows them.
        seconds: median of one run; None where nothing was measured, and ``note`` says why.
        ratio: seconds over relrank's: above 1, relrank is faster.
        peak_mb: of the whole process.
        fraction: of the hardware's limit that was reached, 0 to 1.
        note: whatever must be said.
        target: what relrank promised beside this peer, or of itself; kept where it was not measured.
        runs: seconds of every run.
        version: of the peer.
        figures: what else the peer told.
    """

    task: str
    data: str
    who: str
    seconds: float | None
    ratio: float | None = None
    peak_mb: float | None = None
    fraction: float | None = None
    note: str = ""
    target: Target | None = None
    runs: list[float] = field(default_factory=list)
    version: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For ``docs/performance.json``."""
        row = asdict(self)
        if self.target is not None:
            row["target"] |= {"met": self.target.met}
        return row

    @staticmethod
    def of_json(row: Mapping[str, Any]) -> Row:
        """What ``as_json`` gave."""
        target = row["target"]
        if target is not None:
            target = Target(**{name: value for name, value in target.items() if name != "met"})
        return Row(**{**row, "target": target})


@dataclass(frozen=True)
class Entry:
    """One who is asked.

    Attributes:
        peer: name of the script.
        who: as the reader knows them.
        options: for this one beside the task's.
        times: relrank shall be at least so many times as fast; None promises nothing.
        note: what the reader must know about this row.
    """

    peer: str
    who: str
    options: Mapping[str, Any] = field(default_factory=dict)
    times: float | None = None
    note: str = ""

    def target(self, found: float | None) -> Target | None:
        """What was promised, if anything was, and how many times as fast relrank is."""
        if self.times is None:
            return None
        return Target(f"at least {self.times:g} × faster than {self.who}", found, self.times)


@dataclass
class Context:
    """What a task works with.

    Attributes:
        data: folder of the data sets (RELRANK_DATA), or None.
        scratch: folder for files of this run; peers are started in it.
        environments: where the peers' Pythons are.
        roofline: what this machine can do, measured in this run.
        quick: fewer repeats and a smaller budget; the figures are rough.
        budget: seconds that one peer may take for one task.
        memory_gb: resident memory that one peer may hold, GB; None for no limit.
    """

    data: Path | None
    scratch: Path
    environments: Environments
    roofline: Roofline
    quick: bool = False
    budget: float = 240.0
    memory_gb: float | None = None

    def input(self, name: str) -> Path | Skipped:
        """The npz file of one of ``inputs.INPUTS``, made when first asked for."""
        path = self.scratch / f"{name}.npz"
        if not path.exists():
            arrays = INPUTS[name](self.data)
            if isinstance(arrays, Skipped):
                return arrays
            np.savez(path, **arrays)
        return path

    def run_peer(self, peer: str, task: str, data: Path | Skipped | None, **options: Any) -> Timed | Skipped:
        """Ask one peer in a process of its own; why not, where there is no answer."""
        if isinstance(data, Skipped):
            return data
        python = self.environments.python(peer)
        if isinstance(python, Skipped):
            return python
        command = [str(python), "-P", str(HERE / "peers" / f"{peer}.py"), task]
        if data is not None:
            command += ["--data", str(data)]
        for name, value in options.items():
            command += [f"--{name}", value if isinstance(value, str) else json.dumps(value)]
        environment = {**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONNOUSERSITE": "1"}
        try:
            most_mb = None if self.memory_gb is None else self.memory_gb * 1e9 / 2**20
            ended = processes.run(command, self.budget, self.scratch, environment, most_mb)
        except subprocess.TimeoutExpired:
            return Skipped(f"not done within {self.budget:.0f} s")
        except processes.MemoryExceededError:
            return Skipped(f"not done within {self.memory_gb:.3g} GB")
        return Skipped(ended.why) if ended.why else Timed(**json.loads(ended.out.splitlines()[-1]))

    def compare(
        self, task: str, data: str, file: Path | Skipped | None, peers: Sequence[Entry], **options: Any
    ) -> Iterator[Row]:
        """Ask relrank, all others, and relrank again; a row for each.

        Args:
            task: as its file is called.
            data: what it is done on, for the reader.
            file: what ``input`` gave.
            peers: whom to ask.
            options: for everybody.
        """
        before = self.run_peer("relrank", task, file, **options)
        if isinstance(before, Skipped):
            yield Row(task, data, "relrank", None, note=before.why)
            for entry in peers:
                if entry.times is not None:
                    yield Row(
                        task, data, entry.who, None, note="not asked, without relrank", target=entry.target(None)
                    )
            return
        others = [(entry, self.run_peer(entry.peer, task, file, **{**options, **entry.options})) for entry in peers]
        after = self.run_peer("relrank", task, file, **options)
        yield from table(task, data, before, after, others)


def table(
    task: str, data: str, before: Timed, after: Timed | Skipped, others: Sequence[tuple[Entry, Timed | Skipped]]
) -> Iterator[Row]:
    """The rows of what was measured: ours of both runs, and everybody's beside it."""
    ours = before.seconds + (after.seconds if isinstance(after, Timed) else [])
    base = median(ours)
    note = ""
    if isinstance(after, Timed) and abs(median(after.seconds) / median(before.seconds) - 1) > 0.1:
        note = f"first run {shown(median(before.seconds))}, last run {shown(median(after.seconds))}"
    peak = max(run.peak_mb for run in (before, after) if isinstance(run, Timed))
    figures = of_both(before.figures, after.figures) if isinstance(after, Timed) else before.figures
    yield Row(task, data, "relrank", base, 1.0, peak, None, note, None, ours, before.version, figures)
    for entry, answer in others:
        if isinstance(answer, Skipped):
            yield Row(task, data, entry.who, None, note=answer.why, target=entry.target(None))
            continue
        middle = median(answer.seconds)
        yield Row(
            task, data, entry.who, middle, middle / base, answer.peak_mb, None, entry.note,
            entry.target(middle / base), answer.seconds, answer.version, answer.figures,
        )  # fmt: skip


def of_both(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of two runs: the mean of each number, the first run's of what is none."""
    return {
        name: (value + last[name]) / 2
        if isinstance(value, int | float) and isinstance(last.get(name), int | float) and value != last[name]
        else value
        for name, value in first.items()
    }


def completed(rows: Sequence[Row], promised: Sequence[Row]) -> list[Row]:
    """The rows, and each promise that none of them holds: on the row that it is about, or on one of its own.

    Args:
        rows: what a task gave.
        promised: rows with nothing but a target, of ``promised`` in the task's file.
    """
    result = list(rows)
    for row in promised:
        assert row.target is not None
        if any(
            (r.data, r.who) == (row.data, row.who) and r.target and r.target.text == row.target.text for r in result
        ):
            continue
        target = replace(row.target, found=None)
        about = [k for k, r in enumerate(result) if (r.data, r.who, r.target) == (row.data, row.who, None)]
        if about:
            result[about[0]] = replace(result[about[0]], target=target)
        else:
            result.append(replace(row, target=target))
    return result


def void_where_unlike(rows: Sequence[Row], figure: str, tolerance: float) -> list[Row]:
    """Rows whose figure is not the first row's did something else: they keep their seconds, and are compared no more.

    What was promised beside them counts as not measured.

    Args:
        rows: the first is relrank's; those without seconds are left alone.
        figure: name among their figures.
        tolerance: largest absolute difference.
    """
    result = []
    for row in rows:
        wrong = row.seconds is not None and not abs(row.figures[figure] - rows[0].figures[figure]) <= tolerance
        if wrong:
            note = f"void: {figure} is {row.figures[figure]:.5g}, relrank's {rows[0].figures[figure]:.5g}"
            target = replace(row.target, found=None) if row.target is not None else None
            row = replace(row, ratio=None, target=target, note="; ".join(filter(None, (note, row.note))))
        result.append(row)
    return result


def shown(seconds: float) -> str:
    """Three digits with their unit."""
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:,.0f} s"


def say(text: str) -> None:
    """Progress, on the terminal alone."""
    print(text, file=sys.stderr, flush=True)
