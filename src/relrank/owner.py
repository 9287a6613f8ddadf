"""A folder has one owner at a time: the process that writes to it.

A lock file in the folder is locked by the system, so that it is free again however its owner ends. Who that is stands
in a file beside it, for those who come second.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from relrank.errors import InputError
from relrank.whole import named, whole

LOCK, OWNER = ".lock", ".owner.json"


@contextmanager
def owned(folder: Path, what: Path | None = None) -> Iterator[None]:
    """Hold a folder, which is made if it is not there, until the block ends; the same thread may do so again inside.

    Args:
        folder: that this process alone is to write to; a user's own may be reached through a link.
        what: the folder or file that it lies beside and is about, which users know; the folder itself by default.

    Raises:
        InputError: another process or thread holds it, or it holds a link.
    """
    if what is not None and folder.is_symlink():
        raise _link(folder)
    what = what or folder
    named(folder.absolute()).mkdir(parents=True, exist_ok=True)
    refuse_links(folder)
    lock = FileLock(folder.resolve() / LOCK, is_singleton=True)
    again = lock.is_locked
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            "folder is in use", where=str(what), found=_owner(folder),
            expected="no other process that writes there: wait for it, or name another folder with --out",
        ) from None  # fmt: skip
    try:
        if not again:
            _sign(folder)
        yield
    finally:
        if not again:
            (folder / OWNER).unlink(missing_ok=True)
        lock.release()


def refuse_links(folder: Path) -> None:
    """Refuse a folder that holds links: what is written or deleted through one may lie anywhere.

    Raises:
        InputError: it does.
    """
    for at, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if (path := Path(at, name)).is_symlink():
                raise _link(path)


def _link(path: Path) -> InputError:
    return InputError(
        "link where relrank writes and deletes", where=str(path), found=f"a link to {os.readlink(path)}",
        expected="a file or a folder: remove the link",
    )  # fmt: skip


def _sign(folder: Path) -> None:
    said = {"process": os.getpid(), "machine": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with whole(folder / OWNER, synced=False) as temporary:
        temporary.write_text(json.dumps(said), encoding="utf-8")


def _owner(folder: Path) -> str:
    """Who holds a folder, as they wrote it."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        said = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {said['process']} of {said['machine']}, since {said['since']}"
    return "another process"
