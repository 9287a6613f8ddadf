"""Score fusion: several models at once, their scores put on one scale and added.

    s_ui = Σ_m a_m (s_m(u, i) − μ_m(u)) / σ_m(u)

μ and σ are mean and standard deviation of model m's scores for this user, over the items that are not in the history:
sums of z-scores (CombSUM, Fox & Shaw 1994; the scale: Renda & Straccia 2003). A model that says the same of all items
adds nothing.

Closed forms are solved; models with gradients train side by side on the same batches, each by its own loss, and share
nothing, so that each ends as it would alone. Trained on a common loss the parts did worse: each learned only what the
others had left, from rows that a closed form has seen. Which epoch is best is decided for the sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from relrank.errors import InputError, did_you_mean, one_of
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Int32, Int64
from relrank.models.core import estimates
from relrank.models.core.base import (
    BATCH,
    ClosedForm,
    GridParameter,
    Recommender,
    Trained,
    history_rows,
    override_config,
    user_rows,
)
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import Positive, Seed
from relrank.models.core.space import Choice, Range


@dataclass(frozen=True, slots=True)
class ScoreFusionConfig:
    """Hyper-parameters of score fusion."""

    parts: dict[str, Any] = field(default_factory=lambda: {"ease": {}, "path-fusion": {}})
    """Names of models, and of each the hyper-parameters that are not its defaults. At least one has gradients."""
    shares: dict[str, Positive] = field(default_factory=dict)
    """a of every part that does not count 1."""
    seed: Seed = 0
    """Of parts that draw at random."""


@dataclass(frozen=True, slots=True)
class Batches:
    """The batch of every part with gradients, in their order."""

    of: tuple[Any, ...]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(tuple(batch.to(device) for batch in self.of))


class ScoreFusion(Trained):
    """Models whose scores are added."""

    name = "score-fusion"
    Config = ScoreFusionConfig
    relational = True
    featured = True
    kinds: ClassVar[Mapping[str, type[ClosedForm] | type[Trained]]] = {}
    """Models that there are, which the dict that holds this one, too, says."""

    def __init__(self, graph: Graph, config: ScoreFusionConfig | None = None) -> None:
        super().__init__(graph, config)
        self.check(graph, self.config)
        plain = replace(graph, features={})
        self.parts: dict[str, Recommender] = {}
        for name, (kind, own) in _parts(self.config).items():
            self.parts[name] = kind(graph if kind.uses_features(own) else plain, own)
        self._learning = {name: part for name, part in self.parts.items() if isinstance(part, Trained)}
        self.trained = nn.ModuleDict(self._learning)
        self._solved = False
        self.from_history = all(p.from_history for p in self.parts.values())
        self.ordered = any(p.ordered for p in self.parts.values())
        passes = [p.examples() for p in self._learning.values()]
        if any(not np.array_equal(a, b) for one in passes[1:] for a, b in zip(passes[0], one, strict=True)):
            raise InputError(
                "parts pass over different things in an epoch",
                where=self.name,
                expected="models of edges, or models of sequences",
                found=", ".join(self._learning),
            )

    def submodels(self) -> tuple[Recommender, ...]:
        """The parts: what one of them reads, with its weights."""
        return tuple(self.parts.values())

    @property
    def max_batch_fraction(self) -> float:  # type: ignore[override]
        """Of the part that bears the smallest share of the edges."""
        return min(p.max_batch_fraction for p in self._learning.values())

    @classmethod
    def validated_config(cls, graph: Graph, config: Any, where: str) -> Any:
        """Parts that do not exist, that cannot be, or of which nothing is learned are refused, too."""
        config = super().validated_config(graph, config, where)
        for name, (kind, own) in _parts(config, where).items():
            kind.validated_config(graph, own, f"{where}, parts.{name}")
        return config

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """Shares are of parts; these are two or more, of which one learns."""
        parts = _parts(config, where)
        for name in config.shares:
            if name not in parts:
                raise InputError(
                    "share of something that is no part",
                    where=f"{where}, shares",
                    expected=one_of(parts),
                    found=repr(name) + did_you_mean(name, parts),
                )
        learned = [name for name, (kind, _) in parts.items() if issubclass(kind, Trained)]
        for fits, expected in ((len(parts) > 1, "two models"), (learned, "one model with gradients")):
            if not fits:
                raise InputError(
                    "hyper-parameter is out of range",
                    where=f"{where}, parts",
                    expected=f"{expected} or more",
                    found=", ".join(parts) or "none",
                )

    @classmethod
    def named_weights(cls, config: Any) -> frozenset[str]:
        """What any part weighs."""
        return frozenset().union(*(kind.named_weights(own) for kind, own in _parts(config).values()))

    @classmethod
    def unused_weights(cls, graph: Graph, config: Any) -> frozenset[str]:
        """What any part weighs in vain."""
        return frozenset().union(*(kind.unused_weights(graph, own) for kind, own in _parts(config).values()))

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """What the parts need."""
        for kind, own in _parts(config).values():
            kind.check(graph, own)

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """What any part reads."""
        read = {name for kind, own in _parts(config).values() for name in kind.used_relations(graph, own)}
        return tuple(name for name in graph.relations if name in read)

    @classmethod
    def uses_features(cls, config: Any) -> bool:
        """Whether any part does."""
        return any(kind.uses_features(own) for kind, own in _parts(config).values())

    @classmethod
    def estimate(cls, graph: Graph, config: Any, batch: int = BATCH) -> Estimate:
        """Sums over the parts, and four blocks of scores more."""
        plain = replace(graph, features={})
        bytes_, dense, sparse = 4 * estimates.score_block(graph.n_items), 0.0, 0.0
        for kind, own in _parts(config).values():
            of = graph if kind.uses_features(own) else plain
            part = kind.estimate(of, own, batch) if issubclass(kind, Trained) else kind.estimate(of, own)
            bytes_, dense, sparse = bytes_ + part.bytes, dense + part.dense, sparse + part.sparse
        return Estimate(bytes_, dense, sparse)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """The learning rate: what the parts take is for their own search."""
        del graph
        return (Range("train.lr", 1e-3, 5e-2, log=True),)

    def init_weights(self, seed: int) -> None:
        """Every part as it starts alone; closed forms are solved."""
        for part in self._learning.values():
            part.init_weights(seed)
        self._solve()

    def _solve(self) -> None:
        """Once: the solution of a closed form follows from graph and configuration, so it is not saved either."""
        if not self._solved:
            for part in self.parts.values():
                if isinstance(part, ClosedForm):
                    part.solve()
        self._solved = True

    def examples(self) -> tuple[Int32, Int32]:
        """Those of the parts."""
        return next(iter(self._learning.values())).examples()

    def prepare(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> Batches:
        """A batch for every part, drawn as it would be alone."""
        of = []
        for part in self._learning.values():
            part.parallel = self.parallel
            alike = np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
            of.append(part.prepare(users, positives, alike))
        return Batches(tuple(of))

    def loss(self, batch: Batches) -> Tensor:
        """The sum of the parts' own losses."""
        losses = [part.loss(own) for part, own in zip(self._learning.values(), batch.of, strict=True)]
        return torch.stack(losses).sum()

    def refresh(self) -> None:
        """Every part is brought up to date."""
        for part in self._learning.values():
            part.refresh()

    def state(self) -> dict[str, Tensor]:
        """The parameters of the parts with gradients."""
        return {
            f"{name}.{key}": value for name, part in self._learning.items() for key, value in part.state().items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters, and solve what is not solved yet."""
        for name, part in self._learning.items():
            part.load_state({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})
        self._solve()

    def score(self, users: Tensor) -> Tensor:
        """The sum for known users."""
        seen = self.history.take(user_rows(users, self.graph.n_users))
        self._solve()
        return self._sum({name: part.score(users) for name, part in self.parts.items()}, seen)

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """The sum for new users."""
        seen = history_rows(histories, self.graph.n_items)
        self._solve()
        return self._sum({name: part.fold_in(histories) for name, part in self.parts.items()}, seen)

    def _sum(self, scores: dict[str, Tensor], seen: Csr) -> Tensor:
        total = torch.zeros(seen.n_rows, seen.n_cols)
        for name, of in scores.items():
            total += self.config.shares.get(name, 1.0) * z_scores(of.cpu(), seen)
        return total


def z_scores(scores: Tensor, seen: Csr) -> Tensor:
    """Scores with mean 0 and standard deviation 1 over the items outside each history; 0 where all are equal.

    Args:
        scores: float32 [n, n_items].
        seen: histories [n, n_items].
    """
    own = torch.from_numpy(seen.rows().astype(np.int64)), torch.from_numpy(seen.indices.astype(np.int64))
    outside = torch.from_numpy(seen.n_cols - seen.degrees()).clamp(min=1)[:, None]
    # from the first item outside on, so that equal scores are equal to their mean, whatever their size
    free = scores.new_ones(scores.shape).index_put(own, scores.new_tensor(0.0))
    apart = scores - scores.gather(1, free.argmax(1, keepdim=True))
    mean = (apart * free).sum(1, keepdim=True) / outside
    deviation = (((apart - mean) * free).square().sum(1, keepdim=True) / outside).sqrt()
    return torch.where(deviation > 0, (apart - mean) / deviation, torch.zeros_like(apart))


def _parts(
    config: ScoreFusionConfig, where: str = "score-fusion"
) -> dict[str, tuple[type[ClosedForm] | type[Trained], Any]]:
    """Class and configuration of every part."""
    found: dict[str, tuple[type[ClosedForm] | type[Trained], Any]] = {}
    others = [name for name in ScoreFusion.kinds if name != ScoreFusion.name]
    for name, overrides in config.parts.items():
        at = f"{where}, parts.{name}"
        if name not in others:
            raise InputError(
                "unknown model", where=at, expected=one_of(others), found=repr(name) + did_you_mean(name, others)
            )
        if not isinstance(overrides, dict):
            raise InputError(
                "part has no hyper-parameters", where=at, expected="a table, perhaps empty", found=repr(overrides)
            )
        kind = ScoreFusion.kinds[name]
        own = override_config(kind.Config(), overrides, at)
        drawn = "seed" in {f.name for f in fields(kind.Config)} and "seed" not in overrides
        found[name] = kind, replace(own, seed=config.seed) if drawn else own
    return found
