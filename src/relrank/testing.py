"""Contracts for models and the trainer, shipped so that testing your own model takes three lines.

For example::

    from relrank.testing import ModelContract

    class TestMine(ModelContract):
        kind = Mine

The methods are pytest tests; a model with gradients uses ``TrainedContract``. Every contract runs on a small planted
graph with a known right answer: users and items form blocks, and users choose items of their block.
"""

from __future__ import annotations

import itertools
import unittest
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numba
import numpy as np
import polars as pl
import torch
from torch import Tensor
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.graph.relation import Relation
from relrank.graph.rewiring import rewire
from relrank.io.tensors import load_tensors, save_tensors
from relrank.kernels.csr import Int64
from relrank.models.core.base import ClosedForm, Recommender, Trained, interaction_rows, restore
from relrank.models.core.sequence_model import SequenceModel, Windows
from relrank.models.core.vector_model import ProductModel, VectorModel
from relrank.parallel.environment import cores
from relrank.tables.ids import IdMap
from relrank.training import FitResult, TrainConfig, fit

BLOCKS = 4


def planted_study(
    name: str = "small",
    users: int = 60,
    items: int = 40,
    *,
    per_user: int = 6,
    groups: int | None = None,
    seed: int = 1,
    relations: Sequence[str] = ("driver",),
    study: str = "seeds = [0]\ntrials = 2",
    models: str = "",
) -> str:
    """A study file on small planted data.

    Args:
        name: of the study.
        users: number of users.
        items: number of items.
        per_user: number of items of a user.
        groups: number of item groups; a tenth of the items, at least six, when None.
        seed: of the data.
        relations: columns of the items that are relations of the same name: driver, echo, noise, fame.
        study: lines of ``[study]``.
        models: sections of the models; the default models when empty.
    """
    groups = max(6, items // 10) if groups is None else groups
    attributes = "".join(
        f'[relations.{one}]\nkind = "attribute"\nnode = "item"\ncolumn = "{one}"\n' for one in relations
    )
    return f"""name = "{name}"
[data]
dataset = "planted"
planted = {{ users = {users}, items = {items}, per_user = {per_user}, groups = {groups}, seed = {seed} }}
[protocol]
split = "random-leave-one-out"
{attributes}[study]
{study}
{models}"""


def planted_graph(users: int = 160, items: int = 120, per_user: int = 9, stray: int = 1, seed: int = 0) -> Graph:
    """Blocks of users and items: user u chooses items i with ``u % 4 == i % 4``, and a few of other blocks.

    Args:
        users: number of users.
        items: number of items.
        per_user: number of items of a user in their block.
        stray: number of items of a user in other blocks.
        seed: of the choice.

    Returns:
        A graph with ``has_tag`` item → tag, where each tag belongs to a block, and ``similar`` item – item, which
        links items of one block.
    """
    rng = np.random.default_rng(seed)
    own, other = (np.arange(users) % BLOCKS)[:, None] == np.arange(items) % BLOCKS, rng.random((users, items))
    inside = np.argsort(np.where(own, other, 2), 1)[:, :per_user]
    outside = np.argsort(np.where(own, 2, other), 1)[:, :stray]
    chosen = np.concatenate([inside, outside], 1)
    item, tags = np.arange(items), 3 * BLOCKS
    tag = item % BLOCKS + BLOCKS * rng.integers(0, 3, items)
    return Graph(
        "user",
        "item",
        {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", users), ("item", items), ("tag", tags))},
        Relation.of("chose", "user", "item", np.repeat(np.arange(users), per_user + stray), chosen.ravel()),
        {
            "has_tag": Relation.of("has_tag", "item", "tag", item, tag),
            "similar": Relation.of(
                "similar", "item", "item", item[:-BLOCKS], item[BLOCKS:], rng.uniform(0.2, 0.9, items - BLOCKS)
            ),
        },
        "planted blocks",
    )


def planted_sequences(users: int = 160, items: int = 120, per_user: int = 9, seed: int = 0) -> Graph:
    """The blocks of ``planted_graph`` with an order in time: a block's items form a ring, which its users follow.

    The next item is always the ``follower`` of the latest. Relations are those of ``planted_graph``.
    """
    rng = np.random.default_rng(seed)
    size = items // BLOCKS
    user = np.arange(users)
    steps = (rng.integers(0, size, users)[:, None] + np.arange(per_user)) % size
    item = steps * BLOCKS + (user % BLOCKS)[:, None]
    interactions = Relation.of("chose", "user", "item", np.repeat(user, per_user), item.ravel())
    places = np.argsort(item, axis=1).ravel().astype(np.int32)  # edges are sorted by item
    graph = planted_graph(users, items, per_user, 0, seed)
    return replace(graph, interactions=interactions, places=places, fingerprint="planted rings")


def chosen_again(graph: Graph) -> Graph:
    """The same graph with each user's first item repeated at the end of the history."""
    order = graph.chronological_order()
    if order is None:
        raise ValueError("a graph without an order in time")
    users = graph.interactions.src[order]
    first = np.unique(users, return_index=True)[1]
    events = np.concatenate([order, order[first]])
    return replace(graph, events=events[np.argsort(graph.interactions.src[events], kind="stable")])


def follower(items: Int64, n_items: int = 120) -> Int64:
    """The next items in the rings of ``planted_sequences``."""
    return (items + BLOCKS) % n_items


def renumbered(graph: Graph, seed: int = 0) -> tuple[Graph, dict[str, Int64]]:
    """The same graph with the nodes of every type in another order, and by type the new row of each old row."""
    rng = np.random.default_rng(seed)
    moved = {name: rng.permutation(len(ids)) for name, ids in graph.nodes.items()}

    def again(r: Relation) -> Relation:
        return Relation.of(r.name, r.source, r.target, moved[r.source][r.src], moved[r.target][r.dst], r.weight)

    nodes = {name: IdMap(name, ids.at(np.argsort(moved[name]))) for name, ids in graph.nodes.items()}
    relations = {name: again(r) for name, r in graph.relations.items()}
    edges = graph.interactions
    by_edge = np.lexsort((moved[edges.target][edges.dst], moved[edges.source][edges.src]))
    places = None if graph.places is None else graph.places[by_edge]
    events = graph.events
    if events is not None:
        events = np.argsort(by_edge).astype(np.int32)[events]
        events = events[np.argsort(moved[edges.source][edges.src][by_edge][events], kind="stable")]
    other = Graph(
        graph.user, graph.item, nodes, again(edges), relations, graph.fingerprint, places=places, events=events
    )
    order = {name: np.argsort(rows) for name, rows in moved.items()}
    features = {
        name: Feature(
            name,
            f.node,
            f.known[order[f.node]],
            None if f.dense is None else f.dense[order[f.node]],
            None if f.sparse is None else f.sparse.take(order[f.node]),
        )
        for name, f in graph.features.items()
    }
    return replace(other, features=features), moved


def planted_auc(model: Recommender) -> float:
    """AUC of unchosen items of the user's block over unchosen items of other blocks; .5 is chance."""
    graph, shares = model.graph, []
    scores = _all_scores(model)
    history = interaction_rows(graph)
    for u in range(graph.n_users):
        own = np.arange(graph.n_items) % BLOCKS == u % BLOCKS
        candidates = np.ones(graph.n_items, bool)
        candidates[history.indices[history.indptr[u] : history.indptr[u + 1]]] = False
        right, wrong = scores[u][torch.from_numpy(own & candidates)], scores[u][torch.from_numpy(~own & candidates)]
        above = right[:, None] - wrong[None, :]
        shares.append(float((above > 0).float().mean() + 0.5 * (above == 0).float().mean()))
    return float(np.mean(shares))


@contextmanager
def _all_threads() -> Iterator[None]:
    """All threads that this process may use, for numba and torch."""
    before = numba.get_num_threads(), torch.get_num_threads()
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]
    torch.set_num_threads(cores())
    try:
        yield
    finally:
        numba.set_num_threads(before[0])
        torch.set_num_threads(before[1])


def _all_scores(model: Recommender) -> Tensor:
    with torch.no_grad():
        return model.score(torch.arange(model.graph.n_users)).cpu()


def _histories(graph: Graph) -> list[Tensor]:
    """Training histories, in time order if there is one."""
    if graph.places is not None:
        return Sequences.from_graph(graph).tensors()
    rows = interaction_rows(graph)
    return [torch.from_numpy(part.astype(np.int64)) for part in np.split(rows.indices, rows.indptr[1:-1])]


def _refuses(call: Callable[[Any], object], rows: object, what: str) -> None:
    try:
        call(rows)
    except InputError:
        return
    raise AssertionError(f"{what} must raise InputError")


class ModelContract:
    """Tests for every model.

    Attributes:
        kind: the model's class.
        config: its hyper-parameters; defaults if None.
        train: training budget on the planted graph.
        personal: whether users get different rankings; otherwise the AUC on planted blocks must stay at chance.
        fold_in: how the scores of a training user's folded-in history compare with ``score``: equal, similar
            (correlated), or free.
        equivariant: whether renumbering the nodes renumbers the scores.
        embedding_tables: of a trained model, names of the state's tensors with one row per node: users, items, and
            perhaps the other types in the graph's order.
        propagates: whether propagated random vectors already reflect the graph before any training, as in an encoder
            that omits a node's own vector. Then the model that must be near chance is the untrained one on shuffled
            edges, and training must improve on the untrained model on the true ones.
    """

    kind: ClassVar[type[ClosedForm] | type[Trained]]
    config: ClassVar[Any] = None
    train: ClassVar[TrainConfig] = TrainConfig(epochs=15, batch=512, lr=0.02, every=5, device="cpu")
    personal: ClassVar[bool] = True
    fold_in: ClassVar[Literal["equal", "similar", "free"]] = "equal"
    equivariant: ClassVar[bool] = True
    embedding_tables: ClassVar[tuple[str, ...]] = ()
    propagates: ClassVar[bool] = False
    _fitted: ClassVar[Recommender]
    _graph_before: ClassVar[tuple[Graph, list[bytes]]]
    _losses: ClassVar[pl.Series]

    def graph(self) -> Graph:
        """The planted graph; override it to test on another graph with the same blocks."""
        return planted_graph()

    def fitted(self) -> Recommender:
        """The model fitted on the planted graph, once per class; tests must not change it."""
        cls = type(self)
        if "_fitted" not in cls.__dict__:
            graph = self.graph()
            cls._graph_before = graph, _edges(graph)
            cls._fitted = self.fit(graph)
        return cls._fitted

    def fit(self, graph: Graph, train: TrainConfig | None = None) -> Recommender:
        """A new model, solved or trained; by default within the class's budget."""
        model = self.kind(graph, self.config)
        if isinstance(model, ClosedForm):
            return model.solve()
        fitted = fit(model, train or self.train, itertools.count().__next__, seed=0)
        if train is None:
            type(self)._losses = fitted.history["loss"]
        return model

    def unfitted(self) -> Recommender:
        """A model that must be near chance: untrained, or a closed form solved on shuffled edges."""
        graph = self.graph()
        shuffled = replace(graph, interactions=rewire(graph.interactions, 1))
        if not issubclass(self.kind, Trained):
            return self.fit(shuffled)
        model = self.kind(shuffled if self.propagates else graph, self.config)
        model.init_weights(0)
        return model

    def test_recovers_planted_truth_and_unfitted_it_does_not(self) -> None:
        """The fitted model has a high AUC and the unfitted one has not, so scores come from fitting, not a leak."""
        fitted, unfitted = planted_auc(self.fitted()), planted_auc(self.unfitted())
        if not self.personal:
            assert 0.4 < fitted < 0.6, f"AUC {fitted:.3f} without knowing users"
            return
        assert fitted > 0.9, f"AUC {fitted:.3f} on planted blocks"
        assert unfitted < 0.7, f"AUC {unfitted:.3f} without fitting"
        if self.propagates:
            fresh = self.kind(self.graph(), self.config)
            assert isinstance(fresh, Trained), "only a model with gradients can be untrained"
            fresh.init_weights(0)
            before = planted_auc(fresh)
            assert fitted > before, f"AUC {fitted:.3f} after training, {before:.3f} before"

    def test_same_seed_same_bits(self) -> None:
        """No random numbers come from a global or unseeded generator, and no sum depends on the order of threads."""
        short = replace(self.train, epochs=4, every=2)  # a difference would not disappear
        with _all_threads():  # parallel test processes have fewer
            one, other = (self.fit(self.graph(), short) for _ in range(2))
        assert torch.equal(_all_scores(one), _all_scores(other)), "scores differ"

    def test_scores_are_finite_float32_and_repeatable(self) -> None:
        """Scoring does not change the model, and a user's scores do not depend on the rest of the batch."""
        model = self.fitted()
        scores = _all_scores(model)
        assert scores.shape == (model.graph.n_users, model.graph.n_items), f"shape {tuple(scores.shape)}"
        assert scores.dtype == torch.float32, f"scores are {scores.dtype}"
        assert bool(scores.isfinite().all()), "scores are not finite"
        assert torch.equal(scores, _all_scores(model)), "scores of a second call differ"
        some = torch.tensor([7, 3, 3])
        _close(model.score(some).cpu(), scores[some], "a user's scores in another batch")

    def test_state_survives_the_disk(self, tmp_path: Path) -> None:
        """A new model with the saved state gives the same scores, bit for bit."""
        model = self.fitted()
        save_tensors(tmp_path / "model.safetensors", model.state(), {})
        again = self.kind(model.graph, self.config)
        restore(again, load_tensors(tmp_path / "model.safetensors")[0], "model.safetensors")
        assert torch.equal(_all_scores(again), _all_scores(model)), "scores after load_state differ"
        histories = _histories(model.graph)[:5]
        assert torch.equal(again.fold_in(histories).cpu(), model.fold_in(histories).cpu()), "fold_in differs"

    def test_a_state_that_cannot_be_the_model_s_is_refused(self) -> None:
        """Tensors of a wrong shape, NaN, and row numbers out of range are refused."""
        state = self.fitted().state()
        for name, tensor in state.items():
            bad = {"another shape": torch.cat([tensor.flatten(), tensor.flatten().new_zeros(1)])}
            if tensor.is_floating_point():
                bad["NaN"] = torch.full_like(tensor, torch.nan)
            elif tensor.numel():
                bad["row numbers out of range"] = tensor + 1_000_000
            for what, other in bad.items() if tensor.numel() else ():
                model = self.kind(self.fitted().graph, self.config)
                load = partial(restore, model, where="model.safetensors")
                _refuses(load, {**state, name: other}, f"{name} with {what}")

    def test_rows_outside_the_graph_are_refused(self) -> None:
        """A negative row must not index from the end, which is another user or item."""
        model = self.fitted()
        for user in (-1, model.graph.n_users):
            _refuses(model.score, torch.tensor([0, user]), f"user row {user}")
        for item in (-1, model.graph.n_items):
            _refuses(model.fold_in, [torch.tensor([0]), torch.tensor([item])], f"item row {item}")

    def test_batches_and_histories_may_be_empty(self) -> None:
        """No user, one user, no history, an empty history."""
        model = self.fitted()
        empty = torch.tensor([], dtype=torch.int64)
        for n in (0, 1):
            assert model.score(torch.arange(n)).shape == (n, model.graph.n_items), f"scores of {n} users"
            folded = model.fold_in([empty] * n)
            assert folded.shape == (n, model.graph.n_items), f"scores of {n} empty histories"
            assert folded.dtype == torch.float32, f"scores are {folded.dtype}"
            assert bool(folded.isfinite().all()), "scores of an empty history are not finite"

    def test_fold_in_agrees_with_score(self) -> None:
        """Folding in a training user's history gives the user's scores; order and repetitions do not matter.

        For a sequence model they do matter.
        """
        model = self.fitted()
        histories = _histories(model.graph)
        folded, scores = model.fold_in(histories).cpu(), _all_scores(model)
        twice = [torch.cat([h.flip(0), h[:1]]) for h in histories]
        other = model.fold_in(twice).cpu()
        if model.ordered:
            assert not torch.allclose(other, folded, atol=1e-3), "the order of a history changes nothing"
        else:
            _close(other, folded, "another order of the same history")
        if self.fold_in == "equal":
            _close(folded, scores, "folded-in histories of training users")
        elif self.fold_in == "similar":
            mean = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(folded.numpy(), scores.numpy(), strict=True)])
            assert mean > 0.8, f"correlation {mean:.2f} of fold_in and score"

    def test_what_was_chosen_again_is_part_of_the_history(self) -> None:
        """Scores of users with repeated items are those of their histories, with repetitions if order matters."""
        model = self.fitted()
        if model.graph.places is None or not model.from_history:
            raise unittest.SkipTest("no order in time, or scores not from a history alone")
        graph = chosen_again(model.graph)
        if isinstance(model, Trained):
            other: Recommender = self.kind(graph, self.config)
            other.load_state(model.state())
        else:
            other = self.fit(graph)
        scores, before = _all_scores(other), _all_scores(model)
        _close(other.fold_in(_histories(graph)).cpu(), scores, "folded-in histories with a repeated item")
        if model.ordered:
            assert not torch.allclose(scores, before, atol=1e-3), "a repeated item changes nothing"
        else:
            _close(scores, before, "scores of histories with a repeated item")

    def test_vectors_that_are_offered_give_the_scores(self) -> None:
        """If a model declares its scores to be dot products, the vectors that it offers give these scores."""
        model = self.fitted()
        if not getattr(model, "is_dot_product", False):
            raise unittest.SkipTest("scores are no dot products")
        vectors: Any = model
        users = torch.arange(model.graph.n_users)
        histories = [torch.from_numpy(model.history.take(np.array([u])).indices.astype(np.int64)) for u in (0, 1, 2)]
        with torch.no_grad():
            items = vectors.item_vectors().T
            products, folded = vectors.user_vectors(users) @ items, vectors.history_vectors(histories) @ items
        _close(products.cpu(), _all_scores(model), "products of users' vectors")
        _close(folded.cpu(), model.fold_in(histories).detach().cpu(), "products of histories' vectors")

    def test_renumbered_nodes_renumber_the_scores(self) -> None:
        """Scores do not depend on row numbers."""
        if not self.equivariant:
            raise unittest.SkipTest("scores depend on row numbers by design")
        model = self.fitted()
        graph, moved = renumbered(model.graph)
        if isinstance(model, Trained):
            types_of, state = self._node_types(model), model.state()
            if not types_of:
                raise unittest.SkipTest("the contract does not name embedding_tables")
            for name, types in types_of.items():
                table, starts = state[name], np.cumsum([0, *(len(graph.nodes[t]) for t in types)])
                rows = torch.from_numpy(np.concatenate([s + moved[t] for s, t in zip(starts, types, strict=False)]))
                state[name] = torch.empty_like(table).index_copy(0, rows[: len(table)], table)
            other: Recommender = self.kind(graph, self.config)
            other.load_state(state)
        else:
            other = self.fit(graph)
        users, items = (torch.from_numpy(moved[t]) for t in (graph.user, graph.item))
        _close(_all_scores(other)[users][:, items], _all_scores(model), "scores under new row numbers")

    def _node_types(self, model: Trained) -> dict[str, list[str]]:
        """For each of the state's tensors with one row per node, the node types in the order of the rows."""
        graph = model.graph
        types = [t for t in graph.nodes if t in (graph.user, graph.item) or graph.relations_of(t)]
        types.sort(key=lambda t: (t != graph.user, t != graph.item))
        return dict.fromkeys(self.embedding_tables, types)

    def test_graph_is_only_read(self) -> None:
        """Fitting and scoring do not write to the graph, which other models share."""
        model = self.fitted()
        model.score(torch.arange(3))
        graph, before = self._graph_before
        model.fold_in(_histories(graph)[:3])
        assert _edges(graph) == before, "fitting or scoring wrote into the graph"


