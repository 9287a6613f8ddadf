"""A study as a TOML file: data, protocol, relations, models, and what is compared."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from relrank.arguments import checked
from relrank.errors import InputError, did_you_mean, one_of
from relrank.evaluation.metrics import AT_K
from relrank.graph.construction.build_graph import FeatureConfig, InteractionWeights, RelationConfig
from relrank.tables.audit import SPLIT
from relrank.tables.config import ConfigSection, Name, load_toml
from relrank.tables.protocols import ProtocolConfig
from relrank.tables.readers import DataConfig

ACCEPT = "[study] accept_leaks"
"""The key by which a study accepts leaks, for messages."""

ArmKind = Literal["interactions", "all", "drop", "alone", "rewired"]
ARM_KINDS: tuple[ArmKind, ...] = ("interactions", "all", "drop", "alone", "rewired")

SPLITS = 5
"""Number of default seeds if the protocol draws test rows per seed."""
DEFAULT_INIT_SEEDS = 3
"""Number of default seeds if all seeds have the same test rows and relations are judged by a trained model, so that
intervals include the variance between initializations."""


class ArmSection(ConfigSection):
    """``[models.arm.NAME]``: settings of one arm, on top of the model's.

    Attributes:
        config: hyper-parameters; they are fixed and not tuned.
        train: training settings other than the budget: lr, batch, precision.
    """

    config: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


class ModelSection(ConfigSection):
    """``[[models]]``: one model of the study.

    Attributes:
        name: unique within the study.
        model: key in ``relrank.models.MODELS``; by default the name. One model can be listed several times, under
            names such as "sequence-fusion, fixed".
        arms: which arms it runs on; by default all for a model that uses relations, else interactions alone.
        trials: configurations tried per arm on validation; by default the study's number for closed forms, 1 for
            trained models. The same for all arms.
        config: hyper-parameters that differ from the defaults; they are fixed and not tuned.
        train: training settings of a trained model: epochs, batch, lr, every, patience, device, precision.
        arm: settings of single arms, by the arm's name, e.g. from ``relrank tune``.
    """

    name: str
    model: str | None = None
    arms: tuple[ArmKind, ...] | None = None
    trials: int | None = Field(None, ge=1)
    config: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)
    arm: dict[str, ArmSection] = Field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Key in ``MODELS``."""
        return self.model or self.name


class StudySection(ConfigSection):
    """``[study]``: how the arms are compared.

    Attributes:
        metric: the metric for tuning (on validation) and for verdicts (on test).
        ks: cutoffs of the reported metrics.
        seeds: one split, and one initialization of every random model, per seed. Default: 0 to 4 if the protocol
            draws test rows per seed; if all seeds have the same, 0 to 2 if a trained model judges relations, else 0.
        trials: maximum number of configurations tried per arm on validation, the same for all arms. The report names
            searches that reach it.
        margin: smallest difference that matters, as a share of the metric of the interactions alone; a relation whose
            effects are shown to be smaller is negligible.
        user_groups: columns of the user table to group effects by.
        item_groups: columns of the item table to group effects by.
        attribute: relation of items, such as has_genre, for intra-list similarity and for calibration to the user's
            history.
        versus: the model that others are compared with. One that uses relations is compared with the others that do,
            one that uses none with all models, each on its richest graph.
        accept_leaks: relations and features, or "interactions" for the split itself, whose leaks are accepted. A
            study with other leaks does not run; all results name the accepted ones.
        memory_gb: memory limit of one cell, in GB; by default the free memory. A cell that needs more, as estimated,
            is skipped. The environment variable RELRANK_MEMORY_GB takes precedence.
    """

    metric: str = "ndcg@10"
    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 20, 50), min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field((), min_length=1)
    trials: int = Field(200, ge=1)
    margin: float = Field(0.01, gt=0, lt=1)
    user_groups: tuple[str, ...] = ()
    item_groups: tuple[str, ...] = ()
    attribute: str | None = None
    versus: str | None = None
    accept_leaks: tuple[str, ...] = ()
    memory_gb: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _seeds_once(self) -> Self:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("a seed is listed twice")
        return self

    @model_validator(mode="after")
    def _metric_is_measured(self) -> Self:
        match = re.fullmatch(rf"({'|'.join(AT_K)})@(\d+)|mrr", self.metric)
        if match is None or (match.group(2) and int(match.group(2)) not in self.ks):
            known = ["mrr", *(f"{name}@{k}" for k in self.ks for name in AT_K)]
            raise InputError(
                "unknown metric",
                where="[study] metric",
                expected=f"mrr, or {', '.join(AT_K)} @ one of ks = {', '.join(map(str, self.ks))}",
                found=repr(self.metric) + did_you_mean(self.metric, known),
            )
        return self


DEVICES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))})
"""Names that no file or folder of Windows can have, with an extension neither."""
DEFAULT_MODELS = ("random", "popularity", "item-knn", "ease", "sparse-ease")


