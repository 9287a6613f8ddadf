"""Are the results of studies the same as before? Per-user tables of all cells and the tables of the study, by bits.

    python benchmarks/same_results.py BEFORE AFTER

Both are folders of studies, as ``relrank study FILE --out FOLDER/NAME`` left them, for example of two commits on one
machine with the same number of threads. Every study of ``BEFORE`` must be in ``AFTER``. Cells are matched by model,
arm and seed, not by their keys. Figures must be equal to the last bit; columns are compared by position, so that a
column may have a new name. Times are not compared. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import polars as pl

TABLES = ("effects", "verdicts", "leaderboard", "groups", "group_metrics", "list_effects", "metric_effects", "tuning")
TIMES = {"tune seconds", "fit seconds", "seconds", "peak MB", "tune_seconds", "fit_seconds", "peak_mb"}
Cells = dict[tuple[str, str, int], list[pl.DataFrame]]


def cells_of(study: Path) -> Cells:
    """The per-user tables of a study's cells, by model, arm and seed."""
    found: Cells = defaultdict(list)
    for note in sorted(study.glob("cells/*/cell.json")):
        cell = json.loads(note.read_text(encoding="utf-8"))
        users = pl.read_parquet(note.with_name("users.parquet"))
        found[cell["model"], cell["arm"], cell["seed"]].append(users)
    for tables in found.values():  # a cell that began elsewhere has the same three names
        tables.sort(key=lambda table: str(table.hash_rows(0).sort().head(20).to_list()))
    return found


def same(before: pl.DataFrame, after: pl.DataFrame) -> bool:
    """Whether two tables hold the same values in the same order."""
    return before.shape == after.shape and before.rename(
        dict(zip(before.columns, after.columns, strict=True))
    ).equals(after, null_equal=True)


def compare(before: Path, after: Path) -> list[str]:
    """What differs between two folders of one study, in lines."""
    one, other = cells_of(before), cells_of(after)
    differing = [f"{key}: only in one of both" for key in one.keys() ^ other.keys()]
    for key in sorted(one.keys() & other.keys()):
        if len(one[key]) != len(other[key]):
            differing.append(f"{key}: {len(one[key])} cells, now {len(other[key])}")
        elif not all(map(same, one[key], other[key])):
            differing.append(f"{key}: users differ")
    for name in TABLES:
        pair = [folder / f"{name}.parquet" for folder in (before, after)]
        if not all(path.is_file() for path in pair):
            if any(path.is_file() for path in pair):
                differing.append(f"{name}.parquet: only in one of both")
            continue
        tables = [pl.read_parquet(path).select(~pl.selectors.by_name(*TIMES, require_all=False)) for path in pair]
        if not same(*tables):
            differing.append(f"{name}.parquet differs")
    users = sum(len(table) for tables in one.values() for table in tables)
    n = sum(map(len, one.values()))
    print(
        f"{before.name}: {n} cells, {users:,} rows of users, {len(TABLES)} tables: "
        f"{len(differing) or 'no'} differences"
    )
    return differing


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    paths = parser.parse_args(arguments)
    studies = sorted(path.parent.name for path in paths.before.glob("*/card.json"))
    if not studies:
        parser.error(f"no study in {paths.before}")
    lines = [line for name in studies for line in compare(paths.before / name, paths.after / name)]
    print(*lines, sep="\n", end="\n" if lines else "")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
