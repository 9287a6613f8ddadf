"""Batch recommendation: the k best items of all users in one Parquet file, under outside keys.

Users are processed in parts. Each part is written atomically to a file in a folder next to the result; at the end the
parts are streamed into the result, which also appears atomically. Memory holds the scores of a block of users and the
lists of a part, whatever the number of users. A killed run leaves finished parts, from which the same command
resumes. A part's name contains its sha256; a part that was changed is computed again.
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
"""Maximum rows of a part and of a row group of the result (at least one user's list)."""

Progress = Callable[[str, int, int], None]
"""Called with a task's name, how much is done, and the total."""


def batch(run: FittedRun, out: Path | str, k: int, progress: Progress, rows: int = ROWS) -> int:
    """Write ``user``, ``place`` (from 1), ``item``, ``title``, ``score``, ``fallback`` of every user's k best items.

    The lists are those of ``FittedRun.recommend``; for scores that are dot products, the last bits may depend on how
    many users are scored at once. Users are in row order; a user who has chosen every item has no rows.

    Args:
        run: a fitted model.
        out: the Parquet file.
        k: length of the lists; shorter if fewer items are left.
        progress: called with the number of users done.
        rows: maximum rows of a part.

    Returns:
        Rows written.

    Raises:
        InputError: ``out`` is a folder, another process writes this file, or unfinished parts belong to another run.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError("a folder has this name", where=str(out), expected="a file", found="a folder")
    parts = named(out).with_name(out.name + ".parts")
    with locked_folder(parts, out) as hold:
        _claim(run, parts, k, rows)
        n = _write(run, out, parts, k, progress, rows)
        for file in parts.glob("*.parquet"):
            discard(file)  # before the metadata, which identify the parts that a kill leaves
        hold.delete_on_exit = True
    return n


def _write(run: FittedRun, out: Path, parts: Path, k: int, progress: Progress, rows: int) -> int:
    """Write missing parts, then combine all of them in one file; returns the number of rows."""
    n_users = run.split.shape[0]
    per_part = max(1, rows // k)
    lists = BatchRecommender(run)
    files = []
    for first in range(0, n_users, per_part):
        last = min(first + per_part, n_users)
        part = _finished_part(parts, first)
        if part is None:
            frames = []
            for start in range(first, last, VECTORS_AT_ONCE):  # ranking uses smaller blocks for scores
                users = np.arange(start, min(start + VECTORS_AT_ONCE, last))
                frames.append(lists.table(users, k))
                progress("users", int(users[-1]) + 1, n_users)
            part = _write_part(pl.concat(frames), parts, first)
        files.append(part)
        progress("users", last, n_users)
    with atomic_write(out) as temporary:
        pl.scan_parquet(files, glob=False).sink_parquet(temporary, row_group_size=rows)
    return int(pl.scan_parquet(out, glob=False).select(pl.len()).collect().item())


def _finished_part(parts: Path, first: int) -> Path | None:
    """The part that begins with this user, if its content is intact; other files of that name are deleted."""
    finished = None
    for file in parts.glob(f"{first:012}*.parquet"):
        if file.is_file() and file.stem == f"{first:012}-{sha256_of(file)}":
            finished = file
        else:
            discard(file)
    return finished


def _write_part(lists: pl.DataFrame, parts: Path, first: int) -> Path:
    buffer = io.BytesIO()
    lists.write_parquet(buffer)
    file = parts / f"{first:012}-{hashlib.sha256(buffer.getbuffer()).hexdigest()}.parquet"
    with atomic_write(file) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return file


class BatchRecommender:
    """The lists of ``FittedRun.recommend`` for many users at once."""

    def __init__(self, run: FittedRun) -> None:
        self.run = run
        self._full_histories = run.full_histories if run.lists_from_full_history else None
        self._interacted_items, self._unscorable_items = run.interacted_items, run.unscorable_items

    def top(self, users: Int64, k: int) -> tuple[TopK, Mask]:
        """The k best new items of each user, and which users get the popularity fallback, bool [n_users]."""
        if self._full_histories is None:
            return top_k_with_fallback(self.run.model, users, self._interacted_items, k, self._unscorable_items)
        return history_top_k_with_fallback(
            self.run.model, self._full_histories.take(users).tensors(), k, self._unscorable_items
        )

    def table(self, users: Int64, k: int) -> pl.DataFrame:
        """The same as rows: ``user``, ``place`` (from 1), ``item``, ``title``, ``score``, ``fallback``."""
        run = self.run
        best, fallback = self.top(users, k)
        filled = best.items >= 0
        row, position = np.nonzero(filled)
        frame = pl.DataFrame(
            {
                "user": run.split.users.at(users[row]),
                "place": (position + 1).astype(np.uint32),
                "item": run.split.items.at(best.items[filled]),
                "score": best.scores[filled],
                "fallback": fallback[row],
            }
        )
        titled = frame.join(run.titles.rename({"key": "item"}), on="item", how="left", maintain_order="left")
        return titled.select("user", "place", "item", "title", "score", "fallback")


def _claim(run: FittedRun, folder: Path, k: int, rows: int) -> None:
    """Record which run the parts in a folder belong to; refuse parts of another run."""
    expected = {"relrank": relrank.__version__, "run": _identity(run), "k": k, "rows": rows}
    file = folder / "batch.json"
    recorded = parse_json_object(read_bytes_within(folder, file.name), str(file)) if file.is_file() else {}
    if recorded != expected and any(folder.glob("*.parquet")):
        raise InputError(
            "parts of another run are here",
            where=str(folder),
            expected="parts of this run, k and version, or none: delete the folder to start again",
            found="parts of another run",
        )
    write_json(file, expected)


def _identity(run: FittedRun) -> str:
    """A hash of a run's metadata, parameters and split."""
    digest = hashlib.sha256(json.dumps(run.note, sort_keys=True, default=str).encode())
    for name, tensor in sorted(run.model.state().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().float().numpy()).data)
    for part in PARTS:
        rows = getattr(run.split, part)
        digest.update(np.ascontiguousarray(rows.user).data)
        digest.update(np.ascontiguousarray(rows.item).data)
    return digest.hexdigest()[:20]
