"""What a relation adds if it is used, where the search leaves it out.

A search that gives a relation the weight 0 makes its effect exactly 0. That is a choice, not a measurement: a gain
that is smaller than the noise of validation is left out as well. So if the search does this on any split, the model
is fitted with each of the grid's other weights, at the settings that the search chose, and the weight that validates
best is compared on test, user by user, with the model without the relation. The test rows took no part in these
choices, so the effect has the usual interval, also with one split.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from relrank.evaluation.comparison import Effect, compare
from relrank.evaluation.evaluate import mean_metric, user_metric
from relrank.graph.relation_chains import hops
from relrank.io.atomic import atomic_write
from relrank.models.core.base import override_config
from relrank.study.arms import alone
from relrank.study.atlas.gains import Row, effect_of
from relrank.study.atlas.run import Outcome
from relrank.study.cell import Cell, SplitContext, StatusCallback, key_of_identity
from relrank.study.cell_store import CellResult, load_cell
from relrank.study.coordinate_search import value_of
from relrank.study.fit_cell import fit_cell
from relrank.study.prepare import StudyData
from relrank.study.results_by_arm import per_user_differences
from relrank.study.run_cell import fit_for_test, shared_config
from relrank.study.tune_cell import free_parameters

FOLDER = "if-used"
"""Of these measurements, beside the folders of the studies."""
VERSION = 1
"""Part of the name of a measurement's file; a change of what is measured needs a new version."""


@dataclass(frozen=True, slots=True, eq=False)
class UsedRelation:
    """A relation beside the interactions, used on every split.

    Attributes:
        relation: name.
        row: its effect in the study, which is part 0 where the search leaves it out.
        left_out: on how many splits that is, and of how many; None for none.
        metric: the study's.
        tables: per-user tables with the relation, by seed; None if they have not been measured.
        without: those without it.
    """

    relation: str
    row: Row
    left_out: tuple[int, int] | None
    metric: str
    tables: list[pl.DataFrame] | None
    without: list[pl.DataFrame]

    def effect(self) -> Effect:
        """What the relation adds."""
        assert self.tables is not None
        return effect_of(self.row) if self.left_out is None else compare(self.tables, self.without, self.metric)

    def effect_beyond(self, other: UsedRelation) -> Effect:
        """What the relation adds more than another one does."""
        assert self.tables is not None
        assert other.tables is not None
        added = per_user_differences(self.tables, self.without, self.metric)
        return compare(added, per_user_differences(other.tables, other.without, self.metric), self.metric)


def used_relation(outcome: Outcome, row: Row) -> UsedRelation:
    """A relation from its effect beside the interactions (kind "alone"), and from what ``measure`` has stored."""
    assert outcome.result is not None
    relation, metric = str(row["relation"]), str(outcome.result.card["metric"])
    cells, without = _cells(outcome, row, "arm_a"), _cells(outcome, row, "arm_b")
    n_out = sum(_leaves_out(cell, relation) for cell in cells)
    tables: list[pl.DataFrame] | None = [cell.evaluation.table for cell in cells]
    if n_out:
        file = _file(outcome, cells, relation)
        tables = _stored(file, cells, metric) if file.is_file() else None
    left_out = (n_out, len(cells)) if n_out else None
    return UsedRelation(relation, row, left_out, metric, tables, [cell.evaluation.table for cell in without])


def measure(outcome: Outcome, row: Row, data: StudyData, on_status: StatusCallback) -> None:
    """Measure what a relation adds if it is used, if the search leaves it out and that is not stored already.

    Args:
        outcome: a study that has finished.
        row: the relation's effect beside the interactions.
        data: of the study.
        on_status: receives progress messages.
    """
    relation, cells = str(row["relation"]), _cells(outcome, row, "arm_a")
    file = _file(outcome, cells, relation)
    if file.is_file() or not any(_leaves_out(cell, relation) for cell in cells):
        return
    contexts = {context.seed: context for context in data.split_contexts}
    found = []
    for cell in cells:
        on_status(f"{row['model']} with {relation} used, seed {cell.seed}")
        found.append(_on_split(outcome, row, cell, contexts[cell.seed]))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as temporary:
        pl.concat(found).write_parquet(temporary)


def _leaves_out(cell: CellResult, relation: str) -> bool:
    return bool(cell.trials) and value_of(cell.chosen, f"weights.{relation}") == 0


def _stored(file: Path, cells: Sequence[CellResult], metric: str) -> list[pl.DataFrame]:
    """The cells' tables with the metric if the relation is used."""
    values = pl.read_parquet(file)
    return [
        cell.evaluation.table.with_columns(values.filter(pl.col("seed") == cell.seed)["value"].alias(metric))
        for cell in cells
    ]


def _on_split(outcome: Outcome, row: Row, stored: CellResult, context: SplitContext) -> pl.DataFrame:
    """``seed``, ``weight`` and ``value``, the study's metric of every test user in the order of the stored table."""
    config, relation = outcome.study.config, str(row["relation"])
    section = next(model for model in config.models if model.name == row["model"])
    cell = Cell(section, alone(relation, hops(context.graph)), context, config.study)
    graph, settings = cell.graph, shared_config(cell, stored.chosen)
    grid = next(p for p in free_parameters(cell, graph) if p.name == f"weights.{relation}").grid_values
    with tempfile.TemporaryDirectory() as folder:

        def configured(weight: float) -> object:
            return override_config(settings, {f"weights.{relation}": weight}, section.name)

        def validation_metric(weight: float) -> float:
            place = Path(folder) / f"weight-{weight:g}"
            model = fit_cell(cell, graph, configured(weight), place, _silent)[0]
            return mean_metric(model, context.split, config.study.metric)

        best = max((weight for weight in grid if weight > 0), key=validation_metric)
        model = fit_for_test(cell, cell, configured(best), Path(folder) / "test", _silent)
        values = user_metric(model, context.final, config.study.metric, "test")
    return pl.DataFrame({"value": values}).select(
        pl.lit(stored.seed).alias("seed"), pl.lit(float(best)).alias("weight"), "value"
    )


def _cells(outcome: Outcome, row: Row, arm: str) -> list[CellResult]:
    """The cells of one side of an effect, ``arm_a`` or ``arm_b``, by seed."""
    assert outcome.result is not None
    cells = outcome.result.card["cells"]
    keys = {cell["seed"]: cell["key"] for cell in cells if (cell["model"], cell["arm"]) == (row["model"], row[arm])}
    return [load_cell(outcome.folder / "cells" / keys[seed]) for seed in sorted(keys)]


def _file(outcome: Outcome, cells: list[CellResult], relation: str) -> Path:
    """Where the measurement is stored: named by the cells that it goes on from, so that it is never out of date."""
    key = key_of_identity({"version": VERSION, "relation": relation, "cells": [cell.key for cell in cells]})
    return outcome.folder.parent / FOLDER / f"{outcome.study.name}-{key}.parquet"


def _silent(text: str) -> None:
    del text
