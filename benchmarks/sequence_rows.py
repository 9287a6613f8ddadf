"""One row of ``sequence_models.py``, in a process of its own: some training steps of one library's SASRec.

    python benchmarks/sequence_rows.py SPEC.json RESULT.json

The interpreter is that of the library's environment, so only torch and NumPy are imported before it is known which
one is asked for. ``SPEC`` names the library, the histories (an .npz of ``indptr`` and ``items``) and the settings.
Everything runs on the CPU.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Histories = tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]
WARM = 2
"""Steps before those that count."""


class Clock:
    """When each step ended, and what was in memory when the first began."""

    def __init__(self, steps: int) -> None:
        self.steps = WARM + steps
        self.ends: list[float] = []
        self.losses: list[float] = []
        self.before_mb = 0.0

    def start(self) -> None:
        """The data is there, the model is made."""
        self.before_mb = peak_mb()

    def step(self, loss: float) -> None:
        """A step has ended."""
        self.ends.append(time.perf_counter())
        self.losses.append(loss)

    def seconds(self) -> float:
        """Mean of the steps that count, from the end of one to the end of the next."""
        return (self.ends[-1] - self.ends[WARM - 1]) / (len(self.ends) - WARM)


def relrank(spec: dict[str, Any], histories: Histories, clock: Clock) -> int:
    """Steps as ``relrank.training`` makes them; returns the examples of an epoch: users."""
    import polars as pl

    from relrank.graph.construction.interactions import build_interactions, history_positions
    from relrank.graph.graph import Graph
    from relrank.models.sequence.sasrec import SASRec, SASRecConfig
    from relrank.tables.ids import IdMap
    from relrank.tables.split import Interactions

    indptr, items = histories
    n_users, n_items = indptr.size - 1, spec["items"]
    rows = Interactions(np.repeat(np.arange(n_users, dtype=np.int32), np.diff(indptr)), items)
    nodes = {"user": IdMap("user", pl.Series(range(n_users))), "item": IdMap("item", pl.Series(range(n_items)))}
    edges = build_interactions("user", "item", rows)
    model = SASRec(
        Graph("user", "item", nodes, edges, {}, "benchmark", places=history_positions(rows)),
        SASRecConfig(
            dim=spec["dim"], window=spec["window"], layers=spec["layers"], heads=spec["heads"],
            dropout=spec["dropout"], widening=spec["widening"], loss="full-softmax",
        ),
    )  # fmt: skip
    model.init_weights(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=spec["lr"], fused=True)
    users, last = (side.astype(np.int64) for side in model.examples())

    def batches() -> Iterator[npt.NDArray[np.int64]]:
        for epoch in count():
            order = np.random.default_rng(epoch).permutation(users.size)
            yield from np.split(order, range(spec["batch"], users.size, spec["batch"]))

    model.train()
    clock.start()
    for number, picked in enumerate(islice(batches(), clock.steps)):
        batch = model.prepare(users[picked], last[picked], np.random.SeedSequence(number))
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=spec["precision"] == "bfloat16"):
            loss = model.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        clock.step(float(loss.detach()))
    return int(users.size)


def rectools(spec: dict[str, Any], histories: Histories, clock: Clock) -> int:
    """``SASRecModel.fit`` with a trainer that stops after some steps; returns the examples of an epoch: users."""
    import pandas as pd  # type: ignore[import-untyped]
    from pytorch_lightning import Trainer  # type: ignore[import-not-found]
    from pytorch_lightning.callbacks import LambdaCallback  # type: ignore[import-not-found]
    from rectools.dataset import Dataset  # type: ignore[import-not-found]
    from rectools.models import SASRecModel  # type: ignore[import-not-found]
    from rectools.models.nn.item_net import IdEmbeddingsItemNet  # type: ignore[import-not-found]

    indptr, items = histories
    lengths = np.diff(indptr)
    place = np.arange(items.size) - np.repeat(indptr[:-1], lengths)
    rows = pd.DataFrame(
        {
            "user_id": np.repeat(np.arange(lengths.size), lengths),
            "item_id": items,
            "weight": 1.0,
            "datetime": pd.Timestamp("2000-01-01") + pd.to_timedelta(place, unit="s"),
        }
    )

    def trainer() -> Any:
        return Trainer(
            accelerator="cpu", max_steps=clock.steps, max_epochs=-1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
            precision="bf16-mixed" if spec["precision"] == "bfloat16" else "32-true",
            callbacks=[
                LambdaCallback(
                    on_train_start=lambda *_: clock.start(),
                    on_train_batch_end=lambda *given: clock.step(float(given[2]["loss"])),
                )
            ],
        )  # fmt: skip

    SASRecModel(
        n_blocks=spec["layers"], n_heads=spec["heads"], n_factors=spec["dim"], dropout_rate=spec["dropout"],
        session_max_len=spec["window"], loss="softmax", lr=spec["lr"], batch_size=spec["batch"],
        item_net_block_types=(IdEmbeddingsItemNet,), get_trainer_func=trainer,
    ).fit(Dataset.construct(rows))  # fmt: skip
    return int((lengths >= 2).sum())


def recbole(spec: dict[str, Any], histories: Histories, clock: Clock) -> int:
    """An epoch of RecBole's trainer, cut short; returns the examples of an epoch: prefixes of histories."""
    from recbole.config import Config  # type: ignore[import-not-found]
    from recbole.data import create_dataset  # type: ignore[import-not-found]
    from recbole.data.utils import get_dataloader  # type: ignore[import-not-found]
    from recbole.model.sequential_recommender import SASRec  # type: ignore[import-not-found]
    from recbole.trainer import Trainer  # type: ignore[import-not-found]

    indptr, items = histories
    lengths = np.diff(indptr)
    place = np.arange(items.size) - np.repeat(indptr[:-1], lengths)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "rows"
        folder.mkdir()
        table = np.stack([np.repeat(np.arange(lengths.size), lengths), items, place], 1)
        header = "user_id:token\titem_id:token\ttimestamp:float"
        np.savetxt(folder / "rows.inter", table, "%d", "\t", header=header, comments="")
        settings = {
            "data_path": name, "checkpoint_dir": name, "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
            "TIME_FIELD": "timestamp", "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": spec["window"], "n_layers": spec["layers"], "n_heads": spec["heads"],
            "hidden_size": spec["dim"], "inner_size": spec["widening"] * spec["dim"],
            "hidden_dropout_prob": spec["dropout"], "attn_dropout_prob": spec["dropout"], "loss_type": "CE",
            "train_neg_sample_args": None, "learning_rate": spec["lr"], "train_batch_size": spec["batch"],
            "enable_amp": spec["precision"] == "bfloat16", "use_gpu": False, "show_progress": False,
            "eval_args": {"split": {"RS": [1, 0, 0]}, "group_by": "none", "order": "TO", "mode": "full"},
        }  # fmt: skip
        config = Config(model="SASRec", dataset="rows", config_dict=settings)
        train = create_dataset(config).build()[0]
        loader = get_dataloader(config, "train")(config, train, None, shuffle=True)
        model = SASRec(config, train)
        trainer = Trainer(config, model)
        calculate = model.calculate_loss

        def loss(batch: Any) -> Any:
            found = calculate(batch)
            clock.losses.append(float(found.detach()))
            return found

        model.calculate_loss = loss
        trainer._train_epoch(Cut(loader, clock), 0)
        return len(train)


