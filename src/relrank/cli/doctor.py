"""The command that says what relrank finds on this machine, and what would be slow here."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import typer

import relrank
from relrank.errors import InputError
from relrank.parallel.environment import cores
from relrank.parallel.memory import GB, available_memory, gb, physical_memory

OLDEST_PYTHON = (3, 11)
LITTLE_MEMORY = 4 * GB
LITTLE_DISK = 2 * GB
_REQUIREMENT = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^\]]*\])?\s*([^;]*?)\s*(?:;\s*(.*))?$")
_MODULES = {"scikit-learn": "sklearn", "faiss-cpu": "faiss", "torch-geometric": "torch_geometric"}
"""Modules with another name than their package; a hyphen is an underscore otherwise."""


@dataclass(slots=True)
class Examination:
    """What was found.

    Attributes:
        sections: names and values, by heading.
        slow: what would be slow, and how to mend it.
        broken: what does not work, likewise.
    """

    sections: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    slow: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    def add(self, section: str, name: str, value: str) -> None:
        """Add a line to a section."""
        self.sections.setdefault(section, []).append((name, value))


def doctor() -> None:
    """Print versions, cores, memory, optional extras and caches of this machine, and what would be slow on it.

    Exit code 1 if something is broken.

    Example: **relrank doctor**
    """
    found = examine()
    for heading, rows in found.sections.items():
        typer.echo(f"{heading}")
        width = max(len(name) for name, _ in rows)
        for name, value in rows:
            typer.echo(f"  {name:<{width}}  {value}")
        typer.echo("")
    for heading, messages in (("Broken", found.broken), ("Would be slow", found.slow)):
        if messages:
            typer.echo(heading)
            for message in messages:
                typer.echo(f"  - {message}")
    if not found.broken:
        typer.echo("Nothing is broken." if found.slow else "Nothing is broken, and nothing would be slow.")
    raise typer.Exit(1 if found.broken else 0)


def examine() -> Examination:
    """Look at versions, machine, extras and caches."""
    found = Examination()
    _versions(found)
    _machine(found)
    _extras(found)
    _caches(found)
    return found


def _versions(found: Examination) -> None:
    python = platform.python_version()
    found.add("Versions", "Python", f"{python} on {platform.system()} {platform.machine()}")
    if sys.version_info[:2] < OLDEST_PYTHON:
        found.broken.append(f"Python {python} is too old: relrank needs {'.'.join(map(str, OLDEST_PYTHON))} or newer")
    found.add("Versions", "relrank", relrank.__version__)
    for name, least, marker in _requirements():
        if marker:
            continue
        version = _version(name)
        found.add("Versions", name, version or "not installed")
        if version is None:
            found.broken.append(f"{name} is not installed: pip install --upgrade relrank")
        elif least is not None and _numbers(version) < _numbers(least):
            found.broken.append(f"{name} {version} is too old: pip install --upgrade '{name}>={least}'")
        elif (error := _import_error(name)) is not None:
            found.broken.append(f"{name} cannot be imported ({error}): pip install --force-reinstall {name}")


def _requirements() -> Iterator[tuple[str, str | None, str]]:
    """Name, smallest version, and marker of each requirement of relrank."""
    try:
        lines = importlib.metadata.requires("relrank") or []
    except importlib.metadata.PackageNotFoundError:  # run from its source
        lines = []
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match is not None:
            least = re.search(r">=\s*([\d.]+)", match[2])
            yield match[1], None if least is None else least[1], match[3] or ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])


def _import_error(name: str) -> str | None:
    """Why a package cannot be imported; None if it can."""
    try:
        importlib.import_module(_MODULES.get(name, name.replace("-", "_")))
    except Exception as error:  # a broken library may raise anything
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"[:120]
    return None


def _machine(found: Examination) -> None:
    usable, all_cores = cores(), os.cpu_count() or 1
    found.add("Machine", "cores", f"{usable}" if usable == all_cores else f"{usable} of {all_cores} may be used")
    if usable < 2:
        found.slow.append("one core: a study takes about twice as long as on two")
    quota = _core_quota()
    if quota is not None and quota < usable:
        found.add("Machine", "core quota", f"{quota:g}")
        threads = max(1, int(quota))
        found.slow.append(
            f"{usable} threads share {quota:g} cores, which the container allows: set OMP_NUM_THREADS={threads} and "
            f"NUMBA_NUM_THREADS={threads}"
        )
    _threads(found, usable)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if load > 1.5 * usable:
        found.slow.append(f"other programs are busy (load {load:.1f} on {usable} cores)")
    physical = physical_memory()
    try:
        free = available_memory()
        found.add("Machine", "memory", f"{gb(free)} GB available" + (f" of {gb(physical)} GB" if physical else ""))
        if free < LITTLE_MEMORY:
            found.slow.append(f"{gb(free)} GB of memory: cells that need more are skipped; relrank audit names them")
    except InputError as error:
        found.broken.append(f"RELRANK_MEMORY_GB is {error.found}: expected {error.expected}")
    disk = shutil.disk_usage(Path.cwd()).free
    found.add("Machine", "disk", f"{gb(disk)} GB free here")
    if disk < LITTLE_DISK:
        found.slow.append(f"{gb(disk)} GB of disk are left here, where results are written to runs/")
    found.add("Machine", "GPU", _gpu())


def _threads(found: Examination, usable: int) -> None:
    """Threads of numerical libraries, and whether they are more than the cores."""
    try:
        import numba
        from threadpoolctl import threadpool_info
    except Exception:  # reported with the versions
        return
    pools = {f"{p['internal_api']}": int(p["num_threads"]) for p in threadpool_info()}
    pools["numba"] = int(numba.get_num_threads())
    found.add("Machine", "threads", ", ".join(f"{name} {n}" for name, n in sorted(pools.items())))
    for name, n in sorted(pools.items()):
        if n > usable:
            found.slow.append(f"{name} starts {n} threads on {usable} cores: set OMP_NUM_THREADS={usable}")
        elif n < usable:
            found.slow.append(f"{name} uses {n} of {usable} cores: OMP_NUM_THREADS or its like is set to {n}")


def _core_quota(root: Path = Path("/")) -> float | None:
    """Cores that the control group allows, if it limits them."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()[:2]
    except (OSError, ValueError):
        return None
    return None if quota == "max" else int(quota) / int(period)


