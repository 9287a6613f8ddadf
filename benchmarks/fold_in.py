"""How much of a trained user's accuracy does somebody get whom the model has never seen?

    python benchmarks/fold_in.py [--models NAME ...] [--tenths N] [--part valid|test] [--fits FOLDER] [--json FILE]

The split of goodbooks-loo, seed 0. A random tenth of the users is taken out of training altogether, their rows stay
in the graph without an edge; a model is fitted without them, and ranks their test items from their training
histories, folded in. Beside it, on the same users and items: the model that was trained with everybody, asked for the
trained users, and asked to fold their histories in, which tells what is lost by folding in from what is lost by being
new. Tenths are disjoint and pooled; the interval is a bootstrap over users. Hyper-parameters and budget are those of
``studies/goodbooks-models.toml``, the last epoch counts. With ``--part valid`` validation items are ranked, on which
whatever folding in has to choose was chosen. With ``--fits`` trained models are kept there, and taken from there. The
data is read from ``$RELRANK_DATA/goodbooks-10k``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from relrank.evaluation.comparison import compare, mean_interval
from relrank.evaluation.evaluate import evaluate
from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.kernels.csr import Int64
from relrank.models import MODELS, ClosedForm, Recommender
from relrank.parallel.machine import machine
from relrank.study.cell import Cell
from relrank.study.config import read_study
from relrank.study.grid import cell_with_prerequisites
from relrank.study.prepare import prepare
from relrank.tables.split import Interactions, Part, Split
from relrank.training import fit

STUDY = Path(__file__).parent.parent / "studies" / "goodbooks-models.toml"
METRIC = "ndcg@10"


@dataclass
class Folded:
    """A model that is told of every user anew."""

    model: Recommender
    histories: Sequences

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.model.name}, folded in"

    def score(self, users: torch.Tensor) -> torch.Tensor:
        """Scores of the users' histories."""
        return self.model.fold_in(self.histories.take(users.numpy()).tensors())


def fitted(cell: Cell, graph: Graph, folder: Path | None) -> Recommender:
    """The cell's model on a graph, as it stands after its last epoch."""
    kind = MODELS[cell.model.kind]
    config, train = cell.initial_config()
    if issubclass(kind, ClosedForm):
        return kind(graph, config).solve()
    model = kind(graph, config)
    fit(model, replace(train, every=train.epochs, device="cpu"), lambda: 0.0, cell.split_context.seed, folder)
    return model


def without(graph: Graph, users: Int64) -> Graph:
    """The graph in which these users chose nothing."""
    edges = graph.interactions
    return replace(graph, interactions=edges.where(~np.isin(edges.src, users)))


def of_users(model: Any, split: Split, users: Int64, part: Part) -> pl.DataFrame:
    """Per-user table of the test (or validation) items of some users."""
    rows = split.truth(part)
    there = np.isin(rows.rows(), users)
    kept = Interactions(rows.rows()[there], rows.indices[there])
    few = replace(split, valid=kept) if part == "valid" else replace(split, test=kept)
    return evaluate(model, few, (10,), part).table.select("user", METRIC)


def ratio_interval(a: pl.DataFrame, b: pl.DataFrame, resamples: int = 5_000, seed: int = 0) -> tuple[float, ...]:
    """mean(a) / mean(b) with its 95 % bootstrap interval over users."""
    both = a.join(b, on="user", suffix="_b", validate="1:1").select(METRIC, f"{METRIC}_b").to_numpy()
    drawn = np.random.default_rng(seed).integers(len(both), size=(resamples, len(both)))
    means = both[drawn].mean(1)
    whole = both.mean(0)
    return float(whole[0] / whole[1]), *np.quantile(means[:, 0] / means[:, 1], [0.025, 0.975]).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=["ease", "relational-lightgcn"])
    parser.add_argument("--tenths", type=int, default=5, help="of the ten, how many")
    parser.add_argument("--part", choices=["valid", "test"], default="test")
    parser.add_argument("--fits", type=Path, help="trained models are kept here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    part: Part = arguments.part
    study = read_study(STUDY)
    study = study.model_copy(update={"study": study.study.model_copy(update={"seeds": (0,)})})
    material = prepare(study, STUDY.parent)
    split = material.split_contexts[0].split
    histories = Sequences.from_rows(split.train.user, split.train.item, split.shape[0])
    tenths = np.array_split(np.random.default_rng(0).permutation(split.shape[0]), 10)[: arguments.tenths]
    print(
        f"{split.protocol} {split.fingerprint[:12]}: {split.shape[0]:,} users, {split.shape[1]:,} items", flush=True
    )
    figures: list[dict[str, Any]] = []
    for name in arguments.models:
        cell = cell_with_prerequisites(study, material, name)[-1]
        print(f"{name} on {cell.arm.name}", flush=True)
        folder = arguments.fits and arguments.fits / name
        began = time.perf_counter()
        everybody = fitted(cell, cell.graph, folder and folder / "everybody")
        tables: dict[str, list[pl.DataFrame]] = {"trained": [], "trained, folded in": [], "new, folded in": []}
        for number, users in enumerate(tenths):
            stranger = fitted(cell, without(cell.graph, users), folder and folder / f"without-{number}")
            tables["trained"].append(of_users(everybody, split, users, part))
            tables["trained, folded in"].append(of_users(Folded(everybody, histories), split, users, part))
            tables["new, folded in"].append(of_users(Folded(stranger, histories), split, users, part))
            means = "  ".join(f"{of} {found[-1].select(METRIC).mean().item():.4f}" for of, found in tables.items())
            print(f"  tenth {number}: {len(users)} users  {means}  {time.perf_counter() - began:.0f} s", flush=True)
        pooled = {of: pl.concat(found) for of, found in tables.items()}
        for of, table in pooled.items():
            here, difference = mean_interval(table, METRIC), compare(table, pooled["trained"], METRIC)
            ratio = ratio_interval(table, pooled["trained"])
            figures.append(
                {
                    "model": name, "scores": of, "users": here.n_users, METRIC: here.mean,
                    "interval": [here.low, here.high], "difference": difference.mean,
                    "difference_interval": [difference.low, difference.high], "p": difference.p,
                    "ratio": ratio[0], "ratio_interval": list(ratio[1:]),
                }
            )  # fmt: skip
            print(
                f"  {of:20} {METRIC} {here.mean:.4f} [{here.low:.4f}, {here.high:.4f}]  difference "
                f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]  "
                f"{ratio[0]:.1%} [{ratio[1]:.1%}, {ratio[2]:.1%}]", flush=True,
            )  # fmt: skip
    if arguments.json:
        note = {"machine": machine(), "tenths": arguments.tenths, "part": part, "figures": figures}
        arguments.json.write_text(json.dumps(note, indent=1))


if __name__ == "__main__":
    main()
