"""LensKit: batch recommendation and measuring of given vectors, EASE."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse
from lenskit.als import ImplicitMFScorer
from lenskit.batch import recommend
from lenskit.data import Dataset, ItemListCollection, from_interactions_df
from lenskit.knn import EASEScorer
from lenskit.logging import LoggingConfig
from lenskit.metrics import NDCG, RunAnalysis
from lenskit.metrics.ranking import LogRankWeight
from lenskit.pipeline import topn_pipeline
from lenskit.training import TrainingOptions

from speed.lists import best_of_dense, blocks, judged
from speed.peer import Call, run

K = 20


def dataset(call: Call) -> Dataset:
    """The training rows, users and items by their numbers."""
    pairs = pd.DataFrame({"user_id": call.data["train_user"], "item_id": call.data["train_item"]})
    return from_interactions_df(pairs, users=np.arange(call.data["n_users"]), items=np.arange(call.data["n_items"]))


def ranking(call: Call) -> list[float]:
    """The vectors in its factorisation scorer, a batch of users through its pipeline, its metrics over the lists."""
    data, trained = call.data, dataset(call)
    users, items = data["user_vectors"], data["item_vectors"]
    scorer = ImplicitMFScorer(embedding_size=users.shape[1], user_embeddings="prefer")
    scorer.users, scorer.items = trained.users, trained.items
    scorer.user_embeddings, scorer.item_embeddings = users, items
    scorer.trained_epochs = 1
    pipeline = topn_pipeline(scorer, n=K)
    pipeline.train(trained, TrainingOptions(retrain=False))
    asked = np.isin(data["test_user"], data["sample"])
    test = ItemListCollection.from_df(
        pd.DataFrame({"user_id": data["test_user"][asked], "item_id": data["test_item"][asked]}), "user_id"
    )
    sample = data["sample"].tolist()

    def work() -> None:
        lists = recommend(pipeline, sample, n=K, n_jobs=1)  # with two worker processes it takes half as long again
        analysis = RunAnalysis()
        analysis.add_metric(NDCG(K, weight=LogRankWeight(offset=1)))
        found = analysis.measure(lists, test).list_summary()["mean"]
        call.figures["ndcg@20"] = float(found[f"NDCG@{K}"])

    scale = np.unique(data["test_user"]).size / len(sample)
    return [scale * seconds for seconds in call.repeat(work, call.options["rounds"], at_most=10)]


def ease(call: Call) -> list[float]:
    """Its EASE, fitted."""
    trained = dataset(call)
    scorer = EASEScorer(regularization=call.options["l2"])
    seconds = call.repeat(
        lambda: scorer.train(trained, TrainingOptions(retrain=True)), call.options["rounds"], warm_up=0
    )
    inside = scorer.items.numbers(np.arange(call.data["n_items"]))
    call.figures["weight"] = float(np.linalg.norm(scorer.weights[inside[0]][inside]))
    return seconds


def sparse_models(call: Call) -> list[float]:
    """Its EASE, fitted; lists of the users with test rows by products with its weights."""
    trained = dataset(call)
    scorer = EASEScorer(regularization=call.options["l2"])

    def fit() -> EASEScorer:
        scorer.train(trained, TrainingOptions(retrain=True))
        return scorer

    def recommend(fitted: EASEScorer, users: Any) -> Any:
        # its items may be in another order
        number = fitted.items.numbers(np.arange(call.data["n_items"]))
        shape = call.data["n_users"], len(fitted.items)
        ones = np.ones(call.data["train_user"].size, np.float32)
        train = scipy.sparse.csr_matrix((ones, (call.data["train_user"], number[call.data["train_item"]])), shape)
        lists = [best_of_dense(train[some] @ fitted.weights, train[some]) for some in blocks(users, 1000)]
        return np.argsort(number)[np.concatenate(lists)]

    return judged(call, fit, recommend)


if __name__ == "__main__":
    LoggingConfig().set_verbose(False)
    run("lenskit", "lenskit", {"ranking": ranking, "ease": ease, "sparse_models": sparse_models})
