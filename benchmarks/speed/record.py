"""When, where and with what something was measured: one record per task, and per size of ``growth.py``."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import relrank
from relrank.parallel.machine import machine

ROOT = Path(__file__).parents[2]


def record(packages: Sequence[str]) -> dict[str, Any]:
    """Date, machine, versions of the packages, commit."""
    return {
        "date": date.today().isoformat(), "machine": machine(),
        "versions": {name: _version(name) for name in packages}, "commit": commit(ROOT),
    }  # fmt: skip


def _version(package: str) -> str:
    """The one that is imported; what an editable install says of itself may be older than its files."""
    return relrank.__version__ if package == "relrank" else version(package)


def commit(root: Path) -> str:
    """Short name of the commit that is checked out, with "dirty" where ``src`` or ``benchmarks`` differ from it.

    "" where there is no git, or no commit.
    """
    head = _git(root, "rev-parse", "--short", "HEAD")
    return f"{head} dirty" if head and _git(root, "status", "--porcelain", "--", "src", "benchmarks") else head


def _git(root: Path, *words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
