"""Environment variables that numerical libraries read when they are loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def recommended_environment() -> dict[str, str]:
    """Environment variables that make this machine fast.

    OpenMP threads wait by spinning, which made two programs on one machine ten times slower; a short spin costs
    nothing on an idle one. OpenBLAS does not know the newest processors and uses half their vector width.
    """
    variables = {"GOMP_SPINCOUNT": "1000"}
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return variables
    if "avx512f" in flags and "avx512vl" in flags:
        variables["OPENBLAS_CORETYPE"] = "SkylakeX"
    return variables


def cores() -> int:
    """Number of cores that this process may use, or of the machine if unknown."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def set_library_threads(threads: int, environment: Mapping[str, str]) -> None:
    """Set environment variables of libraries that this process has not loaded yet.

    Args:
        threads: of each library.
        environment: of another process, from which the variables of ``recommended_environment`` are copied.
    """
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA", "POLARS"):
        os.environ[f"{name}_MAX_THREADS" if name == "POLARS" else f"{name}_NUM_THREADS"] = str(threads)
    for name in recommended_environment():
        if name in environment:
            os.environ.setdefault(name, environment[name])
