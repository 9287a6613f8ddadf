"""Models under relation weights that differ from the fitted ones, computed one at a time and cached.

Relational EASE, sparse EASE and relational item-kNN are solved again: seconds for thousands of items; the Gram
matrices of the first two stay in memory after the first solve. Sparse EASE and relational item-kNN of larger
catalogues cannot be adjusted, since a solve takes minutes. Models with one parameter per relation weight (relational
LightGCN, XSimGCL, path fusion) share all other parameters with the fitted model.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from relrank.models import Recommender
from relrank.models.closed_form.relational_ease import RelationalEASE
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN
from relrank.models.closed_form.sparse_ease import DENSE_COLUMNS, SparseEASE
from relrank.models.core.layers import inverse_softplus
from relrank.models.core.sparse_linear import SparseLinear
from relrank.models.graph.lightgcn import RelationalLightGCN
from relrank.models.graph.path_fusion import PathFusion
from relrank.serve.limits import Limits, RequestError


@dataclass(frozen=True, slots=True)
class WeightUnit:
    """What the relation weights of a model count.

    Attributes:
        name: after a number.
        meaning: what a weight does, and what happens when it changes.
    """

    name: str
    meaning: str


Key = tuple[tuple[str, float], ...]
Module = TypeVar("Module", bound=nn.Module)
REFITTED_MODELS = (RelationalEASE, SparseEASE, RelationalItemKNN)
"""Closed-form models that are solved again; their configuration has a weight per relation."""


def get_relation_weights(model: Recommender) -> dict[str, float]:
    """The weight of every relation that the model uses, including the interactions if they have one."""
    if isinstance(model, REFITTED_MODELS):
        c, grid_parameters = model.config, (knob.name for knob in model.grid_parameters(model.graph))
        usable = (name.removeprefix("weights.") for name in grid_parameters if name.startswith("weights."))
        return {name: float(c.weights.get(name, c.weight)) for name in usable}
    return dict(getattr(model, "relation_weights", {}))


def adjustable(model: Recommender) -> bool:
    """Whether ``with_weights`` can change the weights of this model within a request."""
    if isinstance(model, SparseEASE):
        is_quick = model.n_columns <= DENSE_COLUMNS
    elif isinstance(model, RelationalItemKNN):
        is_quick = model.graph.n_items <= DENSE_COLUMNS
    else:
        is_quick = isinstance(model, RelationalEASE | RelationalLightGCN | PathFusion)
    return is_quick and bool(get_relation_weights(model))


def weight_unit(model: Recommender) -> WeightUnit:
    """The unit of the relation weights of a model that is ``adjustable``."""
    if isinstance(model, PathFusion):
        return WeightUnit(
            "points of score",
            "The weight is what the relation adds to the score of an item that it reaches by an average number of "
            "paths. The trained vectors stay as they are.",
        )
    if isinstance(model, RelationalLightGCN):
        return WeightUnit(
            "times the interactions",
            "The weight is that of the relation in propagation, where the interactions have 1. The trained vectors "
            "stay as they are and are propagated again.",
        )
    return WeightUnit(
        "pseudo-users",
        "At weight w, two items with the same links count as if w more users had chosen both. The model is solved "
        "again, from the same interactions.",
    )


def with_weights(model: Recommender, weights: Mapping[str, float]) -> Recommender:
    """A copy of the model with these weights, other relations as fitted; the model itself does not change.

    Args:
        model: one that is ``adjustable``.
        weights: by relation, at least 0; all relations are in ``get_relation_weights``.
    """
    if isinstance(model, REFITTED_MODELS):
        config = replace(model.config, weights={**model.config.weights, **weights})
        return type(model)(model.graph, config).solve()
    assert isinstance(model, RelationalLightGCN | PathFusion)
    raw = inverse_softplus(
        torch.tensor([weights.get(name, old) for name, old in get_relation_weights(model).items()])
    )
    variant = _shallow_copy(model)
    if isinstance(variant, PathFusion):
        variant.paths = _shallow_copy(variant.paths)
        variant.paths.raw = nn.Parameter(raw, requires_grad=False)
    else:
        variant.raw_weights = nn.Parameter(raw, requires_grad=False)
        variant.refresh()
    return variant


def _shallow_copy(module: Module) -> Module:
    """A module that shares all parameters; replacing one in the copy does not change the original."""
    other = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        other.__dict__[name] = dict(module.__dict__[name])
    return other


class ReweightedModels:
    """A cache of one fitted model under other weights.

    Args:
        model: the fitted one, ``adjustable``.
        limits: size of the cache, and how many requests may wait.
    """

    def __init__(self, model: Recommender, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._cache: OrderedDict[Key, Recommender] = OrderedDict()
        self._solve_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, weights: Mapping[str, float]) -> Recommender:
        """The model under these weights, those of all relations; computed if it is not cached.

        Raises:
            RequestError: too many requests wait already.
        """
        key = tuple(sorted(weights.items()))
        if (cached := self._find(key)) is not None:
            return cached
        with self._cache_lock:
            if self._waiting >= self._limits.waiting:
                raise RequestError(
                    503,
                    "too many relation weights at once",
                    where="weights",
                    expected=f"at most {self._limits.waiting} that wait",
                    found=f"{self._waiting} waiting",
                )
            self._waiting += 1
        try:
            with self._solve_lock:
                if (cached := self._find(key)) is not None:  # an earlier request has computed it
                    return cached
                variant = with_weights(self._model, weights)
                capacity = self._limits.variant_bytes // max(_own_bytes(variant), 1)
                with self._cache_lock:
                    self._cache[key] = variant
                    while len(self._cache) > max(1, min(self._limits.variants, capacity)):
                        self._cache.popitem(last=False)
                return variant
        finally:
            with self._cache_lock:
                self._waiting -= 1

    def _find(self, key: Key) -> Recommender | None:
        """The cached model under these weights, sorted by name."""
        with self._cache_lock:
            if key in self._cache:
                self._cache.move_to_end(key)
            return self._cache.get(key)


def _own_bytes(model: Recommender) -> int:
    """Memory of the tensors that a model does not share with the fitted one."""
    if isinstance(model, RelationalEASE):
        return model.item_weights.nbytes
    if isinstance(model, SparseLinear):
        return sum(tensor.nbytes for tensor in model.state().values())
    derived = (getattr(model, name, None) for name in ("_users", "_items", "_gathered"))
    return sum(tensor.nbytes for tensor in derived if isinstance(tensor, torch.Tensor))
