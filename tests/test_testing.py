"""A contract is worth what it refuses: here each one meets a model that breaks it."""

import itertools
import threading
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch

from relrank import testing, training
from relrank.graph.histories import Sequences
from relrank.models.closed_form.ease import EASE
from relrank.models.closed_form.markov import Markov, MarkovConfig
from relrank.models.core.base import ClosedForm
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.testing import (
    ModelContract,
    TrainedContract,
    chosen_again,
    planted_auc,
    planted_graph,
    planted_sequences,
    renumbered,
)


class Broken(EASE):
    """EASE with one thing wrong, chosen by name."""

    fault: ClassVar[str] = ""

    def solve(self):
        super().solve()
        if self.fault == "writes":
            self.graph.interactions.weight[0] = 2.0
        if self.fault == "unseeded":
            self.diagonal *= 1 + 1e-3 * torch.rand(1)
        if self.fault == "by id":
            self.diagonal *= 1 + 0.01 * torch.arange(len(self.diagonal))
        return self

    def score(self, users):
        if self.fault == "wraps":
            users = users % self.graph.n_users
        scores = super().score(users)
        if self.fault == "knows nothing":
            return scores.flip(1)
        if self.fault == "nan":
            scores[:, 3] = torch.nan
        if self.fault == "double":
            return scores.double()
        if self.fault == "counts calls":
            self.diagonal *= 1.001
        if self.fault == "batch" and len(users) > 1:
            return scores - scores.mean(0)
        return scores

    def fold_in(self, histories):
        if self.fault == "no empty":
            return torch.stack([super(Broken, self).fold_in([h])[0] / h.numel() for h in histories])
        scores = super().fold_in(histories)
        return scores * 1.01 if self.fault == "folds otherwise" else scores

    def load_state(self, state):
        super().load_state({k: v + 1e-3 for k, v in state.items()} if self.fault == "forgets" else state)


class Leak(ClosedForm):
    """Right without having learned anything: it reads the answer from the row numbers."""

    name = "leak"
    Config = EASE.Config

    def solve(self):
        return self

    def score(self, users):
        return (users[:, None] % 4 == torch.arange(self.graph.n_items) % 4).float()

    def fold_in(self, histories):
        raise NotImplementedError


def contract(kind, **settings):
    return type("Contract", (ModelContract,), {"kind": kind} | settings)()


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        ("knows nothing", "test_recovers_planted_truth_and_unfitted_it_does_not"),
        ("unseeded", "test_same_seed_same_bits"),
        ("nan", "test_scores_are_finite_float32_and_repeatable"),
        ("double", "test_scores_are_finite_float32_and_repeatable"),
        ("counts calls", "test_scores_are_finite_float32_and_repeatable"),
        ("batch", "test_scores_are_finite_float32_and_repeatable"),
        ("forgets", "test_state_survives_the_disk"),
        ("wraps", "test_rows_outside_the_graph_are_refused"),
        ("no empty", "test_batches_and_histories_may_be_empty"),
        ("folds otherwise", "test_fold_in_agrees_with_score"),
        ("by id", "test_renumbered_nodes_renumber_the_scores"),
        ("writes", "test_graph_is_only_read"),
    ],
)
def test_a_broken_model_breaks_its_contract(fault, test, tmp_path):
    arguments = (tmp_path,) if "disk" in test else ()
    sound, broken = contract(EASE), contract(type("Broken", (Broken,), {"fault": fault}))
    getattr(sound, test)(*arguments)
    with pytest.raises((AssertionError, RuntimeError)):
        getattr(broken, test)(*arguments)


def test_a_model_that_is_right_without_fitting_is_refused():
    with pytest.raises(AssertionError, match="without fitting"):
        contract(Leak).test_recovers_planted_truth_and_unfitted_it_does_not()
    with pytest.raises(AssertionError, match="without knowing users"):
        contract(EASE, personal=False).test_recovers_planted_truth_and_unfitted_it_does_not()


class Trainee(TrainedContract):
    kind = RelationalLightGCN
    config = RelationalLightGCNConfig(dim=16, loss="bpr")


def test_no_zero_grad_is_noticed(monkeypatch):
    monkeypatch.setattr(torch.optim.Adam, "zero_grad", lambda self, set_to_none=True: None)
    with pytest.raises(AssertionError, match="grows from step to step"):
        Trainee().test_no_zero_grad()


def test_best_state_by_reference_is_noticed(monkeypatch):
    """``best = model.state_dict()`` keeps references: the "best" weights are the last ones."""
    monkeypatch.setattr(RelationalLightGCN, "state", lambda self: dict(self.state_dict()))
    with pytest.raises(AssertionError, match="does not hold its best epoch"):
        Trainee().test_best_state_is_a_copy()


