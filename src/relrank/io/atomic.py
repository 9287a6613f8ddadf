"""A file or a folder is there whole or not at all, after a crash of the machine, too.

What is being written has a name of its own, ``.NAME.HOST-PROCESS-RANDOM.part``, so that two processes never write to
one file, and so that nobody can put a link there beforehand. What a killed process left is removed by the next write
of the same name on that machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relrank.errors import InputError

_WRITTEN: set[str] = set()
"""Temporary names of this process."""
_AT_CWD, _EXCHANGE = -100, 2
"""Of Linux's renameat2: paths are relative to where the process runs; two names change places."""


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` when the block ends without an error.

    Missing parent folders are made. A killed or failed write leaves what was at ``path`` before.

    Args:
        path: final name.
        durable: False where the folder around it is not whole yet, and is synced when it is (``sync_tree``).

    Raises:
        InputError: the path has no name of its own, such as "..".
    """
    with _temporary(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        if durable:
            sync(part)
        part.replace(path)
        if durable:
            sync_names(path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes ``folder`` when the block ends without an error.

    What was there changes places with it, so that a kill leaves the older one or the new one. Where the system cannot
    do that, the older steps aside as ``.NAME.replaced``; the next write puts it back if a kill left it there. Missing
    parent folders are made; a failed write leaves what was there before, nothing else.

    Raises:
        InputError: the path has no name of its own, such as "..".
    """
    aside = named(folder).with_name(f".{folder.name}.replaced")
    with _temporary(folder) as part:
        if not os.path.lexists(folder) and aside.is_dir():
            aside.rename(folder)
        part.mkdir()
        yield part
        sync_tree(part)
        if not os.path.lexists(folder):
            part.rename(folder)
        elif not _exchange(part, folder):
            discard(aside)
            folder.rename(aside)
            part.rename(folder)
            discard(aside)
        sync_names(folder)


def named(path: Path) -> Path:
    """The path, if it ends in a name that can be given to something.

    Raises:
        InputError: it ends in none, as "." and "/" do, or in "..".
    """
    if path.name in ("", ".", ".."):
        raise InputError("not a name", where=repr(str(path)), expected="the name of a file or a folder", found="none")
    return path


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, would survive a crash of the machine."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":
        return  # cannot be opened there
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not is_folder:  # some file systems cannot do it for folders
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """``sync`` for every file and folder below, and for the folder."""
    for at, _, names in os.walk(folder):
        for name in names:
            sync(Path(at, name))
        sync(Path(at))


def discard(path: Path) -> None:
    """Delete a file, a link or a folder with all that it holds; links are removed, never followed.

    A folder loses its name first: a kill leaves all of it or, under a temporary name, the rest.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with _temporary(path) as part:
        path.rename(part)


def sync_names(path: Path) -> None:
    """``sync`` for the folder that a path lies in."""
    sync(path.absolute().parent)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A free name beside ``path`` under which nothing is left when the block ends."""
    named(path).parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    part = path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{secrets.token_hex(6)}.part")
    _WRITTEN.add(part.name)
    try:
        yield part
    finally:
        with suppress(OSError):
            _remove(part)
        _WRITTEN.discard(part.name)


def _remove(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _sweep(path: Path) -> None:
    """Remove what killed processes of this machine left of earlier writes of the same name."""
    begins = f".{path.name}.{_here()}-"
    with os.scandir(path.parent) as there:
        left = [e.name for e in there if e.name.startswith(begins) and e.name.endswith(".part")]
    for name in left:
        number = name.removeprefix(begins).partition("-")[0]
        if name not in _WRITTEN and number.isdigit() and not _is_alive(int(number)):
            _remove(path.with_name(name))


def _is_alive(number: int) -> bool:
    """Whether a process of this machine has this number; this one does not count, since it knows its own names."""
    if number == os.getpid():
        return False
    if os.name == "nt":
        return True  # there the question would end the process
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _here() -> str:
    """This machine in six letters."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step; False where this system or file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and not rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE)
