"""Evaluation of a model on a split: a table with one row per user, of ranks, metrics and user groups."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl

from relrank.arguments import checked
from relrank.errors import InputError, one_of
from relrank.evaluation import metrics
from relrank.evaluation.ranking import FoldInScorer, Ranks, Scorer, ranks, ranks_and_top_k
from relrank.graph.histories import LENGTH_BOUNDS, LENGTH_GROUPS, Sequences
from relrank.io.atomic import atomic_write
from relrank.io.manifest import PARQUET_ERRORS, first_line, parse_json_object
from relrank.kernels.csr import Csr, Float64, Int32
from relrank.models.core.base import user_rows
from relrank.tables.split import Part, Split

HISTORY_LENGTH = "history length"
ITEM_POPULARITY = "item popularity"
LIST_METRICS = ("novelty", "popularity lift", "intra-list similarity", "miscalibration")
"""Beyond-accuracy metrics of a user's list, without ``@k``; the last two need an attribute of items."""
OTHERS = "all others"
MISSING = "missing"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Metrics of a model on one part of one split.

    Attributes:
        table: one row per user with held-out items, in user-row order: ``user`` (outside key); ``rank`` (float,
            1-based expected rank of the best relevant item under random tie-breaking); ``n_truth`` (relevant items);
            for every k ``hit@k``, ``recall@k``, ``precision@k``, ``ndcg@k``, ``map@k``; ``mrr``; all of them
            expected values over the orders of ties. For lists of length k (the first cutoff): ``novelty@k``,
            ``popularity lift@k`` and, with item features, ``intra-list similarity@k`` and ``miscalibration@k``, null
            where undefined. Group columns: ``history length`` (training rows of the user), ``item popularity``
            (training rows of the relevant item, the mean if there are several), and the attribute columns passed in.
            ``fingerprint`` of the split and ``part``, which prevent comparisons across protocols.
        summary: the mean of every metric over these users, NaN if it is undefined for all; ``coverage@k`` and
            ``gini@k`` of the same lists; ``n_users``; ``users without truth``; ``constant users``, whose candidates
            all had the same score.
    """

    table: pl.DataFrame
    summary: dict[str, float]

    @checked("Evaluation.save")
    def save(self, path: Path | str, durable: bool = True) -> None:
        """Write the table as Parquet with the summary in its metadata, atomically.

        Args:
            path: the file.
            durable: see ``atomic_write``.
        """
        metadata = {
            "relrank.summary": json.dumps(self.summary),
            "relrank.metrics": str(metrics.METRICS_VERSION),
        }
        with atomic_write(Path(path), durable) as temporary:
            self.table.write_parquet(temporary, metadata=metadata)

    @classmethod
    @checked("Evaluation.load")
    def load(cls, path: Path | str) -> Evaluation:
        """Read a file that ``save`` wrote.

        Raises:
            InputError: the file is missing, is not Parquet, holds no evaluation, or uses another definition of the
                metrics.
        """
        try:
            return cls.from_bytes(Path(path).read_bytes(), str(path))
        except OSError as error:
            raise InputError(
                "not an evaluation", where=str(path), expected="a file written by Evaluation.save", found=str(error)
            ) from None

    @classmethod
    def from_bytes(cls, content: bytes, path: str) -> Evaluation:
        """``load`` from a file's content; ``path`` is for messages."""
        expected = "a file written by Evaluation.save"
        try:
            metadata = pl.read_parquet_metadata(io.BytesIO(content))
            table = pl.read_parquet(io.BytesIO(content))
        except PARQUET_ERRORS as error:
            raise InputError("not an evaluation", where=path, expected=expected, found=first_line(error)) from None
        if "relrank.summary" not in metadata:
            raise InputError("not an evaluation", where=path, expected=expected, found="another Parquet file")
        definition = metadata.get("relrank.metrics", "1")  # version 1 was not recorded
        if definition != str(metrics.METRICS_VERSION):
            raise InputError(
                "evaluation with another definition of the metrics",
                where=path,
                expected=f"version {metrics.METRICS_VERSION}: evaluate again",
                found=f"version {definition}",
            )
        return cls(table, parse_json_object(metadata["relrank.summary"].encode(), path))


