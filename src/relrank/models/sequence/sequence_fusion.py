"""SASRec over items that are mixtures: their own vectors and those that a graph of items gives them.

    x_i = α e_i + (1 − α) g_i,      g = encoder(graph of items),      score(i) = h_t · x_i

α belongs to a history (``relrank.models.sequence.fusion_weight``): a short one may lean on the graph, a long one on
its own vectors. It is one for all moments of a history, and so tells an early moment how many follow, never which.
The table that is read and the table that is scored are one and the same; under a gate, which knows each moment alone,
an input keeps the mixture of its own moment. The table is never made: the product with it is ``(α h) · e_i + ((1 − α)
h) · g_i``. Both sides start at one length, so that α = ½ is half and half. On an arm without relations among items
there is nothing to mix, and the model is SASRec.

Vectors of the graph may first be trained on the graph alone, and may then be frozen; a frozen encoder that was never
trained is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import within_layers
from relrank.graph.sequences import LENGTH_BOUNDS, LENGTH_GROUPS
from relrank.kernels.csr import Int64
from relrank.models.core.hyperparameters import NonNegativeInt, OpenUnitInterval, Positive, PositiveInt
from relrank.models.core.sequence import SCORING_BATCH_SIZE, Windows
from relrank.models.core.space import Choice, Range
from relrank.models.sequence.fusion_weight import make_fusion_weight
from relrank.models.sequence.item_graph import (
    EncoderName,
    ItemGraphEncoder,
    item_graph,
    make_item_encoder,
    userless_relations,
)
from relrank.models.sequence.sasrec import SASRecConfig, Transformer

MixingName = Literal["fixed", "discrete", "per-bin", "continuous", "piecewise", "gated"]


@dataclass(frozen=True, slots=True)
class SequenceFusionConfig(SASRecConfig):
    """Hyper-parameters of the fusion; those of SASRec beside them."""

    similarity: Literal["dot"] = "dot"
    """A cosine would be that of the two parts side by side, and not of their mixture."""
    mixing: MixingName = "continuous"
    """How α depends on a history."""
    alpha: OpenUnitInterval = 0.5
    """Where α starts, and stays if it is fixed: the share of an item's own vector."""
    short_alpha: OpenUnitInterval = 0.3
    """α of histories up to 10 items, if it is discrete."""
    medium_alpha: OpenUnitInterval = 0.5
    """α of 11 to 50 items, if it is discrete."""
    long_alpha: OpenUnitInterval = 0.7
    """α of longer histories, if it is discrete."""
    encoder: EncoderName = "lightgcn"
    """What makes vectors of the graph: LightGCN, or attention."""
    graph_layers: PositiveInt = 2
    """Its steps along edges."""
    pretrain: NonNegativeInt = 0
    """Steps in which the graph's vectors are first trained to predict the graph's own edges."""
    pretrain_lr: Positive = 0.02
    """Adam's learning rate there."""
    freeze: bool = False
    """Whether the graph's vectors then stay as they are."""


