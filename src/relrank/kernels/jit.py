"""Compilation of kernels, kept between runs where there is a folder to keep it in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import numba
from filelock import FileLock, Timeout
from numba.core.dispatcher import Dispatcher

CACHE_LOCK_TIMEOUT = 60
"""Seconds that a process waits for others to keep what they compiled."""


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` that keeps what it compiled, if it can.

    numba refuses to define a kernel, and so a whole module, where neither the package's folder nor the user's cache
    can be written, as in a container with a read-only file system. There the kernel is compiled anew in each process.

    numba takes a kept kernel for what it was as long as its own file is the same. What is compiled into it comes from
    other files, too: kernels that it calls, and numbers. Here it is compiled anew when these change.

    Args:
        options: as for ``numba.njit``.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            kernel = numba.njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache" not in str(error):
                raise
            warnings.warn(
                "no folder to keep compiled code in, so that every process compiles anew: set NUMBA_CACHE_DIR to one "
                "that can be written",
                RuntimeWarning,
                stacklevel=2,
            )
            return numba.njit(**options)(function)
        kept = getattr(getattr(kernel, "_cache", None), "_cache_file", None)  # none with NUMBA_DISABLE_JIT
        if kept is not None:
            kept._source_stamp = (kept._source_stamp, others(function))
            kept.save = partial(_save, kept)
        return kernel

    return compiled


def _save(kept: Any, key: Any, code: Any) -> None:
    """Keep what was compiled of a kernel for some types, one process at a time, and name it when it is there.

    numba's own way names it first, and of two processes that compile for other types each, one may leave its code
    under the name of the other's.
    """
    try:
        with FileLock(f"{kept._index_path}.lock", timeout=CACHE_LOCK_TIMEOUT):
            known = kept._load_index()
            free = (name for n in count(1) if (name := kept._data_name(n)) not in known.values())
            known[key] = known.get(key) or next(free)
            kept._save_data(known[key], code)
            kept._save_index(known)
    except (Timeout, OSError):  # whoever holds it is stuck, or it is another account's; the code is here all the same
        return


def others(function: Callable[..., Any]) -> tuple[tuple[str, object], ...]:
    """What a kernel is made of beside its own file, by name: stamps of files, and numbers of its module's."""
    found: dict[str, object] = {}
    seen: set[int] = set()
    waiting = [function]
    while waiting:
        one: Any = waiting.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for name, value in _referred(one):
            inner = _function_of(value)
            if inner is not None:
                waiting.append(inner)
            elif isinstance(value, bool | int | float | str | tuple):
                found[f"{one.__module__}.{name}"] = repr(value)
        if one.__code__.co_filename != function.__code__.co_filename:
            found[f"{one.__module__}"] = _stamp(one.__code__.co_filename)
    return tuple(sorted(found.items()))


def _referred(function: Any) -> Iterator[tuple[str, Any]]:
    """Names of a function's module that its code holds, and of modules that it knows, with what they stand for."""
    waiting, names = [function.__code__], set[str]()
    while waiting:
        code = waiting.pop()
        names.update(code.co_names)
        waiting += [one for one in code.co_consts if isinstance(one, CodeType)]
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            yield from ((f"{name}.{inner}", vars(value)[inner]) for inner in sorted(names & vars(value).keys()))
        elif value is not None:
            yield name, value


def _function_of(value: Any) -> Callable[..., Any] | None:
    """The Python function behind a kernel or an intrinsic; None for anything else."""
    if isinstance(value, Dispatcher):
        inner: Callable[..., Any] = value.py_func
        return inner
    return getattr(value, "_defn", None)


def _stamp(file: str) -> object:
    try:
        there = Path(file).stat()
    except OSError:  # not a file of its own, as in an archive
        return None
    return there.st_mtime_ns, there.st_size
