"""The command behind ``run.py``."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import asdict
from datetime import date
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from relrank.study.run import machine
from relrank.whole import whole
from speed import page, roofline
from speed.environments import Environments
from speed.frame import TASKS, Context, Row, say

ROOT = Path(__file__).parents[2]
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
    tasks = measure(arguments.only, arguments.quick, arguments.budget or (60.0 if arguments.quick else 400.0))
    kept = out / "performance.json"
    before = json.loads(kept.read_text(encoding="utf-8"))["tasks"] if kept.is_file() else {}
    # a task whose file is gone is gone from the page
    report = {"tasks": {name: known for name in TASKS if (known := (before | tasks).get(name))}}
    for path, content in ((kept, report), (arguments.json, {"tasks": tasks})):
        if path:
            with whole(path) as part:
                part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    page.write(out)
    say(f"{out / 'performance.md'} after {time.perf_counter() - began:.0f} s")


def measure(names: tuple[str, ...], quick: bool, budget: float) -> dict[str, Any]:
    """Run tasks, show each when it is done; by name, what ``docs/performance.json`` keeps of it.

    Args:
        names: of tasks.
        quick: fewer repeats.
        budget: seconds that one peer may take for one task.
    """
    data = os.environ.get("RELRANK_DATA")
    say("measuring the machine")
    limits = roofline.measure()
    run = {
        "date": date.today().isoformat(), "quick": quick, "machine": machine(), "roofline": asdict(limits),
        "versions": {name: version(name) for name in VERSIONS},
    }  # fmt: skip
    tasks: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="relrank-speed-") as scratch:
        context = Context(
            Path(data).resolve() if data else None, Path(scratch), Environments(say), limits, quick, budget
        )
        for name in names:
            began = time.perf_counter()
            module = import_module(f"speed.tasks.{name}")
            rows = list(module.rows(context))
            show(name, rows)
            say(f"{name}: {time.perf_counter() - began:.0f} s")
            tasks[name] = {"about": (module.__doc__ or "").strip(), "run": run, "rows": [r.as_json() for r in rows]}
    return tasks


def show(task: str, rows: list[Row]) -> None:
    """One task's rows on the terminal."""
    for data in dict.fromkeys(row.data for row in rows):
        table = Table(data, "time", "×", "MB", "of limit", "", title=task)
        for row in rows:
            if row.data == data:
                table.add_row(*(cell.replace("**", "") for cell in page.cells(row, limited=True)))
        Console().print(table)