class SequenceFusion(Transformer):
    """A causal transformer over mixtures of own vectors and a graph's."""

    name = "sequence-fusion"
    Config = SequenceFusionConfig
    relational = True

    def __init__(self, graph: Graph, config: SequenceFusionConfig | None = None) -> None:
        super().__init__(graph, config)
        c = self.config
        self.vectors: ItemGraphEncoder | None = None
        self.mixing = make_fusion_weight(c.mixing, c.alpha, (c.short_alpha, c.medium_alpha, c.long_alpha), c.dim)
        if userless_relations(graph):
            self.vectors = make_item_encoder(c.encoder, item_graph(graph), c.dim, c.graph_layers, c.heads)
            self.vectors.requires_grad_(not c.freeze)
        else:
            self.mixing.requires_grad_(False)

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """As for every transformer; vectors that stay as they are have been trained before."""
        super().check_config(config, where)
        if config.freeze and not config.pretrain:
            raise InputError(
                "vectors would stay at their random start",
                where=f"{where}, freeze",
                expected="pretrain above 0, or freeze = false",
                found="pretrain = 0",
            )

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Those that lead to an item without passing a user, within the layers of the graph's encoder.

        Vectors that are first trained on the graph's own edges have learned from all of them.
        """
        config, near = config or cls.Config(), userless_relations(graph)
        return tuple(near) if config.pretrain else within_layers(graph, near, (graph.item,), int(config.graph_layers))

    @classmethod
    def space(cls, graph: Graph) -> tuple[Any, ...]:
        """As for every model of sequences; how α starts, and the graph's encoder, where there is a graph of items."""
        if not userless_relations(graph):
            return super().space(graph)
        return (
            *super().space(graph),
            Choice("mixing", get_args(MixingName)),
            Range("alpha", 0.1, 0.9),
            Choice("encoder", get_args(EncoderName)),
            Range("graph_layers", 1, 4),
        )

    def init_encoder(self, generator: torch.Generator) -> None:
        """SASRec's; α at its start; the graph's vectors normal, or trained on the graph."""
        super().init_encoder(generator)
        self.mixing.reset()
        if self.vectors is None:
            return
        c = self.config
        self.vectors.reset(generator, c.init_scale)
        if c.pretrain:
            word = int(torch.randint(2**31, (1,), generator=generator))
            with torch.enable_grad():
                self.vectors.requires_grad_(True)
                self.vectors.pretrain(c.pretrain, c.pretrain_lr, np.random.SeedSequence(word))
                self.vectors.requires_grad_(not c.freeze)
        self.vectors.rescale(c.init_scale * c.dim**0.5)

    def alpha(self, windows: Windows, own: Tensor) -> Tensor:
        """α [b, 1, 1] of each window's history, or [b, L, 1] of each moment.

        A gate reads the mean of the items' own vectors up to the moment, and no later one.
        """
        states = None
        if self.config.mixing == "gated":
            steps = torch.arange(1, own.shape[1] + 1, device=own.device)[:, None]
            states = functional.normalize(own.cumsum(1) / steps, dim=2)
        alpha: Tensor = self.mixing(windows.lengths, states)
        return (alpha if alpha.dim() == 3 else alpha[:, None]).to(own.dtype)

    def target_states(self, windows: Windows, items: Tensor, generator: torch.Generator | None) -> Tensor:
        """``[α h, (1 − α) h]`` of the moments that are asked for."""
        if self.vectors is None:
            return super().target_states(windows, items, generator)
        own = self.inputs(windows)
        alpha = self.alpha(windows, own)
        mixed = alpha * own + (1 - alpha) * functional.embedding(windows.items, items[:, self.config.dim :])
        states = self.states(mixed, windows, generator)[windows.at]
        share = alpha.expand(*windows.items.shape, 1)[windows.at]
        return torch.cat([share * states, (1 - share) * states], dim=1)

    def outputs(self) -> Tensor:
        """``[e_i, g_i]`` of all items."""
        return self.table if self.vectors is None else torch.cat([self.table, self.vectors()], dim=1)

    @property
    def alpha_by_length(self) -> dict[str, dict[str, float]]:
        """α of the training histories by true length: mean, standard deviation and count of each group."""
        if self.vectors is None:
            return {}
        lengths = self.sequences.lengths()
        values = self._alphas(np.flatnonzero(lengths > 0))
        groups = np.searchsorted(LENGTH_BOUNDS, lengths[lengths > 0])
        return {
            name: {"mean": float(own.mean()), "sd": float(own.std()), "count": own.size}
            for number, name in enumerate(LENGTH_GROUPS)
            if (own := values[groups == number]).size
        }

    @torch.no_grad()
    def _alphas(self, users: Int64) -> np.ndarray[Any, Any]:
        """α in the last moment of each user's history."""
        found = []
        for first in range(0, users.size, SCORING_BATCH_SIZE):
            windows = self.scoring_windows(self.sequences.take(users[first : first + SCORING_BATCH_SIZE])).to(
                self.table.device
            )
            alpha = self.alpha(windows, self.inputs(windows)).expand(*windows.items.shape, 1)
            found.append(alpha[windows.at][:, 0].double().cpu().numpy())
        return np.concatenate(found)