@checked("rr.evaluate")
def evaluate(
    model: Scorer,
    split: Split,
    ks: Sequence[int] = (10, 20, 50),
    part: Part = "test",
    *,
    user_groups: pl.DataFrame | None = None,
    item_groups: pl.DataFrame | None = None,
    features: Csr | None = None,
    block: int | None = None,
) -> Evaluation:
    """Rank the full catalogue for every user with held-out items; other users are counted.

    Args:
        model: scores user rows.
        split: items of ``split.seen(part)`` and ``split.closed()`` are masked, those of ``split.truth(part)`` are
            relevant.
        ks: cutoffs; the first one is also the list length of beyond-accuracy metrics.
        part: ``"valid"`` or ``"test"``.
        user_groups: a column ``key`` (outside keys) and attribute columns to add to the table.
        item_groups: likewise for items; a user gets the attributes of the first relevant item in file order.
        features: items by values of an attribute, for intra-list similarity and calibration.
        block: users scored at once; by default bounded by memory.

    Raises:
        InputError: the part is empty, a cutoff is not a positive whole number, scores are constant or not finite, or
            group columns do not fit.
    """
    ks = _cutoffs(ks)
    truth = _truth(split, part)
    ranked, lists = ranks_and_top_k(
        with_validation_history(model, split, part),
        split.seen(part),
        truth,
        ks[0],
        excluded_items=split.closed(),
        block=block,
        reject_constant_scores=not split.new_items_only,
    )
    table = _table(ranked, split, ks, part, _list_metrics(lists.items, split, ranked.users, ks[0], features))
    rows = split.valid if part == "valid" else split.test
    first_item = rows.item[np.unique(rows.user, return_index=True)[1]]
    for keys, groups in ((table["user"], user_groups), (split.items.at(first_item), item_groups)):
        if groups is not None:
            table = table.hstack(_attributes(keys, groups, taken=table.columns))
    return Evaluation(table, _summary(table, lists.items, split, ks[0], ranked.constant_users))


def _summary(
    table: pl.DataFrame, items: metrics.TopKItems, split: Split, k: int, constant_users: int
) -> dict[str, float]:
    accuracy = table.select(pl.col("mrr"), pl.col(r"^(hit|recall|precision|ndcg|map)@\d+$")).mean()
    n_users, n_items = split.shape
    means = {name: table[name].mean() for name in (f"{stem}@{k}" for stem in LIST_METRICS) if name in table.columns}
    return {
        **accuracy.row(0, named=True),
        f"coverage@{k}": metrics.coverage(items, n_items - split.unseen),
        f"gini@{k}": metrics.gini(items, n_items - split.unseen),
        **{name: float("nan") if mean is None else mean for name, mean in means.items()},
        "n_users": len(table),
        "users without truth": n_users - len(table),
        "constant users": constant_users,
    }


def _cutoffs(ks: Sequence[int]) -> tuple[int, ...]:
    """Cutoffs as plain integers."""
    values = () if isinstance(ks, str | bytes) or not isinstance(ks, Iterable) else tuple(ks)
    if not values or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 for k in values):
        raise InputError("not cutoffs", where="ks", expected="whole numbers from 1, such as (10, 20)", found=repr(ks))
    return tuple(int(k) for k in values)


def mean_metric(
    model: Scorer, split: Split, metric: str = "ndcg@10", part: Part = "valid", *, block: int | None = None
) -> float:
    """The mean of one metric over the users with held-out items, without lists: for early stopping.

    Raises:
        InputError: the metric is unknown, the part is empty, or scores are constant or not finite.
    """
    return float(user_metric(model, split, metric, part, block=block).mean())


def user_metric(
    model: Scorer, split: Split, metric: str = "ndcg@10", part: Part = "valid", *, block: int | None = None
) -> Float64:
    """One metric of every user with held-out items, without lists: for tuning.

    Returns:
        float64 [n_users with held-out items], by user row.

    Raises:
        InputError: the metric is unknown, the part is empty, or scores are constant or not finite.
    """
    truth = _truth(split, part)
    ranked = ranks(
        with_validation_history(model, split, part),
        split.seen(part),
        truth,
        excluded_items=split.closed(),
        block=block,
        reject_constant_scores=not split.new_items_only,
    )
    return metrics.metric_by_name(metric, metrics.tie_groups(ranked.higher, ranked.equal, ranked.indptr))


def with_validation_history(model: Scorer, split: Split, part: Part) -> Scorer:
    """The model with all interactions that precede the part in time as its history.

    If test rows follow validation rows in time, the history at test time ends with the validation rows. Models whose
    scores depend on the history (and possibly on relations of the user) get the longer history without being fitted
    again; other models score as trained.
    """
    if part == "valid" or not split.successive:
        return model
    if not accepts_longer_history(model):
        return _with_longer_rows(model, split) if getattr(model, "scores_from_current_row", False) else model
    train, valid = (Sequences.from_rows(rows.user, rows.item, split.shape[0]) for rows in (split.events, split.valid))
    histories = train.then(valid)
    return FoldInScorer(cast("Any", model), lambda users: histories.take(user_rows(users, histories.n)).tensors())


def _with_longer_rows(model: Any, split: Split) -> Scorer:
    """The trained model with validation rows added to its history; unchanged if rows are weighted."""
    if not _is_unweighted(model.history):
        return cast("Scorer", model)
    other = copy(model)
    other.history = split.seen("test")
    return cast("Scorer", other)


def accepts_longer_history(model: Any) -> bool:
    """Whether the model can score longer histories than those it was trained on.

    Its scores must depend on a history alone (``from_history``), and its training rows must be unweighted: items that
    are folded in have weight 1.
    """
    if not getattr(model, "from_history", False):
        return False
    history = getattr(model, "history", None)
    return bool(getattr(model, "ordered", False) or history is None or _is_unweighted(history))


