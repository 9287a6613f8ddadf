"""A cell of a study: a model on an arm of a split, and the key that its result is stored under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import polars as pl

import relrank
from relrank.errors import InputError, did_you_mean, one_of
from relrank.evaluation.metrics import METRICS_VERSION
from relrank.graph.construction.relation_config import InteractionWeights
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import hops
from relrank.kernels.csr import Csr
from relrank.models import MODELS, ClosedForm, Trained
from relrank.models.core.base import override_config
from relrank.study.arms import Arm, alone_rewired, arms, some
from relrank.study.config import ARM_KINDS, ArmSection, ModelSection, StudySection
from relrank.study.coordinate_search import SEARCH_VERSION
from relrank.tables.split import Split
from relrank.training import TrainConfig

StatusCallback = Callable[[str], None]


FORMAT = "relrank-cell-2"
"""Goes up where what is stored of a cell changes, so that it is made again."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitContext:
    """What all cells of one split seed share.

    Attributes:
        seed: of the split.
        split: training, validation and test rows.
        graph: with every relation.
        user_groups: user attributes to carry into the per-user tables, or None.
        item_groups: likewise for items.
        attributes: items by values of the study's attribute, for similarity and calibration of lists.
        beside: hash of the three above, which a cell's result depends on.
        refit: whether the final fit gets the validation rows back, as where a published split has none of its own.
        interactions: what a training row weighs.
    """

    seed: int
    split: Split
    graph: Graph
    user_groups: pl.DataFrame | None = None
    item_groups: pl.DataFrame | None = None
    attributes: Csr | None = None
    beside: str = ""
    refit: bool = False
    interactions: InteractionWeights = field(default_factory=InteractionWeights)

    @property
    def final(self) -> Split:
        """The split of the final fit and of the test."""
        return self.split.refit() if self.refit else self.split


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One entry of the study's grid.

    Attributes:
        model: section of the study file.
        arm: which relations.
        split_context: split and graph.
        study: metric, cuts, trials.
        prerequisites: keys of the cells whose findings its search begins with (``nesting``).
        warm_starts: values of knobs where its search begins, and others that it has to beat, as those cells ended; ()
            before they are there.
        there: those of ``prerequisites`` that ``warm_starts`` comes from; others were left out.
        tunes_new_weights_only: whether only the weights of what the best of those cells lacks are searched, all else
            held: arms that say what one relation more would bring.
    """

    model: ModelSection
    arm: Arm
    split_context: SplitContext
    study: StudySection
    prerequisites: tuple[str, ...] = ()
    warm_starts: tuple[Mapping[str, float], ...] = ()
    there: tuple[str, ...] = ()
    tunes_new_weights_only: bool = False

    @property
    def trials(self) -> int:
        """Configurations this model tries per arm."""
        trained = issubclass(MODELS[self.model.kind], Trained)
        return self.model.trials or (1 if trained else self.study.trials)

    @property
    def said(self) -> ArmSection:
        """What the study file sets for this model on this arm.

        A trained model is not tuned on the arms that explain a redundancy; there it takes what "all" sets.
        """
        model = self.model
        own = model.arm.get(self.arm.name)
        if own is None and self.arm.relations and issubclass(MODELS[model.kind], Trained):
            own = model.arm.get("all")
        if own is None:
            return ArmSection(config=model.config, train=model.train)
        return ArmSection(config=_over(own.config, model.config), train=_over(own.train, model.train))

    @property
    def graph(self) -> Graph:
        """What the model is fitted on: the arm's relations, and features only if it reads them."""
        graph = self.read.graph(self.split_context.graph, self.split_context.seed)
        return graph if self.uses_features else replace(graph, features={})

    @property
    def read(self) -> Arm:
        """What the model reads of the arm; arms that differ in other relations alone are one and the same cell."""
        used_relations = MODELS[self.model.kind].used_relations(
            self.split_context.graph.only(*self.arm.relations), self.start()[0]
        )
        relations = tuple(name for name in self.arm.relations if name in used_relations)
        return replace(
            self.arm, relations=relations, rewired=self.arm.rewired if self.arm.rewired in relations else None
        )

    @property
    def has_all(self) -> bool:
        """Whether it reads, unshuffled, all of several relations that the model reads."""
        used_relations = MODELS[self.model.kind].used_relations(self.split_context.graph, self.start()[0])
        return self.arm.rewired is None and len(used_relations) > 1 and set(used_relations) <= set(self.arm.relations)

    @property
    def whole(self) -> Graph | None:
        """The graph with all relations, whose solution the arm's may come from; None where each is solved alone.

        Trials of a search are: they share metrics with arms that leave out what they weigh 0.
        """
        kind = MODELS[self.model.kind]
        shares = issubclass(kind, ClosedForm) and kind.solve_from is not ClosedForm.solve_from
        return self.split_context.graph if shares and self.trials == 1 else None

    @property
    def uses_features(self) -> bool:
        """Whether the model, as the study file sets it, reads features of nodes."""
        return MODELS[self.model.kind].uses_features(self.start()[0])

    def is_fixed(self, knob: str) -> bool:
        """Whether the study file sets this hyper-parameter, so that tuning must leave it alone."""
        field, _, entry = knob.partition(".")
        said = self.said.config
        if field == "train":
            return entry in self.said.train
        if not entry:
            return field in said
        return knob in said or entry in said.get(field, {}) or "weight" in said

    def start(self) -> tuple[Any, TrainConfig]:
        """Hyper-parameters and budget before tuning.

        Raises:
            InputError: the study file names one that does not exist, or with another type.
        """
        where, kind, said = f"[[models]] {self.model.name}", MODELS[self.model.kind], self.said
        self._refuse_arms(where)
        config = override_config(kind.Config(), said.config, f"{where}, config")
        config = kind.validated_config(self.split_context.graph, config, f"{where}, config")
        for name, refused in (
            ("train", said.train and issubclass(kind, ClosedForm)),
            ("config.seed", "seed" in said.config),
        ):
            if refused:
                raise InputError(
                    "setting has no effect here",
                    where=f"{where}, {name}",
                    expected="no training budget for a closed form; seeds in [study]",
                    found=name,
                )
        return config, override_config(TrainConfig(), said.train, f"{where}, train")

    def _refuse_arms(self, where: str) -> None:
        """A section of an arm that does not exist would go unnoticed; a budget of one's own would decide verdicts."""
        if not self.model.arm:
            return
        passed = hops(self.split_context.graph)
        names = list(passed) if MODELS[self.model.kind].relational else []
        known = {self.arm.name} | {
            a.name for kinds in (ARM_KINDS, self.model.arms or ()) for a in arms(names, kinds, passed)
        }
        known |= {alone_rewired(r, passed).name for r in names}
        known |= {some([r, s], passed).name for r in names for s in names if s != r}
        for name, section in self.model.arm.items():
            if name not in known:
                raise InputError(
                    "no such arm",
                    where=f"{where}, arm",
                    expected=one_of(known),
                    found=repr(name) + did_you_mean(name, known),
                )
            budget = sorted({"epochs", "every", "patience"} & set(section.train))
            if budget:
                raise InputError(
                    "an arm has a budget of its own",
                    where=f"{where}, arm {name!r}, train",
                    expected="the same for all arms: set it in the model's train",
                    found=", ".join(budget),
                )

    def identity(self) -> dict[str, Any]:
        """Everything the result depends on; plain JSON."""
        config, train = self.start()
        read = self.read
        trained = issubclass(MODELS[self.model.kind], Trained)
        features = {n: f.sha256()[:16] for n, f in self.split_context.graph.features.items() if self.uses_features}
        weights = self.split_context.interactions.model_dump()
        return {
            "relrank": relrank.__version__,
            "format": FORMAT,
            "split": self.split_context.split.fingerprint,
            **({"unseen": self._unseen} if self.split_context.split.unseen else {}),
            "edges": {name: edges_sha(self.split_context.graph, name) for name in sorted(read.relations)},
            **({"whole": sorted(edges_sha(self.whole, name) for name in self.whole.relations)} if self.whole else {}),
            # a trained table has a row per node, in this order
            **({"nodes": [[t, len(ids)] for t, ids in self.split_context.graph.nodes.items()]} if trained else {}),
            **({"features": features} if features else {}),
            **({"interactions": weights} if weights["weight"] != "one" else {}),
            "rewired": read.rewired,
            "model": self.model.kind,
            **({"name": self.model.name} if self.model.name != self.model.kind else {}),
            "config": asdict(config),
            "held": sorted(self.said.config),
            "train": asdict(train) if trained else None,
            "trials": self.trials,
            **({"search": SEARCH_VERSION, "after": list(self.prerequisites)} if self.trials > 1 else {}),
            **({"adds": True} if self.trials > 1 and self.tunes_new_weights_only else {}),
            "metric": self.study.metric,
            "metrics": METRICS_VERSION,
            "ks": list(self.study.ks),
            "beside": self.split_context.beside,
            "refit": self.split_context.refit,
            "seed": self.split_context.seed,
        }

    @property
    def _unseen(self) -> str:
        """Hash of the items that no interaction names, which are in the graph beside those of the fingerprint."""
        keys = self.split_context.split.items.keys.tail(self.split_context.split.unseen)
        return hashlib.sha256(json.dumps(keys.to_list()).encode()).hexdigest()[:16]

    def key(self) -> str:
        """Hash of the identity: the name of the cell's folder."""
        return key_of_identity(self.identity())


def key_of_identity(identity: Mapping[str, Any]) -> str:
    """The key of a cell: a hash of what its result depends on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def _over(own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Settings on top of others; a mapping, such as relation weights, is merged entry by entry."""
    mixed = {k: {**base[k], **v} for k, v in own.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **own, **mixed}


def edges_sha(graph: Graph, name: str) -> str:
    """sha256 over a relation's edges, weights and ends."""
    return graph.relation(name).sha256()[:16]
