"""Score fusion: a weighted sum of the standardised scores of several models.

    s_ui = Σ_m a_m (s_m(u, i) − μ_m(u)) / σ_m(u)

μ and σ are mean and standard deviation of model m's scores for the user, over the items outside the history: sums of
z-scores (CombSUM, Fox & Shaw 1994; standardised: Renda & Straccia 2003). A model with equal scores adds nothing.

Closed forms are solved; gradient models train on the same batches with their own losses and share nothing, so each
ends as it would alone. With a common loss the parts did worse: each learned only the residual of the others, on rows
that a closed form had been fitted to. The best epoch is chosen for the fused scores.
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
    entries,
    history_rows,
    override_config,
    user_rows,
)
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import Positive, Seed
from relrank.models.core.search_dimensions import Choice, Range


@dataclass(frozen=True, slots=True)
class ScoreFusionConfig:
    """Hyper-parameters of score fusion."""

    parts: dict[str, Any] = field(default_factory=lambda: {"ease": {}, "path-fusion": {}})
    """Hyper-parameters of each part by model name; others keep their defaults. At least one part is trained."""
    shares: dict[str, Positive] = field(default_factory=dict)
    """a per part; 1 by default."""
    seed: Seed = 0
    """Seed of parts that have one and do not set it."""


@dataclass(frozen=True, slots=True, eq=False)
class Batches:
    """One batch per trained part, in their order."""

    of: tuple[Any, ...]

    def to(self, device: torch.device) -> Self:
        """A copy on a device."""
        return type(self)(tuple(batch.to(device) for batch in self.of))


class ScoreFusion(Trained):
    """A weighted sum of standardised scores."""

    name = "score-fusion"
    Config = ScoreFusionConfig
    relational = True
    featured = True
    kinds: ClassVar[Mapping[str, type[ClosedForm] | type[Trained]]] = {}
    """All models, set by ``relrank.models``."""

    def __init__(self, graph: Graph, config: ScoreFusionConfig | None = None) -> None:
        super().__init__(graph, config)
        self.check(graph, self.config)
        plain = replace(graph, features={})
        self.parts: dict[str, Recommender] = {}
        for name, (kind, settings) in _parts(self.config).items():
            self.parts[name] = kind(graph if kind.uses_features(settings) else plain, settings)
        self._trained_parts = {name: part for name, part in self.parts.items() if isinstance(part, Trained)}
        self.trained = nn.ModuleDict(self._trained_parts)
        self._solved = False
        self.from_history = all(p.from_history for p in self.parts.values())
        self.ordered = any(p.ordered for p in self.parts.values())
        first, *others = (p.examples() for p in self._trained_parts.values())
        if any(not np.array_equal(a, b) for other in others for a, b in zip(first, other, strict=True)):
            raise InputError(
                "parts train on different examples",
                where=self.name,
                expected="models of edges, or models of sequences",
                found=", ".join(self._trained_parts),
            )

    def submodels(self) -> tuple[Recommender, ...]:
        """The parts."""
        return tuple(self.parts.values())

    @property
    def max_batch_fraction(self) -> float:  # type: ignore[override]
        """The smallest of the parts'."""
        return min(p.max_batch_fraction for p in self._trained_parts.values())

    @classmethod
    def validated_config(cls, graph: Graph, config: Any, where: str) -> Any:
        """Also validates the configuration of every part."""
        config = super().validated_config(graph, config, where)
        for name, (kind, settings) in _parts(config, where).items():
            kind.validated_config(graph, settings, f"{where}, parts.{name}")
        return config

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """Shares must name parts; there must be two parts or more, of which one is trained."""
        parts = _parts(config, where)
        for name in config.shares:
            if name not in parts:
                raise InputError(
                    "share of an unknown part",
                    where=f"{where}, shares",
                    expected=one_of(parts),
                    found=repr(name) + did_you_mean(name, parts),
                )
        trained = [name for name, (kind, _) in parts.items() if issubclass(kind, Trained)]
        for fits, expected in ((len(parts) > 1, "two models"), (trained, "one model with gradients")):
            if not fits:
                raise InputError(
                    "hyper-parameter is out of range",
                    where=f"{where}, parts",
                    expected=f"{expected} or more",
                    found=", ".join(parts) or "none",
                )

    @classmethod
    def named_weights(cls, config: Any) -> frozenset[str]:
        """Those of all parts."""
        return frozenset().union(*(kind.named_weights(settings) for kind, settings in _parts(config).values()))

    @classmethod
    def unused_weights(cls, graph: Graph, config: Any) -> frozenset[str]:
        """Those of all parts."""
        return frozenset().union(
            *(kind.unused_weights(graph, settings) for kind, settings in _parts(config).values())
        )

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """The checks of all parts."""
        for kind, settings in _parts(config).values():
            kind.check(graph, settings)

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Those of all parts."""
        used = {name for kind, settings in _parts(config).values() for name in kind.used_relations(graph, settings)}
        return tuple(name for name in graph.relations if name in used)

    @classmethod
    def uses_features(cls, config: Any) -> bool:
        """Whether any part does."""
        return any(kind.uses_features(settings) for kind, settings in _parts(config).values())

    @classmethod
    def estimate(cls, graph: Graph, config: Any, batch: int = BATCH) -> Estimate:
        """The sum of the parts, and four more blocks of scores."""
        plain = replace(graph, features={})
        bytes_, dense, sparse = 4 * estimates.score_block(graph.n_items), 0.0, 0.0
        for kind, settings in _parts(config).values():
            of = graph if kind.uses_features(settings) else plain
            part = kind.estimate(of, settings, batch) if issubclass(kind, Trained) else kind.estimate(of, settings)
            bytes_, dense, sparse = bytes_ + part.bytes, dense + part.dense, sparse + part.sparse
        return Estimate(bytes_, dense, sparse)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """The learning rate; the parts are tuned on their own."""
        del graph
        return (Range("train.lr", 1e-3, 5e-2, log=True),)

    def init_weights(self, seed: int) -> None:
        """Initialise every trained part and solve the closed forms."""
        for part in self._trained_parts.values():
            part.init_weights(seed)
        self._solve()

    def _solve(self) -> None:
        """Solve the closed forms once; their solutions follow from graph and configuration and are not saved."""
        if not self._solved:
            for part in self.parts.values():
                if isinstance(part, ClosedForm):
                    part.solve()
        self._solved = True

    def examples(self) -> tuple[Int32, Int32]:
        """Those of the parts."""
        return next(iter(self._trained_parts.values())).examples()

    def prepare(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> Batches:
        """A batch for every trained part, with the same seed as if it were trained alone."""
        batches = []
        for part in self._trained_parts.values():
            part.parallel = self.parallel
            same_seed = np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key)
            batches.append(part.prepare(users, positives, same_seed))
        return Batches(tuple(batches))

    def loss(self, batch: Batches) -> Tensor:
        """The sum of the parts' own losses."""
        losses = [part.loss(b) for part, b in zip(self._trained_parts.values(), batch.of, strict=True)]
        return torch.stack(losses).sum()

    def refresh(self) -> None:
        """Refresh every trained part."""
        for part in self._trained_parts.values():
            part.refresh()

    def state(self) -> dict[str, Tensor]:
        """The parameters of the trained parts."""
        parts = self._trained_parts.items()
        return {f"{name}.{key}": value for name, part in parts for key, value in part.state().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters, and solve the closed forms."""
        for name, part in self._trained_parts.items():
            part.load_state({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})
        self._solve()

    def score(self, users: Tensor) -> Tensor:
        """Fused scores of known users."""
        seen = self.history.take(user_rows(users, self.graph.n_users))
        self._solve()
        return self._sum({name: part.score(users) for name, part in self.parts.items()}, seen)

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Fused scores of new users."""
        seen = history_rows(histories, self.graph.n_items)
        self._solve()
        return self._sum({name: part.fold_in(histories) for name, part in self.parts.items()}, seen)

    def _sum(self, scores: dict[str, Tensor], seen: Csr) -> Tensor:
        total = torch.zeros(seen.n_rows, seen.n_cols)
        for name, of_part in scores.items():
            total += self.config.shares.get(name, 1.0) * z_scores(of_part.cpu(), seen)
        return total


def z_scores(scores: Tensor, seen: Csr) -> Tensor:
    """Scores with mean 0 and standard deviation 1 over the items outside each history; 0 where all are equal.

    Args:
        scores: float32 [n, n_items].
        seen: histories [n, n_items].
    """
    n_unseen = torch.from_numpy(seen.n_cols - seen.degrees()).clamp(min=1)[:, None]
    unseen = scores.new_ones(scores.shape).index_put(entries(seen), scores.new_tensor(0.0))
    # relative to the first unseen item, so that equal scores exactly equal their mean
    relative = scores - scores.gather(1, unseen.argmax(1, keepdim=True))
    mean = (relative * unseen).sum(1, keepdim=True) / n_unseen
    deviation = (((relative - mean) * unseen).square().sum(1, keepdim=True) / n_unseen).sqrt()
    return torch.where(deviation > 0, (relative - mean) / deviation, torch.zeros_like(relative))


def _parts(
    config: ScoreFusionConfig, where: str = "score-fusion"
) -> dict[str, tuple[type[ClosedForm] | type[Trained], Any]]:
    """Class and configuration of every part."""
    parts: dict[str, tuple[type[ClosedForm] | type[Trained], Any]] = {}
    others = [name for name in ScoreFusion.kinds if name != ScoreFusion.name]
    for name, overrides in config.parts.items():
        at = f"{where}, parts.{name}"
        if name not in others:
            raise InputError(
                "unknown model", where=at, expected=one_of(others), found=repr(name) + did_you_mean(name, others)
            )
        if not isinstance(overrides, dict):
            raise InputError(
                "hyper-parameters of a part are not a table",
                where=at,
                expected="a table, possibly empty",
                found=repr(overrides),
            )
        kind = ScoreFusion.kinds[name]
        settings = override_config(kind.Config(), overrides, at)
        if "seed" in {f.name for f in fields(kind.Config)} and "seed" not in overrides:
            settings = replace(settings, seed=config.seed)
        parts[name] = kind, settings
    return parts
