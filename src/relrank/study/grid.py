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
    """All cells that are known before anything has run; baselines first, so that a leaderboard is available early.

    Raises:
        InputError: an unknown model or hyper-parameter, a model that reads features without any, or a relation that
            no model reads.
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
        names = {a.name for a in planned[rival.name]}
        if not {"interactions", "all"} <= names:
            raise InputError(
                "rival lacks an arm",
                where=f"[study] versus = {rival.name!r}",
                found=", ".join(sorted(names)),
                expected="the arms interactions and all, or a model that uses no relations",
            )
    return cells


def relational_models(config: StudyConfig) -> list[ModelSection]:
    """The models that relations are judged with."""
    return [m for m in config.models if MODELS[m.kind].relational and config.relations]


def _check(cell: Cell) -> None:
    """Report impossible settings, and a model that lacks its input, before anything runs."""
    kind, split = MODELS[cell.model.kind], cell.split_context.split
    linked = replace(cell, arm=replace(cell.arm, rewired=None))  # the checks do not depend on who is linked to whom
    kind.check(linked.graph, cell.initial_config()[0])
    if cell.split_context.refit and kind.ordered and split.ordered and not split.ordered_with_valid:
        raise InputError(
            "histories have no order in time once they include validation rows",
            where=cell.model.name,
            expected="a time column, since the model is refitted with validation rows that were drawn from training; "
            'or split = "last-leave-one-out", where validation rows follow training rows',
            found="the order of rows alone",
        )


def relations_read_by(model: ModelSection, config: StudyConfig, split_context: SplitContext) -> list[str]:
    """The study's relations that a model reads, in the study's order.

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
    read = MODELS[model.kind].used_relations(split_context.graph, cell.initial_config()[0])
    return [name for name in config.relations if name in read]


def ineffective_weights(model: ModelSection, split_context: SplitContext) -> list[str]:
    """Relations that the study file weights, for all arms or for one, although the model does not read them."""
    kind, names = MODELS[model.kind], set[str]()
    for settings in (model.config, *({**model.config, **arm.config} for arm in model.arm.values())):
        names |= kind.unused_weights(
            split_context.graph, override_config(kind.Config(), settings, f"[[models]] {model.name}, config")
        )
    return sorted(names)


def _check_all_relations_read(config: StudyConfig, split_context: SplitContext) -> None:
    """Refuse relations that no relational model of the study reads; without such a model none is judged."""
    relational = {
        m.name: relations_read_by(m, config, split_context) for m in config.models if MODELS[m.kind].relational
    }
    read = {name for names in relational.values() for name in names} | {config.study.attribute}
    unread = [name for name in config.relations if name not in read]
    if unread and relational:
        relations = split_context.graph.relations
        raise InputError(
            "no model of this study reads a relation",
            where=f"[relations] {', '.join(unread)}",
            expected=f"relations that {' or '.join(relational)} can read, such as ones that touch items, or that a "
            "chain of relations leads to from there",
            found=", ".join(f"{n} ({relations[n].source} → {relations[n].target})" for n in unread),
        )


def arms_of(model: ModelSection, relations: Sequence[str], hops: Hops) -> list[Arm]:
    """The arms of one model over the relations that it reads."""
    return arms(relations, model.arms or ARM_KINDS, hops) if relations else [arm_of.INTERACTIONS]


def cell_with_prerequisites(
    config: StudyConfig, material: StudyData, model: str, arm: str | None = None
) -> list[Cell]:
    """One cell of a study, preceded by the cells that its search is warm-started from.

    Args:
        config: the study.
        material: its data; the first split is used.
        model: name.
        arm: its name, or relation names with commas.

    Raises:
        InputError: no such model or relation, or relations for a model that uses none.
    """
    section = next((m for m in config.models if m.name == model), ModelSection(name=model))
    first = material.split_contexts[0]
    read = relations_read_by(section, config, first)
    arms_in_study = arms_of(section, read, hops(first.graph))
    named = {a.name: a for a in (*arms_in_study, arm_of.all_of(read or list(config.relations)))}
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
    planned = with_prerequisites([Cell(section, a, first, config.study) for a in arms_in_study])
    (cell,) = with_prerequisites([cell], planned)
    by_key = {one.key(): one for one in planned}
    prerequisites: dict[str, Cell] = {}

    def add(keys: tuple[str, ...]) -> None:
        for key in keys:
            add(by_key[key].prerequisites)
            prerequisites.setdefault(key, by_key[key])

    add(cell.prerequisites)
    return [*prerequisites.values(), cell]
