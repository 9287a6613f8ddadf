"""The command behind ``run.py``."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from relrank.io.atomic import atomic_write
from speed import page, roofline
from speed.environments import Environments
from speed.frame import TASKS, Context, Row, completed, say
from speed.record import ROOT, record

VERSIONS = ("relrank", "torch", "numpy", "numba", "scipy")


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(prog="run.py", description="Times relrank beside its peers.")
    parser.add_argument("--only", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats, less data: rough, in a few minutes")
    parser.add_argument("--budget", type=float, help="seconds that one peer may take for one task")
    parser.add_argument("--json", type=Path, help="also write the figures of this run here")
    parser.add_argument("--out", type=Path, help="folder of the page; docs, or with --quick runs/speed, by default")
    parser.add_argument("--page", action="store_true", help="measure nothing: write the page again from its figures")
    arguments = parser.parse_args()
    out = arguments.out or (ROOT / "runs" / "speed" if arguments.quick else ROOT / "docs")
    if arguments.page:
        return page.write(out)
    began = time.perf_counter()
    kept = out / "performance.json"
    budget = arguments.budget or (60.0 if arguments.quick else 400.0)
    mine: dict[str, Any] = {}
    for name, task in measure(arguments.only, arguments.quick, budget):
        # after each task, so that whatever comes later costs none of it
        mine[name] = task
        known = json.loads(kept.read_text(encoding="utf-8"))["tasks"] if kept.is_file() else {}
        # a task whose file is gone is gone from the page
        everything = {which: (known | mine)[which] for which in TASKS if which in known or which in mine}
        for path, tasks in ((kept, everything), (arguments.json, mine)):
            if path:
                with atomic_write(path) as part:
                    part.write_text(json.dumps({"tasks": tasks}, indent=1, ensure_ascii=False) + "\n", "utf-8")
    page.write(out)
    say(f"{out / 'performance.md'} after {time.perf_counter() - began:.0f} s")


def measure(names: Sequence[str], quick: bool, budget: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """Run tasks, show each when it is done; its name, and what ``docs/performance.json`` keeps of it.

    Args:
        names: of tasks.
        quick: fewer repeats.
        budget: seconds that one peer may take for one task.
    """
    data = os.environ.get("RELRANK_DATA")
    say("measuring the machine")
    limits = roofline.measure()
    with tempfile.TemporaryDirectory(prefix="relrank-speed-") as scratch:
        context = Context(
            Path(data).resolve() if data else None, Path(scratch), Environments(say), limits, quick, budget
        )
        for name in names:
            began = time.perf_counter()
            run = record(VERSIONS) | {"quick": quick, "roofline": asdict(limits)}
            about, rows = rows_of(name, context)
            show(name, rows)
            say(f"{name}: {time.perf_counter() - began:.0f} s")
            yield name, {"about": about, "run": run, "rows": [row.as_json() for row in rows]}


def rows_of(task: str, context: Context) -> tuple[str, list[Row]]:
    """What a task is about, and its rows; one that fails keeps those that it gave, and says why there are no more.

    What was promised and not measured is among them.
    """
    about, rows, promised = "", [], []
    try:
        module = import_module(f"speed.tasks.{task}")
        about = (module.__doc__ or "").strip()
        if hasattr(module, "promised"):
            promised = list(module.promised(context.quick))
        rows.extend(module.rows(context))
    except Exception as error:  # the other tasks go on
        traceback.print_exc()
        why = next(iter(str(error).splitlines()), "")
        rows.append(Row(task, "all else", "relrank", None, note=f"the task failed: {type(error).__name__}: {why}"))
    return about, completed(rows, promised)


def show(task: str, rows: list[Row]) -> None:
    """One task's rows on the terminal."""
    for data in dict.fromkeys(row.data for row in rows):
        table = Table(data, "time", "×", "MB", "of limit", "", title=task)
        for row in rows:
            if row.data == data:
                table.add_row(*(cell.replace("**", "") for cell in page.cells(row, limited=True)))
        Console().print(table)
