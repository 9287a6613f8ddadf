"""Fallback to popularity for users about whom a model knows nothing, and the inputs that a model lacks.

With an empty history, or if all scores are equal, a list would be a random order that looks like a recommendation.
Such lists are replaced by the most popular items and marked.
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
from relrank.kernels.csr import Csr, Float32, Int32, Int64
from relrank.models import Recommender
from relrank.models.closed_form.baselines import Popularity
from relrank.models.core.base import history_rows

Mask = npt.NDArray[np.bool_]
AT_ONCE = 64
"""Users whose scores are computed at once."""


def popularity(graph: Graph) -> Popularity:
    """A model that ranks items by the sum of their interactions' weights."""
    return Popularity(graph).solve()


def user_relations_read(model: Recommender) -> list[str]:
    """Relations of users that the model uses, which are missing for a user with only a history."""
    graph = model.graph
    used = {name for submodel in model.submodels() for name in _used_relations(submodel)}
    return [name for name, r in graph.relations.items() if name in used and described_type(graph, r) == graph.user]


def unscorable_items(model: Recommender, unseen: int) -> Int32:
    """Items without interactions that the model cannot score, ascending; the last ``unseen`` have no interactions.

    A model can score such an item if it, or one of its submodels, uses a relation or a feature of the item.
    """
    known = np.zeros(model.graph.n_items, np.bool_)
    known[: known.size - unseen] = True
    return _unknown_items(model, known)


def uninformative_items(model: Recommender) -> Int32:
    """Items without training interactions, relations or features that the model uses, ascending.

    A history of such items carries no information: their vectors are untrained, hence random.
    """
    interactions = model.graph.interactions
    return _unknown_items(model, interactions.degrees(model.graph.item, model.graph.n_items) > 0)


def _unknown_items(model: Recommender, known: Mask) -> Int32:
    """Items that are not ``known`` and have no relation or feature that the model uses, ascending."""
    known = known.copy()
    for submodel in model.submodels() if not known.all() else ():
        graph = submodel.graph
        for name in _used_relations(submodel):
            relation = graph.relations[name]
            if graph.item in (relation.source, relation.target) or described_type(graph, relation) == graph.item:
                known |= compose_relation(graph, relation).degrees(graph.item, graph.n_items) > 0
        if submodel.uses_features(submodel.config):
            for feature in graph.features_of(graph.item):
                known |= feature.known
    return np.flatnonzero(~known).astype(np.int32)


def _used_relations(model: Recommender) -> list[str]:
    """Relations that the model uses, without those of weight 0."""
    weights, default = getattr(model.config, "weights", {}), getattr(model.config, "weight", 1.0)
    return [name for name in type(model).used_relations(model.graph, model.config) if weights.get(name, default) != 0]


def top_k_with_fallback(
    model: Recommender, users: npt.NDArray[np.integer], seen: Csr, k: int, excluded_items: Int32
) -> tuple[TopK, Mask]:
    """``top_k``, with popularity lists for users whose scores are constant: which ones, bool [n_users]."""
    best = top_k(model, users, seen, k, excluded_items=excluded_items)
    fallback = _has_constant_scores(
        best,
        seen.take(users),
        excluded_items,
        lambda rows: model.score(torch.from_numpy(users[rows].astype(np.int64))),
    )
    if fallback.any():
        popular = top_k(popularity(model.graph), users[fallback], seen, k, excluded_items=excluded_items)
        best = _with_rows(best, fallback, popular)
    return best, fallback


def history_top_k_with_fallback(
    model: Recommender, histories: Sequence[torch.Tensor], k: int, excluded_items: Int32
) -> tuple[TopK, Mask]:
    """``top_k_from_histories``, with popularity lists for constant scores and empty histories: which ones."""
    n_items = model.graph.n_items
    best = top_k_from_histories(model, histories, n_items, k, excluded_items=excluded_items)
    fallback = _has_constant_scores(
        best,
        history_rows(histories, n_items),
        excluded_items,
        lambda rows: model.fold_in([histories[row] for row in rows.tolist()]),
    )
    fallback |= np.array([not history.numel() for history in histories], np.bool_)
    if fallback.any():
        some = [histories[row] for row in np.flatnonzero(fallback).tolist()]
        popular = top_k_from_histories(popularity(model.graph), some, n_items, k, excluded_items=excluded_items)
        best = _with_rows(best, fallback, popular)
    return best, fallback


def _has_constant_scores(
    best: TopK, seen: Csr, excluded_items: Int32, score: Callable[[Int64], torch.Tensor]
) -> Mask:
    """Users whose candidates all have the same score; only checked if a list's first and last score are equal."""
    n_listed = (best.items >= 0).sum(axis=1)
    rows = np.flatnonzero(n_listed > 0)
    rows = rows[best.scores[rows, 0] == best.scores[rows, n_listed[rows] - 1]].astype(np.int64)
    constant = np.zeros(len(best.items), np.bool_)
    for part in np.array_split(rows, -(-rows.size // AT_ONCE) or 1):
        if part.size:
            with torch.no_grad():
                scores = score(part).float().numpy(force=True)
            for row, values in zip(part.tolist(), scores, strict=True):
                history = seen.indices[seen.indptr[row] : seen.indptr[row + 1]]
                constant[row] = is_constant(values, np.concatenate([history, excluded_items]))
    return constant


def is_constant(scores: Float32, excluded: npt.NDArray[np.integer]) -> bool:
    """Whether all items but the excluded rows have the same score; False if there are none."""
    candidates = np.delete(scores, excluded)
    return bool(candidates.size and candidates.min() == candidates.max())


def _with_rows(best: TopK, rows: Mask, others: TopK) -> TopK:
    items, scores = best.items.copy(), best.scores.copy()
    items[rows], scores[rows] = others.items, others.scores
    return replace(best, items=items, scores=scores)
