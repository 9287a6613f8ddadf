"""Settings that numerical libraries read once, when they are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def recommended_environment() -> dict[str, str]:
    """Environment variables that suit this machine.

    OpenMP threads wait by spinning, and on a busy machine two programs then take turns at doing nothing: ten times
    slower was measured. A short spin costs nothing when alone. OpenBLAS does not know the newest processors and
    computes at half their width; it can be told.
    """
    found = {"GOMP_SPINCOUNT": "1000"}
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return found
    if "avx512f" in flags and "avx512vl" in flags:
        found["OPENBLAS_CORETYPE"] = "SkylakeX"
    return found


def cores() -> int:
    """Cores that this process may use, or that the machine has where the system does not say."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_library_threads(threads: int, environment: Mapping[str, str]) -> None:
    """Set what libraries read once, in a process that has not loaded them yet.

    Args:
        threads: of each library.
        environment: what another process goes by; of it, what ``recommended_environment`` names here.
    """
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "POLARS"):
        os.environ[f"{name}_MAX_THREADS" if name == "POLARS" else f"{name}_NUM_THREADS"] = str(threads)
    for name in recommended_environment():
        if name in environment:
            os.environ.setdefault(name, environment[name])