class TrainedContract(ModelContract):
    """More tests for a model with gradients, trained by ``relrank.training.fit``."""

    def test_loss_falls(self) -> None:
        """The reported loss falls."""
        self.fitted()
        losses = self._losses
        assert losses[-1] < losses[0], f"mean loss {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last"

    def test_no_zero_grad(self) -> None:
        """At learning rate 0 the gradient after two steps equals the gradient after one: gradients are reset."""
        once, twice = self._gradients(1), self._gradients(2)
        assert once, "no parameter has a gradient"
        assert any(bool(g.count_nonzero()) for g in once.values()), "all gradients are zero"
        for name, gradient in once.items():
            assert torch.equal(gradient, twice[name]), f"gradient of {name} grows from step to step"

    def test_gradients_are_finite_differences(self) -> None:
        """Float64 gradients equal finite differences along a random direction; float32 gradients equal float64 ones.

        This checks hand-written backward passes, the float32 kernels, and that random numbers of ``loss`` depend on
        the batch only. A parameter without a gradient must not affect the loss.
        """
        narrow, wide = self._fresh(), self._fresh().double()
        batch = self._batch(narrow)
        for model in (narrow, wide):
            model.loss(batch).backward()  # type: ignore[no-untyped-call]
        singles = dict(narrow.named_parameters())
        generator = torch.Generator().manual_seed(0)
        for name, parameter in wide.named_parameters():
            if not parameter.requires_grad or not parameter.numel():
                continue
            gradient, single = (torch.zeros_like(p) if p.grad is None else p.grad for p in (parameter, singles[name]))
            size = float(gradient.norm())
            off = float((single - gradient).norm())
            assert off < 1e-3 * size + 1e-7, f"gradient of {name} in float32: off by {off:.1e}, length {size:.1e}"
            direction = torch.randint(0, 2, parameter.shape, generator=generator).double() * 2 - 1
            expected = float((gradient * direction).sum())
            slope = _slope(lambda: float(wide.loss(batch)), parameter, direction)
            message = f"gradient of {name} gives a slope of {expected:.4e}, but the loss changes by {slope:.4e}"
            assert abs(expected - slope) < 1e-3 * size + 1e-7, message

    def test_workers_draw_the_same_batches(self) -> None:
        """Batches prepared in advance by threads give the same weights, bit for bit."""
        weights = []
        for workers in (0, 2):
            model = self._new()
            fit(model, TrainConfig(epochs=2, batch=256, every=2, device="cpu", workers=workers), lambda: 0.0, seed=4)
            weights.append(model.state())
        assert _same(*weights), "weights with two workers differ from those without"

    def test_a_batch_is_the_same_in_any_thread(self) -> None:
        """A batch depends only on the edges and the seed, not on batches that are prepared at the same time."""
        model = self._new()
        expected = self._batch(model)
        model.parallel = False
        assert _alike(self._batch(model), expected), "batch differs without parallel regions"
        if isinstance(model, ProductModel):
            assert not _alike(self._batch(model, seed=1), expected), "batch does not depend on the seed"
        with ThreadPoolExecutor(2) as pool:
            others = list(pool.map(lambda seed: self._batch(model, seed), [0, 1, 0, 2]))
        assert _alike(others[0], expected), "batch differs in a thread"
        assert _alike(others[2], expected), "batch differs in a thread"

    def test_local_batch_indices_are_those_of_the_global_rows(self) -> None:
        """Local indices give the edges of the batch; negatives that are the user's own items are masked."""
        model = self._new()
        if not isinstance(model, VectorModel):
            raise unittest.SkipTest("not a model of user and item vectors")
        batch = self._batch(model)
        for nodes in (batch.users, batch.items):
            assert len(nodes.unique()) == len(nodes), "a node is listed twice"
        users, items = batch.users[batch.user_index].numpy(), batch.items[batch.positive_index].numpy()
        edges, found = (
            list(zip(*(x.tolist() for x in pair), strict=True)) for pair in (self._edges(model), (users, items))
        )
        weights = model.graph.interactions.weight
        if weights.min() < weights.max():  # edges are omitted at random
            assert set(found) <= set(edges), "edges differ from those given"
        else:
            assert found == edges, "edges differ from those given"
        has = np.zeros((model.graph.n_users, model.graph.n_items), bool)
        has[model.graph.interactions.src, model.graph.interactions.dst] = True
        if batch.negative_index is None:
            assert batch.items.tolist() == list(range(model.graph.n_items)), "items are not the catalogue"
            assert batch.known is not None, "the users' own items are missing"
            known = np.zeros_like(has)
            known[batch.users[batch.known[0]], batch.known[1]] = True
            distinct = batch.users.numpy()
            assert (known[distinct] == has[distinct]).all(), "the users' own items are wrong"
            return
        negative = batch.items[batch.negative_index].expand(users.size, -1).numpy()
        own = has[users[:, None], negative]
        excluded = np.zeros_like(own) if batch.excluded is None else batch.excluded.numpy()
        assert (own == excluded).all(), "negatives that are positives, or excluded ones that are not"

    def test_encoded_rows_are_those_of_the_batch(self) -> None:
        """A node's vector in training is similar to its vector in scoring, and not to those of other nodes.

        Sampling, noise and excluded edges make them differ, even before training; a wrong order of rows would make
        them dissimilar.
        """
        model = self._fresh()
        if not isinstance(model, VectorModel):
            raise unittest.SkipTest("not a model of user and item vectors")
        batch = self._batch(model)
        with torch.no_grad():
            found, exact = model.encode(batch), model.encode_all()
        for rows, inside, outside in zip((batch.users, batch.items), found, exact, strict=True):
            assert len(inside) == len(rows), f"{len(inside)} vectors of {len(rows)} nodes"
            own, other = (functional.normalize(x - x.mean(0), dim=1) for x in (inside, outside[rows]))
            cosines = own @ other.T
            same = float(cosines.diagonal().mean())
            different = (float(cosines.sum()) - same * len(rows)) / (len(rows) * (len(rows) - 1))
            assert same > different + 0.4, f"cosine {same:.2f} of nodes with themselves, {different:.2f} with others"

    def test_scores_are_not_products_of_raw_vectors(self) -> None:
        """A propagating model scores with propagated vectors: changing a neighbour's vector changes a user's scores.

        The blocks have no edges between them, so it is known what must change: with messages in one direction only
        the user's scores would stay the same, and with wrong row numbers another block's would change.
        """
        if not self.kind.relational or not self.embedding_tables:
            raise unittest.SkipTest("model does not propagate, or the contract does not name embedding_tables")
        graph = self.graph()
        inside = graph.interactions.src % BLOCKS == graph.interactions.dst % BLOCKS
        places = graph.places
        if places is not None:  # number the remaining interactions anew
            users, remaining = graph.interactions.src[inside], places[inside]
            order = np.lexsort((remaining, users))
            places = np.empty(remaining.size, np.int32)
            places[order] = np.arange(remaining.size) - np.searchsorted(users, users, "left")
        graph = replace(graph, interactions=graph.interactions.where(inside), places=places, events=None)
        model = self.kind(graph, self.config)
        assert isinstance(model, Trained), f"{self.kind.__name__} has no gradients: use ModelContract"
        model.init_weights(0)
        before, state = _all_scores(model), model.state()
        n_users, n_items = graph.n_users, graph.n_items
        table = state[self.embedding_tables[0]]
        raw = table[:n_users] @ table[n_users : n_users + n_items].T
        correlation = float(torch.corrcoef(torch.stack([raw.flatten(), before.flatten()]))[0, 1])
        assert correlation < 0.95, f"scores are products of the raw table: correlation {correlation:.3f}"
        user = 0
        item = int(_histories(graph)[user][0])
        for name in self.embedding_tables:
            state[name][n_users + item] *= -2
        model.load_state(state)
        change = (_all_scores(model) - before).abs()
        away = torch.arange(n_items) % BLOCKS != item % BLOCKS
        assert float(change[user][away].max()) > 1e-6, "an item of the history changed, but the user's scores did not"
        others = torch.arange(n_users) % BLOCKS != user % BLOCKS
        assert not change[others][:, away].any(), "scores without a path to the item changed"

    def _edges(self, model: Trained) -> tuple[Int64, Int64]:
        """Some training edges in random order, with repeated users and items."""
        edges = model.graph.interactions
        some = np.random.default_rng(0).permutation(len(edges))[:150]
        return edges.src[some].astype(np.int64), edges.dst[some].astype(np.int64)

    def _batch(self, model: Trained, seed: int = 0) -> Any:
        return model.prepare(*self._edges(model), np.random.SeedSequence(seed))

    def _fresh(self) -> Trained:
        model = self._new()
        model.init_weights(0)
        return model

    def _gradients(self, steps: int) -> dict[str, Tensor]:
        model = self._new()
        edges = model.graph.interactions
        users, items = (rows[:64].astype(np.int64) for rows in (edges.src, edges.dst))
        batch = model.prepare(users, items, np.random.SeedSequence(0))
        model.prepare = lambda *_: batch  # type: ignore[method-assign]
        config = TrainConfig(epochs=steps, batch=len(edges), lr=0.0, every=steps, device="cpu")
        fit(model, config, lambda: 0.0, seed=0)
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    def test_best_state_is_a_copy(self) -> None:
        """After training beyond the best epoch the model has the parameters of the best epoch, not the last."""
        model = self._new()
        seen: list[dict[str, Tensor]] = []

        def falling() -> float:
            seen.append({name: t.clone() for name, t in model.state().items()})
            return -float(len(seen))

        fitted = fit(model, TrainConfig(epochs=3, batch=512, every=1, device="cpu"), falling, seed=0)
        assert fitted.best_epoch == 1, f"best epoch is {fitted.best_epoch}"
        assert not _same(seen[0], seen[-1]), "the parameters never moved"
        assert _same(model.state(), seen[0]), "the model does not hold its best epoch's parameters"

    def test_killed_run_goes_on_to_the_same_bits(self, tmp_path: Path) -> None:
        """A run that is stopped and continued, from the last state and not the best, ends with the same weights."""
        uninterrupted, continued = self._new(), self._new()
        expected = self._run(uninterrupted, tmp_path / "uninterrupted", [3.0, 1.0, 2.0])
        try:
            self._run(self._new(), tmp_path / "killed", [3.0, 1.0])
        except StopIteration:
            pass
        else:
            raise AssertionError("there was no third validation")
        result = self._run(continued, tmp_path / "killed", [2.0])
        assert _same(continued.state(), uninterrupted.state()), "weights of a continued run differ"
        assert result.best_epoch == expected.best_epoch, f"best epoch {result.best_epoch}, not {expected.best_epoch}"
        assert result.history.drop("seconds").equals(expected.history.drop("seconds")), "histories differ"
        states = [load_tensors(tmp_path / run / "last.safetensors")[0] for run in ("uninterrupted", "killed")]
        assert _same(*states), "last states differ"

    def _run(self, model: Trained, folder: Path, metrics: Sequence[float]) -> FitResult:
        config = TrainConfig(epochs=6, batch=512, every=2, device="cpu")
        return fit(model, config, iter(metrics).__next__, seed=5, folder=folder)

    def _new(self) -> Trained:
        model = self.kind(self.graph(), self.config)
        assert isinstance(model, Trained), f"{self.kind.__name__} has no gradients: use ModelContract"
        return model


