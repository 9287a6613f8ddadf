import itertools
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from relrank.errors import InputError
from relrank.io import tensors
from relrank.io.tensors import load_tensors
from relrank.models.core.base import Trained
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.testing import planted_auc, planted_graph, planted_sequences
from relrank.training import TrainConfig, fit, resolve_device

CPU = TrainConfig(epochs=6, batch=512, every=2, device="cpu")


@dataclass(frozen=True)
class ToyConfig:
    sizes: tuple[int, ...] = (1, 2)
    """A tuple, which JSON gives back as a list."""


class ToyBatch(NamedTuple):
    users: torch.Tensor
    positives: torch.Tensor
    seed: np.random.SeedSequence

    def to(self, device):
        return self


class Toy(Trained):
    """One vector per item, pulled towards 1 + its row; every batch is written down."""

    name = "toy"
    Config = ToyConfig

    def __init__(self, graph, config=None):
        super().__init__(graph, config)
        self.table = nn.Parameter(torch.zeros(graph.n_items))
        self.batches = []
        self.explode_at = None

    def init_weights(self, seed):
        with torch.no_grad():
            self.table.copy_(torch.randn(self.table.shape, generator=torch.Generator().manual_seed(seed)))

    def prepare(self, users, positives, seed):
        return ToyBatch(torch.from_numpy(users), torch.from_numpy(positives), seed)

    def loss(self, batch):
        self.batches.append(batch)
        positives = batch.positives
        if self.explode_at == len(self.batches):
            return self.table.sum() * float("nan")
        return (self.table[positives] - positives - 1).square().mean()

    def score(self, users):
        return self.table.detach().expand(len(users), -1)

    def fold_in(self, histories):
        return self.table.detach().expand(len(histories), -1)


def toy():
    return Toy(planted_graph())


def falling():
    """A metric whose first validation is the best."""
    return iter(np.linspace(1, 0, 50).tolist()).__next__


