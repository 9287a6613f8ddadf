"""How long relrank takes to answer: whole processes from start to end, or to their first line.

    python benchmarks/startup.py [--runs 20] [--against MODULE ...] [--json FILE]

``python -c pass`` is what no program can beat. A command that fits or reads data is timed to its first printed line,
on a small planted study; that includes loading torch and numba. Each is run once beforehand, so that files and byte
code are there; then the rows take turns, and the median is shown with the fastest and the slowest. ``--against`` also
times the import of other installed packages.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from relrank.study.run import machine

STUDY = """
name = "startup"
[data]
dataset = "planted"
planted = { users = 200, items = 80, per_user = 6, groups = 8 }
[protocol]
split = "random-leave-one-out"
[study]
trials = 1
resamples = 200
[[models]]
name = "popularity"
"""
BEFORE = ("study", "study.toml", "--out", "run")
"""What the commands below it read."""

ANSWERS = (("--help",), ("study", "--help"), ("recommend", "--help"))
FIRST_LINES = (
    ("audit", "study.toml"), BEFORE, ("evaluate", "run"), ("recommend", "run", "--user", "0"), ("report", "run"),
)  # fmt: skip


def seconds(command: list[str], folder: str, *, first_line: bool) -> float:
    """From the start of a process to its end, or to the end of its first line."""
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        took = time.perf_counter() - began
        _, errors = process.communicate()
        if not first_line:
            took = time.perf_counter() - began
    if process.returncode or (first_line and not said):
        raise SystemExit(f"{' '.join(command)}: {errors}")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="processes per row that ends at once; others a quarter")
    parser.add_argument("--against", nargs="*", default=[], help="modules whose import is timed, too")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    program = str(Path(sys.executable).with_name("relrank"))
    imported = {
        f"import {name}": [sys.executable, "-c", f"import {name}"] for name in ("relrank", *arguments.against)
    }
    whole = {"python -c pass": [sys.executable, "-c", "pass"], **imported}
    whole |= {" ".join(("relrank", *words)): [program, *words] for words in ANSWERS}
    first = {" ".join(("relrank", *words)): [program, *words] for words in FIRST_LINES}
    times: dict[str, list[float]] = {name: [] for name in (*whole, *first)}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "study.toml").write_text(STUDY)
        seconds([program, *BEFORE], folder, first_line=True)
        for turn in range(arguments.runs + 1):
            for name, command in (whole | (first if turn <= max(1, arguments.runs // 4) else {})).items():
                took = seconds(command, folder, first_line=name in first)
                if turn:
                    times[name].append(took)
    figures = [
        {
            "command": name, "to": "first line" if name in first else "end", "processes": len(some),
            "median_s": round(statistics.median(some), 3), "fastest_s": round(min(some), 3),
            "slowest_s": round(max(some), 3),
        }
        for name, some in times.items()
    ]  # fmt: skip
    here = machine()
    print(", ".join(f"{key} {value}" for key, value in here.items()))
    width = max(map(len, times))
    print(f"{'':{width}}  {'to':>10}  processes  median s  fastest  slowest")
    for f in figures:
        print(
            f"{f['command']:{width}}  {f['to']:>10}  {f['processes']:9}  {f['median_s']:8.3f}  {f['fastest_s']:7.3f}"
            f"  {f['slowest_s']:7.3f}"
        )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": here, "figures": figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
