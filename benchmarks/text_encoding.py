"""Texts that a language model reads: seconds and peak memory of the first time, and of the second.

    python benchmarks/text_encoding.py [--texts N] [--batch N] [--model FOLDER] [--generated]

A graph of 10,000 items with a text each, all different, relation kind "texts", encoder "sentence", on the CPU. The
texts are TMDB's 4,800 overviews from ``$RELRANK_DATA/tmdb``, and the same again with their words rotated until there
are enough: other texts of the same lengths. Without that folder they are generated words of such lengths. Each time
is a process of its own with one cache for both, and counts everything from the tables to the graph: loading libraries
and model where they are needed, hashing the model, reading or finding vectors. Memory is the largest resident memory
of the process, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from relrank.graph.construction.build_graph import TextNodes, build_graph
from relrank.parallel.machine import machine
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import Tables, TextTable


def overviews(n: int, generated: bool) -> list[str]:
    """``n`` different texts."""
    folder = os.environ.get("RELRANK_DATA")
    if generated or folder is None:
        rng = np.random.default_rng(0)
        lengths = np.clip(rng.lognormal(3.9, 0.5, 4800), 4, 200).astype(int)
        vocabulary = np.array(
            ["".join(rng.choice(list("abcdefghijklmnoprstuw"), k)) for k in rng.integers(2, 9, 8000)]
        )
        real = [" ".join(rng.choice(vocabulary, size)) for size in lengths]
    else:
        said = pl.read_csv(Path(folder) / "tmdb" / "tmdb_5000_movies.csv", columns=["overview"])["overview"]
        real = [text.strip() for text in said.drop_nulls() if text.strip()]
    texts: dict[str, None] = {}
    turn = 0
    while len(texts) < n:
        for text in real:
            words = text.split()
            at = turn % len(words)
            texts.setdefault(text if turn == 0 else " ".join(words[at:] + words[:at]))
        turn += 1
    return list(texts)[:n]


def once(texts: list[str], batch: int, model: str | None) -> dict[str, float]:
    """Build the graph; seconds, and memory in GB."""
    keys = pl.Series(range(len(texts)), dtype=pl.Int64)
    rows = Interactions(np.array([0], np.int32), np.array([0], np.int32))
    split = Split(IdMap("user", pl.Series([0])), IdMap("item", keys), rows, rows, rows, "benchmark", "benchmark")
    frame = pl.DataFrame({"key": keys, "kind": "overview", "text": texts})
    tables = Tables("benchmark", "user", "item", pl.DataFrame(), texts=TextTable("item", frame))
    recipe = TextNodes(kind="texts", of="overview", encoder="sentence", batch=batch, model=model)
    began = time.perf_counter()
    graph = build_graph(tables, split, {"has_overview": recipe}, progress=_say)
    seconds = time.perf_counter() - began
    assert graph.features["has_overview"].dims > 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return {"seconds": seconds, "memory": memory}


def _say(_what: str, done: int, total: int) -> None:
    print(f"\r{done:,} of {total:,} texts", end="" if done < total else "\r", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model", help="a folder with a model; the packaged one by default")
    parser.add_argument("--generated", action="store_true", help="no real texts")
    parser.add_argument("--once", action="store_true", help="what each process runs")
    args = parser.parse_args()
    texts = overviews(args.texts, args.generated)
    if args.once:
        print(json.dumps(once(texts, args.batch, args.model)))
        return
    words = sum(len(text.split()) for text in texts) / len(texts)
    print(f"{len(texts):,} texts of {words:.0f} words, batch {args.batch}, {machine()}")
    with tempfile.TemporaryDirectory() as cache:
        for which in ("first time", "second time"):
            command = [sys.executable, __file__, "--once", *sys.argv[1:]]
            done = subprocess.run(
                command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, "RELRANK_CACHE": cache}
            )
            row = json.loads(done.stdout.splitlines()[-1])
            print(f"{which:<12}{row['seconds']:8.1f} s{row['memory']:8.2f} GB")


if __name__ == "__main__":
    main()
