"""Our models against the recommendation lists that the authors of KGTORe and KGUF published, user by user.

    python benchmarks/published_lists.py FOLDER [--set facebook-books|yahoo-movies] [--models NAME ...]

FOLDER is a clone of https://github.com/sisinflab/KGUF, whose ``results/recs`` has the lists of ten models; the items'
DBpedia features are read from ``$RELRANK_DATA/linked-facebook-books`` and ``…/linked-yahoo-movies``.

The split is not in that repository, but follows from it: ratings of at least 1 (books) or 3 (films), the users and
items of the lists, and scikit-learn's ``train_test_split`` with seed 42 over each user's rows, a fifth for test, then
a tenth of the rest for validation. Two checks prove it: no list holds a training row, and the lists get the published
nDCG@10. Items without a place in any list are named below; others would put training rows into lists.

Two conditions. "As published": hyper-parameters are chosen on the authors' validation rows, which are then neither
trained on nor masked, so that they take places in lists and count as wrong. "Fitted again": the final fit trains on
them, too, and they are masked, as in every study of this repository.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from relrank.evaluation.comparison import effect_from_differences
from relrank.evaluation.evaluate import evaluate
from relrank.models import MODELS, ClosedForm
from relrank.models.core.base import override_config
from relrank.parallel.machine import machine
from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.run import run_study

K = 10


class Published(NamedTuple):
    """A data set of the repository.

    Attributes:
        folder: its name there.
        linked: folder of its features in the public collection of linked data sets.
        least: lowest rating that counts.
        unlisted: items of the data that are in no list.
        ndcg: published nDCG@10 by model.
    """

    folder: str
    linked: str
    least: int
    unlisted: tuple[int, ...]
    ndcg: dict[str, float]


SETS = {
    "facebook-books": Published(
        "facebook_book",
        "linked-facebook-books",
        1,
        (854, 1072),
        {"ItemKNN": 0.1039, "BPRMF": 0.0945, "LightGCN": 0.0969, "KGIN": 0.1023, "KGTORE": 0.1188},
    ),
    "yahoo-movies": Published(
        "yahoo_movies",
        "linked-yahoo-movies",
        3,
        (1800170099,),
        {"ItemKNN": 0.2258, "BPRMF": 0.2303, "LightGCN": 0.2230, "KGIN": 0.2368, "KGTORE": 0.2471},
    ),
}
STUDY = """
name = "published-lists"
[data]
path = "."
user = "user"
item = "item"
[data.interactions]
file = "train.parquet"
valid = "valid.parquet"
test = "test.parquet"
user = "user"
item = "item"
[data.links.features]
file = "features.parquet"
source = "item"
source_column = "item"
target = "feature"
target_column = "feature"
unknown = "drop"
[relations.features]
kind = "link"
table = "features"
min_target_degree = 5
[protocol]
split = "given"
[study]
ks = [10]
trials = 40
"""


def read(folder: Path, path: str, columns: list[str]) -> pl.DataFrame:
    """A file of tab-separated values at the head of a repository."""
    content = subprocess.run(
        ["git", "-C", str(folder), "show", f"HEAD:{path}"], check=True, stdout=subprocess.PIPE
    ).stdout
    return pl.read_csv(content, separator="\t", has_header=False, new_columns=columns)


def parts(rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Training, validation and test rows: per user the permutations that scikit-learn draws with seed 42."""
    of: dict[str, list[pl.DataFrame]] = {"train": [], "valid": [], "test": []}
    for user in rows.partition_by("user", maintain_order=True):
        n_test = int(np.ceil(0.2 * user.height))
        drawn = np.random.RandomState(42).permutation(user.height)
        rest = user[drawn[n_test:]]
        n_valid = int(np.ceil(0.1 * rest.height))
        again = np.random.RandomState(42).permutation(rest.height)
        of["test"].append(user[drawn[:n_test]])
        of["valid"].append(rest[again[:n_valid]])
        of["train"].append(rest[again[n_valid:]])
    return {part: pl.concat(frames) for part, frames in of.items()}


def ndcg(lists: pl.DataFrame, test: pl.DataFrame) -> pl.DataFrame:
    """nDCG@10 of every user with test rows, 0 without a list: ``user``, ``ndcg``."""
    ranked = lists.with_columns(place=pl.int_range(pl.len()).over("user")).filter(pl.col("place") < K)
    found = ranked.join(test, on=["user", "item"], how="semi")
    gain = found.group_by("user").agg(gain=(1 / (pl.col("place") + 2).log(2)).sum())
    ideal = np.cumsum(1 / np.log2(np.arange(K) + 2))
    users = test.group_by("user").agg(best=pl.len().clip(1, K)).sort("user")
    users = users.join(gain, on="user", how="left", maintain_order="left").fill_null(0)
    best = ideal[users["best"].to_numpy() - 1]
    return users.select("user", ndcg=pl.Series(users["gain"].to_numpy() / best))


