"""implicit: ranking metrics of given vectors, alternating least squares, item-kNN."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import scipy.sparse
from implicit.cpu.als import AlternatingLeastSquares
from implicit.evaluation import ranking_metrics_at_k
from implicit.nearest_neighbours import BM25Recommender, CosineRecommender
from threadpoolctl import threadpool_limits

from speed import lists
from speed.peer import Call, run

K = 20

threadpool_limits(1, "blas")  # as implicit advises: it has threads of its own


def matrix(call: Call, part: str) -> scipy.sparse.csr_matrix:
    """Users by items, ones."""
    user, item = call.data[f"{part}_user"], call.data[f"{part}_item"]
    shape = call.data["n_users"], call.data["n_items"]
    return scipy.sparse.csr_matrix((np.ones(user.size, np.float32), (user, item)), shape)


def judged(call: Call, model: Any, train: scipy.sparse.csr_matrix, test: scipy.sparse.csr_matrix) -> None:
    """Its own evaluation, over users with test rows; its precision's divisor is min(K, relevant)."""
    found = ranking_metrics_at_k(model, train, test, K=K, show_progress=False, num_threads=0)
    call.figures |= {"ndcg@20": found["ndcg"], "precision@20": found["precision"]}


def ranking(call: Call) -> list[float]:
    """The vectors in a model of its own, evaluated as its documentation does."""
    train, test = matrix(call, "train"), matrix(call, "test")
    users, items = call.data["user_vectors"], call.data["item_vectors"]
    model = AlternatingLeastSquares(factors=users.shape[1])
    model.user_factors, model.item_factors = users, items
    return call.repeat(lambda: judged(call, model, train, test), call.options["rounds"])


def als(call: Call) -> list[float]:
    """Fit and evaluate; seconds are of both, ``fit_s`` of the fit."""
    train, test = matrix(call, "train"), matrix(call, "test")
    names = ("factors", "regularization", "alpha", "iterations")
    settings = {name: call.options[name] for name in names}
    fits: list[float] = []

    def work() -> None:
        began = time.perf_counter()
        model = AlternatingLeastSquares(**settings, random_state=0)
        model.fit(train, show_progress=False)
        fits.append(time.perf_counter() - began)
        judged(call, model, train, test)

    seconds = call.repeat(work, call.options["rounds"])
    call.figures["fit_s"] = float(np.median(fits[-len(seconds) :]))
    return seconds


MODELS = {"als": AlternatingLeastSquares, "cosine": CosineRecommender, "bm25": BM25Recommender}


def sparse_models(call: Call) -> list[float]:
    """Fit, and its own lists of the users with test rows."""
    train = matrix(call, "train")
    model = MODELS[call.options["model"]](**call.options["config"])

    def fit() -> Any:
        model.fit(train, show_progress=False)
        return model

    def recommend(fitted: Any, users: Any) -> Any:
        parts = [fitted.recommend(some, train[some], N=K)[0] for some in lists.blocks(users, 1000)]
        return np.concatenate(parts)

    return lists.judged(call, fit, recommend)


if __name__ == "__main__":
    run("implicit", "implicit", {"ranking": ranking, "als": als, "sparse_models": sparse_models})
