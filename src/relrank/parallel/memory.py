"""Memory that this process can still allocate, and errors of failed allocations."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from relrank.errors import InputError
from relrank.parallel import system_memory

GB = 1 << 30
"""Bytes of a GB, in all messages."""
VARIABLE = "RELRANK_MEMORY_GB"
"""Environment variable that overrides the available memory."""


def available_memory(root: Path = Path("/")) -> int:
    """Bytes that this process can allocate without swapping.

    The environment variable ``RELRANK_MEMORY_GB`` if it is set. Else the smallest of the kernel's ``MemAvailable``
    and what is left below the memory limits of this process's control group (versions 1 and 2) and of all groups
    above it, not counting page cache that can be dropped. On macOS and Windows what their libraries report. If the
    system reports none of these, all physical memory, or no limit.

    Args:
        root: of the file system, for tests.

    Raises:
        InputError: the environment variable is not a number above 0.
    """
    if (value := os.environ.get(VARIABLE)) is not None:
        return gigabytes(value)
    limits = [*_unused(root), *_left_in_groups(root)]
    if not limits and (memory := system_memory.unused_memory() or physical_memory()):
        limits = [memory]
    return max(0, min(limits, default=sys.maxsize))


def physical_memory() -> int:
    """Bytes of physical memory; 0 if unknown."""
    if sys.platform == "win32":
        return system_memory.total_memory()
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 0


def reset_peak_memory() -> None:
    """Reset the measurement of this process's peak memory, if the system can (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak_memory(root: Path = Path("/")) -> int:
    """Peak resident memory in bytes: since ``reset_peak_memory`` on Linux, ever on macOS and Windows.

    Args:
        root: of the file system, for tests.
    """
    for line in _lines(root / "proc/self/status"):
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) << 10
    if sys.platform == "win32":
        return system_memory.peak_memory()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10


def gigabytes(text: str) -> int:
    """The value of ``RELRANK_MEMORY_GB`` in bytes.

    Raises:
        InputError: it is not a number above 0.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise InputError(
            "not an amount of memory",
            where=f"environment variable {VARIABLE}",
            expected="GB, a number above 0",
            found=repr(text),
        )
    return int(value * GB)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is a failed allocation of Python, NumPy, numba or torch, on a CPU or GPU."""
    message, phrases = str(error).lower(), ("allocate memory", "not enough memory", "out of memory")
    failed = isinstance(error, RuntimeError) and any(phrase in message for phrase in phrases)
    return failed or isinstance(error, MemoryError)


def _unused(root: Path) -> Iterator[int]:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            yield int(value.split()[0]) << 10


def _left_in_groups(root: Path) -> Iterator[int]:
    """What is left of the limit of this process's control group, and of all groups above it."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            mount, limit, used, cache = "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            mount, limit, used = "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cache = "total_inactive_file"
        else:
            continue
        # in a container the path may be the host's, and only the mount itself exists
        group = Path(path.strip().lstrip("/"))
        for folder in (root / mount / part for part in (group, *group.parents)):
            top, now = _lines(folder / limit), _lines(folder / used)
            if top and now and top[0].isdigit() and now[0].isdigit():
                stat = dict(pair.split(" ", 1) for pair in _lines(folder / "memory.stat"))
                yield int(top[0]) - int(now[0]) + int(stat.get(cache, 0))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def gb(amount: int) -> str:
    """GB with one decimal, or with two figures below 1."""
    value = amount / GB
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def peak_memory_mb() -> float:
    """Peak resident memory since ``reset_peak_memory``, plus that of the GPU if there is one, in MB."""
    import torch

    peak = peak_memory() / 2**20
    if torch.cuda.is_available():
        peak += torch.cuda.max_memory_allocated() / 2**20
    return round(peak, 1)
