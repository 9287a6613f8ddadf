"""Markov chain: transition counts, summed over the latest items of a history.

    score(i) = Σ_{k < window} decay^k · P(i | s_{n−k}) + ε · n_i / max n,      P(j | i) = n_ij / Σ_j n_ij

n_ij counts how often j occurs at most ``reach`` positions after i in a training history, s_n is the latest item, and
n_i counts an item's interactions: items without a transition are ranked by popularity. ε is ``backoff`` times the
smallest contribution of a transition, so that popularity never outweighs one. With weighted interactions, a
transition has the weight of its later interaction, and n_i is a sum of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences, furthest
from relrank.kernels.csr import Csr
from relrank.kernels.dense_solve import products_by_row
from relrank.models.core import estimates
from relrank.models.core.base import ClosedForm, GridParameter, SequenceScorer, Shapes
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import Bounds, DropFraction, PositiveInt


@dataclass(frozen=True, slots=True)
class MarkovConfig:
    """Hyper-parameters of the Markov chain."""

    window: PositiveInt = 10
    """Latest items of a history that are read."""
    decay: Annotated[float, Bounds(0, 1, above=True)] = 0.5
    """Weight of an item divided by that of the next one."""
    reach: PositiveInt = 1
    """Largest distance, in positions, of a transition."""
    backoff: DropFraction = 0.5
    """Score of the most popular item, as a share of the smallest contribution of a transition."""


class Markov(SequenceScorer, ClosedForm):
    """Scores are transition probabilities summed over the latest items."""

    name = "markov"
    Config = MarkovConfig
    solution: ClassVar[Shapes] = {
        "indptr": ("starts",),
        "indices": ("entries",),
        "chances": ("entries",),
        "popularity": ("items",),
    }

    #: CSR of P, items by items; ``chances`` are its values
    indptr: Tensor
    indices: Tensor
    chances: Tensor
    #: n_i / max n, float32 [n_items]
    popularity: Tensor

    def __init__(self, graph: Graph, config: Any = None) -> None:
        super().__init__(graph, config)
        self.sequences = Sequences.from_graph(graph)

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Window, decay and reach."""
        del graph
        return (
            GridParameter("window", (1, 2, 3, 5, 10, 20), 10),
            GridParameter("decay", (0.1, 0.3, 0.5, 0.7, 0.9), 0.5),
            GridParameter("reach", (1, 2, 3, 5), 1),
        )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """64 bytes per pair of positions while equal pairs are summed, 40 per event; two score blocks.

        An event has ``reach`` pairs; a repeated interaction is several events.
        """
        n, users = graph.n_events, graph.interactions.src
        longest = int(np.bincount(users if graph.events is None else users[graph.events]).max(initial=1))
        pairs = n * min(int(config.reach), longest)
        return Estimate(
            max(64 * pairs + 40 * n, 8 * pairs + 2 * estimates.score_block(graph.n_items)), 0.0, 50 * pairs
        )

    def solve(self) -> Self:
        """Count transitions, distance by distance."""
        n, s = self.graph.n_items, self.sequences
        items, user = s.items.astype(np.int64), np.repeat(np.arange(s.n), s.lengths())
        edges = self.history.rows().astype(np.int64) * n + self.history.indices
        weights = self.history.data[np.searchsorted(edges, user * n + items)]
        pairs, pair_weights = [], []
        for distance in range(1, max(1, min(self.config.reach, int(s.lengths().max(initial=0)) - 1)) + 1):
            same = user[distance:] == user[:-distance]
            pairs.append((items[:-distance] * n + items[distance:])[same])
            pair_weights.append(weights[distance:][same])
        distinct, at = np.unique(np.concatenate(pairs), return_inverse=True)
        counts = np.bincount(at, weights=np.concatenate(pair_weights), minlength=distinct.size).astype(np.float64)
        source, target = np.divmod(distinct, n)
        total = np.bincount(source, weights=counts, minlength=n)
        p = Csr.from_pairs(source, target, (n, n), counts / total[source])
        self.indptr, self.indices, self.chances = map(torch.from_numpy, (p.indptr, p.indices, p.data))
        popularity = np.bincount(self.history.indices, weights=self.history.data, minlength=n)
        self.popularity = torch.from_numpy((popularity / max(popularity.max(), 1e-30)).astype(np.float32))
        return self

    def score_sequences(self, histories: Sequences) -> Tensor:
        """Transition scores; an empty history is ranked by popularity."""
        c, n = self.config, self.graph.n_items
        window = furthest(c.window, c.decay)
        latest = histories.decayed(n, window, c.decay)
        p = Csr(self.indptr.numpy(), self.indices.numpy(), self.chances.numpy(), n)
        least = float(self.chances.min()) * c.decay ** (window - 1) if p.nnz else 1.0
        scores: Tensor = torch.from_numpy(products_by_row(latest, p)) + c.backoff * least * self.popularity
        return scores
