"""The plan: which relations to build, in which order. Forward selection adds the one that validates best.

Relations are chosen on validation and confirmed on test: every step is an arm of its own, so its effect has an
interval. An arm is represented by the best setting that uses only its relations, on whatever arm it was found
(``ResultsByArm.best_validated_cells``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from relrank.evaluation.comparison import Effect, compare, mean_interval
from relrank.graph.graph import Graph
from relrank.models import MODELS, ClosedForm
from relrank.study import arms as arm_of
from relrank.study.arms import Arm
from relrank.study.cell import Cell
from relrank.study.coordinate_search import MIN_RELATIVE_GAIN
from relrank.study.results_by_arm import ResultsByArm

CLOSE = 0.1
"""A relation is an alternative if its gain on validation is lower than the chosen one's by at most this share."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One relation added to the previous ones.

    Attributes:
        relation: its name.
        arm: name of the arm with the relations so far and this one.
        adds: on test, to the previous arm.
        over_placebo: on test, the loss when its links are shuffled; None if that has not run. A trained model can
            profit from any additional relation, or by chance; random links add as much then.
        total: on test, effect of all relations so far, compared with the interactions alone.
        remaining_gain: on test, what all relations add to these; None if "all" has not run.
        share: of the gain of all relations, that of these; None unless the gain is above 0.
        alternatives: relations that validate nearly as well in its place.
    """

    relation: str
    arm: str
    adds: Effect
    over_placebo: Effect | None
    total: Effect
    remaining_gain: Effect | None
    share: float | None
    alternatives: tuple[str, ...] = ()

    @property
    def confirmed(self) -> bool:
        """Whether test confirms that the relation, and its links, add something."""
        return self.adds.low > 0 and (self.over_placebo is None or self.over_placebo.low > 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """The path of one model.

    Attributes:
        model: name.
        steps: in order.
        sufficient_steps: number of steps after which all relations together are shown on test to add less than the
            margin (two one-sided tests); None if that cannot be shown.
        margin: smallest difference that matters, in units of the metric.
        stop_reason: why the path is not longer.
        base: on test, mean metric of the interactions alone.
    """

    model: str
    steps: tuple[PlanStep, ...]
    sufficient_steps: int | None
    margin: float
    stop_reason: str
    base: float

    @property
    def worth_building(self) -> int:
        """Number of steps to take: up to the last confirmed one, or fewer if these suffice."""
        confirmed = max((at + 1 for at, step in enumerate(self.steps) if step.confirmed), default=0)
        return confirmed if self.sufficient_steps is None else min(confirmed, self.sufficient_steps)


def searches_paths(cell: Cell) -> bool:
    """Whether a path is searched with this cell's model: closed forms that are tuned."""
    return issubclass(MODELS[cell.model.kind], ClosedForm) and cell.trials > 1


def next_arms(results: ResultsByArm, model: str, relations: Sequence[str], so_far: Sequence[str]) -> list[Arm]:
    """The arms of the next step that have not run; none for all relations or all but one, which always run."""
    if not so_far or len(so_far) + 1 >= len(relations) - 1:
        return []
    wanted = [arm_of.with_relations([*so_far, name], results.hops) for name in relations if name not in so_far]
    return [arm for arm in wanted if results.arm_name(model, arm) is None]


def forward_selection(
    results: ResultsByArm, model: str, relations: Sequence[str]
) -> tuple[list[list[tuple[float, str]]], str]:
    """Forward selection on validation, as far as its arms have run.

    Returns:
        Per step (mean validation metric, relation) of the candidates, the best first, which is added; and why the
        selection stops.
    """
    steps: list[list[tuple[float, str]]] = []
    valid = _valid(results, model, [])
    if valid is None:
        return [], "the interactions alone were not run"
    so_far: list[str] = []
    while len(so_far) < len(relations):
        tried = [
            (figure, name)
            for name in relations
            if name not in so_far and (figure := _valid(results, model, [*so_far, name])) is not None
        ]
        if not tried:
            return steps, "further arms were not run"
        tried.sort(key=lambda one: (-one[0], relations.index(one[1])))
        if tried[0][0] <= valid * (1 + MIN_RELATIVE_GAIN):
            return steps, "no further relation is better on validation"
        steps.append(tried)
        valid = tried[0][0]
        so_far.append(tried[0][1])
    return steps, "every relation is in it"


