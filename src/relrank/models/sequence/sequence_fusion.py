"""SASRec over mixtures of free item vectors and vectors from a graph of items.

    x_i = α e_i + (1 − α) g_i,      g = encoder(graph of items),      score(i) = h_t · x_i

α depends on the history (``relrank.models.sequence.fusion_weight``): short histories may rely on the graph, long ones
on free vectors. It is the same for all positions of a history, and so reveals to an early position how many items
follow, but not which. Inputs and outputs use the same mixture, except that a gate has one α per position. The mixed
table is never computed: the score is ``(α h) · e_i + ((1 − α) h) · g_i``. Both kinds of vectors start with the same
mean length, so that α = ½ weighs them equally. On an arm without relations among items the model is SASRec.

The graph's vectors may first be trained on the graph alone, and may then be frozen; freezing an untrained encoder is
an error.
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
from relrank.graph.histories import LENGTH_BOUNDS, LENGTH_GROUPS
from relrank.graph.relation_chains import within_layers
from relrank.kernels.csr import Int64
from relrank.models.core.hyperparameters import NonNegativeInt, OpenUnitInterval, Positive, PositiveInt
from relrank.models.core.search_dimensions import Choice, Range
from relrank.models.core.sequence_model import SCORING_BATCH_SIZE, Windows
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
    """Hyper-parameters of the fusion, in addition to those of SASRec."""

    similarity: Literal["dot"] = "dot"
    """Dot products only: a cosine would be that of the concatenated parts, not of their mixture."""
    mixing: MixingName = "continuous"
    """How α depends on the history."""
    alpha: OpenUnitInterval = 0.5
    """Initial α, the weight of the free vectors; constant if ``mixing`` is fixed."""
    short_alpha: OpenUnitInterval = 0.3
    """α of histories of up to 10 items, if ``mixing`` is discrete."""
    medium_alpha: OpenUnitInterval = 0.5
    """α of 11 to 50 items, if ``mixing`` is discrete."""
    long_alpha: OpenUnitInterval = 0.7
    """α of longer histories, if ``mixing`` is discrete."""
    encoder: EncoderName = "lightgcn"
    """Encoder of the graph: LightGCN, or attention."""
    graph_layers: PositiveInt = 2
    """Layers of the encoder."""
    pretrain: NonNegativeInt = 0
    """Steps in which the encoder is first trained to predict the graph's edges."""
    pretrain_lr: Positive = 0.02
    """Adam's learning rate in these steps."""
    freeze: bool = False
    """Whether the encoder is frozen afterwards."""


class SequenceFusion(Transformer):
    """A causal transformer over mixtures of free vectors and vectors from a graph."""

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
        """As for every transformer; a frozen encoder must be pretrained."""
        super().check_config(config, where)
        if config.freeze and not config.pretrain:
            raise InputError(
                "frozen encoder would keep its random initial vectors",
                where=f"{where}, freeze",
                expected="pretrain above 0, or freeze = false",
                found="pretrain = 0",
            )

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Relations that reach an item without passing a user, within the layers of the encoder.

        A pretrained encoder has learned from all relations of the item graph.
        """
        config, relations = config or cls.Config(), userless_relations(graph)
        if config.pretrain:
            return tuple(relations)
        return within_layers(graph, relations, (graph.item,), int(config.graph_layers))

    @classmethod
    def space(cls, graph: Graph) -> tuple[Any, ...]:
        """That of every sequence model; with a graph of items, also α and the encoder."""
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
        """As for SASRec; α at its initial value; the graph's encoder, perhaps pretrained."""
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

    def alpha(self, windows: Windows, e: Tensor) -> Tensor:
        """α [b, 1, 1] of each window's history, or [b, L, 1] of each position.

        A gate reads the mean of the free vectors e up to the position.
        """
        states = None
        if self.config.mixing == "gated":
            steps = torch.arange(1, e.shape[1] + 1, device=e.device)[:, None]
            states = functional.normalize(e.cumsum(1) / steps, dim=2)
        alpha: Tensor = self.mixing(windows.lengths, states)
        return (alpha if alpha.dim() == 3 else alpha[:, None]).to(e.dtype)

    def target_states(self, windows: Windows, items: Tensor, generator: torch.Generator | None) -> Tensor:
        """``[α h, (1 − α) h]`` of the target positions."""
        if self.vectors is None:
            return super().target_states(windows, items, generator)
        e, g = self.inputs(windows), items[:, self.config.dim :]
        alpha = self.alpha(windows, e)
        x = alpha * e + (1 - alpha) * functional.embedding(windows.items, g)
        h = self.states(x, windows, generator)[windows.at]
        alpha_at = alpha.expand(*windows.items.shape, 1)[windows.at]
        return torch.cat([alpha_at * h, (1 - alpha_at) * h], dim=1)

    def outputs(self) -> Tensor:
        """``[e_i, g_i]`` of all items."""
        return self.table if self.vectors is None else torch.cat([self.table, self.vectors()], dim=1)

    @property
    def alpha_by_length(self) -> dict[str, dict[str, float]]:
        """α of the training histories by length: mean, standard deviation and count of each group."""
        if self.vectors is None:
            return {}
        lengths = self.sequences.lengths()
        values = self._alphas(np.flatnonzero(lengths > 0))
        groups = np.searchsorted(LENGTH_BOUNDS, lengths[lengths > 0])
        return {
            name: {"mean": float(alpha.mean()), "sd": float(alpha.std()), "count": alpha.size}
            for number, name in enumerate(LENGTH_GROUPS)
            if (alpha := values[groups == number]).size
        }

    @torch.no_grad()
    def _alphas(self, users: Int64) -> np.ndarray[Any, Any]:
        """α at the last position of each user's history."""
        alphas = []
        for first in range(0, users.size, SCORING_BATCH_SIZE):
            windows = self.scoring_windows(self.sequences.take(users[first : first + SCORING_BATCH_SIZE])).to(
                self.table.device
            )
            alpha = self.alpha(windows, self.inputs(windows)).expand(*windows.items.shape, 1)
            alphas.append(alpha[windows.at][:, 0].double().cpu().numpy())
        return np.concatenate(alphas)
