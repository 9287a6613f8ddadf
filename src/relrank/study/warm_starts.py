"""Which arms' searches are warm-started from which, so that arms differ in their relations and not in their tuning.

"all" and the arms with one relation start from the result of the interactions; "all" has to validate no worse than
any of them, nor than arms with some relations that ran before it. An arm that leaves out or shuffles a relation
starts from the result of "all": apart from the relation its settings stay the same, unless validation prefers others
by more than its standard error.
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
from relrank.study.cell_store import cell_exists, load_tuning_result
from relrank.study.tune_cell import TrialCache, free_parameters, tune, values_on_grid

RelationSet = tuple[frozenset[str], str | None]
"""The relations that a model reads of an arm, and the shuffled one."""


def with_prerequisites(cells: Sequence[Cell], planned: Sequence[Cell] = ()) -> list[Cell]:
    """The cells with their ``prerequisites``, each after the cells that these name.

    Args:
        cells: of a study; those of one split and model stay together.
        planned: results of earlier calls, which may be prerequisites, too.
    """
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((id(cell.split_context), cell.model.name), []).append(cell)
    keys_of: dict[tuple[int, str], dict[RelationSet, str]] = {}
    for cell in planned:
        if cell.trials > 1:
            keys = keys_of.setdefault((id(cell.split_context), cell.model.name), {})
            keys.setdefault(_relations_read(cell), cell.key())
    result = []
    for group_id, group in groups.items():
        keys = keys_of.setdefault(group_id, {})
        for cell in sorted(group, key=lambda cell: (_rank(cell), len(_relations_read(cell)[0]))):
            if cell.trials > 1:
                cell = replace(cell, prerequisites=tuple(keys[g] for g in _starts_from(cell, keys) if g in keys))
                keys.setdefault(_relations_read(cell), cell.key())
            result.append(cell)
    return result


def _relations_read(cell: Cell) -> RelationSet:
    arm = cell.effective_arm
    return frozenset(arm.relations), arm.rewired


def _readable(cell: Cell) -> frozenset[str]:
    return frozenset(MODELS[cell.model.kind].used_relations(cell.split_context.graph, cell.initial_config()[0]))


def _all_but_one(cell: Cell) -> set[frozenset[str]]:
    """For every relation that the model reads, all others except those that are read through it."""
    readable, chains = _readable(cell), hops(cell.split_context.graph)
    return {frozenset(r for r in readable if name not in (r, *chains[r])) for name in readable}


def _rank(cell: Cell) -> int:
    """Cells are warm-started from cells of a lower rank only."""
    (relations, rewired), readable = _relations_read(cell), _readable(cell)
    if rewired is not None:
        return 4
    if len(relations) <= 1:
        return len(relations)
    return 3 if relations != readable and relations in _all_but_one(cell) else 2


def _starts_from(cell: Cell, planned: Collection[RelationSet]) -> list[RelationSet]:
    """What a cell's search is warm-started from, in order; some of it may not be planned."""
    (relations, rewired), readable = _relations_read(cell), _readable(cell)
    if rewired is not None:
        return [(relations, None)]
    if _rank(cell) == 3 and (readable, None) in planned:
        return [(readable, None)]
    interactions: RelationSet = (frozenset(), None)
    after_all = _all_but_one(cell)
    fewer = [
        arm
        for arm in planned
        if arm[0] < relations
        and arm[1] is None
        and arm != interactions
        and (len(arm[0]) == 1 or arm[0] not in after_all)
    ]
    fewer.sort(key=lambda arm: (len(arm[0]), sorted(arm[0])))
    if relations == readable and len(relations) > 1:
        return [interactions, *fewer]
    return [*fewer, interactions] if len(relations) > 1 else [interactions] if relations else []


@dataclass(frozen=True, slots=True)
class TuningOutcome:
    """The result of a cell's search: its key, chosen hyper-parameters as plain values, and validation metric."""

    key: str
    chosen: Mapping[str, Any]
    valid_metric: float


def tune_with_prerequisites(
    cells: Sequence[Cell],
    folder: Path,
    on_status: StatusCallback,
    trial_cache: TrialCache,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Cell:
    """Tune all cells but the last, each after its prerequisites; returns the last with its warm starts, not tuned."""
    outcomes: dict[str, TuningOutcome] = {}

    def warm_started(cell: Cell) -> Cell:
        return with_warm_start(cell, [outcomes[key] for key in cell.prerequisites if key in outcomes])

    for planned in cells[:-1]:
        cell, key = warm_started(planned), planned.key()
        say = partial(_prefixed, cell.arm.name, on_status)
        config, search, _ = tune(cell, cell.graph, folder / key, say, trial_cache, group)
        if search.trials:
            outcomes[key] = TuningOutcome(key, asdict(config), search.trials[search.chosen].metric)
    return warm_started(cells[-1])


def _prefixed(arm: str, on_status: StatusCallback, text: str) -> None:
    on_status(f"{arm}: {text}")


def load_warm_start(cell: Cell, folder: Path) -> Cell:
    """The cell with warm starts from its prerequisites that have finished in the folder of the study's cells."""
    done = [key for key in cell.prerequisites if cell_exists(folder / key)]
    return with_warm_start(cell, [TuningOutcome(key, *load_tuning_result(folder / key)) for key in done])


def with_warm_start(cell: Cell, outcomes: Sequence[TuningOutcome]) -> Cell:
    """The cell with warm starts: the first outcome and, if another one validates better, the best one.

    Only the best one for a cell that ``tunes_new_weights_only``.
    """
    if not outcomes:
        return cell
    best = max(outcomes, key=lambda one: one.valid_metric)
    linked = replace(cell, arm=replace(cell.arm, rewired=None))  # the same grids without the cost of shuffling
    grid_parameters = free_parameters(cell, linked.graph)
    first = best if cell.tunes_new_weights_only else outcomes[0]
    warm_starts = [values_on_grid(grid_parameters, o.chosen) for o in ([best] if best is first else [first, best])]
    return replace(cell, warm_starts=tuple(warm_starts), warm_started_from=tuple(o.key for o in outcomes))
