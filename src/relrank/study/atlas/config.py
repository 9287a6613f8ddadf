"""An atlas as a TOML file: its studies, which relations are of one kind, and published claims."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from relrank.errors import InputError, did_you_mean, one_of
from relrank.study.config import StudyConfig, read_study
from relrank.tables.audit import SPLIT
from relrank.tables.config import ConfigSection, Name, load_toml

ALL = "all"
"""In place of a relation: all relations of the study together."""


class StudyEntry(ConfigSection):
    """``[[studies]]``: one study of the atlas.

    Attributes:
        file: the study file, relative to the atlas file. Its ``name`` is that of the study's folder.
        title: heading of its column; by default the study's name.
        relations: kind of each relation, such as "tags", by the relation's name in the study. A kind is a row of the
            atlas, and effects of one kind are pooled over data sets. Relations that are not listed are in no row.
        control: planted data whose truth is known: shown by itself and never pooled.
        hours: time that the study takes, for the estimate of the time left.
    """

    file: str
    title: str = ""
    relations: dict[Name, Name] = Field(default_factory=dict)
    control: bool = False
    hours: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _kinds_once(self) -> Self:
        by_kind: dict[str, str] = {}
        for relation, kind in self.relations.items():
            if kind in by_kind:
                raise ValueError(
                    f"two relations of different kinds: {by_kind[kind]} and {relation} are both {kind!r}, and one "
                    "data set counts once in an estimate over data sets"
                )
            by_kind[kind] = relation
        return self


class Claim(ConfigSection):
    """``[[claims]]``: a published claim about relations.

    Attributes:
        text: the claim, in a sentence.
        source: who says so.
        url: where, if it is public.
        study: name of the study whose evidence decides.
        relation: of that study, or "all" for all of its relations together.
        model: of that study, with or without the relation.
        against: a model of that study: the claim then compares the model and its relations with it. Without it, the
            model is compared with itself on the interactions alone.
        more_than: other relations of that study: the claim then is that the relation helps more than each of them
            does, beside the interactions alone.
        expect: what is claimed.
        gain: claimed size, in percent of the metric without the relation.
        difference: claimed size, in units of the metric.
        note: what else a reader should know, such as where the published protocol leaks.
    """

    text: str
    source: str
    url: str | None = Field(None, pattern=r"^https?://\S+$")
    study: str
    relation: str = ALL
    model: str
    against: str | None = None
    more_than: tuple[str, ...] = ()
    expect: Literal["helps", "negligible", "hurts"]
    gain: float | None = None
    difference: float | None = None
    note: str = ""

    @model_validator(mode="after")
    def _size_fits(self) -> Self:
        sizes = [size for size in (self.gain, self.difference) if size is not None]
        if len(sizes) > 1:
            raise ValueError("gain (percent) or difference (units of the metric), not both")
        if sizes and self.expect == "negligible":
            raise ValueError("no gain and no difference: a negligible effect is smaller than the study's margin")
        if sizes and (sizes[0] > 0) != (self.expect == "helps"):
            raise ValueError("a gain or difference above 0 for helps, below 0 for hurts")
        if self.against is not None and self.relation != ALL:
            raise ValueError('relation = "all": a comparison with another model is one of all relations')
        if self.more_than and (self.relation in (ALL, *self.more_than) or self.against is not None):
            raise ValueError("more_than compares different relations of one model: no against, not all relations")
        if self.more_than and (self.expect != "helps" or sizes):
            raise ValueError('expect = "helps" without a size: more_than says that a relation helps more than others')
        return self


class AtlasConfig(ConfigSection):
    """An atlas file.

    Attributes:
        title: heading of the page.
        description: a sentence or two under it.
        spread: scale of the half-normal prior of the standard deviation between data sets, in percent of the metric
            of the interactions alone.
        studies: the studies, in the order in which they run and are shown.
        claims: published claims.
    """

    title: str
    description: str = ""
    spread: float = Field(5.0, gt=0)
    studies: tuple[StudyEntry, ...] = Field(min_length=1)
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class AtlasStudy:
    """A study of the atlas.

    Attributes:
        entry: its section in the atlas file.
        path: its study file.
        config: what that says.
    """

    entry: StudyEntry
    path: Path
    config: StudyConfig

    @property
    def name(self) -> str:
        """Name of the study and of its folder."""
        return self.config.name

    @property
    def title(self) -> str:
        """Heading of its column."""
        return self.entry.title or self.name


@dataclass(frozen=True, slots=True)
class Atlas:
    """An atlas file and the study files that it names.

    Attributes:
        config: the atlas file.
        path: of the atlas file.
        studies: in its order.
    """

    config: AtlasConfig
    path: Path
    studies: tuple[AtlasStudy, ...]

    def study(self, name: str, where: str) -> AtlasStudy:
        """The study of that name.

        Raises:
            InputError: there is none.
        """
        _check_known("study", name, [one.name for one in self.studies], where)
        return next(one for one in self.studies if one.name == name)


def read_atlas(path: Path | str) -> Atlas:
    """Read and check an atlas file and its study files.

    Raises:
        InputError: the first mistake: a key, a study file, or a study, relation or model that does not exist.
    """
    path = Path(path)
    config = load_toml(path, AtlasConfig)
    studies: list[AtlasStudy] = []
    for at, entry in enumerate(config.studies):
        file = path.parent / entry.file
        study = AtlasStudy(entry, file, read_study(file))
        where = f"{path}, studies.{at}"
        if study.name in (one.name for one in studies):
            expected = "studies with different names, which are also those of their folders"
            raise InputError("study is listed twice", where=where, expected=expected, found=repr(study.name))
        for relation in entry.relations:
            _check_known("relation", relation, study.config.relations, f"{where}.relations, {entry.file}")
        studies.append(study)
    _check_counted_once(studies, str(path))
    atlas = Atlas(config, path, tuple(studies))
    for at, claim in enumerate(config.claims):
        _check_claim(atlas, claim, f"{path}, claims.{at}")
    return atlas


def _check_counted_once(studies: Sequence[AtlasStudy], where: str) -> None:
    """Refuse two studies of the same data that give an estimate the same kind; what leaks gives it nothing."""
    seen: dict[tuple[str, str], str] = {}
    for study in (one for one in studies if not one.entry.control):
        data = study.config.data.model_dump_json()
        for relation, kind in study.entry.relations.items():
            if {relation, SPLIT} & set(study.config.study.accept_leaks):
                continue
            if (other := seen.setdefault((data, kind), study.name)) != study.name:
                raise InputError(
                    "the same data give one kind of relation twice",
                    where=where,
                    expected="one study of each data set for every kind: a data set counts once in an estimate",
                    found=f"{kind!r} in {other} and in {study.name}",
                )


def _check_claim(atlas: Atlas, claim: Claim, where: str) -> None:
    study = atlas.study(claim.study, f"{where}.study")
    _check_known("relation", claim.relation, [ALL, *study.config.relations], f"{where}.relation")
    models = [model.name for model in study.config.models]
    _check_known("model", claim.model, models, f"{where}.model")
    if claim.against is not None:
        _check_known("model", claim.against, models, f"{where}.against")
    for relation in claim.more_than:
        _check_known("relation", relation, study.config.relations, f"{where}.more_than")


def _check_known(what: str, name: str, known: Collection[str], where: str) -> None:
    if name not in known:
        raise InputError(
            f"unknown {what}", where=where, expected=one_of(known), found=repr(name) + did_you_mean(name, known)
        )
