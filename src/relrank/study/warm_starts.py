"""Which arms' searches begin where others ended, so that what differs between arms is their relations.

"all" and the arms with one relation begin where the interactions ended; "all" has to validate no worse than any of
them, and than arms with some relations that were run before it. What leaves out or shuffles a relation begins where
"all" ended: beside the relation, its setting is the same until validation says otherwise by more than its error.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from relrank.graph.relation_chains import hops
from relrank.models import MODELS
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup
from relrank.study.cell import Cell, StatusCallback
from relrank.study.cell_store import (
    finished,
    open_cell,
)
from relrank.study.tune_cell import TrialCache, free_parameters, tune, values_on_grid

Read = tuple[frozenset[str], str | None]
"""Relations that a model reads of an arm, and the shuffled one."""


def with_prerequisites(cells: Sequence[Cell], among: Sequence[Cell] = ()) -> list[Cell]:
    """The cells, each with the keys of those that its search begins after, in an order in which these come first.

    Args:
        cells: of a study; those of one split and model stay together.
        among: further cells, as this function returned them, that they may begin after.
    """
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((id(cell.split_context), cell.model.name), []).append(cell)
    known: dict[tuple[int, str], dict[Read, str]] = {}
    for cell in among:
        if cell.trials > 1:
            known.setdefault((id(cell.split_context), cell.model.name), {}).setdefault(_read(cell), cell.key())
    result = []
    for place, group in groups.items():
        keys = known.setdefault(place, {})
        for cell in sorted(group, key=lambda cell: (_rank(cell), len(_read(cell)[0]))):
            if cell.trials > 1:
                cell = replace(cell, prerequisites=tuple(keys[g] for g in _contained(cell, keys) if g in keys))
                keys.setdefault(_read(cell), cell.key())
            result.append(cell)
    return result


def _read(cell: Cell) -> Read:
    read = cell.read
    return frozenset(read.relations), read.rewired


def _readable(cell: Cell) -> frozenset[str]:
    return frozenset(MODELS[cell.model.kind].used_relations(cell.split_context.graph, cell.start()[0]))


def _dropped(cell: Cell) -> set[frozenset[str]]:
    """All that the model reads but one relation and what hangs on it, for every one."""
    readable, over = _readable(cell), hops(cell.split_context.graph)
    return {frozenset(r for r in readable if name not in (r, *over[r])) for name in readable}


def _rank(cell: Cell) -> int:
    """Cells begin after those of a lower rank only."""
    (relations, shuffled), readable = _read(cell), _readable(cell)
    if shuffled is not None:
        return 4
    if len(relations) <= 1:
        return len(relations)
    return 3 if relations != readable and relations in _dropped(cell) else 2


def _contained(cell: Cell, planned: Collection[Read]) -> list[Read]:
    """What a cell's search begins after, in order; some of it may not be planned."""
    (relations, shuffled), readable = _read(cell), _readable(cell)
    if shuffled is not None:
        return [(relations, None)]
    if _rank(cell) == 3 and (readable, None) in planned:
        return [(readable, None)]
    nothing: Read = (frozenset(), None)
    after_all = _dropped(cell)
    less = [
        read
        for read in planned
        if read[0] < relations
        and read[1] is None
        and read != nothing
        and (len(read[0]) == 1 or read[0] not in after_all)
    ]
    less.sort(key=lambda read: (len(read[0]), sorted(read[0])))
    if relations == readable and len(relations) > 1:
        return [nothing, *less]
    return [*less, nothing] if len(relations) > 1 else [nothing] if relations else []


@dataclass(frozen=True, slots=True)
class SearchOutcome:
    """Where a cell's search ended: its key, hyper-parameters as plain values, and validation metric."""

    key: str
    chosen: Mapping[str, Any]
    valid: float


def tune_with_prerequisites(
    cells: Sequence[Cell],
    folder: Path,
    on_status: StatusCallback,
    memory: TrialCache,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Cell:
    """Search the cells in order; the last one with the settings that its search begins with, itself not searched.

    Args:
        cells: each behind those that it begins after; of one split and model.
        folder: for checkpoints of trained models.
        on_status: told of every trial.
        memory: of trials that were made.
        group: of processes that search together.
    """
    ended: dict[str, SearchOutcome] = {}
    for cell in cells[:-1]:
        cell = with_warm_start(cell, [ended[key] for key in cell.prerequisites if key in ended])
        key = replace(cell, warm_starts=(), there=()).key()
        config, found, _ = tune(cell, cell.graph, folder / key, partial(_say_of, cell, on_status), memory, group)
        if found.trials:
            ended[key] = SearchOutcome(key, asdict(config), found.trials[found.chosen].metric)
    return with_warm_start(cells[-1], [ended[key] for key in cells[-1].prerequisites if key in ended])


def _say_of(cell: Cell, on_status: StatusCallback, text: str) -> None:
    on_status(f"{cell.arm.name}: {text}")


def load_warm_start(cell: Cell, folder: Path) -> Cell:
    """The cell with the settings that its search begins with, from the cells of ``Cell.prerequisites``.

    Args:
        cell: one of a study.
        folder: of the study's cells; those of ``Cell.prerequisites`` that are not there were left out.
    """
    ended = []
    for key in cell.prerequisites:
        if finished(folder / key):
            _, note = open_cell(folder / key)
            ended.append(SearchOutcome(key, note["chosen"], note["valid"]))
    return with_warm_start(cell, ended)


def with_warm_start(cell: Cell, ended: Sequence[SearchOutcome]) -> Cell:
    """The cell with the settings that its search begins with.

    These are what the first of the others found and, if another one is better on validation, what the best one found;
    the latter alone where the cell ``tunes_new_weights_only``.
    """
    if not ended:
        return cell
    best = max(ended, key=lambda one: one.valid)
    linked = replace(cell, arm=replace(cell.arm, rewired=None))  # knobs are the same, and shuffling takes long
    grid_parameters = free_parameters(cell, linked.graph)
    first = best if cell.tunes_new_weights_only else ended[0]
    warm_starts = [
        values_on_grid(grid_parameters, one.chosen) for one in ([best] if best is first else [first, best])
    ]
    return replace(cell, warm_starts=tuple(warm_starts), there=tuple(one.key for one in ended))
