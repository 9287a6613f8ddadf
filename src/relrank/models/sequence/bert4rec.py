"""BERT4Rec: a bidirectional transformer that predicts masked items (Sun et al. 2019).

    x_t = √d · (m if masked, else q_{s_t}) + p_{pos(t)},      then SASRec's layers without the causal mask

In training a share of a window's items is masked, or the last one alone, as in scoring, where a masked item is
appended after the latest.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences
from relrank.kernels.csr import Int64
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import AlwaysZero, OpenUnitInterval, UnitInterval
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.sequence_model import Windows
from relrank.models.sequence.sasrec import SASRecConfig, Transformer


@dataclass(frozen=True, slots=True)
class BERT4RecConfig(SASRecConfig):
    """Hyper-parameters of BERT4Rec."""

    filter_share: AlwaysZero = 0.0
    """Not available: the filter reads earlier items only, and BERT4Rec reads both sides."""
    masked: OpenUnitInterval = 0.2
    """Share of a window's items that are masked; at least one is, and at least one is not."""
    last: UnitInterval = 0.2
    """Share of windows in which only the last item is masked."""


class BERT4Rec(Transformer):
    """A bidirectional transformer; ``mask`` is m, the vector of a masked item."""

    name = "bert4rec"
    Config = BERT4RecConfig
    causal = False

    def __init__(self, graph: Graph, config: BERT4RecConfig | None = None) -> None:
        super().__init__(graph, config)
        self.mask = nn.Parameter(torch.zeros(self.config.dim))

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """That of every sequence model, and the share of masked items."""
        return *super().space(graph), Range("masked", 0.1, 0.6)

    def init_encoder(self, generator: torch.Generator) -> None:
        """As for SASRec; the mask is initialised like an item."""
        super().init_encoder(generator)
        self.mask.copy_(torch.randn(self.mask.shape, generator=generator) * self.config.init_scale)

    def windows(
        self, histories: Sequences, ends: Int64, rng: np.random.Generator
    ) -> tuple[Windows, npt.NDArray[np.int64]]:
        """Training windows that end at ``ends``, with some items masked, and these items.

        ``lengths`` counts as in scoring: the items before the last one.
        """
        c = self.config
        items, n_valid = histories.windows(c.window, ends)
        position = np.arange(items.shape[1])
        drawn = np.where(position < n_valid[:, None], rng.random(items.shape), 2)
        n_masked = np.clip(np.rint(c.masked * n_valid), 1, np.maximum(n_valid - 1, 1))
        at = drawn.argsort(axis=1).argsort(axis=1) < n_masked[:, None]
        at = np.where(rng.random(len(items))[:, None] < c.last, position == n_valid[:, None] - 1, at)
        target = items[at]
        items[at] = self.graph.n_items
        return Windows(*(torch.from_numpy(p) for p in (items, n_valid, ends - 1, at))), target

    def scoring_windows(self, histories: Sequences) -> Windows:
        """The latest items, followed by a masked one."""
        lengths = histories.lengths()
        items, n_valid = histories.windows(self.config.window - 1)
        items = np.pad(items, ((0, 0), (0, 1)))
        at = np.arange(items.shape[1]) == n_valid[:, None]
        items[at] = self.graph.n_items
        return Windows(*(torch.from_numpy(p) for p in (items, n_valid + 1, lengths, at)))

    def inputs(self, windows: Windows) -> Tensor:
        """Vectors of the items; m for masked ones."""
        return functional.embedding(windows.items, torch.cat([self.table, self.mask[None]]))
