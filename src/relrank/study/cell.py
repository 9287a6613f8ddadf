"""A cell of a study: a model on an arm of a split, and the key that its result is stored under."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import polars as pl

from relrank.errors import InputError, did_you_mean, one_of
from relrank.evaluation.metrics import METRICS_VERSION
from relrank.graph.construction.relation_config import InteractionWeights
from relrank.graph.graph import Graph
from relrank.graph.relation import NO_TITLES, Titles
from relrank.graph.relation_chains import hops
from relrank.kernels.csr import Csr
from relrank.models import MODELS, ClosedForm, Trained
from relrank.models.core.base import override_config
from relrank.study.arms import Arm, alone_rewired, arms, with_relations
from relrank.study.config import ARM_KINDS, ArmSection, ModelSection, StudySection
from relrank.study.coordinate_search import SEARCH_VERSION
from relrank.tables.split import Split
from relrank.training import TrainConfig

StatusCallback = Callable[[str], None]

FORMAT = "relrank-cell-2"
RESULTS_VERSION = "0.2.0"
"""The release since which results are what they are; raised only when they change, so that cells are run again."""
"""Version of the stored format; a new version gives every cell a new key, so that it runs again."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitContext:
    """What all cells of one split seed share.

    Attributes:
        seed: of the split.
        split: training, validation and test rows.
        graph: built from the training rows, with every relation.
        user_groups: user attributes that per-user tables carry, or None.
        item_groups: likewise for items.
        attributes: items × values of the study's attribute, for similarity and calibration of lists.
        extra_columns_hash: hash of the three above; part of a cell's key.
        refit: whether the final fit trains on the validation rows, too, as where a published split has none.
        interactions: weights of training rows.
        final_graph: the graph of the final fit if side data have times, with what was known before the test rows;
            ``graph`` ends before the validation rows. None if the two have the same relations.
    """

    seed: int
    split: Split
    graph: Graph
    user_groups: pl.DataFrame | None = None
    item_groups: pl.DataFrame | None = None
    attributes: Csr | None = None
    extra_columns_hash: str = ""
    refit: bool = False
    interactions: InteractionWeights = field(default_factory=InteractionWeights)
    final_graph: Graph | None = None

    @property
    def final(self) -> Split:
        """The split of the final fit and of the evaluation on test."""
        if self.final_graph is not None:  # its fingerprint, so that nothing is paired with tests on another graph
            return replace(self.split.refit(), fingerprint=self.final_graph.fingerprint)
        return self.split.refit() if self.refit else self.split

    @property
    def graph_at_test(self) -> Graph:
        """The graph of the final fit, with every relation."""
        return self.graph if self.final_graph is None else self.final_graph


