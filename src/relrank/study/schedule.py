"""The order of a study's cells: batches, each planned from the results of the previous ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from relrank.graph.relation_chains import hops
from relrank.models import MODELS, Trained
from relrank.study import arms as arm_of
from relrank.study.arms import Arm
from relrank.study.cell import Cell, cell_id
from relrank.study.cell_store import CellResult
from relrank.study.config import ARM_KINDS, ModelSection, StudyConfig
from relrank.study.grid import grid, relational_models, relations_read_by
from relrank.study.model_effects import ModelEffects
from relrank.study.model_strength import model_strengths
from relrank.study.plan import forward_selection, missing_placebo_arms, next_arms, plan_of, searches_paths
from relrank.study.prepare import StudyData
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.warm_starts import with_prerequisites

Batch = list[Cell]
Done = list[tuple[Arm, CellResult]]


def batches(config: StudyConfig, material: StudyData) -> Generator[Batch, Done, None]:
    """The cells of a study in batches; the results of each are sent in before the next one is planned.

    1. What needs no other arm of a closed form: baselines, the interactions, one relation each.
    2. The arms of the forward selection (``plan``), step by step, of the model that validates best on interactions.
    3. All relations and all but one, whose searches are warm-started from these.
    4. Trained models, which take longest, so that closed forms give provisional verdicts early.
    5. The arms that explain why a relation that helps alone adds nothing to the others, and placebo arms for the
       steps of the plan.
    """
    schedule = _Schedule(config, material)
    cells = grid(config, material)
    late = [c for c in cells if _runs_after_path(c)]
    yield from schedule.run([c for c in cells if not _runs_after_path(c) and not _is_trained(c)])
    model = schedule.path_model([m.name for m in relational_models(config) if any(c.model == m for c in late)])
    while model is not None and (arms := schedule.next_path_arms(model)):
        yield from schedule.run(schedule.cells(model, arms))
    yield from schedule.run(late)
    yield from schedule.run([c for c in cells if _is_trained(c)])
    yield from schedule.run(schedule.explaining_cells())


def expected_cells(config: StudyConfig, material: StudyData) -> dict[str, int]:
    """An estimate of the number of cells of each model, since later batches depend on the results of earlier ones.

    Half of the relations are assumed to be added by the forward selection, and as many placebo arms to be run.
    """
    cells, first = grid(config, material), material.split_contexts[0]
    expected = dict(Counter(cell.model.name for cell in cells))
    searched = [c.model.name for c in cells if _runs_after_path(c) and _has_arms_of_path(c.model)]
    if searched:
        n = len(relations_read_by(next(m for m in config.models if m.name == searched[0]), config, first))
        steps = range(1, min((n + 1) // 2, n - 2))
        expected[searched[0]] += len(material.split_contexts) * (sum(n - k for k in steps) + (n + 1) // 2)
    return expected


def run_batches(config: StudyConfig, material: StudyData, run: Callable[[Batch], Done]) -> None:
    """Pass every batch of a study to ``run``, whose results the further batches are planned from."""
    coming = batches(config, material)
    batch = next(coming, None)
    while batch is not None:
        done = run(batch)
        try:
            batch = coming.send(done)
        except StopIteration:
            batch = None


class _Schedule:
    """The cells that were planned so far, and their results."""

    def __init__(self, config: StudyConfig, material: StudyData) -> None:
        self._config, self._split_contexts = config, material.split_contexts
        first = material.split_contexts[0]
        self._hops = hops(first.graph)
        self._used_relations = {m.name: relations_read_by(m, config, first) for m in config.models}
        self._sections = {m.name: m for m in config.models}
        self._planned: list[Cell] = []
        self._done: Done = []

    def run(self, cells: Sequence[Cell]) -> Generator[Batch, Done, None]:
        """One batch, unless it is empty."""
        if cells:
            batch = with_prerequisites(cells, self._planned)
            self._planned += batch
            self._done += yield batch

    def cells(self, model: str, arms: Sequence[Arm]) -> list[Cell]:
        """A model on further arms, one split after the other, since a model may cache what arms of a split share."""
        section, study = self._sections[model], self._config.study
        return [
            Cell(section, arm, split_context, study, tunes_new_weights_only=arm.rewired is None)
            for split_context in self._split_contexts
            for arm in arms
        ]

    def path_model(self, waiting: Sequence[str]) -> str | None:
        """The model whose path is searched; None if there is none, or if its path needs no arms of its own.

        Args:
            waiting: models with arms that run after the path. The one that validates best on the interactions is
                chosen.
        """
        results = self._results()
        candidates = [
            name
            for name in waiting
            if _has_arms_of_path(self._sections[name]) and results.arm_name(name, arm_of.INTERACTIONS) is not None
        ]
        strengths = model_strengths(results, candidates, candidates)
        model = strengths[0]["model"] if strengths else None
        return model if model is not None and len(self._used_relations[model]) > 3 else None

    def next_path_arms(self, model: str) -> list[Arm]:
        """The arms of the next step of a model's path that have not run."""
        results, relations = self._results(), self._used_relations[model]
        steps, _ = forward_selection(results, model, relations)
        return next_arms(results, model, relations, [tried[0][1] for tried in steps])

    def explaining_cells(self) -> list[Cell]:
        """Cells that explain redundancies, and placebos of the plan, which have not run."""
        config, results = self._config, self._results()
        effects = [
            ModelEffects(results, m.name, self._used_relations[m.name], config.study.margin)
            for m in relational_models(config)
        ]
        wanted = [(one.model, one.redundancy_arms()) for one in effects]
        reading = [one.model for one in effects if one.relations]
        strengths = model_strengths(results, reading, [m.name for m in config.models], config.study.margin)
        subject = plan_subject(strengths, effects)
        if subject is not None and "rewired" in (self._sections[subject.model].arms or ARM_KINDS):
            plan = plan_of(results, subject.model, subject.relations, subject.margin)
            wanted.append((subject.model, missing_placebo_arms(results, plan)))
        cells = [cell for model, arms in wanted for cell in self.cells(model, arms)]
        unique = {cell_id(c): c for c in cells}
        return [c for c in unique.values() if results.arm_name(c.model.name, c.arm) is None]

    def _results(self) -> ResultsByArm:
        config = self._config
        return ResultsByArm(self._done, config.study.metric, self._hops, draws_test=config.protocol.draws_test)


def _is_trained(cell: Cell) -> bool:
    return issubclass(MODELS[cell.model.kind], Trained)


def _has_arms_of_path(model: ModelSection) -> bool:
    """Whether a model runs on the arms that a path begins and ends with."""
    return not model.arms or {"all", "alone", "interactions"} <= set(model.arms)


def _runs_after_path(cell: Cell) -> bool:
    """Whether an arm runs after those of the path; a path over three relations needs no arms of its own."""
    return searches_paths(cell) and len(cell.split_context.graph.relations) > 3 and len(cell.arm.relations) > 1


def plan_subject(strengths: Sequence[Mapping[str, Any]], effects: Sequence[ModelEffects]) -> ModelEffects | None:
    """The model whose plan is made: of those that read relations, the best on the interactions alone."""
    named = {one.model: one for one in effects if one.baseline_metric is not None}
    return named.get(strengths[0]["model"]) if strengths else None
