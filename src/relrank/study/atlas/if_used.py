"""What relations add if they are used, where the search leaves them out.

A search that gives a relation the weight 0 makes its effect 0, or that of other settings which it happened to choose.
That is a choice, not a measurement: a gain that is smaller than the noise of validation is left out as well. So if
the search does this on any split, the model is fitted on every split with each of the grid's weights above 0, at the
settings of the arm. The weight that validates best is compared on test, user by user, with weight 0 at the same
settings. The test rows took no part in these choices, so the effect has the usual interval, also with one split. It
is the effect of the weight that validation picks, which may not be the best one.

All relations together are left out where the weights of all of them are 0; they are then used with one common weight.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from relrank.evaluation.comparison import Effect, compare
from relrank.evaluation.evaluate import mean_metric, user_metric
from relrank.graph.relation_chains import hops
from relrank.io.atomic import atomic_write
from relrank.models.core.base import override_config
from relrank.study.arms import all_of, alone
from relrank.study.atlas.config import ALL
from relrank.study.atlas.gains import WEIGHTS, Row, effect_of, splits_left_out
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
VERSION = 2
"""Part of the name of a measurement's file; a change of what is measured needs a new version."""


@dataclass(frozen=True, slots=True, eq=False)
class UsedRelation:
    """A relation, or all of them, beside the interactions: used on every split.

    Attributes:
        relation: name, or ``ALL``.
        row: its effect in the study.
        left_out: on how many splits the search does not use it, and of how many; None for none.
        metric: the study's.
        used: per-user tables with the relation, by seed; None if they have not been measured.
        without: those without it.
    """

    relation: str
    row: Row
    left_out: tuple[int, int] | None
    metric: str
    used: list[pl.DataFrame] | None
    without: list[pl.DataFrame]

    def effect(self) -> Effect:
        """What the relation adds."""
        assert self.used is not None
        return effect_of(self.row) if self.left_out is None else compare(self.used, self.without, self.metric)

    def effect_beyond(self, other: UsedRelation) -> Effect:
        """What the relation adds more than another one does."""
        assert self.used is not None
        assert other.used is not None
        added = per_user_differences(self.used, self.without, self.metric)
        return compare(added, per_user_differences(other.used, other.without, self.metric), self.metric)


def used_relation(outcome: Outcome, row: Row) -> UsedRelation:
    """A relation, or all, from its effect beside the interactions, and from what ``measure`` has stored.

    Raises:
        InputError: a cell of the study cannot be read.
    """
    assert outcome.result is not None
    metric, relation = str(outcome.result.card["metric"]), str(row["relation"] or ALL)
    left_out = splits_left_out(outcome.result, row)
    cells = _cells(outcome, row, "arm_a")
    tables = [cell.evaluation.table for cell in cells]
    if left_out is None:
        without = [cell.evaluation.table for cell in _cells(outcome, row, "arm_b")]
        return UsedRelation(relation, row, None, metric, tables, without)
    files = [_file(outcome, cell, relation) for cell in cells]
    if not all(file.is_file() for file in files):
        return UsedRelation(relation, row, left_out, metric, None, tables)
    values = [pl.read_parquet(file) for file in files]
    used, without = (
        [table.with_columns(of_split[side].alias(metric)) for table, of_split in zip(tables, values, strict=True)]
        for side in ("used", "without")
    )
    return UsedRelation(relation, row, left_out, metric, used, without)


def measure(outcome: Outcome, row: Row, data: StudyData, on_status: StatusCallback) -> None:
    """Measure what a relation, or all, adds if it is used, if the search leaves it out; not what is stored already.

    Args:
        outcome: a study that has finished.
        row: the effect beside the interactions.
        data: of the study.
        on_status: receives progress messages.
    """
    assert outcome.result is not None
    if splits_left_out(outcome.result, row) is None:
        return
    contexts = {context.seed: context for context in data.split_contexts}
    for cell in _cells(outcome, row, "arm_a"):
        file = _file(outcome, cell, str(row["relation"] or ALL))
        if not file.is_file():
            on_status(f"{row['model']} with {row['relation'] or 'all relations'} in use, seed {cell.seed}")
            values = _on_split(outcome, row, cell, contexts[cell.seed])
            file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(file) as temporary:
                values.write_parquet(temporary)


def _on_split(outcome: Outcome, row: Row, stored: CellResult, context: SplitContext) -> pl.DataFrame:
    """``used``, ``without`` and the ``weight``: the study's metric of every test user, as in the stored table."""
    config, relation = outcome.study.config, row["relation"]
    section = next(model for model in config.models if model.name == row["model"])
    arm = all_of(list(context.graph.relations)) if relation is None else alone(relation, hops(context.graph))
    cell = Cell(section, arm, context, config.study)
    graph, settings = cell.graph, shared_config(cell, stored.chosen)
    grids = {p.name: p.grid_values for p in free_parameters(cell, graph) if p.name.startswith(WEIGHTS)}
    names = list(grids) if relation is None else [f"{WEIGHTS}{relation}"]
    with tempfile.TemporaryDirectory() as folder:

        def configured(weight: float) -> Any:
            return override_config(settings, dict.fromkeys(names, weight), section.name)

        def place(weight: float) -> Path:
            return Path(folder) / f"weight-{weight:g}"

        def validation_metric(weight: float) -> float:
            # where the fit for the test finds the checkpoint of a trained model
            checkpoints = place(weight) / "final" if context.refit else place(weight)
            model = fit_cell(cell, graph, configured(weight), checkpoints, _silent)[0]
            return mean_metric(model, context.split, config.study.metric)

        def on_test(weight: float) -> Any:
            model = fit_for_test(cell, cell, configured(weight), place(weight), _silent)
            return user_metric(model, context.final, config.study.metric, "test")

        best = max((weight for weight in grids[names[0]] if weight > 0), key=validation_metric)
        in_use = any(value_of(stored.chosen, name) for name in names)
        without = on_test(0.0) if in_use else stored.evaluation.table[config.study.metric].to_numpy()
        return pl.DataFrame({"used": on_test(best), "without": without}).with_columns(weight=pl.lit(float(best)))


def _cells(outcome: Outcome, row: Row, arm: str) -> list[CellResult]:
    """The cells of one side of an effect, ``arm_a`` or ``arm_b``, by seed."""
    assert outcome.result is not None
    cells = outcome.result.card["cells"]
    keys = {cell["seed"]: cell["key"] for cell in cells if (cell["model"], cell["arm"]) == (row["model"], row[arm])}
    return [load_cell(outcome.folder / "cells" / keys[seed]) for seed in sorted(keys)]


def _file(outcome: Outcome, cell: CellResult, relation: str) -> Path:
    """Where one split is stored: named by the cell that it goes on from, so that it is never out of date."""
    key = key_of_identity({"version": VERSION, "relation": relation, "cell": cell.key})
    return outcome.folder.parent / FOLDER / f"{outcome.study.name}-{key}.parquet"


def _silent(text: str) -> None:
    del text
