"""Compilation of kernels, cached between runs where a folder can be written."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numba
from filelock import FileLock, Timeout
from numba.core.dispatcher import Dispatcher

CACHE_LOCK_TIMEOUT = 60
"""Seconds that a process waits for others to write to the cache."""


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` with a cache that also works on read-only systems and notices changes in other files.

    numba refuses to define a kernel, and so its module, where neither the package's folder nor the user's cache can
    be written, as in a container with a read-only file system. There the kernel is compiled anew in each process.

    numba reuses a cached kernel as long as the kernel's own file is unchanged. Other files contribute too: kernels
    that it calls, and constants. Here the kernel is compiled anew when these change.

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
                "no writable folder to cache compiled code in, so every process compiles anew: set NUMBA_CACHE_DIR",
                RuntimeWarning,
                stacklevel=2,
            )
            return numba.njit(**options)(function)
        cache = getattr(getattr(kernel, "_cache", None), "_cache_file", None)  # none with NUMBA_DISABLE_JIT
        if cache is not None:
            cache._source_stamp = (cache._source_stamp, dependencies(function))
            cache.save = partial(_save, cache)
        return kernel

    return compiled


def _save(cache: Any, key: Any, code: Any) -> None:
    """Cache what was compiled for some types, one process at a time: the code first, then its name in the index.

    numba writes the index first, and of two processes that compile for different types, one may leave its code under
    the name of the other's.
    """
    try:
        with FileLock(f"{cache._index_path}.lock", timeout=CACHE_LOCK_TIMEOUT):
            index = cache._load_index()
            free = (name for n in count(1) if (name := cache._data_name(n)) not in index.values())
            index[key] = index.get(key) or next(free)
            cache._save_data(index[key], code)
            cache._save_index(index)
    except (Timeout, OSError):  # another process hangs, or another account owns the lock; the code works uncached
        return


def dependencies(function: Callable[..., Any]) -> tuple[tuple[str, object], ...]:
    """What a kernel depends on besides its own file, by name: stamps of other files, and module constants."""
    result: dict[str, object] = {}
    visited: set[int] = set()
    pending = [function]
    while pending:
        current: Any = pending.pop()
        if id(current) in visited:
            continue
        visited.add(id(current))
        for name, value in _globals_of(current):
            inner = _function_of(value)
            if inner is not None:
                pending.append(inner)
            elif isinstance(value, bool | int | float | str | tuple):
                result[f"{current.__module__}.{name}"] = repr(value)
        if current.__code__.co_filename != function.__code__.co_filename:
            result[f"{current.__module__}"] = _stamp(current.__code__.co_filename)
    return tuple(sorted(result.items()))


def _globals_of(function: Any) -> Iterator[tuple[str, Any]]:
    """Module globals that a function's code names, and attributes of modules among them, with their values."""
    pending, names = [function.__code__], set[str]()
    while pending:
        code = pending.pop()
        names.update(code.co_names)
        pending += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, ModuleType):
            yield from ((f"{name}.{inner}", vars(value)[inner]) for inner in sorted(names & vars(value).keys()))
        elif value is not None:
            yield name, value


def _function_of(value: Any) -> Callable[..., Any] | None:
    """The Python function behind a kernel or an intrinsic, or one that writes LLVM code; None for anything else."""
    if isinstance(value, Dispatcher):
        inner: Callable[..., Any] = value.py_func
        return inner
    if isinstance(value, FunctionType) and value.__module__.startswith("relrank.kernels."):
        return value
    return getattr(value, "_defn", None)


def _stamp(file: str) -> object:
    try:
        status = Path(file).stat()
    except OSError:  # not a file of its own, as in an archive
        return None
    return status.st_mtime_ns, status.st_size