def lightgcn(graph=None, **settings):
    return RelationalLightGCN(graph or planted_graph(), RelationalLightGCNConfig(**({"dim": 16} | settings)))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_every_training_edge_is_used_once_an_epoch_in_a_new_order():
    """Positives come from the list of edges: none is picked twice, none never."""
    model = toy()
    fit(model, replace(CPU, epochs=2), lambda: 1.0, seed=0)
    edges = model.graph.interactions
    expected = sorted(zip(edges.src.tolist(), edges.dst.tolist(), strict=True))
    per_epoch = -(-len(edges) // 512)
    assert len(model.batches) == 2 * per_epoch
    epochs = []
    for part in (model.batches[:per_epoch], model.batches[per_epoch:]):
        pairs = [p for u, i, _ in part for p in zip(u.tolist(), i.tolist(), strict=True)]
        assert sorted(pairs) == expected
        epochs.append(pairs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != expected


def test_the_order_is_that_of_a_permutation_drawn_from_the_epochs_seed():
    """Checkpoints of earlier versions are gone on from: their order came from ``Generator.permutation``."""
    model = toy()
    fit(model, replace(CPU, epochs=1), lambda: 1.0, seed=3)
    users = np.concatenate([u for u, _, _ in model.batches])
    seed = np.random.SeedSequence([3, 1]).spawn(1)[0]
    order = np.random.default_rng(seed).permutation(users.size)
    assert (users == model.graph.interactions.src[order]).all()


def test_a_long_epoch_is_watched_step_by_step(monkeypatch):
    """Once a second at most, and never in an epoch that is over within one."""
    seen, losses = [], []

    class Written(Toy):
        def loss(self, batch):
            value = super().loss(batch)
            losses.append(float(value.detach()))
            return value

    model = Written(planted_graph())
    steps = -(-len(model.graph.interactions) // 512)
    ticks = itertools.count(0, 0.6)
    monkeypatch.setattr("relrank.training.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    fit(model, replace(CPU, epochs=2), lambda: 1.0, seed=0, step_callback=lambda *args: seen.append(args))
    assert [args[:4] for args in seen] == [(e, 2, s, steps) for e in (1, 2) for s in range(2, steps + 1, 2)]
    assert seen[0][5] == pytest.approx(1.2 / 2 * (2 * steps - 2))
    assert seen[-1][5] == pytest.approx(0.6 * (steps - seen[-1][2]))
    assert seen[0][4] == pytest.approx((losses[0] + losses[1]) / 2)
    whole = fit(toy(), replace(CPU, epochs=1), lambda: 1.0, seed=0).history["loss"][0]
    assert steps % 2 == 0, "else the last step is not shown"
    assert [args[4] for args in seen if args[:3] == (1, 2, steps)] == [pytest.approx(whole)]

    ticks, quiet = itertools.count(0, 1e-6), []
    fit(toy(), replace(CPU, epochs=2), lambda: 1.0, seed=0, step_callback=lambda *args: quiet.append(args))
    assert quiet == []


def test_every_batch_has_a_seed_of_its_own():
    """A generator copied into every batch would repeat its negatives; the same run repeats all of them."""
    words = []
    for seed in (0, 0, 1):
        model = toy()
        fit(model, CPU, lambda: 1.0, seed=seed)
        words.append([int(s.generate_state(1)[0]) for _, _, s in model.batches])
    assert len(set(words[0])) == len(words[0])
    assert words[0] == words[1]
    assert not set(words[0]) & set(words[2])


def test_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fit(lightgcn(), CPU, lambda: 1.0, seed=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()  # noqa: NPY002


def test_steps_equal_plain_adam():
    """The loop by hand, with torch's unfused Adam."""
    model = toy()
    fit(model, replace(CPU, epochs=3, lr=0.05), falling(), seed=1)
    ended = model.batches
    table = nn.Parameter(torch.randn(model.graph.n_items, generator=torch.Generator().manual_seed(1)))
    adam = torch.optim.Adam([table], lr=0.05, fused=False, foreach=False)
    for _, items, _ in ended[: 2 * 4]:  # the best epoch is the first validated one: 2
        adam.zero_grad()
        (table[items] - items - 1).square().mean().backward()
        adam.step()
    torch.testing.assert_close(model.table, table, atol=1e-5, rtol=1e-5)


def test_history_holds_every_epoch_and_the_metrics_of_the_validated_ones():
    seen = []
    fitted = fit(
        toy(),
        replace(CPU, epochs=5),
        iter([0.1, 0.4, 0.3]).__next__,
        seed=0,
        callback=lambda *args: seen.append(args),
    )
    assert fitted.history["epoch"].to_list() == [1, 2, 3, 4, 5]
    assert fitted.history["metric"].to_list() == [None, 0.1, None, 0.4, 0.3]  # the last epoch is always validated
    assert fitted.history["loss"].is_sorted(descending=True)
    assert (fitted.history["seconds"] > 0).all()
    assert (fitted.best_epoch, fitted.best_metric, fitted.epochs) == (4, 0.4, 5)
    assert [s[:2] for s in seen] == [(e, 5) for e in range(1, 6)]
    assert [s[3] for s in seen] == [None, 0.1, None, 0.4, 0.3]
    assert [s[4] for s in seen] == [-np.inf, 0.1, 0.1, 0.4, 0.4]
    assert seen[-1][5] == 0


def test_early_stopping_waits_for_its_patience():
    metrics = [0.1, 0.3, 0.2, 0.3, 0.29, 0.9, 0.9]
    config = replace(CPU, epochs=7, every=1, patience=3)
    fitted = fit(toy(), config, iter(metrics).__next__, seed=0)
    # an equal metric is no new best: epochs 3, 4 and 5 bring none
    assert (fitted.epochs, fitted.best_epoch) == (5, 2)
    assert fit(toy(), replace(config, patience=4), iter(metrics).__next__, seed=0).best_epoch == 6
    assert fit(toy(), replace(config, patience=0), iter(metrics).__next__, seed=0).epochs == 7


def test_early_stopping_does_not_begin_on_the_plateau_of_popularity():
    """Three validations at .1, where popularity is, do not end a training that then learns; the next three do."""
    metrics = [0.1, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4, 0.3, 0.3, 0.9]
    config = replace(CPU, epochs=10, every=1, patience=3)
    assert fit(toy(), config, iter(metrics).__next__, seed=0).epochs == 4
    fitted = fit(toy(), config, iter(metrics).__next__, seed=0, plateau=lambda: 0.1)
    assert (fitted.epochs, fitted.best_epoch) == (9, 6)
    fitted = fit(toy(), replace(config, patience=0), iter(metrics).__next__, seed=0, plateau=lambda: 1 / 0)
    assert fitted.epochs == 10


def test_stopped_run_stays_stopped(tmp_path):
    config = replace(CPU, epochs=7, every=1, patience=2)
    first, again = toy(), toy()
    expected = fit(first, config, falling(), seed=0, folder=tmp_path)
    found = fit(again, config, falling(), seed=0, folder=tmp_path)
    assert not again.batches, "a finished run must not be trained again"
    assert found.history.equals(expected.history)
    assert same(again.state(), first.state())


def test_a_rate_that_decays_falls_linearly_to_0_after_the_last_step(tmp_path):
    """Of a run in one piece and of one that was continued."""
    rates = []
    hook = register_optimizer_step_pre_hook(lambda adam, *_: rates.append(adam.param_groups[0]["lr"]))
    config = replace(CPU, epochs=3, batch=800, every=1, lr=0.06, decay="linear")
    try:
        fit(toy(), config, falling(), seed=0)
        whole = list(rates)
        rates.clear()
        with pytest.raises(StopIteration):
            fit(toy(), config, iter([1.0, 0.5]).__next__, seed=0, folder=tmp_path)
        del rates[4:]  # the third epoch was not kept
        fit(toy(), config, falling(), seed=0, folder=tmp_path)
    finally:
        hook.remove()
    assert whole == pytest.approx([0.06, 0.05, 0.04, 0.03, 0.02, 0.01])
    assert rates == whole


@pytest.mark.parametrize("loss", ["bpr", "softmax"])
def test_both_losses_learn(loss):
    model = lightgcn(loss=loss, temperature=0.3)
    model.init_weights(0)
    before = planted_auc(model)
    fitted = fit(model, replace(CPU, epochs=20, lr=0.02), lambda: planted_auc(model), seed=0)
    assert before < 0.7
    assert fitted.best_metric > 0.95
    assert planted_auc(model) == pytest.approx(fitted.best_metric, abs=1e-6)


def test_bfloat16_learns_too():
    model = lightgcn(temperature=0.3)
    config = replace(CPU, epochs=20, lr=0.02, precision="bfloat16")
    fit(model, config, lambda: planted_auc(model), seed=0)
    assert planted_auc(model) > 0.95
    assert model.score(torch.arange(3)).dtype == torch.float32
    plain = lightgcn(temperature=0.3)
    fit(plain, replace(config, precision="float32"), lambda: 1.0, seed=0)
    assert not same(plain.state(), model.state())


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_training import CPU, falling, lightgcn
from relrank.training import fit

def watch(epoch, *_):
    if epoch == 5:
        os.kill(os.getpid(), signal.SIGKILL)

fit(lightgcn(), CPU, falling(), 3, Path(sys.argv[1]), watch)
"""


@pytest.mark.slow
def test_kill_9_and_go_on_gives_the_same_bits(tmp_path):
    """Killed in epoch 5; epoch 4 is on disk, epoch 2 was the best. Neither is where a fresh start would be."""
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), os.path.dirname(__file__)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    tensors, note = load_tensors(tmp_path / "killed" / "last.safetensors")
    assert (note["epoch"], note["best_epoch"]) == (4, 2)
    assert not torch.equal(tensors["model.table"], tensors["best.table"])
    whole, goes_on = lightgcn(), lightgcn()
    expected = fit(whole, CPU, falling(), 3, tmp_path / "whole")
    left = falling()
    left(), left()
    found = fit(goes_on, CPU, left, 3, tmp_path / "killed")
    assert found.history.drop("seconds").equals(expected.history.drop("seconds"))
    assert same(goes_on.state(), whole.state())
    ends = [load_tensors(tmp_path / name / "last.safetensors")[0] for name in ("whole", "killed")]
    assert same(*ends)


def test_killed_while_writing_goes_on_from_the_state_before(tmp_path, monkeypatch):
    """Half a checkpoint never bears the final name."""
    save, written = tensors.save_file, []

    def torn(tensors, path, metadata):
        written.append(path)
        if len(written) == 2:
            path.write_bytes(b"half")
            raise KeyboardInterrupt
        save(tensors, path, metadata=metadata)

    monkeypatch.setattr(tensors, "save_file", torn)
    with pytest.raises(KeyboardInterrupt):
        fit(toy(), CPU, falling(), 0, tmp_path / "torn")
    assert load_tensors(tmp_path / "torn" / "last.safetensors")[1]["epoch"] == 2
    whole, goes_on = toy(), toy()
    fit(whole, CPU, falling(), 0)
    left = falling()
    left()
    fit(goes_on, CPU, left, 0, tmp_path / "torn")
    assert same(goes_on.state(), whole.state())


@pytest.mark.parametrize("change", ["seed", "config", "train", "model", "edges", "relation"])
def test_another_run_in_the_folder_is_refused(tmp_path, change):
    """Name, seed and fingerprint of the split are not enough: an arm is its settings and every edge."""
    graph = planted_graph()
    fit(lightgcn(graph), replace(CPU, epochs=2), falling(), 0, tmp_path)
    part = graph.interactions.where(np.arange(len(graph.interactions)) > 0)
    model, config, seed = {
        "seed": (lightgcn(graph), CPU, 1),
        "config": (lightgcn(graph, temperature=0.2), CPU, 0),
        "train": (lightgcn(graph), replace(CPU, lr=0.02), 0),
        "model": (Toy(graph), CPU, 0),
        "edges": (lightgcn(replace(graph, interactions=part)), CPU, 0),
        "relation": (lightgcn(graph.rewired("has_tag", seed=1)), CPU, 0),
    }[change]
    with pytest.raises(InputError, match="another configuration"):
        fit(model, replace(config, epochs=2), falling(), seed, tmp_path)


def test_settings_that_json_changes_are_still_the_same_run(tmp_path):
    fit(toy(), CPU, falling(), 0, tmp_path)
    again = toy()
    fit(again, CPU, falling(), 0, tmp_path)
    assert not again.batches


def test_non_finite_loss_is_refused():
    model = toy()
    model.explode_at = 6
    with pytest.raises(InputError, match=r"loss is not finite[\s\S]*epoch 2"):
        fit(model, CPU, lambda: 1.0, seed=0)


@pytest.mark.parametrize("metric", [float("nan"), float("inf")])
def test_non_finite_metric_is_refused(metric):
    """No epoch would ever be best, and the model would go back to its start."""
    with pytest.raises(InputError, match=r"metric is not finite[\s\S]*epoch 2"):
        fit(toy(), CPU, lambda: metric, seed=0)


@pytest.mark.parametrize(
    "setting",
    [{"epochs": 0}, {"batch": 0}, {"every": 0}, {"patience": -1}, {"lr": -1.0}, {"lr": float("nan")},
     {"precision": "float16"}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        TrainConfig(**setting)


def test_devices():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(InputError, match="device"):
        resolve_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="no CUDA device"):
            resolve_device("cuda:0")


def test_another_order_of_the_same_edges_is_another_run(tmp_path):
    """What a model of sequences learns is decided by it."""
    graph = planted_sequences()
    fit(Toy(graph), replace(CPU, epochs=2), falling(), 0, tmp_path)
    again = Toy(planted_sequences())
    fit(again, replace(CPU, epochs=2), falling(), 0, tmp_path)
    assert not again.batches
    places = graph.places.copy()
    places[:2] = places[1::-1]
    for other in (replace(graph, places=places), replace(graph, places=None)):
        with pytest.raises(InputError, match="another configuration"):
            fit(Toy(other), replace(CPU, epochs=2), falling(), 0, tmp_path)


def test_an_epoch_passes_over_the_examples_of_the_model():
    """By default the training edges; a model may name its own, such as one per user."""
    model = toy()
    own = np.array([3, 1, 2], np.int32), np.array([7, 7, 9], np.int32)
    model.examples = lambda: own
    fit(model, replace(CPU, epochs=2, batch=2), lambda: 1.0, seed=0)
    pairs = [list(zip(u.tolist(), i.tolist(), strict=True)) for u, i, _ in model.batches]
    assert [len(p) for p in pairs] == [2, 1, 2, 1]
    for epoch in (pairs[:2], pairs[2:]):
        assert sorted(pair for batch in epoch for pair in batch) == [(1, 7), (2, 9), (3, 7)]
    assert all(u.dtype == i.dtype == torch.int64 for u, i, _ in model.batches)
