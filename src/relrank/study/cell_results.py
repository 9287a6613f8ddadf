"""Finished cells by model, arm and seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import polars as pl

from relrank.evaluation.comparison import Effect, RestartVariance, compare
from relrank.graph.relation import NO_TITLES, Titles
from relrank.study import arms as arm_of
from relrank.study.arms import NO_HOPS, Arm, Hops
from relrank.study.cell_store import CellResult
from relrank.study.figures import decimals_of


class CellResults:
    """The finished cells of a study by model, graph and seed.

    Args:
        cells: arm and result of each.
        metric: the study's metric.
        hops: by relation those that lead to it, where any do.
        titles: of relations, for sentences.
        draws_test: whether another seed is another split.
    """

    def __init__(
        self,
        cells: Iterable[tuple[Arm, CellResult]],
        metric: str,
        hops: Hops = NO_HOPS,
        titles: Titles = NO_TITLES,
        draws_test: bool = True,
    ) -> None:
        self.metric, self.hops, self.titles, self.draws_test = metric, hops, titles, draws_test
        self._arms: dict[str, Arm] = {}
        self._cells: dict[tuple[str, str], list[CellResult]] = {}
        self._names: dict[tuple[str, frozenset[str], str | None], str] = {}
        for arm, cell in cells:
            self._cells.setdefault((cell.model, arm.name), []).append(cell)
            self._names[cell.model, frozenset(arm.relations), arm.rewired] = arm.name
            self._arms[arm.name] = arm
        for group in self._cells.values():
            group.sort(key=lambda c: c.seed)

    @cached_property
    def decimals(self) -> int:
        """Of figures of the metric."""
        tested = [cell.evaluation.summary.get(self.metric, 0.0) for group in self._cells.values() for cell in group]
        return decimals_of(max(tested, default=0.0))

    def items(self) -> Iterable[tuple[tuple[str, str], list[CellResult]]]:
        """((model, arm name), cells in seed order)."""
        return self._cells.items()

    def arm_name(self, model: str, arm: Arm) -> str | None:
        """The name under which this arm's graph was run; None where it was not."""
        return self._names.get((model, frozenset(arm.relations), arm.rewired))

    def arm_titles(self) -> dict[str, str]:
        """By name of an arm what people read instead, where that is not its name."""
        read = {name: arm.titled(self.titles) for name, arm in self._arms.items()}
        return {name: title for name, title in read.items() if title != name}

    def shuffled(self, arm: str) -> bool:
        """Whether the arm has a relation whose links are shuffled."""
        return self._arms[arm].rewired is not None

    def cells(self, model: str, arm: str) -> list[CellResult]:
        """Cells in seed order."""
        return self._cells[model, arm]

    def tables(self, model: str, arm: str) -> list[pl.DataFrame]:
        """Per-user tables in seed order."""
        return [cell.evaluation.table for cell in self._cells[model, arm]]

    def best_validated_cells(self, model: str, arm: Arm) -> list[CellResult] | None:
        """Per split the arm's cell, or that of another arm that validates better and uses no relation beyond its own.

        An arm of more relations searches more settings. Where it gives those beyond this arm no weight, what it found
        is a setting of this arm, too, and no gain from the relations that it leaves out. None where the arm was not
        run.
        """
        own = self.arm_name(model, arm)
        if own is None:
            return None
        best = {cell.seed: cell for cell in self._cells[model, own]}
        for (of, relations, rewired), name in self._names.items():
            for cell in self._cells[model, name] if of == model and rewired is None else ():
                better = cell.seed in best and cell.valid > best[cell.seed].valid
                if better and self._in_use(cell, relations) <= set(arm.relations):
                    best[cell.seed] = cell
        return list(best.values())

    def _in_use(self, cell: CellResult, relations: Iterable[str]) -> set[str]:
        """Relations of a cell's arm that have a weight, and those that they are read through."""
        weights = cell.chosen.get("weights")
        if weights is None:
            return set(relations)
        return set(arm_of.over(self.hops, *(r for r in relations if weights.get(r, cell.chosen.get("weight")) != 0)))

    def effect(self, model: str, a: Arm, b: Arm) -> tuple[str, str, Effect] | None:
        """The paired effect a − b; None where one of the two was not run."""
        name_a, name_b = self.arm_name(model, a), self.arm_name(model, b)
        if name_a is None or name_b is None:
            return None
        tables = self.tables(model, name_a), self.tables(model, name_b)
        return name_a, name_b, compare(*tables, self.metric, starts=self.starts((model, (1, -1))))

    def starts(self, *sides: tuple[str, Sequence[int]]) -> RestartVariance | None:
        """What starts of training add to a difference of arms; None where test rows differ, or nothing is known.

        A start is a little better or worse for all arms of a model, which a difference of its arms does not see.

        Args:
            sides: model, and the factors that its arms have in the difference, such as (1, -1) for a − b.
        """
        known = []
        for model, factors in sides:
            if model in self._luck:
                n_starts, of_arms, in_common = self._luck[model]
                one, freedom = in_common if sum(factors) else of_arms
                known.append((sum(f * f for f in factors) * one / n_starts, freedom))
        total = sum(v for v, _ in known)
        if not total:
            return None
        return RestartVariance(total, total**2 / sum(v**2 / freedom for v, freedom in known if v))

    @cached_property
    def _luck(self) -> dict[str, tuple[int, tuple[float, float], tuple[float, float]]]:
        """By trained model: starts on the same test rows; variance between them and its degrees of freedom, twice.

        First of what a start does to one arm and not to the others, the rest of arms × starts; then with what it does
        to all of them.
        """
        means: dict[str, list[list[float]]] = {}
        for (model, _), cells in self._cells.items():
            trained = len(cells) > 1 and all(cell.history is not None for cell in cells)
            if trained and (not self.draws_test or _of_one_split(cells)):
                means.setdefault(model, []).append([cell.evaluation.summary[self.metric] for cell in cells])
        luck = {}
        for model, arms in means.items():
            n_starts = max(map(len, arms))
            table = np.array([one for one in arms if len(one) == n_starts])
            off = table - table.mean(1, keepdims=True)
            freedom = len(table) * (n_starts - 1)
            alone = max(len(table) - 1, 1) * (n_starts - 1)
            rest = ((off - off.mean(0)) ** 2).sum() / alone
            luck[model] = n_starts, (float(rest), float(alone)), (float((off**2).sum() / freedom), float(freedom))
        return luck


def _of_one_split(cells: Sequence[CellResult]) -> bool:
    tables = [cell.evaluation.table for cell in cells]
    return (
        all("fingerprint" in t.columns for t in tables) and len({t["fingerprint"][0] for t in tables if len(t)}) == 1
    )


def per_user_differences(a: Sequence[pl.DataFrame], b: Sequence[pl.DataFrame], metric: str) -> list[pl.DataFrame]:
    """Tables of a whose metric is the user's difference to b."""
    subtracted = []
    for left, right in zip(a, b, strict=True):
        other = right.select("user", pl.col(metric).alias("_other"))
        both = left.join(other, on="user", how="left", maintain_order="left")
        subtracted.append(both.with_columns(pl.col(metric) - pl.col("_other")).drop("_other"))
    return subtracted
