"""Lists for everybody: the k best items of all users in one Parquet file, under outside keys.

Users are taken a part at a time; each part is a file of its own in a folder beside the result, whole or not at all.
At the end the parts are streamed into the result, under a temporary name until it is whole. So memory holds the
scores of a block of users and the lists of a part, whatever the number of users; a killed run leaves finished parts
and no result, and the same command goes on from them. A part's name holds its sha256: one that was changed since is
made again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

import relrank
from relrank.errors import InputError
from relrank.evaluation.ranking import VECTORS_AT_ONCE, TopK
from relrank.io.atomic import atomic_write, discard, named
from relrank.io.folder_lock import locked_folder
from relrank.io.manifest import parse_json_object, read_bytes_within, sha256_of
from relrank.io.tensors import write_json
from relrank.kernels.csr import Int64
from relrank.runs.fallback import Mask, history_top_k_with_fallback, top_k_with_fallback
from relrank.runs.fitted_run import PARTS, FittedRun

ROWS = 1 << 17
"""Rows of a part, and of a row group of the result, at most (one user's list at least)."""

Progress = Callable[[str, int, int], None]
"""What is done, how much of it so far, how much there is."""


def batch(run: FittedRun, out: Path | str, k: int, progress: Progress, rows: int = ROWS) -> int:
    """Write ``user``, ``place`` (from 1), ``item``, ``title``, ``score``, ``fallback`` of every user's k best items.

    The lists are those of ``FittedRun.recommend``; where scores are products of vectors, the last bits of a score may
    depend on how many users are scored at once. Users are in row order; one who has chosen everything has no rows.

    Args:
        run: a fitted model.
        out: the Parquet file.
        k: length of the lists; shorter where fewer items are left.
        progress: told of the users that are done.
        rows: of a part.

    Returns:
        Rows written.

    Raises:
        InputError: the name is a folder's, another process writes this file, or unfinished parts there are those of
            another run.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError("a folder has this name", where=str(out), expected="the name of a file", found="a folder")
    parts = named(out).with_name(out.name + ".parts")
    with locked_folder(parts, out) as hold:
        _adopt(run, parts, k, rows)
        n = _write(run, out, parts, k, progress, rows)
        for file in parts.glob("*.parquet"):
            discard(file)  # before the note, which says whose those are that a kill leaves
        hold.delete_on_exit = True
    return n


def _write(run: FittedRun, out: Path, parts: Path, k: int, progress: Progress, rows: int) -> int:
    """The parts that are not there yet, then all of them in one file; returns the rows."""
    n_users = run.split.shape[0]
    per_part = max(1, rows // k)
    at_once = VECTORS_AT_ONCE  # ranking takes scores in smaller blocks by itself
    lists = BatchRecommender(run)
    files = []
    for first in range(0, n_users, per_part):
        last = min(first + per_part, n_users)
        there = _part_from(parts, first)
        if there is None:
            frames = []
            for start in range(first, last, at_once):
                users = np.arange(start, min(start + at_once, last))
                frames.append(_frame(run, users, *lists.top(users, k)))
                progress("users", int(users[-1]) + 1, n_users)
            there = _write_part(pl.concat(frames), parts, first)
        files.append(there)
        progress("users", last, n_users)
    with atomic_write(out) as temporary:
        pl.scan_parquet(files, glob=False).sink_parquet(temporary, row_group_size=rows)
    return int(pl.scan_parquet(out, glob=False).select(pl.len()).collect().item())


def _part_from(parts: Path, first: int) -> Path | None:
    """The part that begins with this user, if it is there as it was written; what else has its name is deleted."""
    found = None
    for file in parts.glob(f"{first:012}*.parquet"):
        if file.is_file() and file.stem == f"{first:012}-{sha256_of(file)}":
            found = file
        else:
            discard(file)
    return found


def _write_part(lists: pl.DataFrame, parts: Path, first: int) -> Path:
    buffer = io.BytesIO()
    lists.write_parquet(buffer)
    file = parts / f"{first:012}-{hashlib.sha256(buffer.getbuffer()).hexdigest()}.parquet"
    with atomic_write(file) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return file


class BatchRecommender:
    """The lists of ``FittedRun.recommend``, many users at a time."""

    def __init__(self, run: FittedRun) -> None:
        self.run = run
        self._full_histories = run.full_histories() if run.lists_from_full_history else None
        self._interacted_items, self._unscorable_items = run.interacted_items(), run.unscorable_items

    def top(self, users: Int64, k: int) -> tuple[TopK, Mask]:
        """The k best items that each of these users has not chosen yet, and whose list is popularity's."""
        if self._full_histories is None:
            return top_k_with_fallback(self.run.model, users, self._interacted_items, k, self._unscorable_items)
        return history_top_k_with_fallback(
            self.run.model, self._full_histories.take(users).tensors(), k, self._unscorable_items
        )


def _frame(run: FittedRun, users: Int64, best: TopK, silent: Mask) -> pl.DataFrame:
    there = best.items >= 0
    row, place = np.nonzero(there)
    frame = pl.DataFrame(
        {
            "user": run.split.users.at(users[row]),
            "place": (place + 1).astype(np.uint32),
            "item": run.split.items.at(best.items[there]),
            "score": best.scores[there],
            "fallback": silent[row],
        }
    )
    named = frame.join(run.titles.rename({"key": "item"}), on="item", how="left", maintain_order="left")
    return named.select("user", "place", "item", "title", "score", "fallback")


def _adopt(run: FittedRun, folder: Path, k: int, rows: int) -> None:
    """Note whose parts a folder will hold; without any it is anybody's."""
    mine = {"relrank": relrank.__version__, "run": _identity(run), "k": k, "rows": rows}
    note = folder / "batch.json"
    theirs = parse_json_object(read_bytes_within(folder, note.name), str(note)) if note.is_file() else {}
    if theirs != mine and any(folder.glob("*.parquet")):
        raise InputError(
            "parts of another run are here",
            where=str(folder),
            expected="those of this run, k and version, or none: delete the folder to begin anew",
            found="others",
        )
    write_json(note, mine)


def _identity(run: FittedRun) -> str:
    """sha256 over what a run says of itself, its model's numbers and its split."""
    digest = hashlib.sha256(json.dumps(run.note, sort_keys=True, default=str).encode())
    for name, tensor in sorted(run.model.state().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    for part in PARTS:
        rows = getattr(run.split, part)
        digest.update(np.ascontiguousarray(rows.user).data)
        digest.update(np.ascontiguousarray(rows.item).data)
    return digest.hexdigest()[:20]
