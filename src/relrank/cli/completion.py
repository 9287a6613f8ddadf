"""What a shell suggests after TAB: study files, folders of studies and fitted models, and names in a study file.

Each function takes what was typed, and imports nothing heavy, since it runs in a new process at every TAB.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import typer

MARKS = ("study.json", "run.json")
"""Files of the folder of a study, and of a fitted model."""


def study_files(incomplete: str) -> list[str]:
    """Study files, and TOML files one folder deeper."""
    return [path.as_posix() for path in _matches(incomplete) if path.suffix == ".toml" and path.is_file()]


def run_folders(incomplete: str) -> list[str]:
    """Folders of studies and fitted models, such as ``runs/planted``, also one folder deeper."""
    return [path.as_posix() for path in _matches(incomplete) if any((path / mark).is_file() for mark in MARKS)]


def of_atlas(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the studies of the atlas file that the command names."""
    named = [context.params.get("file"), *context.args]  # words before an option are not parsed yet
    path = next((Path(word) for word in named if word and str(word).endswith(".toml")), None)
    files = [] if path is None else [path.parent / str(one.get("file")) for one in _toml(path).get("studies", ())]
    return [name for file in files if (name := str(_toml(file).get("name", ""))).startswith(incomplete)]


def data_sets(incomplete: str) -> list[str]:
    """Data sets that can be fetched."""
    from relrank.tables.fetch import Name

    return [name for name in get_args(Name) if name.startswith(incomplete)]


def model(context: typer.Context, incomplete: str) -> list[str]:
    """Models of the study file that the command names; all models if it lists none."""
    return [name for name in _models(context) if name.startswith(incomplete)]


def models(context: typer.Context, incomplete: str) -> list[str]:
    """Like ``model``, separated by commas."""
    return _last_of_list(incomplete, _models(context))


def arms(context: typer.Context, incomplete: str) -> list[str]:
    """Relations of the study file, separated by commas, and the names of whole arms."""
    relations = list(_study(context).get("relations", {}))
    return _last_of_list(incomplete, relations if "," in incomplete else ["all", "interactions", *relations])


def _matches(incomplete: str) -> Iterator[Path]:
    """Files and folders whose path begins as typed, and those in such folders."""
    folder, slash, start = incomplete.replace("\\", "/").rpartition("/")
    for path in _visible(Path(folder + slash)):
        if path.name.startswith(start):
            yield path
            yield from _visible(path)


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        return []


def _last_of_list(incomplete: str, names: Iterable[str]) -> list[str]:
    listed, comma, start = incomplete.rpartition(",")
    return [f"{listed}{comma}{n}" for n in names if n.startswith(start) and n not in listed.split(",")]


def _study(context: typer.Context) -> dict[str, Any]:
    """The study file that the command names, unchecked; empty if it cannot be read."""
    named = [context.params.get("study"), *context.args]  # words before an option are not parsed yet
    path = next((Path(word) for word in named if word and str(word).endswith(".toml")), None)
    return {} if path is None else _toml(path)


def _toml(path: Path) -> dict[str, Any]:
    """A TOML file, unchecked; empty if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _models(context: typer.Context) -> list[str]:
    listed = [section.get("name", "") for section in _study(context).get("models", ())]
    return listed or _all_models()


def _all_models() -> list[str]:
    """Keys of ``relrank.models.MODELS``, read from its source: importing it would import torch."""
    spec = find_spec("relrank.models")
    assert spec is not None
    assert spec.origin is not None
    for node in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Dict):
            return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return []