class SequenceContract(TrainedContract):
    """More tests for a sequence model.

    Attributes:
        causal: whether the state at a position is independent of later items.
    """

    causal: ClassVar[bool] = True
    embedding_tables = ()

    def graph(self) -> Graph:
        """Planted rings."""
        return planted_sequences()

    def _node_types(self, model: Trained) -> dict[str, list[str]]:
        """Items, followed by the other nodes in a graph of items."""
        graph = model.graph
        types = [graph.item, *(t for t in graph.nodes if t not in (graph.user, graph.item))]
        return {name: of for name, of in (("table", types[:1]), ("vectors.table", types)) if name in model.state()}

    def test_scores_are_not_products_of_raw_vectors(self) -> None:
        """Two histories with the same latest item have different scores."""
        model = self._sequence_model(self.fitted())
        first = torch.arange(3) * BLOCKS
        other = torch.cat([first[:1] + 1, first[1:]])
        one, two = model.fold_in([first, other])
        raw = (model.table[first[-1]] @ model.table.T).detach()
        assert float((one - two).abs().max()) > 1e-3, "items before the latest change nothing"
        assert float(torch.corrcoef(torch.stack([raw, one]))[0, 1]) < 0.95, "scores are products of the raw table"

    def test_recovers_planted_truth_and_unfitted_it_does_not(self) -> None:
        """The follower of a history's latest item ranks first among the items that are not in the history."""
        trained, untrained = self._hit_rate(self.fitted()), self._hit_rate(self._fresh())
        assert trained > 0.9, f"hit rate at 1 is {trained:.2f}"
        assert untrained < 0.2, f"hit rate at 1 is {untrained:.2f} without training"

    def test_padding_on_either_side_changes_nothing(self) -> None:
        """Scores do not depend on longer histories in the batch, the side of the padding, or values in it."""
        model = self._sequence_model(self.fitted())
        histories = [h[:n] for h, n in zip(_histories(model.graph), (1, 2, 4, 9), strict=False)]
        alone = torch.cat([model.fold_in([h]) for h in histories])
        _close(model.fold_in(histories), alone, "histories of different lengths in one batch")
        width, pad = 20, model.graph.n_items
        for side in ("before", "after"):
            padded = np.full((len(histories), width), pad)
            for row, h in zip(padded, histories, strict=True):
                row[slice(width - len(h), width) if side == "before" else slice(0, len(h))] = h.numpy()
            _close(model.score_sequences(Sequences.from_padded(padded, pad)), alone, f"padding {side} the history")
        windows = model.scoring_windows(Sequences.from_histories(histories, pad))
        is_padding = torch.arange(windows.items.shape[1]) >= windows.n_valid[:, None]
        wide = functional.pad(windows.items.masked_fill(is_padding, 7), (0, 5), value=3)
        other = Windows(wide, windows.n_valid, windows.lengths, functional.pad(windows.at, (0, 5)))
        with torch.no_grad():
            items = model.outputs()
            found, expected = (model.target_states(w, items, None) for w in (other, windows))
        _close(found, expected, "values in the padding")

    def test_a_moment_knows_nothing_of_what_follows(self) -> None:
        """States before a changed item stay the same and those after it change: training does not see the target."""
        if not self.causal:
            raise unittest.SkipTest("the model is bidirectional and masks the target")
        model = self._sequence_model(self.fitted())
        histories = Sequences.from_graph(model.graph).take(np.arange(8))
        windows, _ = model.windows(histories, histories.lengths(), np.random.default_rng(0))
        changed = windows.items.clone()
        changed[:, 4] = (changed[:, 4] + 2) % model.graph.n_items
        assert bool(windows.at.all()), "not every position is trained"
        with torch.no_grad():
            items = model.outputs()
            before, after = (
                model.target_states(w, items, None).view(*windows.at.shape, -1)
                for w in (windows, replace(windows, items=changed))
            )
        _close(after[:, :4], before[:, :4], "states before the changed item")
        assert bool(((after - before)[:, 4:].abs().amax(2) > 1e-4).all()), "states after the changed item"

    def test_items_older_than_the_window_are_forgotten(self) -> None:
        """Scores depend on the latest items only; the length of the full history stays known."""
        model = self._sequence_model(self.fitted())
        long = torch.arange(model.config.window + 6) * BLOCKS % model.graph.n_items
        windows = model.scoring_windows(Sequences.from_histories([long], model.graph.n_items))
        assert windows.lengths.tolist() == [len(long)], f"length {windows.lengths.tolist()} of {len(long)}"
        assert windows.items.shape[1] <= model.config.window, "the window is longer than it should be"
        both = torch.cat([torch.flip(long[:6], [0]), long[6:]])
        _close(model.fold_in([both]), model.fold_in([long]), "items before the window")

    def test_local_batch_indices_are_those_of_the_global_rows(self) -> None:
        """Local indices give users and items of the histories; negatives that are the user's own items are masked."""
        model = self._sequence_model(self._new())
        batch = self._batch(model)
        assert len(batch.items.unique()) == len(batch.items), "an item is listed twice"
        users, items = batch.users[batch.user_index].numpy(), batch.items[batch.positive_index].numpy()
        assert sum(int(w.at.sum()) for w in batch.encoder_inputs) == users.size, "numbers of positions and items"
        has = np.zeros((model.graph.n_users, model.graph.n_items), bool)
        has[model.graph.interactions.src, model.graph.interactions.dst] = True
        assert has[users, items].all(), "a target is not an item of its user"
        if self.causal:
            expected = {(u, i) for u in set(users.tolist()) for i in model.sequences.take(np.array([u])).items[1:]}
            assert set(zip(users.tolist(), items.tolist(), strict=True)) == expected, "positions are missing"
            assert users.size == len(expected), "a position counts twice"
        if batch.negative_index is not None:
            negative = batch.items[batch.negative_index].expand(users.size, -1).numpy()
            own = has[users[:, None], negative]
            excluded = np.zeros_like(own) if batch.excluded is None else batch.excluded.numpy()
            assert (own == excluded).all(), "negatives that are positives, or excluded ones that are not"

    def test_encoded_rows_are_those_of_the_batch(self) -> None:
        """Without dropout the last state of a training window equals the state for scoring the same history."""
        model = self._sequence_model(self.fitted())
        histories = Sequences.from_graph(model.graph).take(np.arange(8))
        windows, _ = model.windows(histories, histories.lengths(), np.random.default_rng(0))
        if not self.causal:
            raise unittest.SkipTest("the model is bidirectional, so states in training depend on later items")
        before = [h[:-1] for h in histories.tensors()]
        with torch.no_grad():
            items = model.outputs()
            trained = model.target_states(windows, items, None).view(*windows.at.shape, -1)[:, -1]
            scoring_windows = model.scoring_windows(Sequences.from_histories(before, model.graph.n_items))
            scored = model.target_states(scoring_windows, items, None)
        _close(trained, scored, "the last state in training")

    def _hit_rate(self, model: Recommender) -> float:
        histories = _histories(model.graph)
        scores = model.fold_in(histories).detach()
        for row, h in zip(scores, histories, strict=True):
            row[h] = -torch.inf
        latest = np.array([int(h[-1]) for h in histories])
        return float((scores.argmax(1).numpy() == follower(latest, model.graph.n_items)).mean())

    def _sequence_model(self, model: Recommender) -> SequenceModel:
        assert isinstance(model, SequenceModel), f"{self.kind.__name__} is no sequence model"
        return model


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    off = float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-12)
    assert off < 1e-4, f"{what}: off by {off:.1e} of the largest score"


def _same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


@torch.no_grad()
def _slope(loss: Callable[[], float], parameter: Tensor, direction: Tensor) -> float:
    """Central difference of the loss along a direction of a parameter, which is restored."""
    original, step, values = parameter.clone(), 1e-7, []  # so short that hardly a ReLU switches
    for side in (step, -step):
        parameter.copy_(original + side * direction)
        values.append(loss())
    parameter.copy_(original)
    return (values[0] - values[1]) / (2 * step)


def _alike(found: Any, expected: Any) -> bool:
    """Whether two batches have the same content."""
    if isinstance(found, Tensor | np.ndarray):
        return type(found) is type(expected) and np.array_equal(np.asarray(found), np.asarray(expected))
    if is_dataclass(found):
        return all(_alike(getattr(found, f.name), getattr(expected, f.name)) for f in fields(found))
    if isinstance(found, Sequence) and not isinstance(found, str):
        return len(found) == len(expected) and all(map(_alike, found, expected))
    return bool(found == expected)


def _edges(graph: Graph) -> list[bytes]:
    relations = (graph.interactions, *graph.relations.values())
    return [column.tobytes() for r in relations for column in (r.src, r.dst, r.weight)]