@pytest.mark.parametrize("forgotten", ["adam", "model"])
def test_inexact_resume_is_noticed(monkeypatch, tmp_path, forgotten):
    """Without Adam's moments, or from the best checkpoint instead of the last."""
    if forgotten == "adam":
        monkeypatch.setattr(training, "_load_adam", lambda *_: None)
    else:
        part = training._part
        monkeypatch.setattr(training, "_part", lambda t, prefix: part(t, "best." if prefix == "model." else prefix))
    with pytest.raises(AssertionError, match=r"histories differ|weights of a continued run|last states"):
        Trainee().test_killed_run_goes_on_to_the_same_bits(tmp_path)


def test_a_loss_that_rises_is_noticed(monkeypatch):
    loss = RelationalLightGCN.loss
    monkeypatch.setattr(RelationalLightGCN, "loss", lambda *a: -loss(*a))
    monkeypatch.setattr(testing, "fit", lambda *a, **k: _reversed(training.fit(*a, **k)))
    with pytest.raises(AssertionError, match="mean loss"):
        Trainee().test_loss_falls()


def _reversed(fitted):
    return replace(fitted, history=fitted.history.reverse())


class Faulty(RelationalLightGCN):
    """LightGCN with one thing wrong, chosen by name."""

    fault: ClassVar[str] = ""

    @property
    def alpha(self):
        return super().alpha.detach() if self.fault == "weights without gradient" else super().alpha

    def prepare(self, users, positives, seed):
        if self.fault == "by thread":
            seed = np.random.SeedSequence(int(threading.current_thread() is threading.main_thread()))
        if self.fault == "without a seed":
            seed = np.random.SeedSequence()
        if self.fault == "always the same":
            seed = np.random.SeedSequence(0)
        if self.fault == "by count":
            self.calls = getattr(self, "calls", itertools.count())
            seed = np.random.SeedSequence(next(self.calls))
        batch = super().prepare(users, positives, seed)
        if self.fault == "global users":
            return replace(batch, user_index=batch.users[batch.user_index].clamp(max=len(batch.users) - 1))
        if self.fault == "shifted items":
            return replace(batch, positive_index=batch.positive_index.roll(1))
        if self.fault == "negatives that are positives":
            return replace(batch, excluded=torch.zeros_like(batch.excluded))
        if self.fault == "everything masked":
            return replace(batch, excluded=torch.ones_like(batch.excluded))
        if self.fault == "known by local row":
            return replace(batch, known=(batch.known[0].flip(0), batch.known[1]))
        return batch

    def encode(self, batch):
        users, items = super().encode(batch)
        if self.fault == "half a gradient" or (self.fault == "kernel alone" and users.dtype == torch.float32):
            return (users + users.detach()) / 2, items
        if self.fault == "noise from nowhere":
            return users + 1e-3 * torch.rand_like(users), items
        if self.fault == "users by edge":
            return users[batch.user_index], items
        return (users, items.flip(0)) if self.fault == "items in another order" else (users, items)

    def encode_all(self):
        z, n = super().encode_all(), self.graph.n_users
        if self.fault == "raw table":
            return self.table[:n], self.table[n:][: self.graph.n_items]
        if self.fault == "one direction":
            return self.table[:n], z[1]
        if self.fault == "another row":
            return z[0].roll(1, 0), z[1]
        return z


SOFTMAX = {"dim": 16, "loss": "softmax", "negatives": 60}


@pytest.mark.parametrize(
    ("fault", "test", "settings"),
    [
        ("half a gradient", "gradients_are_finite_differences", {}),
        ("kernel alone", "gradients_are_finite_differences", {}),
        ("noise from nowhere", "gradients_are_finite_differences", {}),
        ("weights without gradient", "gradients_are_finite_differences", {"learn_weights": True}),
        ("without a seed", "workers_draw_the_same_batches", {}),
        ("by thread", "workers_draw_the_same_batches", {}),
        ("without a seed", "a_batch_is_the_same_in_any_thread", {}),
        ("by thread", "a_batch_is_the_same_in_any_thread", {}),
        ("by count", "a_batch_is_the_same_in_any_thread", {}),
        ("always the same", "a_batch_is_the_same_in_any_thread", {}),
        ("global users", "local_batch_indices_are_those_of_the_global_rows", {}),
        ("shifted items", "local_batch_indices_are_those_of_the_global_rows", {}),
        ("negatives that are positives", "local_batch_indices_are_those_of_the_global_rows", {}),
        ("everything masked", "local_batch_indices_are_those_of_the_global_rows", {}),
        ("known by local row", "local_batch_indices_are_those_of_the_global_rows", {"loss": "full-softmax"}),
        ("users by edge", "encoded_rows_are_those_of_the_batch", {}),
        ("items in another order", "encoded_rows_are_those_of_the_batch", {}),
        ("another row", "encoded_rows_are_those_of_the_batch", {}),
        ("raw table", "scores_are_not_products_of_raw_vectors", {}),
        ("one direction", "scores_are_not_products_of_raw_vectors", {}),
        ("another row", "scores_are_not_products_of_raw_vectors", {}),
    ],
)
def test_a_faulty_model_breaks_its_contract(fault, test, settings):
    config = RelationalLightGCNConfig(**SOFTMAX | settings)
    about = {"config": config, "node_tables": ("table",)}
    sound, faulty = (
        type("Contract", (TrainedContract,), {"kind": type("Faulty", (Faulty,), {"fault": f}), **about})()
        for f in ("", fault)
    )
    getattr(sound, f"test_{test}")()
    with pytest.raises(AssertionError):
        getattr(faulty, f"test_{test}")()