@dataclass(frozen=True, eq=False)
class Cell:
    """One entry of the study's grid: a model on an arm of a split. What is derived from it is computed once.

    The graph alone is not cached: a study holds all of its cells, and a graph with shuffled links is a copy.

    Attributes:
        model: section of the study file.
        arm: relations of the graph.
        split_context: split and full graph.
        study: metric, cutoffs, trials.
        prerequisites: keys of the cells whose tuning results warm-start its search (``warm_starts``).
        warm_starts: hyper-parameter values at which its search begins, and further ones that its result has to beat;
            () until the prerequisites have finished.
        warm_started_from: the ``prerequisites`` that ``warm_starts`` comes from; the others were skipped.
        tunes_new_weights_only: whether the search fixes everything but the weights of relations that the best
            prerequisite lacks, as in the arms that measure what one more relation adds.
    """

    model: ModelSection
    arm: Arm
    split_context: SplitContext
    study: StudySection
    prerequisites: tuple[str, ...] = ()
    warm_starts: tuple[Mapping[str, float], ...] = ()
    warm_started_from: tuple[str, ...] = ()
    tunes_new_weights_only: bool = False

    @property
    def trials(self) -> int:
        """Configurations to try on validation, per arm."""
        trained = issubclass(MODELS[self.model.kind], Trained)
        return self.model.trials or (1 if trained else self.study.trials)

    @cached_property
    def arm_settings(self) -> ArmSection:
        """Settings in the study file for this model on this arm.

        A trained model is not tuned on the arms that explain a redundancy; there it uses the settings of "all".
        """
        model = self.model
        section = model.arm.get(self.arm.name)
        if section is None and self.arm.relations and issubclass(MODELS[model.kind], Trained):
            section = model.arm.get("all")
        if section is None:
            return ArmSection(config=model.config, train=model.train)
        return ArmSection(config=_merged(section.config, model.config), train=_merged(section.train, model.train))

    @property
    def graph(self) -> Graph:
        """What the model is fitted on: the arm's relations, and features only if the model reads them."""
        return self.arm_graph(self.split_context.graph)

    def arm_graph(self, graph: Graph) -> Graph:
        """The part of a graph with all relations that the model is fitted on."""
        graph = self.effective_arm.graph(graph, self.split_context.seed)
        return graph if self.uses_features else replace(graph, features={})

    @cached_property
    def effective_arm(self) -> Arm:
        """The arm without relations that the model does not read; arms that differ only in these share one key."""
        used_relations = MODELS[self.model.kind].used_relations(
            self.split_context.graph.only(*self.arm.relations), self.initial_config()[0]
        )
        relations = tuple(name for name in self.arm.relations if name in used_relations)
        rewired = self.arm.rewired if self.arm.rewired in relations else None
        return replace(self.arm, relations=relations, rewired=rewired)

    @cached_property
    def has_all(self) -> bool:
        """Whether the arm has all relations that the model reads, several of them, and none is shuffled."""
        used_relations = MODELS[self.model.kind].used_relations(self.split_context.graph, self.initial_config()[0])
        return self.arm.rewired is None and len(used_relations) > 1 and set(used_relations) <= set(self.arm.relations)

    @property
    def is_compared_without(self) -> bool:
        """Whether ``has_all``, and the study compares this arm with those that lack one relation."""
        return self.has_all and "drop" in (self.model.arms or ARM_KINDS)

    @property
    def full_graph(self) -> Graph | None:
        """The graph with all relations, if the arm's solution is derived from that graph's; else None.

        A tuned cell is solved by itself: its trials share their metrics with other arms instead.
        """
        kind = MODELS[self.model.kind]
        shares = issubclass(kind, ClosedForm) and kind.solve_from is not ClosedForm.solve_from
        return self.split_context.graph if shares and self.trials == 1 else None

    @cached_property
    def uses_features(self) -> bool:
        """Whether the model, with the settings of the study file, reads node features."""
        return MODELS[self.model.kind].uses_features(self.initial_config()[0])

    def is_fixed(self, parameter: str) -> bool:
        """Whether the study file sets this hyper-parameter, so that it is not tuned."""
        field, _, entry = parameter.partition(".")
        config = self.arm_settings.config
        if field == "train":
            return entry in self.arm_settings.train
        if not entry:
            return field in config
        return parameter in config or entry in config.get(field, {}) or "weight" in config

    def initial_config(self) -> tuple[Any, TrainConfig]:
        """Hyper-parameters and training settings before tuning.

        Raises:
            InputError: the study file names one that does not exist or has another type, or sets one that has no
                effect.
        """
        return self._initial_config

    @cached_property
    def _initial_config(self) -> tuple[Any, TrainConfig]:
        where, kind, settings = f"[[models]] {self.model.name}", MODELS[self.model.kind], self.arm_settings
        check_arm_sections(self, where)
        config = override_config(kind.Config(), settings.config, f"{where}, config")
        config = kind.validated_config(self.split_context.graph, config, f"{where}, config")
        for name, refused in (
            ("train", settings.train and issubclass(kind, ClosedForm)),
            ("config.seed", "seed" in settings.config),
        ):
            if refused:
                raise InputError(
                    "setting has no effect here",
                    where=f"{where}, {name}",
                    expected="no training settings for a closed form; seeds in [study]",
                    found=name,
                )
        defaults = kind.training_defaults(self.split_context.graph) if issubclass(kind, Trained) else {}
        train = override_config(TrainConfig(**defaults), settings.train, f"{where}, train")
        return config, train

    def identity(self) -> dict[str, Any]:
        """Everything that the result depends on, as plain JSON."""
        config, train = self.initial_config()
        arm, full_graph = self.effective_arm, self.full_graph
        trained = issubclass(MODELS[self.model.kind], Trained)
        features = {n: f.sha256()[:16] for n, f in self.split_context.graph.features.items() if self.uses_features}
        weights = self.split_context.interactions.model_dump()
        return {
            "relrank": RESULTS_VERSION,
            "format": FORMAT,
            "split": self.split_context.split.fingerprint,
            **({"unseen": self._unseen} if self.split_context.split.unseen else {}),
            "edges": {name: edges_sha(self.split_context.graph, name) for name in sorted(arm.relations)},
            **({"whole": sorted(edges_sha(full_graph, n) for n in full_graph.relations)} if full_graph else {}),
            # an embedding table has one row per node, in this order
            **({"nodes": [[t, len(ids)] for t, ids in self.split_context.graph.nodes.items()]} if trained else {}),
            **({"features": features} if features else {}),
            **({"interactions": weights} if weights["weight"] != "one" else {}),
            "rewired": arm.rewired,
            "model": self.model.kind,
            **({"name": self.model.name} if self.model.name != self.model.kind else {}),
            "config": asdict(config),
            "held": sorted(self.arm_settings.config),
            "train": asdict(train) if trained else None,
            "trials": self.trials,
            **({"search": SEARCH_VERSION, "after": list(self.prerequisites)} if self.trials > 1 else {}),
            **({"adds": True} if self.trials > 1 and self.tunes_new_weights_only else {}),
            **({"without": False} if self.trials > 1 and self.has_all and not self.is_compared_without else {}),
            "metric": self.study.metric,
            "metrics": METRICS_VERSION,
            "ks": list(self.study.ks),
            "beside": self.split_context.extra_columns_hash,
            "refit": self.split_context.refit,
            **({"final": self._final_hashes(trained)} if self.split_context.final_graph is not None else {}),
            "seed": self.split_context.seed,
        }

    def _final_hashes(self, with_nodes: bool) -> dict[str, Any]:
        """What the graph of the final fit adds to the identity."""
        graph = self.split_context.final_graph
        assert graph is not None
        return {
            "edges": {name: edges_sha(graph, name) for name in sorted(self.effective_arm.relations)},
            "features": {n: f.sha256()[:16] for n, f in graph.features.items() if self.uses_features},
            "nodes": [[t, len(ids)] for t, ids in graph.nodes.items()] if with_nodes else [],
        }

    @property
    def _unseen(self) -> str:
        """Hash of the items without interactions, which the split's fingerprint does not cover."""
        keys = self.split_context.split.items.keys.tail(self.split_context.split.unseen)
        return hashlib.sha256(json.dumps(keys.to_list()).encode()).hexdigest()[:16]

    def key(self) -> str:
        """Hash of the identity; the name of the cell's folder."""
        return self._key

    @cached_property
    def _key(self) -> str:
        return key_of_identity(self.identity())


