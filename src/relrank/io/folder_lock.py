"""A folder that only one process at a time writes to.

The operating system holds the lock on a file in the folder and releases it however the owner ends. Another file there
names the owner, for the messages of other processes.
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
from relrank.io.atomic import atomic_write, named, write_text

LOCK, OWNER = ".lock", ".owner.json"


class FolderLock:
    """A locked folder.

    Attributes:
        delete_on_exit: whether to delete the folder with its content when the outermost block ends.
    """

    delete_on_exit = False


@contextmanager
def locked_folder(
    folder: Path, what: Path | None = None, names: Collection[str] | None = None
) -> Iterator[FolderLock]:
    """Lock a folder until the block ends, and create it if needed; reentrant in the same thread.

    Args:
        folder: that only this process may write to. Without ``what`` it may be reached through a link.
        what: the folder or file that the locked folder belongs to, for messages; the folder itself by default.
        names: patterns of relrank's files in the folder, if it may hold others; None for all.

    Raises:
        InputError: another process or thread holds the lock, or a link is in the place of one of relrank's files.
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
            if sys.platform != "win32":  # a process that waits for the lock creates the folder again
                _remove(folder)
        lock.release()
        if hold.delete_on_exit and not again and sys.platform == "win32":  # an open file cannot be deleted
            _remove(folder)


def _empty(folder: Path) -> None:
    """Delete the content of a folder except its lock; links are never followed."""
    with os.scandir(folder) as content:
        entries = [entry for entry in content if entry.name != LOCK]
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with suppress(OSError):
                os.unlink(entry.path)


def _remove(folder: Path) -> None:
    """Delete a folder that holds only its lock."""
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def refuse_links(folder: Path, names: Collection[str] | None = None) -> None:
    """Refuse a folder that contains links, through which files elsewhere could be written or deleted.

    Args:
        folder: that is written to.
        names: patterns of the files and folders to check; all by default.

    Raises:
        InputError: it contains a link.
    """
    pending = [folder]
    while pending:
        at = pending.pop()
        with _entries(at, at is folder) as entries:
            for entry in entries:
                if at is folder and names is not None and not any(fnmatchcase(entry.name, name) for name in names):
                    continue
                if entry.is_symlink():
                    raise _link(Path(entry.path))
                if entry.is_dir(follow_symlinks=False):
                    pending.append(Path(entry.path))


@contextmanager
def _entries(folder: Path, is_first: bool) -> Iterator[Iterable[os.DirEntry[str]]]:
    """The entries of a folder; none of a subfolder that was deleted meanwhile, as temporary ones are."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        if is_first:
            raise
        yield ()
        return
    with entries:
        yield entries


def _link(path: Path) -> InputError:
    return InputError(
        "link where relrank writes and deletes",
        where=str(path),
        found=f"a link to {os.readlink(path)}",
        expected="a file or a folder: remove the link",
    )


def _sign(folder: Path) -> None:
    owner = {"process": os.getpid(), "machine": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with atomic_write(folder / OWNER, durable=False) as temporary:
        write_text(temporary, json.dumps(owner))


def _owner(folder: Path) -> str:
    """The owner of a folder, for messages."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        owner = json.loads((folder / OWNER).read_text(encoding="utf-8"))
        return f"process {owner['process']} of {owner['machine']}, since {owner['since']}"
    return "another process"
