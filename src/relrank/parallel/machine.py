"""A description of the machine."""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import relrank
from relrank.parallel.environment import cores
from relrank.parallel.memory import GB, physical_memory


def machine() -> dict[str, Any]:
    """Processor, cores, memory, and versions of Python, torch and relrank."""
    import torch

    model = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):  # Linux alone has this file
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": model,
        "cores": cores(),
        "memory_gb": round(physical_memory() / GB, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "relrank": relrank.__version__,
    }
