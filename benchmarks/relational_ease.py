"""Relational EASE beside LAPACK's Cholesky inverse, and a whole drop-one study beside one of its cells.

    python benchmarks/relational_ease.py [--repeats N] [--relations N ...] [--users N ...] [--json FILE]

The first part solves on a generated graph of 53,398 users, 9,999 items and 4.93 M interactions with tags, authors,
text neighbours, languages and periods of items, and inverts a matrix of the same size with ``spotrf`` and ``spotri``,
mirrored, by turns in one process on all cores. "first" starts without any Gram matrix kept, "again" with those of the
first. SGEMM of the same size says what the machine can do.

The second part runs the cells of a study through ``run_cell``: interactions, all relations, and all without each one,
at fixed hyper-parameters; held-out items of so many users are ranked on validation and on test. "one cell" is the
cell with all relations, alone; both start without anything kept.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from scipy.linalg import lapack

from graphs import generated_pairs, graph_of
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.io.atomic import atomic_write
from relrank.kernels.dense_solve import spd_inverse
from relrank.models.closed_form import relational_ease
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.parallel.machine import machine
from relrank.study.arms import all_of, arms
from relrank.study.cell import Cell, SplitContext
from relrank.study.config import ModelSection, StudySection
from relrank.study.run_cell import run_cell
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split

RELATIONS = ("has_tag", "written_by", "similar_text", "in_language", "published_in")
SECTION = ModelSection(name="relational-ease", trials=1, config={"l2": 300.0, "weight": 30.0})


def relational_graph(n_users: int = 53_398, n_items: int = 9_999, n_edges: int = 4_930_000, seed: int = 0) -> Graph:
    """A generated graph with five relations of items.

    50 of 1,500 tags per item, one of 5,000 authors, of 30 languages and of 7 periods by power laws; 40 text
    neighbours per item on average, uniform.
    """
    graph = graph_of(generated_pairs(n_users, n_items, n_edges, seed), n_users, n_items)
    rng = np.random.default_rng(seed + 1)
    nodes, relations = dict(graph.nodes), {}
    for name, target, n, each, power in (
        ("has_tag", "tag", 1500, 50, 0.7), ("written_by", "author", 5000, 1, 0.5),
        ("in_language", "language", 30, 1, 1.0), ("published_in", "period", 7, 1, 0.5),
    ):  # fmt: skip
        chance = 1 / np.arange(1, n + 1) ** power
        # the largest of n Gumbel-shifted logarithms is a draw by weight; the first few are draws without replacement
        picked = [
            np.argpartition(-(np.log(chance) + rng.gumbel(size=n)), each - 1)[:each] if each < n else np.arange(n)
            for _ in range(n_items)
        ]
        nodes[target] = IdMap(target, pl.Series(range(n)))
        items = np.repeat(np.arange(n_items), each)
        relations[name] = Relation.of(name, "item", target, items, np.concatenate(picked))
    ends = np.sort(rng.integers(0, n_items, (n_items * 24, 2)), axis=1)
    ends = np.unique(ends[ends[:, 0] < ends[:, 1]], axis=0)
    ends = rng.permutation(ends)[: n_items * 20]
    similarity = rng.uniform(0.1, 1, len(ends))
    relations["similar_text"] = Relation.of("similar_text", "item", "item", ends[:, 0], ends[:, 1], similarity)
    return replace(graph, nodes=nodes, relations=relations)


def bench_of(graph: Graph, n_tested: int, seed: int = 0) -> SplitContext:
    """One interaction of so many users held out for validation and another one for the test."""
    user, item = graph.interactions.src, graph.interactions.dst
    order = np.lexsort((np.random.default_rng(seed).random(user.size), user))
    place = np.empty(user.size, np.int64)
    place[order] = np.arange(user.size) - np.searchsorted(user[order], user[order])
    tested = user < n_tested
    train_rows, valid, test = [Interactions(user[mask], item[mask]) for mask in
             (~tested | (place >= 2), tested & (place == 0), tested & (place == 1))]  # fmt: skip
    split = Split(
        graph.nodes["user"], graph.nodes["item"], train_rows, valid, test, "benchmark", f"benchmark {n_tested} {seed}"
    )
    train = Relation.of("interactions", "user", "item", train_rows.user, train_rows.item)
    return SplitContext(seed, split, replace(graph, interactions=train))


def forget() -> None:
    """Nothing kept from earlier solutions."""
    relational_ease._GRAMS.clear()
    relational_ease._SOLUTIONS.clear()


def lapack_inverse(a: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What anybody gets from scipy: factor, inverse, the other triangle copied; ``a`` is overwritten."""
    factor, info = lapack.spotrf(a.T, lower=1, clean=0, overwrite_a=1)
    assert info == 0
    inverse, info = lapack.spotri(factor, lower=1, overwrite_c=1)
    assert info == 0
    p: npt.NDArray[np.float32] = inverse.T
    lower = np.tril_indices(1024, -1)
    for i in range(0, len(p), 1024):  # in blocks, so that the copy costs little
        for j in range(0, i, 1024):
            p[i : i + 1024, j : j + 1024] = p[j : j + 1024, i : i + 1024].T
        block = p[i : i + 1024, i : i + 1024]
        mine = lower[0] < len(block)
        block[lower[0][mine], lower[1][mine]] = block.T[lower[0][mine], lower[1][mine]]
    return p


