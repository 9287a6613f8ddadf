"""What do two processes bring to a study of trained models? The planted study with such models, by turns.

    python benchmarks/jobs.py [--rounds N] [--models A,B] [--epochs E]

Each round is ``relrank study FILE`` with one process on one core, with one process on all cores, and with
``--jobs 2``, every time into a new folder; the first study, which compiles kernels, is not counted. Ratios are those
of the minima. Results agree but for the last bits: one process has all threads, each of two has half of them. At the
threads of one core, ``--jobs 2`` gives the same bits.

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


def seconds(file: Path, out: Path, jobs: int, on: int) -> tuple[float, float]:
    """Wall time and processor time of one study in a process of its own and those that it starts, on some cores."""
    command = [sys.executable, "-m", "relrank", "study", str(file), "--out", str(out), "--jobs", str(jobs)]
    all_cores = os.sched_getaffinity(0)
    begin, before = time.perf_counter(), os.times()
    os.sched_setaffinity(0, sorted(all_cores)[:on])  # the study inherits it
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ)
    finally:
        os.sched_setaffinity(0, all_cores)
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
    n = cores()
    times: dict[tuple[int, int], list[tuple[float, float]]] = {(1, 1): [], (1, n): [], (2, n): []}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "planted.toml"
        file.write_text(STUDY.read_text(encoding="utf-8") + models, encoding="utf-8")
        seconds(file, Path(folder) / "compiled", 1, n)
        for turn in range(arguments.rounds):
            for jobs, on in times:
                out = Path(folder) / f"{turn}-{jobs}-{on}"
                times[jobs, on].append(seconds(file, out, jobs, on))
                board = pl.read_parquet(out / "leaderboard.parquet")
                wall, processor = times[jobs, on][-1]
                print(
                    f"round {turn + 1}, --jobs {jobs} on {on} cores: {wall:.1f} s, {processor:.1f} s of processors, "
                    f"{processor / wall:.2f} cores busy, {len(board)} rows",
                    flush=True,
                )
    (single, _), (one, work), (two, _) = (min(of) for of in times.values())
    print(f"{arguments.models}, {arguments.epochs} epochs, --jobs 2: {two:.1f} s")
    print(f"{single / two:.2f} times as fast as one process on one core ({single:.1f} s)")
    bound = one / (work / n)
    print(f"{one / two:.2f} times as fast as one on all ({one:.1f} s; with its processor time at most {bound:.2f})")
    print(machine())


if __name__ == "__main__":
    main()