def _is_unweighted(history: Csr) -> bool:
    """Whether all rows have weight 1."""
    return bool((history.data == 1).all())


def group_labels(table: pl.DataFrame, column: str) -> tuple[pl.Series, list[str]]:
    """Divide the users of an evaluation table into labelled groups by a column.

    ``history length`` (full lengths, whatever a model's window): "≤ 10", "11–50", "> 50". ``item popularity``: thirds
    of the table's rows, "least popular third" … "most popular third"; rows of equal popularity stay together. Any
    other column: its 8 most frequent values, most frequent first, then "all others", then "missing" for null.

    Returns:
        The label of every row, and the labels that occur, in order.

    Raises:
        InputError: there is no such column.
    """
    if column not in table.columns:
        raise InputError(
            "no such group", where="evaluation table", expected=one_of(table.columns), found=repr(column)
        )
    values = table[column]
    if column in (HISTORY_LENGTH, ITEM_POPULARITY):
        if column == HISTORY_LENGTH:
            names, edges = [*LENGTH_GROUPS], np.array(LENGTH_BOUNDS)
        else:
            names = ["least popular third", "middle third", "most popular third"]
            edges = np.quantile(values, [1 / 3, 2 / 3], method="inverted_cdf")
        labels = pl.Series(column, np.array(names)[np.searchsorted(edges, values)])
    else:
        text = values.cast(pl.String).alias("value")
        counts = text.drop_nulls().value_counts().sort(["count", "value"], descending=[True, False])
        top = counts["value"].head(8).to_list()
        names = [*top, OTHERS, MISSING]
        labels = text.replace_strict(top, top, default=OTHERS).set(text.is_null(), MISSING).alias(column)
    present = set(labels.unique())
    return labels, [name for name in dict.fromkeys(names) if name in present]


def _list_metrics(
    items: metrics.TopKItems, split: Split, users: Int32, k: int, features: Csr | None
) -> dict[str, Float64]:
    """``LIST_METRICS`` of every user's list, by column name; NaN where undefined."""
    n_users, n_items = split.shape
    counts = np.bincount(split.train.item, minlength=n_items)
    history = split.train.csr(n_users, n_items).take(users)
    values = {
        "novelty": metrics.novelty(items, counts, n_users),
        "popularity lift": metrics.popularity_lift(items, history, counts),
    }
    if features is not None:
        values["intra-list similarity"] = metrics.intra_list_similarity(items, features)
        values["miscalibration"] = metrics.miscalibration(items, history, features)
    return {f"{name}@{k}": per_user for name, per_user in values.items()}


def _truth(split: Split, part: Part) -> Csr:
    """Users by held-out items.

    Raises:
        InputError: there are none.
    """
    truth = split.truth(part)
    if not truth.nnz:
        raise InputError("nothing to evaluate on", where=split.protocol, expected=f"{part} rows", found="none")
    return truth


def _table(
    ranked: Ranks, split: Split, ks: Sequence[int], part: Part, list_metrics: dict[str, Float64]
) -> pl.DataFrame:
    n_users, n_items = split.shape
    n_truth = np.diff(ranked.indptr)
    popularity = np.bincount(split.train.item, minlength=n_items)[ranked.items]
    groups = metrics.tie_groups(ranked.higher, ranked.equal, ranked.indptr)
    at_k = {f"{name}@{k}": metric(groups, k) for k in ks for name, metric in metrics.AT_K.items()}
    return pl.DataFrame(
        {
            "user": split.users.at(ranked.users),
            "rank": metrics.first_rank(groups),
            "n_truth": n_truth,
            **at_k,
            "mrr": metrics.mrr(groups),
            **{name: pl.Series(values, nan_to_null=True) for name, values in list_metrics.items()},
            HISTORY_LENGTH: np.bincount(split.train.user, minlength=n_users)[ranked.users],
            ITEM_POPULARITY: np.add.reduceat(popularity, ranked.indptr[:-1]) / n_truth,
        }
    ).with_columns(fingerprint=pl.lit(split.fingerprint), part=pl.lit(part))


def _attributes(keys: pl.Series, groups: pl.DataFrame, taken: Sequence[str]) -> pl.DataFrame:
    """The attribute columns of ``groups`` for ``keys``; null where a key has no row."""
    where = "group columns"
    if "key" not in groups.columns or groups["key"].dtype != keys.dtype:
        expected = f"a column 'key' of {keys.dtype}"
        raise InputError("no key column", where=where, expected=expected, found=f"{groups.schema}")
    if groups["key"].is_duplicated().any():
        duplicate = groups["key"].filter(groups["key"].is_duplicated())[0]
        raise InputError("key occurs twice", where=where, expected="one row per key", found=repr(duplicate))
    if clash := sorted(set(groups.columns) & set(taken)):
        raise InputError("column name is taken", where=where, expected="other names", found=", ".join(clash))
    return keys.rename("key").to_frame().join(groups, on="key", how="left", maintain_order="left").drop("key")
