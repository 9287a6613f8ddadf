"""One attack on everything that relrank reads, keeps and answers, bounded in time and count, which anyone can run.

    python benchmarks/attack.py FOLDER [--parts tables,studies,corruptions,kills,http] [--seed 0] [--minutes 60]

tables: hostile tables and frames, held against naive readers. studies: study files in which settings are changed;
they are read and, where that works, run. corruptions: damage to runs, cells, results, tuning folders, lists in the
making and exports. kills: the program killed at random moments, at single changes of the file system, interrupted,
out of disk, twice at once; then run to its end. http: abuse of a served run through raw sockets, and generated
questions.

Everything follows from the seed. A line per attack goes to FOLDER/PART.jsonl; what is there is not done again, so
that a run that was stopped goes on, and greater counts add to it. Ends with a table, also in FOLDER/counts.md, and
with exit code 1 if an answer is wrong, anything but one sentence is said, a process crashes or hangs, or something is
lost. It needs the test dependencies. ``--tables 100`` and the like set counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from relrank.parallel.environment import recommended_environment

WANTED = {"tables": 4000, "studies": 3000, "corruptions": 3500, "kills": 310, "http": 11_000}
"""Attacks by part."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", default=",".join(WANTED))
    for name, default in (("seed", 0), ("minutes", 60), ("lanes", min(2, os.cpu_count() or 1))):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in WANTED.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--again", action="store_true", help="try the numbers again that were faults")
    given = parser.parse_args()
    began, folder, names = time.monotonic(), given.folder.resolve(), given.parts.split(",")
    if unknown := set(names) - set(WANTED):
        parser.error(f"unknown parts {', '.join(sorted(unknown))}: known are {', '.join(WANTED)}")
    folder.mkdir(parents=True, exist_ok=True)
    # numerical libraries read these once, when they are loaded; a lane is one core's worth of work
    for name, value in {
        "OMP_NUM_THREADS": "1",
        "RELRANK_CACHE": str(folder / "cache"),
        **recommended_environment(),
    }.items():
        os.environ.setdefault(name, value)
    os.environ.pop("RUST_BACKTRACE", None)  # who sets it asks for the traces that are looked for
    from attacks.corruptions import Corruptions
    from attacks.kills import Kills
    from attacks.lanes import Part, run
    from attacks.ledger import Ledger, table
    from attacks.sockets import Sockets
    from attacks.study_files import StudyFiles
    from attacks.tables import HostileTables

    parts: dict[str, Part] = {
        part.name: part for part in (HostileTables(), StudyFiles(), Corruptions(), Kills(), Sockets())
    }
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the lanes end, too
    ledgers = {name: Ledger(folder / f"{name}.jsonl", given.seed) for name in names}
    for name, ledger in ledgers.items():
        if given.again:
            ledger.forget_faults()
        start, until = time.monotonic(), began + 60 * given.minutes
        for outcome in run(parts[name], folder, ledger, getattr(given, name), given.lanes, until):
            if not outcome.is_right:
                print(f"{name} | {outcome.found} | {outcome.kind} | {outcome.done}", flush=True)
        print(f"{name}: {ledger.tried:,} in {time.monotonic() - start:.0f} s", flush=True)
    counts = table((name, ledger.outcomes.values()) for name, ledger in ledgers.items())
    said = f"{counts}\n\nseed {given.seed}, {time.monotonic() - began:.0f} s in this run\n"
    (folder / "counts.md").write_text(said, encoding="utf-8")
    print(said)
    sys.exit(any(not outcome.is_right for ledger in ledgers.values() for outcome in ledger.outcomes.values()))


if __name__ == "__main__":
    main()
