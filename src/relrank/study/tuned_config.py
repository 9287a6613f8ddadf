"""A tuned study file from the results of a search."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from relrank.io.atomic import atomic_write
from relrank.models import MODELS
from relrank.study.config import ModelSection, StudyConfig
from relrank.study.optuna_search import ArmSearch


def write_tuned(config: StudyConfig, searches: Sequence[ArmSearch], base: Path, path: Path, how: str) -> Path:
    """Write a study file, named NAME-tuned, whose arms have the best settings of the searches.

    Args:
        config: the study that was searched.
        searches: finished searches.
        base: folder that relative paths in the study start from.
        path: of the new study file.
        how: the searches in a few words, for a comment.
    """
    raw = config.model_dump(exclude_unset=True, exclude_none=True)
    raw["name"] = f"{config.name.removesuffix('-tuned')}-tuned"
    for key in ("path", "tmdb"):
        location = getattr(config.data, key)
        if location is not None and config.data.dataset != "planted" and not location.startswith(("$", "~")):
            raw["data"][key] = os.path.relpath(base / location, path.parent)
    raw["models"] = [_section(m, [s for s in searches if s.cell.model.name == m.name]) for m in config.models]
    comment = f"# Written by relrank tune: {how},\n# best {config.study.metric} on validation of the first split.\n\n"
    with atomic_write(path) as temporary:
        temporary.write_text(comment + tomli_w.dumps(raw), encoding="utf-8")
    return path


def _section(model: ModelSection, searches: Sequence[ArmSearch]) -> dict[str, Any]:
    section = model.model_dump(exclude_unset=True, exclude_none=True)
    if searches and MODELS[model.kind].relational:
        section["arms"] = list(searches[0].cell.model.arms or ())
    for s in searches:
        if s.best is not None:
            of_arm = section.setdefault("arm", {}).setdefault(s.cell.arm.name, {})
            for name, value in s.best.values.items():
                field, _, entry = name.partition(".")
                settings = of_arm.setdefault("train" if field == "train" else "config", {})
                if entry and field != "train":
                    settings.setdefault(field, {})[entry] = value
                else:
                    settings[entry or field] = value
    return section
