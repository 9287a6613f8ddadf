"""A model and a split become one row per user: ranks, metrics and the groups the user belongs to."""

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

from relrank.errors import InputError, one_of
from relrank.evaluation import metrics
from relrank.evaluation.ranking import FoldInScorer, Ranks, Scorer, ranks, ranks_and_top_k
from relrank.graph.sequences import LENGTH_BOUNDS, LENGTH_GROUPS, Sequences
from relrank.io.atomic import atomic_write
from relrank.io.manifest import PARQUET_ERRORS, first_line, parse_json_object
from relrank.kernels.csr import Csr, Float64, Int32
from relrank.models.core.base import user_rows
from relrank.tables.split import Part, Split

HISTORY_LENGTH = "history length"
ITEM_POPULARITY = "item popularity"
LIST_METRICS = ("novelty", "popularity lift", "intra-list similarity", "miscalibration")
"""What is measured of a user's list beyond accuracy, before the ``@``; the last two need an attribute of items."""
OTHERS = "all others"
MISSING = "missing"


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """What a model does on one part of one split.

    Attributes:
        table: one row per user with truth, in user-row order. ``user`` (outside key); ``rank`` (float, 1-based
            expected rank of the best relevant item under a random order of what ties); ``n_truth``; for every k
            ``hit@k``, ``recall@k``, ``precision@k``, ``ndcg@k``, ``map@k``; ``mrr``, all of them means over the
            orders of what ties; of lists as long as the first k ``novelty@k``, ``popularity lift@k`` and, with item
            features, ``intra-list similarity@k`` and ``miscalibration@k``, null where a user has no value; the groups
            ``history length`` (training rows of the user) and ``item popularity`` (training rows of the relevant
            item, the mean if there are several) and the attribute columns that were passed in; ``fingerprint`` of the
            split and ``part``, so that tables of two protocols cannot be compared by accident.
        summary: the mean of every metric over those users, NaN where none has a value; over exactly the same users
            and lists ``coverage@k`` and ``gini@k``; ``n_users``; ``users without truth``; ``constant users``, whose
            candidates all had one score.
    """

    table: pl.DataFrame
    summary: dict[str, float]

    def save(self, path: Path | str, durable: bool = True) -> None:
        """Write the table as Parquet, the summary in its metadata; the name appears only when the file is whole.

        Args:
            path: final name.
            durable: see ``atomic_write``.
        """
        metadata = {
            "relrank.summary": json.dumps(self.summary),
            "relrank.evaluation.metrics": str(metrics.METRICS_VERSION),
        }
        with atomic_write(Path(path), durable) as temporary:
            self.table.write_parquet(temporary, metadata=metadata)

    @classmethod
    def load(cls, path: Path | str) -> Evaluation:
        """Read what ``save`` wrote.

        Raises:
            InputError: the file is missing, is not Parquet, holds no evaluation, or one by another definition of the
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
        """The same of a file's content.

        Args:
            content: of the file.
            path: for messages.

        Raises:
            InputError: see ``load``.
        """
        expected = "a file written by Evaluation.save"
        try:
            metadata = pl.read_parquet_metadata(io.BytesIO(content))
            table = pl.read_parquet(io.BytesIO(content))
        except PARQUET_ERRORS as error:
            raise InputError("not an evaluation", where=path, expected=expected, found=first_line(error)) from None
        if "relrank.summary" not in metadata:
            raise InputError("not an evaluation", where=path, expected=expected, found="another Parquet file")
        definition = metadata.get("relrank.evaluation.metrics", "1")  # the first definition was not written down
        if definition != str(metrics.METRICS_VERSION):
            raise InputError(
                "evaluation by another definition of the metrics",
                where=path,
                expected=f"definition {metrics.METRICS_VERSION}, so evaluate again",
                found=f"definition {definition}",
            )
        return cls(table, parse_json_object(metadata["relrank.summary"].encode(), path))


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
    """Rank the full catalogue for every user with truth; users without are left out and counted.

    Args:
        model: scores user rows.
        split: items of ``split.seen(part)`` and ``split.closed()`` are masked, those of ``split.truth(part)`` are
            relevant.
        ks: cuts; the first one is also the length of the lists behind what is measured beyond accuracy.
        part: ``"valid"`` or ``"test"``.
        user_groups: a column ``key`` (outside keys) and attribute columns to carry into the table.
        item_groups: likewise for items; a user gets the attributes of the first relevant item in file order.
        features: items by values of an attribute, for the similarity inside lists and their calibration.
        block: users scored at once; by default bounded by memory.

    Raises:
        InputError: the part is empty, a cut is no whole number, scores are constant or not finite, or group columns
            do not fit.
    """
    ks = _cuts(ks)
    truth = split.truth(part)
    _refuse_empty(truth, split, part)
    found, lists = ranks_and_top_k(
        with_validation_history(model, split, part),
        split.seen(part),
        truth,
        ks[0],
        closed=split.closed(),
        block=block,
        reject_constant_scores=not split.new_items_only,
    )
    table = _table(found, split, ks, part, _of_lists(lists.items, split, found.users, ks[0], features))
    rows = split.valid if part == "valid" else split.test
    first_item = rows.item[np.unique(rows.user, return_index=True)[1]]
    for keys, groups in ((table["user"], user_groups), (split.items.at(first_item), item_groups)):
        if groups is not None:
            table = table.hstack(_attributes(keys, groups, taken=table.columns))

    accuracy = table.select(pl.col("mrr"), pl.col(r"^(hit|recall|precision|ndcg|map)@\d+$")).mean()
    n_users, n_items = split.shape
    k = ks[0]
    means = {name: table[name].mean() for name in (f"{stem}@{k}" for stem in LIST_METRICS) if name in table.columns}
    summary = {
        **accuracy.row(0, named=True),
        f"coverage@{k}": metrics.coverage(lists.items, n_items - split.unseen),
        f"gini@{k}": metrics.gini(lists.items, n_items - split.unseen),
        **{name: float("nan") if mean is None else mean for name, mean in means.items()},
        "n_users": len(table),
        "users without truth": n_users - len(table),
        "constant users": found.constant_users,
    }
    return Evaluation(table, summary)


def _cuts(ks: Sequence[int]) -> tuple[int, ...]:
    """Cuts as plain numbers."""
    found = () if isinstance(ks, str | bytes) or not isinstance(ks, Iterable) else tuple(ks)
    if not found or any(isinstance(k, bool) or not isinstance(k, Integral) or k < 1 for k in found):
        raise InputError("not cuts", where="ks", expected="whole numbers from 1, such as (10, 20)", found=repr(ks))
    return tuple(int(k) for k in found)


def mean_metric(
    model: Scorer, split: Split, metric: str = "ndcg@10", part: Part = "valid", *, block: int | None = None
) -> float:
    """One metric averaged over the users with truth, from ranks alone: the light path for early stopping.

    Raises:
        InputError: the metric is unknown, the part is empty, or scores are constant or not finite.
    """
    return float(user_metric(model, split, metric, part, block=block).mean())


def user_metric(
    model: Scorer, split: Split, metric: str = "ndcg@10", part: Part = "valid", *, block: int | None = None
) -> Float64:
    """One metric of every user with truth, from ranks alone: the light path for tuning.

    Returns:
        float64 [n_users with truth], by user row.

    Raises:
        InputError: the metric is unknown, the part is empty, or scores are constant or not finite.
    """
    truth = split.truth(part)
    _refuse_empty(truth, split, part)
    found = ranks(
        with_validation_history(model, split, part),
        split.seen(part),
        truth,
        closed=split.closed(),
        block=block,
        reject_constant_scores=not split.new_items_only,
    )
    return metrics.metric_by_name(metric, metrics.tie_groups(found.higher, found.equal, found.indptr))


def with_validation_history(model: Scorer, split: Split, part: Part) -> Scorer:
    """The model, told all that precedes a part in time.

    Where test rows follow the validation rows in time, these are the end of the history by then: a model whose scores
    come from a history alone gets it whole, without being fitted again, and so does one that reads what relations say
    of a user beside it: with and without these it knows the same of what users chose. Others score as trained.
    """
    if part == "valid" or not split.successive:
        return model
    if not accepts_longer_history(model):
        return _with_longer_rows(model, split) if getattr(model, "scores_from_current_row", False) else model
    train, valid = (Sequences.from_rows(rows.user, rows.item, split.shape[0]) for rows in (split.events, split.valid))
    histories = train.then(valid)
    return FoldInScorer(cast("Any", model), lambda users: histories.take(user_rows(users, histories.n)).tensors())


def _with_longer_rows(model: Any, split: Split) -> Scorer:
    """The model with the validation rows among what users chose, as trained in all else; itself where rows weigh."""
    if not _is_unweighted(model.history):
        return cast("Scorer", model)
    other = copy(model)
    other.history = split.seen("test")
    return cast("Scorer", other)


def accepts_longer_history(model: Any) -> bool:
    """Whether the model takes a longer history than it was trained on for what it is.

    Its scores come from a history alone (``from_history``), and folding one in loses nothing of it, as it would where
    training rows weigh differently: what is folded in weighs 1.
    """
    if not getattr(model, "from_history", False):
        return False
    history = getattr(model, "history", None)
    return bool(getattr(model, "ordered", False) or history is None or _is_unweighted(history))


def _is_unweighted(history: Csr) -> bool:
    """Whether all rows count the same, so that one more of weight 1 is another of them."""
    return bool((history.data == 1).all())


def group_labels(table: pl.DataFrame, column: str) -> tuple[pl.Series, list[str]]:
    """Cut a group column of an evaluation table into labelled groups.

    ``history length`` (true lengths, never a model's window): "≤ 10", "11–50", "> 50". ``item popularity``: thirds of
    the table's rows, "least popular third" … "most popular third"; rows of equal popularity stay together. Any other
    column by value: its 8 most frequent values, most frequent first, then "all others", then "missing" for null.

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


def _of_lists(
    items: metrics.TopKItems, split: Split, users: Int32, k: int, features: Csr | None
) -> dict[str, Float64]:
    """What ``LIST_METRICS`` names, of every list, by column; NaN where a user has no value."""
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
    return {f"{name}@{k}": of for name, of in values.items()}


def _refuse_empty(truth: Csr, split: Split, part: Part) -> None:
    if not truth.nnz:
        raise InputError("nothing to evaluate on", where=split.protocol, expected=f"{part} rows", found="none")


def _table(found: Ranks, split: Split, ks: Sequence[int], part: Part, of_lists: dict[str, Float64]) -> pl.DataFrame:
    n_users, n_items = split.shape
    n_truth = np.diff(found.indptr)
    popularity = np.bincount(split.train.item, minlength=n_items)[found.items]
    groups = metrics.tie_groups(found.higher, found.equal, found.indptr)
    at_k = {f"{name}@{k}": metric(groups, k) for k in ks for name, metric in metrics.AT_K.items()}
    return pl.DataFrame(
        {
            "user": split.users.at(found.users),
            "rank": metrics.first_rank(groups),
            "n_truth": n_truth,
            **at_k,
            "mrr": metrics.mrr(groups),
            **{name: pl.Series(values, nan_to_null=True) for name, values in of_lists.items()},
            HISTORY_LENGTH: np.bincount(split.train.user, minlength=n_users)[found.users],
            ITEM_POPULARITY: np.add.reduceat(popularity, found.indptr[:-1]) / n_truth,
        }
    ).with_columns(fingerprint=pl.lit(split.fingerprint), part=pl.lit(part))


def _attributes(keys: pl.Series, groups: pl.DataFrame, taken: Sequence[str]) -> pl.DataFrame:
    """The attribute columns of ``groups`` beside ``keys``; null where a key has no row."""
    where = "group columns"
    if "key" not in groups.columns or groups["key"].dtype != keys.dtype:
        found = f"{groups.schema}"
        raise InputError("no key column", where=where, expected=f"a column 'key' of {keys.dtype}", found=found)
    if groups["key"].is_duplicated().any():
        twice = groups["key"].filter(groups["key"].is_duplicated())[0]
        raise InputError("key occurs twice", where=where, expected="one row per key", found=repr(twice))
    if clash := sorted(set(groups.columns) & set(taken)):
        raise InputError("column name is taken", where=where, expected="other names", found=", ".join(clash))
    return keys.rename("key").to_frame().join(groups, on="key", how="left", maintain_order="left").drop("key")