def _gpu() -> str:
    try:
        import torch

        return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else "none, and none is needed"
    except Exception:  # reported with the versions
        return "unknown"


def _extras(found: Examination) -> None:
    needed: dict[str, list[str]] = {}
    for name, _, marker in _requirements():
        if (match := re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)) is not None:
            needed.setdefault(match[1], []).append(name)
    for extra, packages in sorted(needed.items()):
        missing = [name for name in packages if _version(name) is None]
        present = ", ".join(f"{name} {_version(name)}" for name in packages if name not in missing)
        value = present if not missing else f'pip install "relrank[{extra}]" ({", ".join(missing)} missing)'
        found.add("Extras", extra, value)


def _caches(found: Examination) -> None:
    """Where compiled kernels and vectors of texts are kept, and whether they can be."""
    package = Path(relrank.__file__).parent
    compiled = _kernel_cache(package)
    if compiled is None:
        found.add("Caches", "kernels", "no folder can be written")
        found.slow.append("compiled code cannot be kept, so every command compiles anew: set NUMBA_CACHE_DIR")
    else:
        kernels, size = _contents(compiled, "*.nbi"), _contents(compiled, "*.nb[ic]")
        found.add("Caches", "kernels", f"{kernels[0]} compiled, {_megabytes(size[1])}, in {compiled}")
        if not kernels[0]:
            found.slow.append("no kernel is compiled yet: the first study compiles them, which takes a minute or two")
    try:
        from relrank.graph.construction.text_cache import cache_folder

        texts = cache_folder()
        count, size_of_texts = _contents(texts, "*")
        found.add("Caches", "texts", f"{count} files, {_megabytes(size_of_texts)}, in {texts}")
        if not _may_write(texts):
            found.slow.append(f"vectors of texts cannot be kept in {texts}: set RELRANK_CACHE to another folder")
    except Exception as error:  # a broken library, which is reported with the versions, or no such user
        found.add("Caches", "texts", f"unknown: {next(iter(str(error).splitlines()), '')}")


def _kernel_cache(package: Path) -> Path | None:
    """The folder in which numba keeps what it compiles; None if it can write to none."""
    if named := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(named) if _may_write(Path(named)) else None
    if _may_write(package / "kernels" / "__pycache__"):
        return package
    try:
        from numba.misc.appdirs import AppDirs
    except Exception:  # reported with the versions
        return None
    folder = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir)
    return folder if _may_write(folder) else None


def _may_write(folder: Path) -> bool:
    """Whether files can be written to a folder, which may have to be made first."""
    existing = next((p for p in (folder, *folder.parents) if p.exists()), None)
    return existing is not None and existing.is_dir() and os.access(existing, os.W_OK)


def _contents(folder: Path, pattern: str) -> tuple[int, int]:
    """Number of files in a folder, and their bytes."""
    sizes = [path.stat().st_size for path in folder.rglob(pattern) if path.is_file()]
    return len(sizes), sum(sizes)


def _megabytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"
