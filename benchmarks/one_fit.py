"""One fit of sparse EASE beside one of EASE and of relational EASE on the first split of a study, in one process.

    python benchmarks/one_fit.py [STUDY] [--rounds 4] [--neighbours 20 50]

By turns and with nothing kept from the fit before; "next" is the setting that a search would try after it. Relations
have fixed weights, spread from .3 to 3; relational EASE takes ten times these. STUDY is goodbooks by default.
"inverse" is EASE as published, one inverse of all items by all with NumPy; EASE itself inverts the smaller side.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from relrank.graph.graph import Graph
from relrank.models.closed_form.ease import EASE, EASEConfig
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.closed_form.sparse_ease import SparseEASE, SparseEASEConfig, clear_caches
from relrank.parallel.machine import machine
from relrank.study.config import read_study
from relrank.study.prepare import prepare

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = (1.0, 0.3, 0.3, 3.0, 1.0)


def seconds(solve: Callable[[], Any]) -> float:
    began = time.perf_counter()
    solve()
    return time.perf_counter() - began


def cold(solve: Callable[[], Any]) -> float:
    """With nothing kept from earlier fits."""
    clear_caches()
    RelationalEASE.clear_cache()
    return seconds(solve)


def inverse(graph: Graph, l2: float) -> Any:
    """EASE of the interactions as in its paper, without a word of this package's kernels."""
    rows = graph.interactions.csr(graph.n_users, graph.n_items)
    x = csr_array((rows.data, rows.indices, rows.indptr), (rows.n_rows, rows.n_cols))
    gram = np.asarray((x.T @ x).todense(), np.float32)
    gram[np.diag_indices_from(gram)] += np.float32(l2)
    p = np.linalg.inv(gram)
    return -p / p.diagonal()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, nargs="?", default=ROOT / "studies" / "goodbooks-loo.toml")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--neighbours", type=int, nargs="+", default=[20, 50])
    given = parser.parse_args()
    config = read_study(given.study)
    config = config.model_copy(update={"study": config.study.model_copy(update={"seeds": config.study.seeds[:1]})})
    graph = prepare(config, given.study.parent).split_contexts[0].graph
    plain, names = graph.only(), sorted(graph.relations)
    weights = {name: WEIGHTS[at % len(WEIGHTS)] for at, name in enumerate(names)}
    tenfold = RelationalEASEConfig(weights={name: 10 * weight for name, weight in weights.items()})
    print(f"{graph.n_items:,} items, weights {weights}, {machine()}")
    for _ in range(given.rounds):
        ease = cold(lambda: EASE(plain, EASEConfig()).solve())
        relational = cold(lambda: RelationalEASE(graph, tenfold).solve())
        as_published = cold(lambda: inverse(plain, 200.0))
        print(f"inverse {as_published:.2f} s · EASE {ease:.2f} s · relational EASE {relational:.2f} s", end="")
        for k in given.neighbours:
            settings = SparseEASEConfig(l2=10.0, neighbours=k)
            of_all = SparseEASEConfig(l2=10.0, neighbours=k, weights=weights)
            following = SparseEASEConfig(l2=5.0, neighbours=k, weights={**weights, names[0]: 0.7})
            alone = cold(lambda settings=settings: SparseEASE(plain, settings).solve())  # type: ignore[misc]
            whole = cold(lambda of_all=of_all: SparseEASE(graph, of_all).solve())  # type: ignore[misc]
            after = seconds(lambda following=following: SparseEASE(graph, following).solve())  # type: ignore[misc]
            print(f" · K {k}: interactions {alone:.2f} s, relations {whole:.2f} s, next {after:.2f} s", end="")
        print(flush=True)


if __name__ == "__main__":
    main()
