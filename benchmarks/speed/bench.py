"""The command behind ``run.py``."""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from importlib import import_module
from pathlib import Path

from rich.console import Console
from rich.table import Table

from speed import roofline
from speed.environments import Environments
from speed.frame import Context, Row, say, shown

TASKS = tuple(sorted(path.stem for path in (Path(__file__).parent / "tasks").glob("[a-z]*.py")))
"""Every file in ``tasks/``."""


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(prog="run.py", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats: rough figures in a few minutes")
    parser.add_argument("--budget", type=float, help="seconds that one peer may take for one task")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    data = os.environ.get("RELRANK_DATA")
    budget = arguments.budget or (60.0 if arguments.quick else 240.0)
    say("measuring the machine")
    limits = roofline.measure()
    with tempfile.TemporaryDirectory(prefix="relrank-speed-") as scratch:
        context = Context(
            Path(data).resolve() if data else None, Path(scratch), Environments(say), limits, arguments.quick, budget
        )
        for task in arguments.only:
            began = time.perf_counter()
            rows = list(import_module(f"speed.tasks.{task}").rows(context))
            show(task, rows)
            say(f"{task}: {time.perf_counter() - began:.0f} s")


def show(task: str, rows: list[Row]) -> None:
    """One task's rows on the terminal."""
    table = Table("data", "who", "time", "× relrank", "MB", "of limit", "target", "note", title=task)
    for row in rows:
        target = ""
        if row.target is not None:
            target = f"{row.target.text}: " + ("met" if row.target.met else f"missed by {row.target.missed_by:.0%}")
        table.add_row(
            row.data,
            row.who,
            "–" if row.seconds is None else shown(row.seconds),
            "" if row.ratio is None else f"{row.ratio:.3g}",
            "" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
            "" if row.fraction is None else f"{row.fraction:.0%}",
            target,
            row.note,
        )
    Console().print(table)