def features(folder: Path) -> pl.DataFrame:
    """Item and feature of every cell of ``map.tsv``: an item, then its features."""
    lines = [line.split() for line in (folder / "map.tsv").read_text(encoding="utf-8").splitlines()]
    pairs = [(int(item), int(f)) for item, *own in lines for f in own]
    return pl.DataFrame(pairs, schema=["item", "feature"], orient="row").unique(maintain_order=True)


def published_lists(name: str, folder: Path) -> tuple[dict[str, pl.DataFrame], dict[str, pl.DataFrame]]:
    """The parts of the split, and nDCG@10 per user of every published model, both checked."""
    published = SETS[name]
    rows = read(folder, f"data/{published.folder}/data/dataset.tsv", ["user", "item", "rating"])
    lists = {
        model: read(folder, f"results/recs/{published.folder}/{model}.tsv", ["user", "item", "score"])
        for model in ["Random", *published.ndcg]
    }
    items = pl.concat([*(frame["item"] for frame in lists.values()), pl.Series(published.unlisted)]).unique()
    users = lists["ItemKNN"]["user"].unique()
    rows = rows.filter(
        pl.col("rating") >= published.least,
        pl.col("item").is_in(items.implode()),
        pl.col("user").is_in(users.implode()),
    ).select("user", "item")
    of = parts(rows)
    sizes = ", ".join(f"{frame.height:,} {part}" for part, frame in of.items())
    print(f"{name}: {users.len():,} users, {items.len():,} items; rows: {sizes}")
    per_user = {}
    for model, frame in lists.items():
        assert not frame.join(of["train"], on=["user", "item"], how="semi").height, f"{model} lists training rows"
        if model in published.ndcg:
            per_user[model] = ndcg(frame, of["test"])
            mean = per_user[model]["ndcg"].to_numpy().mean()
            assert abs(mean - published.ndcg[model]) < 6e-5, (model, mean)
            print(f"  published {model:12} {mean:.4f}")
    return of, per_user


def compare(own: pl.DataFrame, theirs: pl.DataFrame) -> str:
    """Our mean, and the paired difference."""
    both = own.select(pl.col("user").cast(pl.Int64), own="ndcg@10").join(theirs, on="user", how="inner")
    assert both.height == theirs.height
    effect = effect_from_differences((both["own"] - both["ndcg"]).to_numpy()[:, None])
    return f"{both['own'].to_numpy().mean():.4f} ({effect.mean:+.4f}, {effect.low:+.4f} to {effect.high:+.4f})"


def run(name: str, folder: Path, models: list[str]) -> None:
    """Print our models beside the published lists of a data set."""
    of, per_user = published_lists(name, folder)
    best = max(SETS[name].ndcg, key=SETS[name].ndcg.__getitem__)
    with tempfile.TemporaryDirectory() as place:
        out = Path(place)
        for part, frame in of.items():
            frame.write_parquet(out / f"{part}.parquet")
        linked = features(Path(os.environ["RELRANK_DATA"]) / SETS[name].linked)
        items = pl.concat(of.values())["item"].unique()
        linked.filter(pl.col("item").is_in(items.implode())).write_parquet(out / "features.parquet")
        text = STUDY + "".join(f'[[models]]\nname = "{model}"\n' for model in models)
        (out / "study.toml").write_text(text, encoding="utf-8")
        config = read_study(out / "study.toml")
        data = prepare(config, out)
        result = run_study(config, data, out / "run")
        split_context = data.split_contexts[0]
        split = split_context.split
        unmasked = replace(split, valid=split.valid.take(np.zeros(0, np.int64)))
        print(f"  ours: as published (minus {best}) | fitted again (minus {best})")
        for cell in result.card["cells"]:
            if "rewired" in cell["arm"]:
                continue
            tried = result.tuning.filter(pl.col("chosen"), model=cell["model"], arm=cell["arm"])["config"]
            kind = MODELS[cell["model"]]
            assert issubclass(kind, ClosedForm)
            graph = split_context.graph if cell["arm"] == "all" else split_context.graph.only()
            settings = override_config(kind.Config(), json.loads(tried[0]) if len(tried) else {}, cell["model"])
            strict = evaluate(kind(graph, settings).solve(), unmasked, (K,), "test")
            again = pl.read_parquet(out / "run" / "cells" / cell["key"] / "users.parquet")
            figures = [compare(users, per_user[best]) for users in (strict.table, again)]
            print(f"  {cell['model']:20} {cell['arm']:14} {' | '.join(figures)}  {settings}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a clone of the repository")
    parser.add_argument("--set", choices=list(SETS), action="append", dest="sets")
    parser.add_argument("--models", nargs="+", default=["popularity", "item-knn", "ease", "relational-ease"])
    arguments = parser.parse_args()
    for name in arguments.sets or list(SETS):
        run(name, arguments.folder, arguments.models)
    print(machine())


if __name__ == "__main__":
    main()