def plan_of(results: ResultsByArm, model: str, relations: Sequence[str], margin: float) -> Plan:
    """The path of a model with the effects of every step on test."""
    steps, stop_reason = forward_selection(results, model, relations)
    everything = arm_of.all_of(relations)
    full = _effect(results, model, everything, arm_of.INTERACTIONS)
    full_gain = full.mean if full is not None else 0.0
    made: list[PlanStep] = []
    so_far: list[str] = []
    valid_before = _valid(results, model, []) or 0.0
    sufficient = None
    for (best, name), *others in steps:
        before = arm_of.with_relations(so_far, results.hops)
        so_far.append(name)
        arm = arm_of.with_relations(so_far, results.hops)
        adds, total = _effect(results, model, arm, before), _effect(results, model, arm, arm_of.INTERACTIONS)
        arm_name = results.arm_name(model, arm)
        if adds is None or total is None or arm_name is None:
            break
        remaining = _effect(results, model, everything, arm)
        placebo = results.effect(model, arm, arm_of.with_relations_rewired(so_far, name, results.hops))
        over_placebo = None if placebo is None else placebo[2]
        close = [r for valid, r in others if best - valid <= CLOSE * (best - valid_before)]
        share = total.mean / full_gain if full_gain > 0 else None
        made.append(PlanStep(name, arm_name, adds, over_placebo, total, remaining, share, tuple(close)))
        valid_before = best
        if sufficient is None and remaining is not None and remaining.interval_at(0.9)[1] < margin:
            sufficient = len(made)
    tables = _tables(results, model, arm_of.INTERACTIONS)
    base = mean_interval(tables, results.metric).mean if tables is not None else 0.0
    unconfirmed = [step.relation for step in made if step.adds.low > 0 and not step.confirmed]
    if unconfirmed:
        names = ", ".join(results.titles.get(name, name) for name in unconfirmed)
        stop_reason += f"; not to be built, since shuffled links are not shown to bring less: {names}"
    return Plan(model, tuple(made), sufficient, margin, stop_reason, base)


def missing_placebo_arms(results: ResultsByArm, plan: Plan) -> list[Arm]:
    """Placebo arms, which have not run, of the steps that are worth building: the step's relation is shuffled."""
    names = [step.relation for step in plan.steps]
    placebos = [
        arm_of.with_relations_rewired(names[: at + 1], name, results.hops)
        for at, name in enumerate(names[: plan.worth_building])
    ]
    return [arm for arm in placebos if results.arm_name(plan.model, arm) is None]


def plan_card(plan: Plan, results: ResultsByArm, graph: Graph) -> dict[str, Any]:
    """The plan as plain JSON (see ``StudyResult.card``), with cost, links and nodes of every step."""
    steps = []
    for step in plan.steps:
        relation = graph.relation(step.relation)
        cells = results.cells(plan.model, step.arm)
        row: dict[str, Any] = {"relation": step.relation, "arm": step.arm, "alternatives": list(step.alternatives)}
        row["through"] = list(results.hops.get(step.relation, ()))
        for name, effect in (
            ("adds", step.adds),
            ("beyond", step.over_placebo),
            ("total", step.total),
            ("left", step.remaining_gain),
        ):
            ends = (None,) * 3 if effect is None else (effect.mean, effect.low, effect.high)
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), ends, strict=True))
        row |= {
            "share": step.share,
            "confirmed": step.confirmed,
            "rows": len(relation),
            "nodes": len(graph.nodes[relation.target]),
            "seconds": sum(cell.cost["fit"] for cell in cells) / len(cells),
            "peak_mb": max(cell.cost["peak_mb"] for cell in cells),
        }
        steps.append(row)
    return {
        "model": plan.model,
        "steps": steps,
        "build": plan.worth_building,
        "enough": plan.sufficient_steps,
        "margin": plan.margin,
        "base": plan.base,
        "ends": plan.stop_reason,
    }


def _valid(results: ResultsByArm, model: str, relations: Sequence[str]) -> float | None:
    """Mean validation metric of an arm with these relations, over splits; None if it has not run."""
    cells = results.best_validated_cells(model, arm_of.with_relations(relations, results.hops))
    return None if cells is None else sum(cell.valid_metric for cell in cells) / len(cells)


def _tables(results: ResultsByArm, model: str, arm: Arm) -> list[pl.DataFrame] | None:
    cells = results.best_validated_cells(model, arm)
    return None if cells is None else [cell.evaluation.table for cell in cells]


def _effect(results: ResultsByArm, model: str, a: Arm, b: Arm) -> Effect | None:
    """The paired effect a − b, each at its best setting on validation; None if one has not run."""
    tables_a, tables_b = _tables(results, model, a), _tables(results, model, b)
    if tables_a is None or tables_b is None:
        return None
    return compare(tables_a, tables_b, results.metric, starts=results.starts((model, (1, -1))))
