"""The grid of a study: every model on every arm and split, as cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from relrank.errors import InputError, did_you_mean, one_of
from relrank.graph.relation_chains import hops
from relrank.models import MODELS
from relrank.models.core.base import override_config
from relrank.study import arms as arm_of
from relrank.study.arms import Arm, Hops, arms
from relrank.study.cell import Cell, SplitContext
from relrank.study.config import ARM_KINDS, ModelSection, StudyConfig
from relrank.study.prepare import StudyData
from relrank.study.warm_starts import with_prerequisites


def grid(config: StudyConfig, material: StudyData) -> list[Cell]:
    """All cells that are planned before anything ran: baselines first, so that a leaderboard is there early.

    Raises:
        InputError: an unknown model or hyper-parameter, a model that reads features where there are none, or a
            relation that no model reads.
    """
    first = material.split_contexts[0]
    planned = {
        model.name: arms_of(model, relations_read_by(model, config, first), hops(first.graph))
        for model in config.models
    }
    cells = [
        Cell(model, arm, split_context, config.study)
        for split_context in material.split_contexts
        for model in config.models
        for arm in planned[model.name]
    ]
    for cell in cells:
        _check(cell)
    _check_all_relations_read(config, first)
    rival = config.rival
    if rival and MODELS[rival.kind].relational:
        there = {a.name for a in planned[rival.name]}
        if not {"interactions", "all"} <= there:
            raise InputError(
                "rival lacks an arm",
                where=f"[study] versus = {rival.name!r}",
                found=", ".join(sorted(there)),
                expected="the arms interactions and all, or a model that uses no relations",
            )
    return cells


def relational_models(config: StudyConfig) -> list[ModelSection]:
    """The models that relations are judged with."""
    return [m for m in config.models if MODELS[m.kind].relational and config.relations]


def _check(cell: Cell) -> None:
    """Settings that cannot be, and a model without what it reads, are found before anything runs."""
    cast_link_keys = replace(cell, arm=replace(cell.arm, rewired=None))  # no check asks who is linked with whom
    MODELS[cell.model.kind].check(cast_link_keys.graph, cell.start()[0])
    split = cell.split_context.split
    if (
        cell.split_context.refit
        and MODELS[cell.model.kind].ordered
        and split.ordered
        and not split.ordered_with_valid
    ):
        raise InputError(
            "histories have no order in time once validation rows are among them",
            where=cell.model.name,
            expected="a time column, since a model is fitted once more with the validation rows that were drawn from "
            'training; or split = "last-leave-one-out", where they follow them',
            found="the order of rows alone",
        )


def relations_read_by(model: ModelSection, config: StudyConfig, split_context: SplitContext) -> list[str]:
    """The study's relations that a model reads, in their order.

    Raises:
        InputError: an unknown model or hyper-parameter.
    """
    if model.kind not in MODELS:
        raise InputError(
            "unknown model",
            where=f"[[models]] {'model' if model.model else 'name'}",
            expected=one_of(MODELS),
            found=repr(model.kind) + did_you_mean(model.kind, MODELS),
        )
    if not MODELS[model.kind].relational:
        return []
    cell = Cell(model, arm_of.INTERACTIONS, split_context, config.study)
    read = MODELS[model.kind].used_relations(split_context.graph, cell.start()[0])
    return [name for name in config.relations if name in read]


def ineffective_weights(model: ModelSection, split_context: SplitContext) -> list[str]:
    """Relations that the study file, for all arms or for one, gives a weight that the model never reads."""
    kind, names = MODELS[model.kind], set[str]()
    for settings in (model.config, *({**model.config, **arm.config} for arm in model.arm.values())):
        names |= kind.unused_weights(
            split_context.graph, override_config(kind.Config(), settings, f"[[models]] {model.name}, config")
        )
    return sorted(names)


def _check_all_relations_read(config: StudyConfig, split_context: SplitContext) -> None:
    """A relation that is put to the test, and that no model of the study can read, would be tested in vain.

    Where no model reads any relation, none is put to the test.
    """
    relational = {
        m.name: relations_read_by(m, config, split_context) for m in config.models if MODELS[m.kind].relational
    }
    read = {name for names in relational.values() for name in names} | {config.study.attribute}
    unread = [name for name in config.relations if name not in read]
    if unread and relational:
        what = ", ".join(
            f"{n} ({split_context.graph.relations[n].source} → {split_context.graph.relations[n].target})"
            for n in unread
        )
        raise InputError(
            "no model of this study reads a relation",
            where=f"[relations] {', '.join(unread)}",
            expected=f"relations that {' or '.join(relational)} can read, such as ones that touch items, or that a "
            "chain of relations leads to from there",
            found=what,
        )


def arms_of(model: ModelSection, relations: Sequence[str], over: Hops) -> list[Arm]:
    """The arms of one model, over the relations that it reads."""
    return arms(relations, model.arms or ARM_KINDS, over) if relations else [arm_of.INTERACTIONS]


def cell_with_prerequisites(
    config: StudyConfig, material: StudyData, model: str, arm: str | None = None
) -> list[Cell]:
    """The cells whose searches one cell begins after, as in a study, and that cell at the end.

    Args:
        config: the study.
        material: its data; the first split is taken.
        model: name.
        arm: name, or relation names with commas.

    Raises:
        InputError: no such model or relation, or relations for a model that uses none.
    """
    section = next((m for m in config.models if m.name == model), ModelSection(name=model))
    first = material.split_contexts[0]
    read = relations_read_by(section, config, first)
    there = arms_of(section, read, hops(first.graph))
    named = {a.name: a for a in (*there, arm_of.all_of(read or list(config.relations)))}
    relational = MODELS[section.kind].relational and bool(config.relations)
    arm = arm or ("all" if relational else "interactions")
    if arm == "interactions":
        chosen = arm_of.INTERACTIONS
    elif not relational:
        raise InputError("model uses no relations", where=f"{model}, arm", expected='"interactions"', found=repr(arm))
    elif arm in named:
        chosen = named[arm]
    else:
        names = tuple(name.strip() for name in arm.split(","))
        for name in names:
            first.graph.relation(name)
        chosen = Arm("interactions + " + " + ".join(names), names)
    cell = Cell(section, chosen, first, config.study)
    _check(cell)
    planned = with_prerequisites([Cell(section, of, first, config.study) for of in there])
    (cell,) = with_prerequisites([cell], planned)
    by_key = {one.key(): one for one in planned}
    before: dict[str, Cell] = {}

    def add(keys: tuple[str, ...]) -> None:
        for key in keys:
            add(by_key[key].prerequisites)
            before.setdefault(key, by_key[key])

    add(cell.prerequisites)
    return [*before.values(), cell]
