"""What reading a table of interactions with columns that nobody wants takes: time and peak memory.

    python benchmarks/large_tables.py --rows 60000000

Files are written to a temporary folder in pieces, read in a process of their own each — in a stream, as studies do,
and whole, then cut — and deleted. Peaks are resident memory by the kernel's count, less what the process had before.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

PIECE = 1_000_000
FAT = "a text that no study of these interactions reads "


def piece(number: int, rows: int, users: int, items: int) -> pl.DataFrame:
    rng = np.random.default_rng([0, number])
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, users, rows), "item": rng.integers(0, items, rows),
            "rating": rng.integers(1, 6, rows).astype(float), "time": rng.integers(10**9, 2 * 10**9, rows),
        }
    )  # fmt: skip
    return frame.with_columns(review=pl.lit(FAT) + pl.col("time").cast(pl.String))


def write(folder: Path, rows: int) -> tuple[Path, Path]:
    """The same rows as CSV and as Parquet."""
    csv, columnar = folder / "rows.csv", folder / "rows.parquet"
    with csv.open("wb") as file:
        for number in range(-(-rows // PIECE)):
            frame = piece(number, min(PIECE, rows - number * PIECE), rows // 60 + 1, rows // 600 + 1)
            frame.write_csv(file, include_header=number == 0)
    pl.scan_csv(csv).sink_parquet(columnar)
    return csv, columnar


def peak_mb() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def read(path: Path, how: str) -> None:
    """In a process of its own: rows, peak MB beyond the start, seconds."""
    from relrank.tables.files import as_keys, as_numbers, read_table
    from relrank.tables.scan import ColumnKind, read_columns
    from relrank.tables.times import as_times

    Path("/proc/self/clear_refs").write_text("5")
    before, began = peak_mb(), time.perf_counter()
    if how == "stream":
        wanted: dict[str, tuple[str, ColumnKind]] = {
            "user": ("user", "key"), "item": ("item", "key"),
            "rating": ("rating", "number"), "time": ("time", "time"),
        }  # fmt: skip
        frame = read_columns(path, None, wanted)
    else:
        raw, where = read_table(path), str(path)
        keys = [as_keys(raw[name]) for name in ("user", "item")]
        frame = pl.DataFrame([*keys, as_numbers(raw["rating"], where), as_times(raw["time"], where)])
    seconds = time.perf_counter() - began
    kept = int((frame["rating"] >= 4).sum())
    size = frame.estimated_size() / 2**20
    print(f"{len(frame):>12,} {kept:>12,} {size:>8,.0f} {peak_mb() - before:>8,.0f} {seconds:>8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--read", nargs=2, metavar=("FILE", "HOW"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        read(Path(args.read[0]), args.read[1])
        return
    heads = f"{'file MB':>8} {'rows':>12} {'rated >= 4':>12} {'table MB':>8} {'peak MB':>8} {'s':>8}"
    print(f"{'file':<10} {'read':<8} {heads}")
    with tempfile.TemporaryDirectory() as folder:
        for path in write(Path(folder), args.rows):
            for how in ("stream", "whole"):
                command = [sys.executable, __file__, "--read", str(path), how]
                line = subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()
                print(f"{path.suffix[1:]:<10} {how:<8} {path.stat().st_size / 2**20:>8,.0f} {line}", flush=True)


if __name__ == "__main__":
    main()
