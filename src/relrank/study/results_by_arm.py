"""Finished cells by model, arm and seed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from relrank.evaluation.comparison import Effect, RestartVariance, compare
from relrank.graph.relation import NO_TITLES, Titles
from relrank.study import arms as arm_of
from relrank.study.arms import NO_HOPS, Arm, Hops
from relrank.study.cell_store import CellResult
from relrank.study.number_format import decimals_of


class ResultsByArm:
    """The finished cells of a study by model, arm and seed.

    Args:
        cells: arm and result of each.
        metric: the study's metric.
        hops: by relation, the relations of its chain.
        titles: of relations, for sentences.
        draws_test: whether every seed draws its own test rows.
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
        """Decimals for values of the metric."""
        tested = [cell.evaluation.summary.get(self.metric, 0.0) for group in self._cells.values() for cell in group]
        return decimals_of(max(tested, default=0.0))

    def items(self) -> Iterable[tuple[tuple[str, str], list[CellResult]]]:
        """((model, arm name), cells in seed order)."""
        return self._cells.items()

    def arm_name(self, model: str, arm: Arm) -> str | None:
        """The name of the arm that ran with this arm's graph; None if none did."""
        return self._names.get((model, frozenset(arm.relations), arm.rewired))

    def arm_titles(self) -> dict[str, str]:
        """Names for people, by name of an arm, where the two differ."""
        titles = {name: arm.titled(self.titles) for name, arm in self._arms.items()}
        return {name: title for name, title in titles.items() if title != name}

    def is_placebo(self, arm: str) -> bool:
        """Whether the links of one of the arm's relations are shuffled."""
        return self._arms[arm].rewired is not None

    def cells(self, model: str, arm: str) -> list[CellResult]:
        """Cells in seed order."""
        return self._cells[model, arm]

    def tables(self, model: str, arm: str) -> list[pl.DataFrame]:
        """Per-user tables in seed order."""
        return [cell.evaluation.table for cell in self._cells[model, arm]]

    def best_validated_cells(self, model: str, arm: Arm) -> list[CellResult] | None:
        """Per split the arm's cell, or that of another arm that validates better and uses only relations of this arm.

        An arm with more relations searches more settings. Where the additional relations get weight 0, its result is
        a setting of this arm, too, and not a gain from further relations. None if the arm has not run.
        """
        name = self.arm_name(model, arm)
        if name is None:
            return None
        best = {cell.seed: cell for cell in self._cells[model, name]}
        for (of, relations, rewired), name in self._names.items():
            for cell in self._cells[model, name] if of == model and rewired is None else ():
                better = cell.seed in best and cell.valid_metric > best[cell.seed].valid_metric
                if better and self._in_use(cell, relations) <= set(arm.relations):
                    best[cell.seed] = cell
        return list(best.values())

    def _in_use(self, cell: CellResult, relations: Iterable[str]) -> set[str]:
        """Relations of a cell's arm with a weight above 0, and their chains."""
        weights = cell.chosen.get("weights")
        if weights is None:
            return set(relations)
        return set(
            arm_of.with_chain(self.hops, *(r for r in relations if weights.get(r, cell.chosen.get("weight")) != 0))
        )

    def effect(self, model: str, a: Arm, b: Arm) -> tuple[str, str, Effect] | None:
        """Names of both arms and the paired effect a − b; None if one of the two has not run."""
        name_a, name_b = self.arm_name(model, a), self.arm_name(model, b)
        if name_a is None or name_b is None:
            return None
        tables = self.tables(model, name_a), self.tables(model, name_b)
        return name_a, name_b, compare(*tables, self.metric, starts=self.starts((model, (1, -1))))

    def compared_tables(
        self, effects: pl.DataFrame
    ) -> Iterator[tuple[dict[str, Any], tuple[list[pl.DataFrame], list[pl.DataFrame]]]]:
        """Names and both arms' tables of every "gain", "drop", "alone" and "versus" in the effects table."""
        for row in effects.filter(pl.col("kind").is_in(["gain", "drop", "alone", "versus"])).iter_rows(named=True):
            names = {column: row[column] for column in ("model", "relation", "kind", "other")}
            second = row["other"] or row["model"]  # other: the rival
            yield names, (self.tables(row["model"], row["arm_a"]), self.tables(second, row["arm_b"]))

    def starts(self, *sides: tuple[str, Sequence[int]]) -> RestartVariance | None:
        """The variance that random initialization adds to a difference of arms; None where it cannot be estimated.

        It is estimated from seeds that share their test rows. Part of it is common to all arms of a model and cancels
        in a difference of its arms.

        Args:
            sides: model, and the factors of its arms in the difference, such as (1, -1) for a − b.
        """
        terms = []
        for model, factors in sides:
            if model in self._start_variances:
                n_starts, of_arms, in_common = self._start_variances[model]
                variance, freedom = in_common if sum(factors) else of_arms
                terms.append((sum(f * f for f in factors) * variance / n_starts, freedom))
        total = sum(v for v, _ in terms)
        if not total:
            return None
        return RestartVariance(total, total**2 / sum(v**2 / freedom for v, freedom in terms if v))

    @cached_property
    def _start_variances(self) -> dict[str, tuple[int, tuple[float, float], tuple[float, float]]]:
        """By trained model: number of initializations, and twice a variance with its degrees of freedom.

        The first variance is the interaction of arms and initializations, the second includes what initializations
        have in common over arms.
        """
        means: dict[str, list[list[float]]] = {}
        for (model, _), cells in self._cells.items():
            trained = len(cells) > 1 and all(cell.history is not None for cell in cells)
            if trained and (not self.draws_test or _of_one_split(cells)):
                means.setdefault(model, []).append([cell.evaluation.summary[self.metric] for cell in cells])
        variances = {}
        for model, arms in means.items():
            n_starts = max(map(len, arms))
            table = np.array([one for one in arms if len(one) == n_starts])
            off = table - table.mean(1, keepdims=True)
            freedom = len(table) * (n_starts - 1)
            alone = max(len(table) - 1, 1) * (n_starts - 1)
            rest = ((off - off.mean(0)) ** 2).sum() / alone
            variances[model] = (
                n_starts,
                (float(rest), float(alone)),
                (float((off**2).sum() / freedom), float(freedom)),
            )
        return variances


def _of_one_split(cells: Sequence[CellResult]) -> bool:
    tables = [cell.evaluation.table for cell in cells]
    return (
        all("fingerprint" in t.columns for t in tables) and len({t["fingerprint"][0] for t in tables if len(t)}) == 1
    )


def per_user_differences(a: Sequence[pl.DataFrame], b: Sequence[pl.DataFrame], metric: str) -> list[pl.DataFrame]:
    """The tables of a, with the metric replaced by its difference to b, user by user."""
    subtracted = []
    for left, right in zip(a, b, strict=True):
        other = right.select("user", pl.col(metric).alias("_other"))
        both = left.join(other, on="user", how="left", maintain_order="left")
        subtracted.append(both.with_columns(pl.col(metric) - pl.col("_other")).drop("_other"))
    return subtracted
