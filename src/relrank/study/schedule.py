"""The order of a study's cells: batches, each planned from what the ones before found."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from relrank.graph.relation_chains import hops
from relrank.study import arms as arm_of
from relrank.study.arms import Arm
from relrank.study.cell import Cell
from relrank.study.cell_results import CellResults
from relrank.study.cell_store import CellResult
from relrank.study.config import ARM_KINDS, StudyConfig
from relrank.study.grid import grid, relational_models, relations_read_by
from relrank.study.model_effects import ModelEffects
from relrank.study.model_strength import model_strengths
from relrank.study.plan import forward_selection, missing_placebo_arms, next_arms, plan_of, searches_paths
from relrank.study.prepare import StudyData
from relrank.study.warm_starts import with_prerequisites

Batch = list[Cell]


Done = list[tuple[Arm, CellResult]]


def batches(config: StudyConfig, material: StudyData) -> Generator[Batch, Done, None]:
    """The cells of a study in batches, each planned from the results of those before, which are sent in.

    First what needs no other arm: baselines, the interactions, one relation each. Then, of the model that validates
    best on the interactions, the arms of its path (``plan``). Then all relations, and all but one, whose searches
    begin after these. At last the arms that explain why a relation that helps alone adds nothing, and those that ask
    whether the links of a step of the plan matter.
    """
    first = material.split_contexts[0]
    over = hops(first.graph)
    used_relations = {m.name: relations_read_by(m, config, first) for m in config.models}
    cells = grid(config, material)
    late = [c for c in cells if _runs_after_path(c)]
    done: Done = []
    planned = with_prerequisites([c for c in cells if not _runs_after_path(c)])
    done += yield planned
    lead = _path_model(config, done, [m.name for m in relational_models(config) if any(c.model == m for c in late)])
    lead = lead if lead is not None and len(used_relations[lead]) > 3 else None
    split_contexts, sections = material.split_contexts, {m.name: m for m in config.models}
    while lead is not None:
        found = CellResults(done, config.study.metric, over, draws_test=config.protocol.draws_test)
        steps, _ = forward_selection(found, lead, used_relations[lead])
        more = next_arms(found, lead, used_relations[lead], [tried[0][1] for tried in steps])
        if not more:
            break
        batch = with_prerequisites(
            [
                Cell(sections[lead], arm, split_context, config.study, tunes_new_weights_only=True)
                for split_context in split_contexts
                for arm in more
            ],
            planned,
        )
        planned += batch
        done += yield batch
    if late:
        batch = with_prerequisites(late, planned)
        planned += batch
        done += yield batch
    found = CellResults(done, config.study.metric, over, draws_test=config.protocol.draws_test)
    judged = [
        ModelEffects(found, m.name, used_relations[m.name], config.study.margin) for m in relational_models(config)
    ]
    asked = [(one.model, one.redundancy_arms()) for one in judged]
    using = [one.model for one in judged if one.relations]
    leading = plan_subject(
        model_strengths(found, using, [m.name for m in config.models], config.study.margin), judged
    )
    if leading is not None and "rewired" in (sections[leading.model].arms or ARM_KINDS):
        way = plan_of(found, leading.model, leading.relations, leading.margin)
        asked.append((leading.model, missing_placebo_arms(found, way)))
    extra = [
        Cell(sections[model], arm, split_context, config.study, tunes_new_weights_only=arm.rewired is None)
        for model, arms_asked in asked
        for split_context in split_contexts  # what a model keeps for other arms of a split is there while they run
        for arm in arms_asked
    ]
    extra = list({(c.model.name, c.arm.name, c.split_context.seed): c for c in extra}.values())
    extra = [c for c in extra if found.arm_name(c.model.name, c.arm) is None]
    if extra:
        yield with_prerequisites(extra, planned)


def run_batches(config: StudyConfig, material: StudyData, run: Callable[[Batch], Done]) -> None:
    """Hand every batch of a study to ``run``; what it returns is what further batches are planned from."""
    coming = batches(config, material)
    batch = next(coming, None)
    while batch is not None:
        done = run(batch)
        try:
            batch = coming.send(done)
        except StopIteration:
            batch = None


def _runs_after_path(cell: Cell) -> bool:
    """Whether an arm is run after those of the path, which a path of three relations needs no arms of its own for."""
    return searches_paths(cell) and len(cell.split_context.graph.relations) > 3 and len(cell.arm.relations) > 1


def _path_model(config: StudyConfig, done: Done, waiting: Sequence[str]) -> str | None:
    """The model whose path is searched: of those whose arms wait, the best on the interactions, on validation."""
    found = CellResults(done, config.study.metric, draws_test=config.protocol.draws_test)
    named = {m.name: m for m in config.models}
    waiting = [
        n for n in waiting if not named[n].arms or {"all", "alone", "interactions"} <= set(named[n].arms or ())
    ]
    waiting = [name for name in waiting if found.arm_name(name, arm_of.INTERACTIONS) is not None]
    judging = model_strengths(found, waiting, waiting)
    return judging[0]["model"] if judging else None


def plan_subject(judging: Sequence[Mapping[str, Any]], judged: Sequence[ModelEffects]) -> ModelEffects | None:
    """The judge that the plan is of: the best on the interactions alone, of those that read relations."""
    named = {one.model: one for one in judged if one.base is not None}
    return named.get(judging[0]["model"]) if judging else None