class StudyConfig(ConfigSection):
    """A study file.

    Attributes:
        name: name of the study and, by default, of its folder under ``runs/``; letters, digits, ``_ - .``, no dot
            first or last, and no device of Windows such as "con".
        title: heading of the report.
        description: a sentence or two under it.
        data: tables.
        protocol: filters and split.
        interactions: weights of training rows.
        relations: relations that are judged, by name.
        features: features of nodes, by name; the same in every arm.
        study: how arms are compared.
        models: models that are compared; by default random, popularity, item-kNN, EASE and sparse EASE.
    """

    name: str
    title: str = ""
    description: str = ""
    data: DataConfig
    protocol: ProtocolConfig
    interactions: InteractionWeights = InteractionWeights()
    relations: dict[Name, RelationConfig] = Field(default_factory=dict)
    features: dict[Name, FeatureConfig] = Field(default_factory=dict)
    models: tuple[ModelSection, ...] = tuple(ModelSection(name=name) for name in DEFAULT_MODELS)
    study: StudySection = Field(StudySection(), validate_default=True)

    @field_validator("name")
    @classmethod
    def _name_of_a_folder(cls, name: str) -> str:
        if not re.fullmatch(r"[\w-][\w.-]*", name):
            raise ValueError('letters, digits, "-", "_" and ".", which is not the first')
        if name.endswith(".") or name.partition(".")[0].lower() in DEVICES:
            raise ValueError("a name that a folder can have on every system; it is reserved on Windows")
        return name

    @field_validator("study")
    @classmethod
    def _seeds_of_the_protocol(cls, study: StudySection, info: ValidationInfo) -> StudySection:
        # None if the protocol is invalid, which is reported by itself
        protocol: ProtocolConfig | None = info.data.get("protocol")
        if study.seeds or protocol is None:
            return study
        seeds = SPLITS if protocol.draws_test else 1
        relations, models = info.data.get("relations", {}), info.data.get("models", ())
        if not protocol.draws_test and relations and trains_on_relations(models):
            seeds = DEFAULT_INIT_SEEDS
        return study.model_copy(update={"seeds": tuple(range(seeds))})

    @property
    def titles(self) -> dict[str, str]:
        """Titles of relations by name; relations without a title are missing."""
        return {name: relation.title for name, relation in self.relations.items() if relation.title is not None}

    @property
    def rival(self) -> ModelSection | None:
        """The model that the others are compared with."""
        return next((m for m in self.models if m.name == self.study.versus), None)

    @model_validator(mode="after")
    def _rival_exists(self) -> Self:
        if self.study.versus is not None and self.rival is None:
            names = [m.name for m in self.models]
            raise InputError(
                "unknown model",
                where="[study] versus",
                expected=one_of(names),
                found=repr(self.study.versus) + did_you_mean(self.study.versus, names),
            )
        return self

    @model_validator(mode="after")
    def _titles_once(self) -> Self:
        by_title: dict[str, str] = {}
        for name in self.relations:
            title = self.titles.get(name, name)
            if title in by_title:
                raise ValueError(f"relations {by_title[title]} and {name} have the same title {title!r}")
            by_title[title] = name
        return self

    @model_validator(mode="after")
    def _models_once(self) -> Self:
        names = [m.name for m in self.models]
        if len(set(names)) < len(names):
            raise ValueError("a model is listed twice")
        return self


def trains_on_relations(models: Sequence[ModelSection]) -> bool:
    """Whether one of the models is trained, from a random initialization, on more than the interactions."""
    from relrank.models import MODELS, ClosedForm, Trained  # imports torch, which reading a study file does not need

    kinds = [MODELS.get(model.kind, ClosedForm) for model in models if model.arms != ("interactions",)]
    return any(issubclass(kind, Trained) and kind.relational for kind in kinds)


def is_trained(model: ModelSection) -> bool:
    """Whether a model is trained with gradients; an unknown model is reported later, by itself."""
    from relrank.models import MODELS, ClosedForm, Trained  # imports torch

    return issubclass(MODELS.get(model.kind, ClosedForm), Trained)


@checked("rr.read_study")
def read_study(path: Path | str) -> StudyConfig:
    """Read and check a study file.

    Raises:
        InputError: names file and key of the first mistake.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("not a study file", where=str(path), expected="a TOML file", found="a folder")
    config = load_toml(path, StudyConfig)
    check_accepted(config, str(path))
    return config


def config_hash(config: StudyConfig) -> str:
    """Hash of all settings, by which a stored result is recognised as one of the study file as it is.

    Settings at their defaults do not enter it, so that a new key of a later version changes no hash.
    """
    given = config.model_dump(exclude_defaults=True)
    settings = json.dumps(given, default=str)  # str: settings from Python may be of any type
    return hashlib.sha256(settings.encode()).hexdigest()[:20]


def check_accepted(config: StudyConfig, where: str) -> None:
    """Check the names in ``accept_leaks``.

    Raises:
        InputError: a name is neither "interactions" nor a relation or feature of the study.
    """
    known = [SPLIT, *config.relations, *config.features]
    for name in config.study.accept_leaks:
        if name not in known:
            raise InputError(
                "unknown name of an accepted leak",
                where=f"{where}, {ACCEPT}",
                expected=f"one of {', '.join(known)}",
                found=repr(name) + did_you_mean(name, known),
            )
