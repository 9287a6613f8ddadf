"""BERT4Rec: a transformer that reads both ways and finds items that are hidden (Sun et al. 2019).

    x_t = √d · (m where hidden, q_{s_t} elsewhere) + p_{place(t)},      then SASRec's layers, each moment seeing all

In training some of a window's items are hidden, or, as it will be asked, the last one alone; in scoring a hidden item
is appended after the latest. What is hidden is nowhere in the input, so that its moment may see everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.graph.graph import Graph
from relrank.graph.sequences import Sequences
from relrank.kernels.csr import Int64
from relrank.models.core.base import GridParameter
from relrank.models.core.hyperparameters import OpenUnitInterval, UnitInterval
from relrank.models.core.sequence import Windows
from relrank.models.core.space import Choice, Range
from relrank.models.sequence.sasrec import SASRecConfig, Transformer


@dataclass(frozen=True, slots=True)
class BERT4RecConfig(SASRecConfig):
    """Hyper-parameters of BERT4Rec."""

    masked: OpenUnitInterval = 0.2
    """Share of a window's items that are hidden; at least one is, and one is not."""
    last: UnitInterval = 0.2
    """Share of windows in which the last item alone is hidden."""


class BERT4Rec(Transformer):
    """A transformer that reads both ways."""

    name = "bert4rec"
    Config = BERT4RecConfig
    causal = False

    def __init__(self, graph: Graph, config: BERT4RecConfig | None = None) -> None:
        super().__init__(graph, config)
        self.mask = nn.Parameter(torch.zeros(self.config.dim))

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """As for every model of sequences, and the share that is hidden."""
        return *super().space(graph), Range("masked", 0.1, 0.6)

    def init_encoder(self, generator: torch.Generator) -> None:
        """As SASRec's; the mask is like an item."""
        super().init_encoder(generator)
        self.mask.copy_(torch.randn(self.mask.shape, generator=generator) * self.config.init_scale)

    def windows(
        self, histories: Sequences, ends: Int64, rng: np.random.Generator
    ) -> tuple[Windows, npt.NDArray[np.int64]]:
        """Training windows that end at ``ends``, with some items hidden, and these items.

        ``lengths`` counts as in scoring: what there is before the last item.
        """
        c = self.config
        items, n_valid = histories.windows(c.window, ends)
        place = np.arange(items.shape[1])
        drawn = np.where(place < n_valid[:, None], rng.random(items.shape), 2)
        hidden = np.clip(np.rint(c.masked * n_valid), 1, np.maximum(n_valid - 1, 1))
        at = drawn.argsort(axis=1).argsort(axis=1) < hidden[:, None]
        at = np.where(rng.random(len(items))[:, None] < c.last, place == n_valid[:, None] - 1, at)
        target = items[at]
        items[at] = self.graph.n_items
        return Windows(*(torch.from_numpy(p) for p in (items, n_valid, ends - 1, at))), target

    def scoring_windows(self, histories: Sequences) -> Windows:
        """The latest items and a hidden one after them."""
        lengths = histories.lengths()
        items, n_valid = histories.windows(self.config.window - 1)
        items = np.pad(items, ((0, 0), (0, 1)))
        at = np.arange(items.shape[1]) == n_valid[:, None]
        items[at] = self.graph.n_items
        return Windows(*(torch.from_numpy(p) for p in (items, n_valid + 1, lengths, at)))

    def inputs(self, windows: Windows) -> Tensor:
        """The items' vectors; hidden ones have the mask's."""
        return functional.embedding(windows.items, torch.cat([self.table, self.mask[None]]))
