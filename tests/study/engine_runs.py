"""A small study, and whether an engine produces the same results as the sequential engine."""

import json

import polars as pl

from relrank.io.tensors import load_tensors
from relrank.study.callbacks import NullCallback
from relrank.testing import planted_study

STUDY = planted_study(
    "small",
    200,
    120,
    seed=3,
    relations=("driver", "noise"),
    study='seeds = [0]\ntrials = 2\nattribute = "driver"\nitem_groups = ["driver"]',
    models="""[[models]]
name = "ease"
[[models]]
name = "relational-ease"
arms = ["interactions", "all", "rewired"]
[[models]]
name = "relational-lightgcn"
arms = ["interactions", "all"]
config = { dim = 16, negatives = 64 }
train = { epochs = 40, batch = 64, every = 5 }
""",
)


class Counting(NullCallback):
    """Records the events of a study."""

    def __init__(self):
        self.started, self.gone, self.finished = [], [], []

    def start(self, cell):
        self.started.append(cell.key())

    def worker_lost(self, cell, why):
        self.gone.append(cell.key())

    def done(self, cell, result, fresh):
        if fresh:
            self.finished.append(cell.key())


def cells(out):
    """By key: what was tuned and chosen, costs apart, and the bytes of tables and weights."""
    found = {}
    for folder in (out / "cells").iterdir():
        note = json.loads((folder / "cell.json").read_text())
        cost = note.pop("cost")
        assert min(cost.values()) >= 0
        assert (cost["tune"] > 0) == bool(note["trials"])  # of a trial that another cell made, too
        if (folder / "history.parquet").exists():
            note["history"] = pl.read_parquet(folder / "history.parquet").drop("seconds").to_dicts()
        weights = folder / "model.safetensors"  # the order of its header is nobody's promise
        tensors = load_tensors(weights)[0] if weights.exists() else {}
        arrays = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        found[folder.name] = note, {"users": (folder / "users.parquet").read_bytes(), **arrays}
    return found


def same(result, out, local):
    expected, there = local
    found = cells(out)
    assert found.keys() == there.keys()
    for key, (note, files) in found.items():
        assert note == there[key][0]
        assert files.keys() == there[key][1].keys()
        assert [name for name in files if files[name] != there[key][1][name]] == [], (note["model"], note["arm"])
    for table in ("verdicts", "effects", "groups", "tuning", "curves", "group_metrics"):
        assert getattr(result, table).equals(getattr(expected, table), null_equal=True), table
    costs = ("seconds", "peak_mb")
    assert result.leaderboard.drop(costs).equals(expected.leaderboard.drop(costs), null_equal=True)