CellId = tuple[str, str, int]
"""Model, arm and seed, which no two cells of a study share."""


def cell_id(cell: Cell) -> CellId:
    """A cell's place in the study's grid; unlike its key, free to compute."""
    return cell.model.name, cell.arm.name, cell.split_context.seed


def cell_title(cell: Cell, titles: Titles = NO_TITLES) -> str:
    """A cell's name for people, with titles of relations in place of their names."""
    return f"{cell.model.name} · {cell.arm.titled(titles)} · seed {cell.split_context.seed}"


def check_arm_sections(cell: Cell, where: str) -> None:
    """Check the ``[models.arm.NAME]`` sections of a cell's model.

    Raises:
        InputError: an arm does not exist, so that its section would have no effect; or a section sets a training
            budget, which would confound the comparison of arms.
    """
    if not cell.model.arm:
        return
    chains = hops(cell.split_context.graph)
    names = list(chains) if MODELS[cell.model.kind].relational else []
    known = {cell.arm.name} | {
        a.name for kinds in (ARM_KINDS, cell.model.arms or ()) for a in arms(names, kinds, chains)
    }
    known |= {alone_rewired(r, chains).name for r in names}
    known |= {with_relations([r, s], chains).name for r in names for s in names if s != r}
    for name, section in cell.model.arm.items():
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
                "arm sets its own training budget",
                where=f"{where}, arm {name!r}, train",
                expected="the same budget for all arms: set it in the model's train",
                found=", ".join(budget),
            )


def key_of_identity(identity: Mapping[str, Any]) -> str:
    """The key of a result, such as a cell's, from what it depends on."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def _merged(settings: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Settings on top of others; mappings, such as relation weights, are merged entry by entry."""
    nested = {
        k: {**base[k], **v} for k, v in settings.items() if isinstance(v, dict) and isinstance(base.get(k), dict)
    }
    return {**base, **settings, **nested}


def edges_sha(graph: Graph, name: str) -> str:
    """sha256 over a relation's node types, edges and weights."""
    return graph.relation(name).sha256()[:16]
