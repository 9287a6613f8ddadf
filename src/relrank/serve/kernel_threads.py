"""Threads of compiled kernels, which requests in several threads share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numba

_LOCK = threading.Lock()


def run_in_turn() -> bool:
    """Whether Numba's threading layer lets only one thread run parallel kernels."""
    try:
        return bool(numba.threading_layer() == "workqueue")  # type: ignore[attr-defined]
    except ValueError:  # no kernel has run yet
        return True


def parallel_kernels() -> AbstractContextManager[Any]:
    """The context in which parallel kernels run: a lock where only one thread may run them, else nothing."""
    return _LOCK if run_in_turn() else nullcontext()


@contextmanager
def one_thread() -> Iterator[None]:
    """Kernels started here run on the calling thread alone: one row of scores is not worth starting others."""
    n_threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        yield
    finally:
        numba.set_num_threads(n_threads)
