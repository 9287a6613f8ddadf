"""Which arms' searches begin where others ended, so that what differs between arms is their relations.

"all" and the arms with one relation begin where the interactions ended; "all" has to validate no worse than any of
them, and than arms with some relations that were run before it. What leaves out or shuffles a relation begins where
"all" ended: beside the relation, its setting is the same until validation says otherwise by more than its error.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from relrank.graph.relation_chains import hops
from relrank.models import MODELS
from relrank.study.cells import Cell

Read = tuple[frozenset[str], str | None]
"""Relations that a model reads of an arm, and the shuffled one."""


def nested(cells: Sequence[Cell], among: Sequence[Cell] = ()) -> list[Cell]:
    """The cells, each with the keys of those that its search begins after, in an order in which these come first.

    Args:
        cells: of a study; those of one split and model stay together.
        among: further cells, as this function returned them, that they may begin after.
    """
    groups: dict[tuple[int, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((id(cell.bench), cell.model.name), []).append(cell)
    known: dict[tuple[int, str], dict[Read, str]] = {}
    for cell in among:
        if cell.trials > 1:
            known.setdefault((id(cell.bench), cell.model.name), {}).setdefault(_read(cell), cell.key())
    result = []
    for place, group in groups.items():
        keys = known.setdefault(place, {})
        for cell in sorted(group, key=lambda cell: (_rank(cell), len(_read(cell)[0]))):
            if cell.trials > 1:
                cell = replace(cell, after=tuple(keys[g] for g in _contained(cell, keys) if g in keys))
                keys.setdefault(_read(cell), cell.key())
            result.append(cell)
    return result


def _read(cell: Cell) -> Read:
    read = cell.read
    return frozenset(read.relations), read.rewired


def _readable(cell: Cell) -> frozenset[str]:
    return frozenset(MODELS[cell.model.kind].reads(cell.bench.graph, cell.start()[0]))


def _dropped(cell: Cell) -> set[frozenset[str]]:
    """All that the model reads but one relation and what hangs on it, for every one."""
    readable, over = _readable(cell), hops(cell.bench.graph)
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
        if read[0] < relations and read[1] is None and read != nothing
        and (len(read[0]) == 1 or read[0] not in after_all)
    ]  # fmt: skip
    less.sort(key=lambda read: (len(read[0]), sorted(read[0])))
    if relations == readable and len(relations) > 1:
        return [nothing, *less]
    return [*less, nothing] if len(relations) > 1 else [nothing] if relations else []
