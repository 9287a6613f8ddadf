"""What a list lacks, so that it can be said: a history that tells the model something, or the relations of a user.

Without a history, or where all scores are equal, these would be a random order that looks like a recommendation: such
lists are popularity's, and marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from relrank.evaluation.ranking import TopK, top_k, top_k_from_histories
from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import described_type
from relrank.kernels.csr import Csr, Int32, Int64
from relrank.models import Recommender
from relrank.models.closed_form.baselines import Popularity
from relrank.models.core.base import history_rows

Mask = npt.NDArray[np.bool_]
AT_ONCE = 64
"""Users whose scores are looked at side by side."""


def popularity(graph: Graph) -> Popularity:
    """Items by the sum of their interactions' weights."""
    return Popularity(graph).solve()


def user_relations_read(model: Recommender) -> list[str]:
    """Relations of users that the model reads, which somebody with a history alone has not."""
    graph = model.graph
    read = {name for one in model.submodels() for name in _read(one)}
    return [name for name, r in graph.relations.items() if name in read and described_type(graph, r) == graph.user]


def unscorable_items(model: Recommender, unseen: int) -> Int32:
    """Of the last ``unseen`` items, which have no interactions, those of which the model knows nothing, ascending.

    It knows an item by a relation that it reads, with a weight above 0, or by a feature; a model of several parts by
    what any of them reads.
    """
    known = np.zeros(model.graph.n_items, np.bool_)
    known[: known.size - unseen] = True
    return _others(model, known)


def uninformative_items(model: Recommender) -> Int32:
    """Items of which the model knows nothing, ascending: likewise, but of all without training interactions.

    In a history they say nothing; vectors that no training has moved would say something at random.
    """
    interactions = model.graph.interactions
    return _others(model, interactions.degrees(model.graph.item, model.graph.n_items) > 0)


def _others(model: Recommender, known: Mask) -> Int32:
    """Items that are neither known already nor by what the model reads of them."""
    known = known.copy()
    for one in model.submodels() if not known.all() else ():
        graph = one.graph
        for name in _read(one):
            relation = graph.relations[name]
            if graph.item in (relation.source, relation.target) or described_type(graph, relation) == graph.item:
                known |= compose_relation(graph, relation).degrees(graph.item, graph.n_items) > 0
        if one.uses_features(one.config):
            for feature in graph.features_of(graph.item):
                known |= feature.known
    return np.flatnonzero(~known).astype(np.int32)


def _read(model: Recommender) -> list[str]:
    """Relations that the model reads, with weights above 0 where the configuration has some."""
    weights, default = getattr(model.config, "weights", {}), getattr(model.config, "weight", 1.0)
    return [name for name in type(model).used_relations(model.graph, model.config) if weights.get(name, default) != 0]


def top_k_with_fallback(
    model: Recommender, users: npt.NDArray[np.integer], seen: Csr, k: int, closed: Int32
) -> tuple[TopK, Mask]:
    """``top_k``, and popularity's lists for users of whom the model says nothing: which, bool [n_users]."""
    best = top_k(model, users, seen, k, excluded_items=closed)
    chosen = seen.take(users)
    silent = _has_constant_scores(
        best, chosen, closed, lambda rows: model.score(torch.from_numpy(users[rows].astype(np.int64)))
    )
    if silent.any():
        best = _with(best, silent, top_k(popularity(model.graph), users[silent], seen, k, excluded_items=closed))
    return best, silent


def history_top_k_with_fallback(
    model: Recommender, histories: Sequence[torch.Tensor], k: int, closed: Int32
) -> tuple[TopK, Mask]:
    """``top_k_from_histories`` likewise; nobody says anything of an empty history."""
    n_items = model.graph.n_items
    best = top_k_from_histories(model, histories, n_items, k, excluded_items=closed)
    seen = history_rows(histories, n_items)
    silent = _has_constant_scores(
        best, seen, closed, lambda rows: model.fold_in([histories[row] for row in rows.tolist()])
    )
    silent |= np.array([not history.numel() for history in histories], np.bool_)
    if silent.any():
        left = [histories[row] for row in np.flatnonzero(silent).tolist()]
        best = _with(
            best, silent, top_k_from_histories(popularity(model.graph), left, n_items, k, excluded_items=closed)
        )
    return best, silent


def _has_constant_scores(best: TopK, seen: Csr, closed: Int32, scores: Callable[[Int64], torch.Tensor]) -> Mask:
    """Whose candidates all have one score; asked of those alone whose list begins and ends at one."""
    n_listed = (best.items >= 0).sum(axis=1)
    rows = np.flatnonzero(n_listed > 0)
    rows = rows[best.scores[rows, 0] == best.scores[rows, n_listed[rows] - 1]].astype(np.int64)
    silent = np.zeros(len(best.items), np.bool_)
    for part in np.array_split(rows, -(-rows.size // AT_ONCE) or 1):
        if part.size:
            with torch.no_grad():
                found = scores(part).float().numpy(force=True)
            for row, values in zip(part.tolist(), found, strict=True):
                own = seen.indices[seen.indptr[row] : seen.indptr[row + 1]]
                others = np.delete(values, np.concatenate([own, closed]))
                silent[row] = others.min() == others.max()
    return silent


def _with(best: TopK, rows: Mask, others: TopK) -> TopK:
    items, scores = best.items.copy(), best.scores.copy()
    items[rows], scores[rows] = others.items, others.scores
    return replace(best, items=items, scores=scores)
