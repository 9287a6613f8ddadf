"""LensKit's LightGCN scorer with its own trainer: edges in one direction alone, gradients never set to zero.

So a step passes half the messages that the others pass, and what it learns is not LightGCN; its rows say so.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from lenskit.data import from_interactions_df
from lenskit.graphs.lightgcn import LightGCNScorer, PairwiseLightGCNTrainer
from lenskit.logging import LoggingConfig
from lenskit.training import TrainingOptions

from speed.loop import BATCH, DIM, LAYERS, LR, train
from speed.peer import Call, run


class _EnoughError(Exception):
    """As many steps as were asked for."""


class _Watched(PairwiseLightGCNTrainer):
    """Notes when each step comes to its loss; stops after so many."""

    at: list[float]
    most: int

    def batch_loss(self, mb_edges: torch.Tensor, scores: torch.Tensor) -> Any:
        self.at.append(time.perf_counter())
        if len(self.at) > self.most:
            raise _EnoughError
        return super().batch_loss(mb_edges, scores)


def _trainer(call: Call) -> _Watched:
    LoggingConfig().set_stream_mode("json")
    data = call.data
    pairs = pd.DataFrame({"user_id": data["train_user"], "item_id": data["train_item"]})
    known = from_interactions_df(pairs, users=np.arange(data["n_users"]), items=np.arange(data["n_items"]))
    scorer = LightGCNScorer(
        embedding_size=DIM, layer_count=LAYERS, batch_size=BATCH, learning_rate=LR, regularization=None
    )
    trainer = _Watched(scorer, known, TrainingOptions(rng=0))
    trainer.at, trainer.most = [], 1 << 40
    return trainer


def lightgcn_step(call: Call) -> list[float]:
    """Seconds between a step's loss and the next one's, the first left out."""
    trainer = _trainer(call)
    trainer.most = call.options["times"] + 1
    with contextlib.suppress(_EnoughError):
        trainer.train_epoch()
    return np.diff(trainer.at)[1:].tolist() if len(trainer.at) > 2 else np.diff(trainer.at).tolist()


def lightgcn_epoch(call: Call) -> list[float]:
    """Seconds of each epoch."""
    trainer = _trainer(call)
    n_items = call.data["n_items"]

    def vectors() -> tuple[torch.Tensor, torch.Tensor]:
        table = trainer.model.get_embedding(trainer.edges)
        return table[n_items:], table[:n_items]

    return train(call, trainer.train_epoch, vectors)


if __name__ == "__main__":
    run("lenskit_lightgcn", "lenskit", {"lightgcn_step": lightgcn_step, "lightgcn_epoch": lightgcn_epoch})
