"""Fit the model of one cell and keep it as a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import relrank
from relrank.errors import InputError
from relrank.io.atomic import named
from relrank.io.folder_lock import FolderLock, locked_folder
from relrank.models import MODELS, ClosedForm
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup
from relrank.runs.fitted_run import FORMAT, FittedRun, check_run_folder, item_titles, save_run
from relrank.study.cell import Cell, StatusCallback
from relrank.study.memory_limits import refuse_too_large
from relrank.study.tune_cell import CachedTrial, tune_and_fit
from relrank.study.warm_starts import tune_with_prerequisites
from relrank.tables.tables import Tables


def fit_run(
    cells: Sequence[Cell],
    tables: Tables,
    folder: Path,
    on_status: StatusCallback,
    group: ProcessGroup = SINGLE_PROCESS,
    leaks: Sequence[dict[str, Any]] = (),
) -> FittedRun:
    """Tune and fit the last of the cells and keep the model; of several processes, the first keeps it.

    Args:
        cells: those that the last one's search begins after, each behind its own (``run.cells_of``), and it.
        tables: with the titles of items.
        folder: where the model is kept.
        on_status: told of every trial and epoch.
        group: of processes that fit together.
        leaks: those that the study file accepts (``leaks.accepted_leaks``); the run keeps their names.

    Raises:
        InputError: the folder is there and holds something else, another process fits a model there, several
            processes are to solve a closed form, or the model needs more memory than there is.
    """
    cell, memory, holds = cells[-1], dict[str, CachedTrial](), list[FolderLock]()
    checkpoints = named(folder).with_name(folder.name + ".checkpoints")

    def ready() -> None:
        check_run_folder(folder)
        if group.size > 1 and issubclass(MODELS[cell.model.kind], ClosedForm):
            raise InputError(
                "closed forms are solved by one process",
                where="torchrun",
                expected="a model that is trained",
                found=cell.model.kind,
            )
        refuse_too_large(cell)
        if group.first:
            holds.append(holding.enter_context(locked_folder(checkpoints, folder)))

    with ExitStack() as holding:
        group.on_all_ranks(ready)
        with_warm_start = tune_with_prerequisites(cells, checkpoints, on_status, memory, group)
        tuned = tune_and_fit(with_warm_start, checkpoints / cell.key(), on_status, memory, group)
        split, note = cell.split_context.final, note_of(cell, tuned.config, tuned.valid, leaks)
        if not group.first:
            return FittedRun(tuned.model, tuned.graph, split, item_titles(tables, split), note)
        run = save_run(tuned.model, tuned.graph, split, tables, note, folder, cell.split_context.graph)
        holds[0].delete_on_exit = True
    return run


def note_of(cell: Cell, config: Any, valid: float, leaks: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What a run says of itself."""
    split = cell.split_context.final
    return {
        "format": FORMAT,
        "relrank": relrank.__version__,
        "model": cell.model.kind,
        "name": cell.model.name,
        "arm": cell.arm.name,
        "config": asdict(config),
        "seed": cell.split_context.seed,
        "protocol": split.protocol,
        "fingerprint": split.fingerprint,
        "ordered": split.ordered,
        "successive": split.successive,
        "new_items_only": split.new_items_only,
        "unseen": split.unseen,
        "metric": cell.study.metric,
        "valid": valid,
        "cell": cell.key(),
        **({"accepted_leaks": list(leaks)} if leaks else {}),
    }
