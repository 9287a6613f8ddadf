"""Models under other relation weights than the fitted ones: made once, one at a time, the latest few kept.

Relational EASE, sparse EASE and relational item-kNN are solved again: seconds for thousands of items, and the Gram
matrices of the first two stay in memory from the first time on. Sparse EASE and relational item-kNN of larger
catalogues cannot be adjusted: a solve takes minutes. Models whose relations have a weight each in one parameter
(relational LightGCN, XSimGCL, path fusion) share all others with the fitted one; only what follows from them is
computed anew.
"""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
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

Key = tuple[tuple[str, float], ...]
Module = TypeVar("Module", bound=nn.Module)
REFITTED_MODELS = (RelationalEASE, SparseEASE, RelationalItemKNN)
"""Closed forms with a weight per relation in their configuration."""


def get_relation_weights(model: Recommender) -> dict[str, float]:
    """The weight of every relation that the model reads, the interactions included where they have one."""
    if isinstance(model, REFITTED_MODELS):
        c, grid_parameters = model.config, (knob.name for knob in model.grid_parameters(model.graph))
        usable = (name.removeprefix("weights.") for name in grid_parameters if name.startswith("weights."))
        return {name: float(c.weights.get(name, c.weight)) for name in usable}
    return dict(getattr(model, "relation_weights", {}))


def adjustable(model: Recommender) -> bool:
    """Whether ``with_weights`` can move the weights of this model while somebody waits."""
    if isinstance(model, SparseEASE):
        return model.n_columns <= DENSE_COLUMNS and bool(get_relation_weights(model))
    if isinstance(model, RelationalItemKNN):
        return model.graph.n_items <= DENSE_COLUMNS and bool(get_relation_weights(model))
    return isinstance(model, RelationalEASE | RelationalLightGCN | PathFusion) and bool(get_relation_weights(model))


def with_weights(model: Recommender, weights: Mapping[str, float]) -> Recommender:
    """The same model with these weights; the relations that are not named keep theirs. The model itself stays.

    Args:
        model: one that is ``adjustable``.
        weights: by relation, 0 or more, all of them in ``get_relation_weights``.
    """
    if isinstance(model, REFITTED_MODELS):
        config = replace(model.config, weights={**model.config.weights, **weights})
        return type(model)(model.graph, config).solve()
    assert isinstance(model, RelationalLightGCN | PathFusion)
    raw = inverse_softplus(
        torch.tensor([weights.get(name, old) for name, old in get_relation_weights(model).items()])
    )
    changed = _sharing(model)
    if isinstance(changed, PathFusion):
        changed.paths = _sharing(changed.paths)
        changed.paths.raw = nn.Parameter(raw, requires_grad=False)
    else:
        changed.raw_weights = nn.Parameter(raw, requires_grad=False)
        changed.refresh()
    return changed


def _sharing(module: Module) -> Module:
    """A module with the same parameters, any of which may be replaced without touching the other."""
    other = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        other.__dict__[name] = dict(module.__dict__[name])
    return other


class ReweightedModels:
    """The models under other weights of one fitted model.

    Args:
        model: the fitted one, ``adjustable``.
        limits: how many are kept, and how many questions may wait.
    """

    def __init__(self, model: Recommender, limits: Limits) -> None:
        self._model, self._limits = model, limits
        self._cache: OrderedDict[Key, Recommender] = OrderedDict()
        self._solve_lock, self._cache_lock = threading.Lock(), threading.Lock()
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._cache)

    def get(self, weights: Mapping[str, float]) -> Recommender:
        """The model under these weights, named in full; made if it is not there yet.

        Raises:
            RequestError: too many questions wait already.
        """
        key = tuple(sorted(weights.items()))
        if (found := self.find(key)) is not None:
            return found
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
                if (found := self.find(key)) is not None:  # whoever came first has made it
                    return found
                made = with_weights(self._model, weights)
                with self._cache_lock:
                    self._cache[key] = made
                    most = max(1, min(self._limits.variants, self._limits.variant_bytes // max(_bytes(made), 1)))
                    while len(self._cache) > most:
                        self._cache.popitem(last=False)
                return made
        finally:
            with self._cache_lock:
                self._waiting -= 1

    def find(self, key: Key) -> Recommender | None:
        """The model under these weights, sorted by name, if it is kept."""
        with self._cache_lock:
            if key in self._cache:
                self._cache.move_to_end(key)
            return self._cache.get(key)


def _bytes(model: Recommender) -> int:
    """What a variant holds for itself alone."""
    if isinstance(model, RelationalEASE):
        return model.item_weights.nbytes
    if isinstance(model, SparseLinear):
        return sum(tensor.nbytes for tensor in model.state().values())
    own = (getattr(model, name, None) for name in ("_users", "_items", "_gathered"))
    return sum(tensor.nbytes for tensor in own if isinstance(tensor, torch.Tensor))