class Cut:
    """The first batches of a loader; the next one is asked for when a step has ended."""

    def __init__(self, loader: Any, clock: Clock) -> None:
        self.loader, self.clock = loader, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        self.clock.start()
        for batch in islice(self.loader, self.clock.steps):
            yield batch
            self.clock.ends.append(time.perf_counter())


LIBRARIES: dict[str, Callable[[dict[str, Any], Histories, Clock], int]] = {
    "relrank": relrank,
    "rectools": rectools,
    "recbole": recbole,
}


def peak_mb() -> float:
    """Largest resident memory of this process so far, in MB."""
    # ru_maxrss starts at what the parent held when it forked
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    result = Path(sys.argv[2])
    del sys.argv[1:]  # RecBole reads the command line, too
    torch.manual_seed(0)
    clock = Clock(spec["steps"])
    with np.load(spec["histories"]) as stored:
        histories = stored["indptr"], stored["items"]
    examples = LIBRARIES[spec["library"]](spec, histories, clock)
    found = {
        "step_s": clock.seconds(),
        "steps": examples / spec["batch"],
        "epoch_s": clock.seconds() * examples / spec["batch"],
        "loss": float(np.mean(clock.losses[WARM:])),
        "peak_mb": peak_mb(),
        "before_mb": clock.before_mb,
        "numpy": np.__version__,
        "torch": torch.__version__,
    }
    result.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
