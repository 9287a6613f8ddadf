"""What to build, and in which order: relations are added one by one, each time the one that validates best.

Validation chooses, test confirms: every step of the path is an arm of its own, so that what it adds has an interval.
An arm stands for the best setting that validation knows of its relations, on whatever arm that was found
(``CellResults.best_validated_cells``): a wider search is no gain from the relations of its arm that it gives no
weight.
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
from relrank.study.cell_results import CellResults
from relrank.study.coordinate_search import MIN_RELATIVE_GAIN

CLOSE = 0.1
"""A relation is an alternative to the one that was chosen where it brings at least this much less than all of it."""


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One relation more.

    Attributes:
        relation: which.
        arm: name of the arm with the relations so far and this one.
        adds: on test, to the arm before.
        over_placebo: on test, what is lost when its links are shuffled; None where that was not run. More of anything
            in a trained model can help, or be lucky: links that say nothing bring as much then.
        total: on test, of all relations so far, to the interactions alone.
        left: on test, what all relations bring beyond these; None where "all" was not run.
        share: of what all relations bring, that these bring; None where that is not above 0.
        alternatives: relations that validation found nearly as good in this place.
    """

    relation: str
    arm: str
    adds: Effect
    over_placebo: Effect | None
    total: Effect
    left: Effect | None
    share: float | None
    alternatives: tuple[str, ...] = ()

    @property
    def confirmed(self) -> bool:
        """Whether test says that it adds something, and that its links do."""
        return self.adds.low > 0 and (self.over_placebo is None or self.over_placebo.low > 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """The path of one model.

    Attributes:
        model: name.
        steps: in order.
        enough: number of steps after which all relations together bring less than the margin more, as far as test
            can tell (two one-sided tests); None where it cannot.
        margin: smallest difference that matters, in units of the metric.
        ends: why the path is not longer.
        base: on test, mean metric of the interactions alone.
    """

    model: str
    steps: tuple[PlanStep, ...]
    enough: int | None
    margin: float
    ends: str
    base: float

    @property
    def worth_building(self) -> int:
        """Steps to take: up to where the rest is shown to be too small to matter, else the last one confirmed."""
        confirmed = max((at + 1 for at, step in enumerate(self.steps) if step.confirmed), default=0)
        return confirmed if self.enough is None else min(confirmed, self.enough)


def searches_paths(cell: Cell) -> bool:
    """Whether the arms of a path are worth their time: models that are solved and tuned."""
    return issubclass(MODELS[cell.model.kind], ClosedForm) and cell.trials > 1


def next_arms(found: CellResults, model: str, relations: Sequence[str], so_far: Sequence[str]) -> list[Arm]:
    """The arms of the next step that were not run yet; with all relations, or all but one, none is needed."""
    if not so_far or len(so_far) + 1 >= len(relations) - 1:
        return []
    wanted = [arm_of.some([*so_far, name], found.hops) for name in relations if name not in so_far]
    return [arm for arm in wanted if found.arm_name(model, arm) is None]


def forward_selection(
    found: CellResults, model: str, relations: Sequence[str]
) -> tuple[list[list[tuple[float, str]]], str]:
    """Per step the relations that could be added with their mean validation metric, the best first, and why it ends.

    The first of every step was added. The path ends where none is worth a step of tuning, or an arm was not run.
    """
    steps: list[list[tuple[float, str]]] = []
    valid = _valid(found, model, [])
    if valid is None:
        return [], "the interactions alone were not run"
    so_far: list[str] = []
    while len(so_far) < len(relations):
        tried = [
            (figure, name)
            for name in relations
            if name not in so_far and (figure := _valid(found, model, [*so_far, name])) is not None
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


def plan_of(found: CellResults, model: str, relations: Sequence[str], margin: float) -> Plan:
    """The path of a model with what test says of every step."""
    steps, ends = forward_selection(found, model, relations)
    everything = arm_of.all_of(relations)
    whole = _effect(found, model, everything, arm_of.INTERACTIONS)
    made: list[PlanStep] = []
    so_far: list[str] = []
    before_valid = _valid(found, model, []) or 0.0
    enough = None
    for tried in steps:
        (best, name), *others = tried
        before = arm_of.some(so_far, found.hops)
        so_far.append(name)
        here = arm_of.some(so_far, found.hops)
        adds, total = _effect(found, model, here, before), _effect(found, model, here, arm_of.INTERACTIONS)
        name_here = found.arm_name(model, here)
        if adds is None or total is None or name_here is None:
            break
        left = _effect(found, model, everything, here)
        shuffled = found.effect(model, here, arm_of.some_rewired(so_far, name, found.hops))
        over_placebo = None if shuffled is None else shuffled[2]
        gain = whole.mean if whole is not None else 0.0
        close = [r for valid, r in others if best - valid <= CLOSE * (best - before_valid)]
        share = total.mean / gain if gain > 0 else None
        made.append(PlanStep(name, name_here, adds, over_placebo, total, left, share, tuple(close)))
        before_valid = best
        if enough is None and left is not None and left.interval_at(0.9)[1] < margin:
            enough = len(made)
    tables = _tables(found, model, arm_of.INTERACTIONS)
    base = mean_interval(tables, found.metric).mean if tables is not None else 0.0
    lucky = [step.relation for step in made if step.adds.low > 0 and not step.confirmed]
    if lucky:
        names = ", ".join(found.titles.get(name, name) for name in lucky)
        ends += f"; not to be built, since shuffled links are not shown to bring less: {names}"
    return Plan(model, tuple(made), enough, margin, ends, base)


def missing_placebo_arms(found: CellResults, plan: Plan) -> list[Arm]:
    """Arms that were not run of the steps that would be built, with the links of the step's relation shuffled."""
    names = [step.relation for step in plan.steps]
    shuffled = [
        arm_of.some_rewired(names[: at + 1], name, found.hops) for at, name in enumerate(names[: plan.worth_building])
    ]
    return [arm for arm in shuffled if found.arm_name(plan.model, arm) is None]


def plan_card(plan: Plan, found: CellResults, graph: Graph) -> dict[str, Any]:
    """The plan as plain JSON (see ``StudyResult.card``).

    Args:
        plan: of a model.
        found: the study's cells, for what each step costs.
        graph: for the rows and nodes of each relation.
    """
    steps = []
    for step in plan.steps:
        relation = graph.relation(step.relation)
        cells = found.cells(plan.model, step.arm)
        row: dict[str, Any] = {"relation": step.relation, "arm": step.arm, "alternatives": list(step.alternatives)}
        row["through"] = list(found.hops.get(step.relation, ()))
        for name, effect in (
            ("adds", step.adds),
            ("beyond", step.over_placebo),
            ("total", step.total),
            ("left", step.left),
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
        "enough": plan.enough,
        "margin": plan.margin,
        "base": plan.base,
        "ends": plan.ends,
    }


def _valid(found: CellResults, model: str, relations: Sequence[str]) -> float | None:
    """Mean validation metric of relations over splits; None where their arm was not run."""
    cells = found.best_validated_cells(model, arm_of.some(relations, found.hops))
    return None if cells is None else sum(cell.valid for cell in cells) / len(cells)


def _tables(found: CellResults, model: str, arm: Arm) -> list[pl.DataFrame] | None:
    cells = found.best_validated_cells(model, arm)
    return None if cells is None else [cell.evaluation.table for cell in cells]


def _effect(found: CellResults, model: str, a: Arm, b: Arm) -> Effect | None:
    """The paired effect a − b, each at the best setting that is known of it; None where one was not run."""
    tables_a, tables_b = _tables(found, model, a), _tables(found, model, b)
    if tables_a is None or tables_b is None:
        return None
    return compare(tables_a, tables_b, found.metric, starts=found.starts((model, (1, -1))))
