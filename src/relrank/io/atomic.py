"""Atomic writes: a file or folder is complete or absent, even after a crash of the machine.

Writes go to a temporary name, ``.NAME.HOST-PROCESS-RANDOM.part``, so that two processes never write to one file and
nobody can place a link there beforehand. Leftovers of a killed process are removed by the next write of the same name
on that machine.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from relrank.errors import InputError

_WRITTEN: set[str] = set()
"""Temporary names in use by this process."""
_AT_CWD, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2."""
_SYNCHRONIZE, _WAIT_TIMEOUT, _ACCESS_DENIED = 0x100000, 258, 5
"""Constants of Windows: a right to a process, and results of waiting for it and of opening it."""
_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between tries to rename something that another process has open."""


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary file to write to, which becomes ``path`` when the block ends without an error.

    Missing parent folders are created. After a killed or failed write, ``path`` is as before.

    Args:
        path: final name.
        durable: whether to sync to disk; False if the folder is synced when it is complete (``sync_tree``).

    Raises:
        InputError: the path does not end in a name, such as "..".
    """
    with _temporary(path) as part:
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        yield part
        if durable:
            sync(part)
        rename(part, path)
        if durable:
            sync_names(path)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder to write into, which becomes ``folder`` when the block ends without an error.

    An existing folder is exchanged with it, so that a kill leaves the old one or the new one. Where the system cannot
    exchange names, the old one is first renamed to ``.NAME.replaced``, and a next write restores it if a kill left it
    there. Missing parent folders are created; after a failed write, ``folder`` is as before.

    Raises:
        InputError: the path does not end in a name, such as "..".
    """
    aside = named(folder).with_name(f".{folder.name}.replaced")
    with _temporary(folder) as part:
        if not os.path.lexists(folder) and aside.is_dir():
            rename(aside, folder)
        part.mkdir()
        yield part
        sync_tree(part)
        if not os.path.lexists(folder):
            rename(part, folder)
        elif not _exchange(part, folder):
            discard(aside)
            rename(folder, aside)
            rename(part, folder)
            discard(aside)
        sync_names(folder)


def named(path: Path) -> Path:
    """The path, if it ends in a name.

    Raises:
        InputError: it does not, like ".", "/" and "..".
    """
    if path.name in ("", ".", ".."):
        raise InputError("not a name", where=repr(str(path)), expected="the name of a file or a folder", found="none")
    return path


def sync(path: Path) -> None:
    """Wait until a file, or the list of names in a folder, is on disk."""
    is_folder = path.is_dir()
    if is_folder and sys.platform == "win32":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:
        if not is_folder:  # some file systems cannot sync folders
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """``sync`` for a folder and all files and folders in it."""
    for at, _, names in os.walk(folder):
        for name in names:
            sync(Path(at, name))
        sync(Path(at))


def discard(path: Path) -> None:
    """Delete a file, a link, or a folder with its content; links are never followed.

    A folder is renamed first, so that a kill leaves all of it or a part under a temporary name.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with _temporary(path) as part:
        rename(path, part)


def rename(source: Path, target: Path) -> None:
    """Rename a file or folder; a file with the new name is replaced.

    Windows refuses this while any program has the file, or one in the folder, open. Virus scanners and indexers do so
    for a moment with everything that is new, so there it is tried again for a while.
    """
    for pause in _PAUSES if sys.platform == "win32" else ():
        with suppress(PermissionError):
            os.replace(source, target)
            return
        time.sleep(pause)
    os.replace(source, target)


def write_text(path: Path, text: str) -> None:
    """Write text with the same bytes on every system: UTF-8, and line ends that Windows does not change."""
    path.write_text(text, encoding="utf-8", newline="\n")


def sync_names(path: Path) -> None:
    """``sync`` for the folder that contains a path."""
    sync(path.absolute().parent)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """An unused name in the folder of ``path``, removed when the block ends."""
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
    prefix = f".{path.name}.{_here()}-"
    with os.scandir(path.parent) as entries:
        left = [e.name for e in entries if e.name.startswith(prefix) and e.name.endswith(".part")]
    for name in left:
        number = name.removeprefix(prefix).partition("-")[0]
        if name not in _WRITTEN and number.isdigit() and not _is_alive(int(number)):
            _remove(path.with_name(name))


def _is_alive(number: int) -> bool:
    """Whether another process of this machine has this number."""
    if number == os.getpid():
        return False
    if sys.platform == "win32":  # where os.kill would end the process
        return _is_alive_on_windows(number)
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _is_alive_on_windows(number: int) -> bool:
    if sys.platform != "win32":
        return True
    kernel = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel.OpenProcess.restype = ctypes.c_void_p
    if not (handle := kernel.OpenProcess(_SYNCHRONIZE, False, number)):
        return ctypes.get_last_error() == _ACCESS_DENIED
    try:
        return bool(kernel.WaitForSingleObject(ctypes.c_void_p(handle), 0) == _WAIT_TIMEOUT)
    finally:
        kernel.CloseHandle(ctypes.c_void_p(handle))


def _here() -> str:
    """Six letters that identify this machine."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:6]


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; False if this system or file system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and not rename(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _EXCHANGE)
