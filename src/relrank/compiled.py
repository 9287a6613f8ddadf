"""Compilation of kernels, kept between runs where there is a folder to keep it in."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numba


def njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` that keeps what it compiled, if it can.

    numba refuses to define a kernel, and so a whole module, where neither the package's folder nor the user's cache
    can be written, as in a container with a read-only file system. There the kernel is compiled anew in each process.

    Args:
        options: as for ``numba.njit``.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
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

    return compiled
