"""What a study can say while it runs: provisional results from the cells that have finished so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import polars as pl

from relrank.evaluation.comparison import Effect
from relrank.graph.relation import Titles
from relrank.study.callbacks import NullCallback, StudyCallback
from relrank.study.cell import Cell
from relrank.study.cell_store import CellResult
from relrank.study.config import StudyConfig
from relrank.study.model_effects import VERDICT_SCHEMA, ModelEffects
from relrank.study.number_format import interval, signed
from relrank.study.prepare import StudyData
from relrank.study.progress import StudyProgress
from relrank.study.result import StudyResult
from relrank.study.schedule import Done

SHARE = 0.1
"""Provisional results may take at most this share of a study's time."""
PATIENCE = 30.0
"""Seconds that the first result waits for all relations of the first split."""

Assemble = Callable[[StudyConfig, StudyData, Done, dict[str, Any]], StudyResult]
"""Makes the result of a study from finished cells; the last argument is ``StudyResult.card["progress"]``."""


@dataclass(slots=True)
class ProvisionalResults(NullCallback):
    """A study callback that collects results, and offers provisional ones to another callback.

    Attributes:
        config: the study.
        material: its data.
        assemble: makes a result.
        callback: receives the offers.
        progress: of the study; it gets every event before this object does.
    """

    config: StudyConfig
    material: StudyData
    assemble: Assemble
    callback: StudyCallback
    progress: StudyProgress
    _done: Done = field(default_factory=list, init=False)
    _first_batch: set[tuple[str, str]] = field(default_factory=set, init=False)
    _awaited: set[tuple[str, str]] = field(default_factory=set, init=False)
    _batches: int = field(default=0, init=False)
    _began: float = field(default_factory=time.monotonic, init=False)
    _next: float = field(default=0.0, init=False)

    def plan(self, cells: list[Cell], finished: int) -> None:
        """The next batch begins."""
        if not self._batches:
            first = self.config.study.seeds[0]
            self._awaited = {(c.model.name, c.arm.name) for c in cells if c.split_context.seed == first}
        self._batches += 1

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """Add a finished cell."""
        self._done.append((cell.arm, result))
        if self._batches == 1:
            self._first_batch.add((result.model, cell.arm.name))
            self._awaited.discard((result.model, cell.arm.name))

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Await no cell that is left out."""
        self._awaited -= {(cell.model.name, cell.arm.name) for cell in cells}

    def offer(self) -> None:
        """Offer a result to the callback, if one on relations can be made and the last one was long enough ago."""
        now = time.monotonic()
        if now < self._next or (self._awaited and now < self._began + PATIENCE):
            return
        n_seeds, done = comparable(self._done, self.config.study.seeds, self._first_batch)
        if any(arm.relations for arm, _ in done):
            self.callback.provisional(partial(self._timed, n_seeds, done))

    def _timed(self, n_seeds: int, done: Done) -> StudyResult:
        began = time.monotonic()
        study = self.config.study.model_copy(update={"seeds": self.config.study.seeds[:n_seeds]})
        material = replace(self.material, split_contexts=self.material.split_contexts[:n_seeds])
        result = self.assemble(self.config.model_copy(update={"study": study}), material, done, self._progress())
        self._next = time.monotonic() + (time.monotonic() - began) / SHARE
        return result

    def _progress(self) -> dict[str, Any]:
        progress, left = self.progress, self.progress.time_left
        seconds = None if left is None or left.at_least else left.seconds
        return {"cells_done": progress.n_done, "cells_total": progress.total, "seconds_left": seconds}


def comparable(done: Done, seeds: Sequence[int], first_batch: set[tuple[str, str]]) -> tuple[int, Done]:
    """The finished cells that can be compared: arms over the same splits.

    Args:
        done: finished cells.
        seeds: of the study, in the order in which they run.
        first_batch: model and arm of the cells that run first.

    Returns:
        The number m of leading seeds that every arm of the first batch with a result has, and the cells of these
        seeds, without arms that lack one of them.
    """
    of_arm: dict[tuple[str, str], set[int]] = {}
    for arm, result in done:
        of_arm.setdefault((result.model, arm.name), set()).add(result.seed)

    def leading(found: set[int]) -> int:
        return next((n for n, seed in enumerate(seeds) if seed not in found), len(seeds))

    n_leading = {key: leading(found) for key, found in of_arm.items()}
    m = min((n for key, n in n_leading.items() if key in first_batch and n), default=1)
    used = set(seeds[:m])
    return m, [
        (arm, result) for arm, result in done if result.seed in used and n_leading[result.model, arm.name] >= m
    ]


def pending_verdicts(models: Sequence[ModelEffects], titles: Titles, decimals: int) -> pl.DataFrame:
    """Verdict rows of relations whose arms have not all run: undecided, with what is known of each alone."""
    rows = []
    for one in models:
        for relation in one.relations:
            if relation in one.judged_relations or ("alone", relation) not in one.effects:
                continue
            alone = one.effects["alone", relation][2]
            row = {
                "model": one.model,
                "relation": relation,
                "verdict": "undecided",
                "sentence": f"{_alone(titles.get(relation, relation), alone, one, decimals)}; what it adds to the "
                "others is not measured yet.",
                "margin": one.margin,
                "detectable_effect": alone.detectable_effect(len(one.relations)),
                **dict(zip(("alone", "alone_low", "alone_high"), (alone.mean, alone.low, alone.high), strict=True)),
            }
            rows.append({name: row.get(name) for name in VERDICT_SCHEMA})
    return pl.DataFrame(rows, schema=VERDICT_SCHEMA)


def _alone(title: str, alone: Effect, one: ModelEffects, decimals: int) -> str:
    figures = f"{signed(alone.mean, decimals)} ({interval(alone.low, alone.high, decimals)}) {one.results.metric}"
    return f"{title}: alone it adds {figures}"


def so_far(models: Sequence[ModelEffects], titles: Titles) -> str | None:
    """What the cells so far say about each relation alone; None if that is nothing, or if there are verdicts."""
    if any(m.judged_relations for m in models):
        return None
    one = next((m for m in models if any(kind == "alone" for kind, _ in m.effects)), None)
    if one is None or not one.baseline_metric:
        return None
    alone = {name: effect for (kind, name), (_, _, effect) in one.effects.items() if kind == "alone"}
    base = one.baseline_metric

    def percent(name: str) -> str:
        effect = alone[name]
        low, mean, high = (
            f"{value / base:+.0%}".replace("%", " %") for value in (effect.low, effect.mean, effect.high)
        )
        return f"{titles.get(name, name)} {mean} ({low} to {high})"

    adding = sorted((name for name, e in alone.items() if e.low > 0), key=lambda name: -alone[name].mean)
    losing = [name for name, e in alone.items() if e.high < 0]
    nothing = [titles.get(name, name) for name in alone if name not in adding and name not in losing]
    parts = []
    if adding:
        parts.append(f"alone, {', '.join(map(percent, adding))}")
    if losing:
        parts.append(f"{', '.join(map(percent, losing))} for the worse")
    if nothing:
        parts.append(f"nothing seen yet of {', '.join(nothing)}")
    return "; ".join(parts)
