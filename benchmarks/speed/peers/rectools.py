"""RecTools: ranking and judging given vectors, EASE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from rectools import Columns
from rectools.dataset import Dataset
from rectools.metrics import NDCG, Recall, calc_metrics
from rectools.models import EASEModel
from rectools.models.rank import Distance, ImplicitRanker

from speed.lists import judged
from speed.peer import Call, run

K = 20


def ranking(call: Call) -> list[float]:
    """Its ranker over the vectors, its metrics over the table of lists."""
    data = call.data
    shape = data["n_users"], data["n_items"]
    ones = np.ones(data["train_user"].size, np.float32)
    train = scipy.sparse.csr_matrix((ones, (data["train_user"], data["train_item"])), shape)
    test = pd.DataFrame({Columns.User: data["test_user"], Columns.Item: data["test_item"]})
    metrics = {"ndcg@20": NDCG(k=K, divide_by_achievable=True), "recall@20": Recall(k=K)}
    asked = np.unique(data["test_user"])

    def work() -> None:
        ranker = ImplicitRanker(Distance.DOT, data["user_vectors"], data["item_vectors"], num_threads=0)
        users, items, _ = ranker.rank(asked, k=K, filter_pairs_csr=train[asked])
        lists = pd.DataFrame({Columns.User: users, Columns.Item: items})
        lists[Columns.Rank] = lists.groupby(Columns.User, sort=False).cumcount() + 1
        call.figures |= calc_metrics(metrics, lists, test)

    return call.repeat(work, call.options["rounds"])


def dataset_of(call: Call) -> Dataset:
    """The training rows, users and items by their numbers."""
    pairs = pd.DataFrame({Columns.User: call.data["train_user"], Columns.Item: call.data["train_item"]})
    pairs[Columns.Weight], pairs[Columns.Datetime] = 1, pd.Timestamp("2026-01-01")
    return Dataset.construct(pairs)


def ease(call: Call) -> list[float]:
    """Its EASE, fitted."""
    dataset = dataset_of(call)
    model = EASEModel(regularization=call.options["l2"])

    seconds = call.repeat(lambda: model.fit(dataset), call.options["rounds"], warm_up=0)
    inside = dataset.item_id_map.convert_to_internal(np.arange(call.data["n_items"]))
    row = model.weight[inside[0]][inside]
    call.figures["weight"] = float(np.linalg.norm(row))
    return seconds


def sparse_models(call: Call) -> list[float]:
    """Its EASE, fitted, and its own lists of the users with test rows."""
    dataset = dataset_of(call)
    model = EASEModel(regularization=call.options["l2"])

    def recommend(fitted: EASEModel, users: Any) -> Any:
        found = fitted.recommend(users, dataset, k=K, filter_viewed=True)
        lists = np.full((users.size, K), -1, np.int64)
        lists[np.searchsorted(users, found[Columns.User]), found[Columns.Rank] - 1] = found[Columns.Item]
        return lists

    return judged(call, lambda: model.fit(dataset), recommend)


if __name__ == "__main__":
    run("rectools", "rectools", {"ranking": ranking, "ease": ease, "sparse_models": sparse_models})
