"""RecBole's LightGCN with its own data loader and negative sampling, as its trainer goes through an epoch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.model.general_recommender.lightgcn import LightGCN
from recbole.utils import init_seed

from speed.loop import BATCH, DIM, L2, LAYERS, LR, Vectors, train
from speed.peer import Call, run


def _setup(call: Call) -> tuple[Iterator[float], int, Vectors]:
    data, folder = call.data, Path("recbole")
    (folder / "pairs").mkdir(parents=True, exist_ok=True)
    pairs = pd.DataFrame({"user_id:token": data["train_user"], "item_id:token": data["train_item"]})
    for part, rows in (("train", pairs), ("valid", pairs[:100]), ("test", pairs[:100])):
        rows.to_csv(folder / "pairs" / f"pairs.{part}.inter", sep="\t", index=False)
    config = Config(
        model="LightGCN", dataset="pairs",
        config_dict={
            "data_path": str(folder), "benchmark_filename": ["train", "valid", "test"], "use_gpu": False,
            "load_col": {"inter": ["user_id", "item_id"]}, "embedding_size": DIM, "n_layers": LAYERS,
            "reg_weight": L2, "require_pow": True, "learning_rate": LR, "train_batch_size": BATCH, "state": "ERROR",
            "checkpoint_dir": str(folder), "show_progress": False,
        },
    )  # fmt: skip
    init_seed(0, True)
    dataset = create_dataset(config)
    loader, _, _ = data_preparation(config, dataset)
    model = LightGCN(config, loader.dataset)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)

    def steps() -> Iterator[float]:
        while True:
            for batch in loader:
                optimizer.zero_grad()
                loss = model.calculate_loss(batch)
                loss.backward()
                optimizer.step()
                yield float(loss.detach())

    at = {}
    for field, count in (("user_id", data["n_users"]), ("item_id", data["n_items"])):
        known = dataset.field2token_id[field]
        # a row that no training pair names has padding's number
        at[field] = torch.tensor([known.get(str(row), 0) for row in range(count)])

    def vectors() -> tuple[torch.Tensor, torch.Tensor]:
        users, items = model.forward()
        return users[at["user_id"]], items[at["item_id"]]

    return steps(), len(loader), vectors


def lightgcn_step(call: Call) -> list[float]:
    """Seconds of one step, its negatives included."""
    steps, _, _ = _setup(call)
    return call.repeat(lambda: next(steps), call.options["times"])


def lightgcn_epoch(call: Call) -> list[float]:
    """Seconds of each epoch."""
    steps, count, vectors = _setup(call)
    return train(call, lambda: [next(steps) for _ in range(count)], vectors)


if __name__ == "__main__":
    run("recbole", "recbole", {"lightgcn_step": lightgcn_step, "lightgcn_epoch": lightgcn_epoch})
