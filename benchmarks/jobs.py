"""What do two processes bring to a study of trained models? The planted study with such models, by turns.

    python benchmarks/jobs.py [--rounds N] [--models A,B] [--epochs E]

Each round is ``relrank study FILE --jobs 1`` and the same with ``--jobs 2``, every time into a new folder; the first
study, which compiles kernels, is not counted. The ratio is that of the minima. Results agree but for the last bits:
one process has all threads, each of two has half of them.

Processor time bounds what can be won: if one process keeps 1.5 of two cores busy, two processes that need the same
processor time are at most 2 / 1.5 times as fast. Both are printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import polars as pl

from relrank.parallel.environment import cores
from relrank.parallel.machine import machine

STUDY = Path(__file__).parent.parent / "studies" / "planted.toml"
MODELS = "mf,relational-lightgcn,xsimgcl,path-fusion"


def seconds(file: Path, out: Path, jobs: int) -> tuple[float, float]:
    """Wall time and processor time of one study in a process of its own and those that it starts."""
    command = [sys.executable, "-m", "relrank", "study", str(file), "--out", str(out), "--jobs", str(jobs)]
    begin, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    wall, after = time.perf_counter() - begin, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    models = "".join(
        f'\n[[models]]\nname = "{name}"\ntrain = {{ epochs = {arguments.epochs} }}\n'
        for name in arguments.models.split(",")
    )
    times: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "planted.toml"
        file.write_text(STUDY.read_text(encoding="utf-8") + models, encoding="utf-8")
        seconds(file, Path(folder) / "compiled", 1)
        for turn in range(arguments.rounds):
            for jobs in times:
                out = Path(folder) / f"{turn}-{jobs}"
                times[jobs].append(seconds(file, out, jobs))
                board = pl.read_parquet(out / "leaderboard.parquet")
                wall, processor = times[jobs][-1]
                print(
                    f"round {turn + 1}, --jobs {jobs}: {wall:.1f} s, {processor:.1f} s of processors, "
                    f"{processor / wall:.2f} cores busy, {len(board)} rows",
                    flush=True,
                )
    (one, work), (two, _) = min(times[1]), min(times[2])
    print(
        f"{arguments.models}, {arguments.epochs} epochs: {one:.1f} s and {two:.1f} s, {one / two:.2f} times as fast; "
        f"with the processor time of one process at most {one / (work / cores()):.2f}"
    )
    print(machine())


if __name__ == "__main__":
    main()
