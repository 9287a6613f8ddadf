"""A folder has one owner at a time: the process that writes to it.

A lock file in the folder is locked by the system, so that it is free again however its owner ends. Who that is stands
in a file beside it, for those who come second.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path

from filelock import FileLock, Timeout

from relrank.errors import InputError
from relrank.io.atomic import atomic_write, named

LOCK, OWNER = ".lock", ".owner.json"


class FolderLock:
    """A folder that is held.

    Attributes:
        delete_on_exit: whether the folder goes, with all that it holds, when the outermost block ends.
    """

    delete_on_exit = False


@contextmanager
def locked_folder(
    folder: Path, what: Path | None = None, names: Collection[str] | None = None
) -> Iterator[FolderLock]:
    """Hold a folder, which is made if it is not there, until the block ends; the same thread may do so again inside.

    Args:
        folder: that this process alone is to write to; a user's own may be reached through a link.
        what: the folder or file that it lies beside and is about, which users know; the folder itself by default.
        names: of what is relrank's in the folder, where others may keep theirs; None where all of it is.

    Raises:
        InputError: another process or thread holds it, or it holds a link in place of something of relrank's.
    """
    if what is not None and folder.is_symlink():
        raise _link(folder)
    what = what or folder
    named(folder.absolute()).mkdir(parents=True, exist_ok=True)
    refuse_links(folder, names)
    lock, hold = FileLock(folder.resolve() / LOCK, is_singleton=True), FolderLock()
    again = lock.is_locked
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise InputError(
            "folder is in use",
            where=str(what),
            found=_owner(folder),
            expected="no other process that writes there: wait for it, or name another folder with --out",
        ) from None
    try:
        if not again:
            _sign(folder)
        yield hold
    finally:
        if not again:
            (folder / OWNER).unlink(missing_ok=True)
        if hold.delete_on_exit and not again:
            _empty(folder)
            if sys.platform != "win32":  # whoever waits for the lock of a folder that is gone makes it anew
                _remove(folder)
        lock.release()
        if hold.delete_on_exit and not again and sys.platform == "win32":  # where an open file cannot be deleted
            _remove(folder)


def _empty(folder: Path) -> None:
    """Delete what a folder holds but its lock; links are removed, never followed."""
    with os.scandir(folder) as there:
        entries = [entry for entry in there if entry.name != LOCK]
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)


def _remove(folder: Path) -> None:
    """Delete a folder that holds nothing but its lock."""
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def refuse_links(folder: Path, names: Collection[str] | None = None) -> None:
    """Refuse a folder that holds links: what is written or deleted through one may lie anywhere.

    Args:
        folder: that is written to.
        names: what alone is looked at there, with all that it holds, as patterns; everything by default.

    Raises:
        InputError: it does.
    """
    waiting = [folder]
    while waiting:
        at = waiting.pop()
        with _entries(at, at is folder) as there:
            for entry in there:
                if at is folder and names is not None and not any(fnmatchcase(entry.name, one) for one in names):
                    continue
                if entry.is_symlink():
                    raise _link(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))


@contextmanager
def _entries(folder: Path, is_first: bool) -> Iterator[Iterable[os.DirEntry[str]]]:
    """What a folder holds; nothing of one inside that was deleted meanwhile, as temporary ones are."""
    try:
        there = os.scandir(folder)
    except FileNotFoundError:
        if is_first:
            raise
        yield ()
        return
    with there:
        yield there


def _link(path: Path) -> InputError:
    return InputError(
        "link where relrank writes and deletes",
        where=str(path),
        found=f"a link to {os.readlink(path)}",
        expected="a file or a folder: remove the link",
    )


def _sign(folder: Path) -> None:
    said = {"process": os.getpid(), "machine": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with atomic_write(folder / OWNER, durable=False) as temporary:
        temporary.write_text(json.dumps(said), encoding="utf-8")


def _owner(folder: Path) -> str:
    """Who holds a folder, as they wrote it."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        said = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {said['process']} of {said['machine']}, since {said['since']}"
    return "another process"
