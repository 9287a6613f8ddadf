"""Sparse EASE on generated interactions and up to five relations: seconds to fit and to rank, memory, gain.

    python benchmarks/sparse_ease.py [--users N] [--items N] [--edges N] [--neighbours K] [--rank-users N]
                                     [--arms ARM ...]
    python benchmarks/sparse_ease.py --write FOLDER [--users N] [--items N] [--edges N] [--neighbours K]
                                     [--relations 3|5] [--trials N]
    relrank study FOLDER/study.toml --out FOLDER/runs && relrank serve FOLDER/runs

Interactions are those of ``item_neighbours.py``: half of a user's items lie in a group of items of their own.
``in_group`` says an item's group and is right for half of the items, ``made_by`` has a node for every ten items of
one group, ``noise`` says nothing; of the two that ``--relations 5`` adds, ``genre`` joins a hundred groups and
``price`` has 50 values at random. One item of each of the first users is held out. With ``--write`` the same data go
to files, with a study of one setting per arm, as one holds knobs where a fit takes minutes, or of a search of
``--trials`` settings with as many neighbours. The peak is the largest resident memory of the process from the fit on,
graph, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from item_neighbours import GROUP, generated
from relrank.evaluation import metrics
from relrank.evaluation.ranking import ranks
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig, clear_caches
from relrank.parallel.machine import machine
from relrank.parallel.memory import peak_memory_mb, reset_peak_memory
from relrank.tables.ids import IdMap


def with_relations(graph: Graph, n_relations: int = 3, seed: int = 1) -> Graph:
    """The same interactions and relations of items."""
    rng, item = np.random.default_rng(seed), np.arange(graph.n_items)
    groups = max(1, graph.n_items // GROUP)
    makers = max(1, graph.n_items // 10)
    wrong = rng.random(item.size) < 0.5
    targets = {
        "in_group": np.where(wrong, rng.integers(0, groups, item.size), item % groups),
        "made_by": (item % groups + groups * (item // groups // 10)) % makers,
        "noise": rng.integers(0, groups, item.size),
        "genre": item % groups // 100,
        "price": rng.integers(0, 50, item.size),
    }
    targets = dict(list(targets.items())[:n_relations])
    nodes, relations = dict(graph.nodes), {}
    for name, target in targets.items():
        nodes[name] = IdMap(name, pl.Series(range(int(target.max()) + 1)))
        relations[name] = Relation.of(name, graph.item, name, item, target)
    return replace(graph, nodes=nodes, relations=relations)


def one_held_out(graph: Graph, n_users: int, seed: int = 2) -> tuple[Graph, Csr]:
    """The graph without one random item of each of the first users who have two, and these items."""
    edges = graph.interactions
    rows = edges.csr(graph.n_users, graph.n_items)
    users = np.flatnonzero(rows.degrees() > 1)[:n_users]
    pick = rows.indptr[users] + np.random.default_rng(seed).integers(0, rows.degrees()[users])
    kept = np.ones(len(edges), np.bool_)
    kept[pick] = False
    return replace(graph, interactions=edges.where(kept)), Csr.from_pairs(
        edges.src[pick], edges.dst[pick], (graph.n_users, graph.n_items)
    )


STUDY = """name = "generated"
[data]
path = "."
user = "user"
item = "item"
[data.interactions]
file = "interactions.parquet"
user = "user"
item = "item"
[data.nodes.item]
file = "items.parquet"
key = "item"
[protocol]
split = "random-leave-one-out"
without_train = "drop"
{relations}
[study]
seeds = [0]
{study}
[[models]]
name = "sparse-ease"
{model}
"""


def write(graph: Graph, folder: Path, study: str, model: str) -> None:
    """Interactions and a table of items as Parquet, and a study of them."""
    folder.mkdir(parents=True, exist_ok=True)
    edges = graph.interactions
    pl.DataFrame({"user": edges.src, "item": edges.dst}).write_parquet(folder / "interactions.parquet")
    columns = {name: r.dst for name, r in graph.relations.items()}  # every item has one target, in order
    items = pl.DataFrame({"item": np.arange(graph.n_items, dtype=np.int32), **columns})
    items.write_parquet(folder / "items.parquet")
    relations = "\n".join(f'[relations.{n}]\nkind = "attribute"\nnode = "item"\ncolumn = "{n}"' for n in columns)
    (folder / "study.toml").write_text(STUDY.format(relations=relations, study=study, model=model))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--edges", type=int, default=1_000_000)
    parser.add_argument("--neighbours", type=int, default=50)
    parser.add_argument("--rank-users", type=int, default=10_000)
    parser.add_argument("--relations", type=int, default=3, choices=(3, 5))
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--arms", nargs="+", help='such as "interactions", "all"; by default these and each relation')
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    if given.write:
        graph = with_relations(generated(given.users, given.items, given.edges), given.relations)
        weight = ", weight = 1.0" if given.trials == 1 else ""
        section = f"trials = {given.trials}\nconfig = {{ neighbours = {given.neighbours}{weight} }}"
        write(graph, given.write, "ks = [10]", section)
        return
    small = with_relations(generated(300, 200, 3_000))
    for n_columns in (0, 10_000):  # the compiler's time is not the model's
        import relrank.models.closed_form.sparse_ease as module

        module.DENSE_COLUMNS = n_columns
        warm, truth = one_held_out(small, 100)
        ranks(SparseEASE(warm).solve(), warm.interactions.csr(300, 200), truth)
    data = with_relations(generated(given.users, given.items, given.edges), given.relations)
    graph, truth = one_held_out(data, given.rank_users)
    print(f"machine  {machine()}")
    print(f"graph    {graph.n_users:,} users x {graph.n_items:,} items, {len(graph.interactions):,} interactions")
    seen = graph.interactions.csr(graph.n_users, graph.n_items)
    names = sorted(graph.relations)
    arms = {"interactions": graph.only(), "all": graph, **{f"interactions + {n}": graph.only(n) for n in names}}
    for arm, part in ((name, arms[name]) for name in given.arms or arms):
        clear_caches()
        config = SparseEASEConfig(neighbours=given.neighbours)
        estimate = SparseEASE.estimate(part, config)
        reset_peak_memory()
        began = time.perf_counter()
        model = SparseEASE(part, config).solve()
        fit = time.perf_counter() - began
        peak, began = peak_memory_mb(), time.perf_counter()
        found = ranks(model, seen, truth)
        seconds = time.perf_counter() - began
        ndcg = float(metrics.ndcg(metrics.tie_groups(found.higher, found.equal, found.indptr), 10).mean())
        print(
            f"{arm:25} fit {fit:7.1f} s, peak {peak / 1024:5.2f} GB (estimated beside the graph "
            f"{estimate.bytes / 2**30:.2f} GB, {estimate.seconds:.0f} s), {found.users.size:,} users ranked in "
            f"{seconds:.1f} s, NDCG@10 {ndcg:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
