"""Fit the model of one cell and save it as a run."""

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
    """Tune and fit the last of the cells and save the model; in a process group, rank 0 saves it.

    Args:
        cells: a cell, preceded by its prerequisites (``grid.cell_with_prerequisites``).
        tables: with the titles of items.
        folder: of the saved model.
        on_status: receives a message per trial and epoch.
        group: processes that train together.
        leaks: accepted leaks (``leaks.accepted_leaks``), which the run's metadata names.

    Raises:
        InputError: the folder contains something else, another process is fitting a model there, a process group is
            used for a closed form, or the model needs more memory than is available.
    """
    cell, trial_cache, locks = cells[-1], dict[str, CachedTrial](), list[FolderLock]()
    checkpoints = named(folder).with_name(folder.name + ".checkpoints")

    def check_and_lock() -> None:
        check_run_folder(folder)
        if group.size > 1 and issubclass(MODELS[cell.model.kind], ClosedForm):
            raise InputError(
                "closed forms are solved by one process",
                where="torchrun",
                expected="a trained model",
                found=cell.model.kind,
            )
        refuse_too_large(cell)
        if group.first:
            locks.append(stack.enter_context(locked_folder(checkpoints, folder)))

    with ExitStack() as stack:
        group.on_all_ranks(check_and_lock)
        warm_started = tune_with_prerequisites(cells, checkpoints, on_status, trial_cache, group)
        tuned = tune_and_fit(warm_started, checkpoints / cell.key(), on_status, trial_cache, group)
        split, metadata = cell.split_context.final, run_metadata(cell, tuned.config, tuned.valid_metric, leaks)
        if not group.first:
            return FittedRun(tuned.model, tuned.graph, split, item_titles(tables, split), metadata)
        run = save_run(tuned.model, tuned.graph, split, tables, metadata, folder, cell.split_context.graph_at_test)
        locks[0].delete_on_exit = True
    return run


def run_metadata(
    cell: Cell, config: Any, valid_metric: float, leaks: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The metadata of a fitted run."""
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
        "valid": valid_metric,
        "cell": cell.key(),
        **({"accepted_leaks": list(leaks)} if leaks else {}),
    }
