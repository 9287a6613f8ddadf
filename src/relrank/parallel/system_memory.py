"""Memory of macOS and Windows, asked of their system libraries; Linux has files for it (``memory``)."""

from __future__ import annotations

import ctypes
import sys


class _MemoryStatus(ctypes.Structure):
    """MEMORYSTATUSEX of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("load", ctypes.c_uint32),
        ("total", ctypes.c_uint64),
        ("available", ctypes.c_uint64),
        ("others", ctypes.c_uint64 * 5),
    )


class _MemoryCounters(ctypes.Structure):
    """PROCESS_MEMORY_COUNTERS of Windows."""

    _fields_ = (
        ("length", ctypes.c_uint32),
        ("page_faults", ctypes.c_uint32),
        ("peak", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 7),
    )


def total_memory() -> int:
    """Bytes of physical memory on Windows; 0 elsewhere, or if unknown."""
    return _windows_memory("total")


def unused_memory() -> int:
    """Bytes that can be allocated without swapping on macOS and Windows; 0 elsewhere, or if unknown."""
    if sys.platform != "darwin":
        return _windows_memory("available")
    percent = _sysctl("kern.memorystatus_level", ctypes.c_int32())
    return _sysctl("hw.memsize", ctypes.c_uint64()) * percent // 100


def peak_memory() -> int:
    """Peak resident memory of this process on Windows, in bytes; 0 elsewhere, or if unknown."""
    if sys.platform != "win32":
        return 0
    counters = _MemoryCounters(length=ctypes.sizeof(_MemoryCounters))
    kernel = ctypes.WinDLL("kernel32")
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    kernel.K32GetProcessMemoryInfo.argtypes = ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32
    known = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.length)
    return int(counters.peak) if known else 0


def _windows_memory(field: str) -> int:
    if sys.platform != "win32":
        return 0
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    known = ctypes.WinDLL("kernel32").GlobalMemoryStatusEx(ctypes.byref(status))
    return int(getattr(status, field)) if known else 0


def _sysctl(name: str, value: ctypes.c_int32 | ctypes.c_uint64) -> int:
    """A whole number that the kernel of macOS reports; 0 if it does not."""
    size = ctypes.c_size_t(ctypes.sizeof(value))
    try:
        call = ctypes.CDLL(None).sysctlbyname
    except AttributeError:
        return 0
    failed = call(name.encode(), ctypes.byref(value), ctypes.byref(size), None, ctypes.c_size_t(0))
    return 0 if failed else int(value.value)
