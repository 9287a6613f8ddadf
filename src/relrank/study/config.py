"""A study as a TOML file: data, protocol, relations, models, and what is compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from relrank.errors import InputError, did_you_mean, one_of
from relrank.evaluation.metrics import AT_K
from relrank.graph.construction.builders import FeatureConfig, InteractionWeights, RelationConfig
from relrank.tables.audit import SPLIT
from relrank.tables.config import ConfigSection, Name, load_toml
from relrank.tables.protocols import ProtocolConfig
from relrank.tables.readers import DataConfig

ACCEPT = "[study] accept_leaks"
"""The key by which a study accepts leaks, for messages."""

ArmKind = Literal["interactions", "all", "drop", "alone", "rewired"]
ARM_KINDS: tuple[ArmKind, ...] = ("interactions", "all", "drop", "alone", "rewired")


SPLITS = 5
"""Split seeds, from 0, of a study that names none and whose protocol draws its test rows."""
DEFAULT_INIT_SEEDS = 3
"""Seeds of a study that names none, has the same test rows for each, and judges relations by a trained model: without
a second start its intervals hold nothing of what another one would change."""


class ArmSection(ConfigSection):
    """``[models.arm.NAME]``: what one arm of a model sets for itself, on top of what the model sets.

    Attributes:
        config: hyper-parameters; they are held, as the model's are.
        train: training settings other than the budget: lr, batch, precision.
    """

    config: dict[str, Any] = Field(default_factory=dict)
    train: dict[str, Any] = Field(default_factory=dict)


class ModelSection(ConfigSection):
    """``[[models]]``: one model of the study.

    Attributes:
        name: what the study calls it; every name once.
        model: key in ``relrank.models.MODELS``; by default the name. So one model can be there several times, under
            names such as "sequence-fusion, fixed".
        arms: which arms it runs on; by default all for a model that uses relations, else interactions alone.
        trials: configurations tried per arm on validation; by default the study's number for closed forms, 1 for
            trained models. Equal for all arms.
        config: hyper-parameters that differ from the defaults; they are held, tuning leaves them alone.
        train: budget of a trained model: epochs, batch, lr, every, patience, device, precision.
        arm: what single arms set for themselves, by the arm's name, e.g. as ``relrank tune`` found it.
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
        metric: the metric that decides, for tuning (on validation) and for verdicts (on test).
        ks: cuts of the reported metrics.
        seeds: one split, and one start of every random model, per seed; left out, 0 to 4 where the protocol draws its
            test rows; where every seed has the same, 0 to 2 if a trained model judges relations, else 0.
        trials: configurations tried per arm on validation at most, equal for all arms; a search that ends earlier
            saves the rest, one that is cut off by it is named in the report.
        margin: smallest difference that matters, as a share of the metric of the interactions alone: a relation that
            can be shown to bring less either way is negligible.
        user_groups: columns of the user table to look at effects by.
        item_groups: columns of the item table to look at effects by.
        attribute: relation of items, such as has_genre, that measures how alike the items of a list are and how far
            their mix is from the user's own.
        versus: the model that others are compared with. One that uses relations is compared with every other that
            does (does it use them better?), one that does not with all models, each on its richest graph.
        accept_leaks: relations and features, or "interactions" for the split itself, whose leaks are accepted. A
            study whose audit finds another leak does not run; every result of one that runs names what it accepts.
        memory_gb: memory that one cell may take, in GB; by default what is free. A cell that needs more by its
            estimate is left out. The environment variable RELRANK_MEMORY_GB comes first.
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


DEFAULT_MODELS = ("random", "popularity", "item-knn", "ease", "sparse-ease")


class StudyConfig(ConfigSection):
    """A whole study file.

    Attributes:
        name: of the study and, by default, of its folder under ``runs/``; letters, digits, ``_ - .``, no dot first.
        title: heading of the report.
        description: a sentence or two under it.
        data: where the rows come from.
        protocol: filter, split.
        interactions: what a training row weighs.
        relations: what is put to the test, by name.
        features: what models may know of single nodes, by name; the same in every arm.
        study: how arms are compared.
        models: by default random, popularity, item-kNN, EASE and sparse EASE, whose verdicts count.
    """

    name: str = Field(pattern=r"^[\w-][\w.-]*$")
    title: str = ""
    description: str = ""
    data: DataConfig
    protocol: ProtocolConfig
    interactions: InteractionWeights = InteractionWeights()
    relations: dict[Name, RelationConfig] = Field(default_factory=dict)
    features: dict[Name, FeatureConfig] = Field(default_factory=dict)
    models: tuple[ModelSection, ...] = tuple(ModelSection(name=name) for name in DEFAULT_MODELS)
    study: StudySection = Field(StudySection(), validate_default=True)

    @field_validator("study")
    @classmethod
    def _seeds_of_the_protocol(cls, study: StudySection, info: ValidationInfo) -> StudySection:
        protocol: ProtocolConfig | None = info.data.get("protocol")  # None: it is wrong, which is said by itself
        if study.seeds or protocol is None:
            return study
        seeds = SPLITS if protocol.draws_test else 1
        relations, models = info.data.get("relations", {}), info.data.get("models", ())
        if not protocol.draws_test and relations and trains_on_relations(models):
            seeds = DEFAULT_INIT_SEEDS
        return study.model_copy(update={"seeds": tuple(range(seeds))})

    @property
    def titles(self) -> dict[str, str]:
        """What people read instead of the names of relations, by name; those without a title are not in it."""
        return {name: relation.title for name, relation in self.relations.items() if relation.title is not None}

    @property
    def rival(self) -> ModelSection | None:
        """The model that the others are compared with."""
        return next((m for m in self.models if m.name == self.study.versus), None)

    @model_validator(mode="after")
    def _rival_is_there(self) -> Self:
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
        read: dict[str, str] = {}
        for name in self.relations:
            title = self.titles.get(name, name)
            if title in read:
                raise ValueError(
                    f"relations {read[title]} and {name} would both be read as {title!r}: give other titles"
                )
            read[title] = name
        return self

    @model_validator(mode="after")
    def _models_once(self) -> Self:
        names = [m.name for m in self.models]
        if len(set(names)) < len(names):
            raise ValueError("a model is listed twice")
        return self


def trains_on_relations(models: Sequence[ModelSection]) -> bool:
    """Whether one of the models is trained, from a random start, and runs on more than the interactions."""
    from relrank.models import MODELS, ClosedForm, Trained  # torch comes with them, which a study file can do without

    kinds = [MODELS.get(model.kind, ClosedForm) for model in models if model.arms != ("interactions",)]
    return any(issubclass(kind, Trained) and kind.relational for kind in kinds)


def read_study(path: Path | str) -> StudyConfig:
    """Read and check a study file.

    Raises:
        InputError: file and key of the first slip.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError("not a study file", where=str(path), expected="a TOML file", found="a folder")
    config = load_toml(path, StudyConfig)
    check_accepted(config, str(path))
    return config


def check_accepted(config: StudyConfig, where: str) -> None:
    """Refuse an accepted name that nothing of the study has.

    Raises:
        InputError: the name, and those that are known.
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
