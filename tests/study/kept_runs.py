"""A small shop, and models of it as kept runs."""

from pathlib import Path

import polars as pl

from relrank.graph.construction.build_graph import build_graph
from relrank.models import MODELS
from relrank.models.core.base import override_config
from relrank.runs.fitted_run import FittedRun, load_run, save_run
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import Tables

N_USERS, N_ITEMS = 17, 23
BOUGHT = {c: list(dict.fromkeys((7 * c + 3 * k * k + 5 * k) % N_ITEMS for k in range(9))) for c in range(N_USERS)}
ROWS = [(f"c{c:02}", 100 + i, 10 * k + c) for c, items in BOUGHT.items() for k, i in enumerate(items)]


def kept(folder: Path, name: str, split: str = "random-leave-one-out", **config: object) -> FittedRun:
    """A model on the shop above, saved and loaded again."""
    shop = Tables("shop", "user", "item", pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row"))
    cut = make_split(shop, check({"name": "m", "split": split}, ProtocolConfig, "m"), 0)
    graph, kind = build_graph(shop, cut, {}), MODELS[name]
    model = kind(graph, override_config(kind.Config(), config, name))
    if hasattr(model, "solve"):
        model.solve()
    else:
        model.init_weights(0)
    note = {
        "format": "relrank-run-4", "model": name, "name": name, "arm": "interactions", "config": config,
        "protocol": "m", "fingerprint": cut.fingerprint, "ordered": cut.ordered, "successive": cut.successive,
    }  # fmt: skip
    save_run(model, graph, cut, shop, note, folder / "run")
    return load_run(folder / "run")