def versus_lapack(graph: Graph, repeats: int) -> dict[str, float]:
    """Medians of seconds by turns: LAPACK's inverse, SGEMM, and our model solved at first and again."""
    config = RelationalEASEConfig(**SECTION.config)
    times: dict[str, list[float]] = {"lapack_s": [], "first_s": [], "again_s": [], "sgemm_s": []}

    def timed(name: str, what: Callable[[], Any]) -> None:
        began = time.perf_counter()
        what()
        times[name].append(time.perf_counter() - began)

    for _ in range(repeats):
        matrix = RelationalEASE(graph, config)._penalised_gram()
        timed("lapack_s", partial(lapack_inverse, matrix))
        del matrix
        forget()
        timed("first_s", lambda: RelationalEASE(graph, config).solve())
        timed("again_s", lambda: RelationalEASE(graph, config).solve())
        square = np.ones((graph.n_items, graph.n_items), np.float32)
        timed("sgemm_s", partial(np.matmul, square, square))
    found = {name: median(values) for name, values in times.items()}
    found["first_ratio"] = median(a / b for a, b in zip(times["first_s"], times["lapack_s"], strict=True))
    found["again_ratio"] = median(a / b for a, b in zip(times["again_s"], times["lapack_s"], strict=True))
    return found


def drop_one(split_context: SplitContext, relations: tuple[str, ...]) -> dict[str, float]:
    """Seconds of one cell alone and of a whole study at fixed hyper-parameters, and their ratio."""
    split_context = replace(split_context, graph=split_context.graph.only(*relations))
    study = StudySection(metric="ndcg@10")

    def seconds(chosen: list[Any]) -> float:
        forget()
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            for arm in chosen:
                cell = Cell(SECTION, arm, split_context, study)
                run_cell(cell, Path(folder) / cell.key(), lambda _: None, {})
            return time.perf_counter() - began

    one = seconds([all_of(relations)])
    planned = arms(relations, ("interactions", "all", "drop"))
    atomic_write = seconds(planned)
    return {"arms": len(planned), "one_s": one, "study_s": atomic_write, "ratio": atomic_write / one}


def warm_up() -> None:
    """Compile everything on a small graph that takes the same ways."""
    split_context = bench_of(relational_graph(12_000, 500, 300_000), 12_000)
    drop_one(split_context, RELATIONS)
    spd_inverse(np.eye(8, dtype=np.float32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--relations", type=int, nargs="*", default=[3, 4, 5], choices=[1, 2, 3, 4, 5])
    parser.add_argument("--users", type=int, nargs="*", default=[2_670, 53_398], help="users with held-out items")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    warm_up()
    graph, where = relational_graph(), machine()
    print(f"{where['cpu']}, {where['cores']} cores, torch {torch.__version__}, Python {platform.python_version()}")
    figures: dict[str, Any] = {}
    if arguments.repeats:
        figures["solve"] = f = versus_lapack(graph, arguments.repeats)
        n3 = graph.n_items**3 / 1e9
        print(f"LAPACK {f['lapack_s']:.2f} s = {n3 / f['lapack_s']:.0f} GFLOP/s, SGEMM {2 * n3 / f['sgemm_s']:.0f}")
        print(f"relational EASE, first {f['first_s']:.2f} s ({f['first_ratio']:.2f} x LAPACK), "
              f"again {f['again_s']:.2f} s ({f['again_ratio']:.2f} x)", flush=True)  # fmt: skip
    for users in arguments.users:
        split_context = bench_of(graph, users)
        for count in arguments.relations:
            figures[f"{users} users, {count} relations"] = f = drop_one(split_context, RELATIONS[:count])
            print(f"{users:,} users ranked, {count} relations: {f['arms']:.0f} arms {f['study_s']:.1f} s, "
                  f"one cell {f['one_s']:.1f} s, {f['ratio']:.2f} x", flush=True)  # fmt: skip
    if arguments.json:
        with atomic_write(arguments.json) as part:
            part.write_text(json.dumps({"machine": where, "figures": figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