class Forgetful(Markov):
    """Reads of each user only when an item was chosen first."""

    def __init__(self, graph, config=None):
        super().__init__(graph, config)
        self.sequences = Sequences.from_graph(replace(graph, events=None))


def test_a_model_that_forgets_what_was_chosen_again_breaks_its_contract():
    for kind, right in ((Markov, True), (Forgetful, False)):
        given = {
            "kind": kind,
            "config": MarkovConfig(window=3),
            "fold_in": "equal",
            "graph": lambda self: planted_sequences(),
        }
        tests = type("Mine", (ModelContract,), given)()
        if right:
            tests.test_what_was_chosen_again_is_part_of_the_history()
            continue
        with pytest.raises(AssertionError, match="repeated item"):
            tests.test_what_was_chosen_again_is_part_of_the_history()


def test_renumbering_moves_what_was_chosen_again():
    graph = chosen_again(planted_sequences(users=12, items=24, per_user=4))
    again, moved = renumbered(graph, seed=3)
    before, after = Sequences.from_graph(graph), Sequences.from_graph(again)
    for user in range(12):
        there = after.take(moved["user"][[user]]).items.tolist()
        assert there == moved["item"][before.take(np.array([user])).items].tolist()
        assert len(there) == 5
        assert there[0] == there[-1]


def test_planted_graph_is_what_it_says():
    graph = planted_graph(users=80, items=60, per_user=6, stray=2, seed=3)
    assert repr(graph) == repr(planted_graph(users=80, items=60, per_user=6, stray=2, seed=4))
    assert graph.interactions.src.tolist() != graph.interactions.dst.tolist()
    inside = graph.interactions.src % 4 == graph.interactions.dst % 4
    assert np.bincount(graph.interactions.src[inside]).tolist() == [6] * 80
    assert np.bincount(graph.interactions.src[~inside]).tolist() == [2] * 80
    tag, similar = graph.relations["has_tag"], graph.relations["similar"]
    assert (tag.src % 4 == tag.dst % 4).all()
    assert (similar.src % 4 == similar.dst % 4).all()
    assert (planted_graph(seed=1).interactions.dst == planted_graph(seed=1).interactions.dst).all()
    assert not (planted_graph(seed=1).interactions.dst == planted_graph(seed=2).interactions.dst).all()


def test_auc_by_the_definition():
    """Against the pairs counted one by one; a score that knows the blocks has 1, a constant one .5."""
    graph = planted_graph(users=8, items=16, per_user=2)
    model = Leak(graph)
    assert planted_auc(model) == 1.0
    scores = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (8, 16)).astype(np.float32))
    model.score = lambda users: scores[users]
    expected = []
    for u in range(8):
        has = set(graph.interactions.dst[graph.interactions.src == u].tolist())
        free = [i for i in range(16) if i not in has]
        pairs = [(scores[u, i], scores[u, j]) for i in free for j in free if i % 4 == u % 4 and j % 4 != u % 4]
        expected.append(np.mean([1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]))
    assert planted_auc(model) == pytest.approx(np.mean(expected))
    model.score = lambda users: torch.zeros(len(users), 16)
    assert planted_auc(model) == 0.5


def test_renumbering_moves_every_edge_and_key():
    graph = planted_graph()
    again, moved = renumbered(graph, seed=2)
    for old, new in zip(
        (graph.interactions, *graph.relations.values()), (again.interactions, *again.relations.values()), strict=True
    ):
        edges = [
            {
                (frozenset if r.undirected else tuple)(
                    [g.nodes[r.source].keys[int(s)], (g.nodes[r.target].keys[int(d)])]
                ): w
                for s, d, w in zip(r.src, r.dst, r.weight, strict=True)
            }
            for g, r in ((graph, old), (again, new))
        ]
        assert edges[0] == edges[1]
    assert sorted(moved["user"]) == list(range(graph.n_users))
    assert again.nodes["user"].keys[int(moved["user"][5])] == graph.nodes["user"].keys[5]
