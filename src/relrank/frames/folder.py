"""A study from frames as files: the frames as Parquet in ``frames/``, and a ``study.toml`` that describes them.

The command line runs the same file, so that cells, locks and stored formats are those of any study.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import tomli_w

from relrank.errors import InputError
from relrank.io.atomic import atomic_write, discard
from relrank.io.manifest import MANIFEST, ManifestReader, sha256_of, write_manifest

FRAMES = "frames"
"""Folder of the frames in a study's folder."""
STUDY_FILE = "study.toml"
HEADER = "# Written by relrank.Study from data frames, and again when that study runs: edit a copy."


def write_study(
    folder: Path, raw: Mapping[str, Any], tables: Mapping[str, pl.DataFrame], comments: Mapping[str, str]
) -> list[str]:
    """Write frames and study file; files with the same content are not touched.

    Args:
        folder: of the study, locked if others may write it.
        raw: the study as plain values, of which ``data.path`` is replaced.
        tables: frames by file name.
        comments: as for ``study_text``.

    Returns:
        Names of the files in ``frames/`` that had another content, new ones excluded.

    Raises:
        InputError: the folder has files of these names that are not of a study from frames, or a frame has a type of
            values that Parquet cannot hold.
    """
    refuse_foreign(folder)
    frames = folder / FRAMES
    frames.mkdir(parents=True, exist_ok=True)
    changed, wrote = [], False
    for name, frame in tables.items():
        content, file = parquet_of(frame, name), frames / name
        known = sha256_of(file) if file.is_file() else None
        if known == hashlib.sha256(content).hexdigest():
            continue
        wrote = True
        changed += [name] if known is not None else []
        with atomic_write(file) as temporary:
            temporary.write_bytes(content)
    for file in frames.glob("*.parquet"):
        if file.name not in tables:
            discard(file)
            wrote = True
    if wrote:
        write_manifest(frames)
    text = study_text(raw, comments)
    if not (folder / STUDY_FILE).is_file() or (folder / STUDY_FILE).read_text(encoding="utf-8") != text:
        with atomic_write(folder / STUDY_FILE) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return changed


def files_hash(folder: Path) -> str:
    """Hash of the study file and of the manifest, which has a hash of every frame; "" without them."""
    files = folder / STUDY_FILE, folder / FRAMES / MANIFEST
    if not all(file.is_file() for file in files):
        return ""
    return hashlib.sha256(b"\n".join(file.read_bytes() for file in files)).hexdigest()


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace files that a study from frames has not written.

    Raises:
        InputError: there are some.
    """
    frames, file = folder / FRAMES, folder / STUDY_FILE
    found = None
    if os.path.lexists(frames) and any(frames.iterdir()):
        try:
            ManifestReader(frames, "name another folder with out=…")
        except InputError:
            found = f"{FRAMES}/ with other files"
    if os.path.lexists(file) and not file.read_text(encoding="utf-8", errors="replace").startswith(HEADER):
        found = f"a {STUDY_FILE} that was written by hand"
    if found is not None:
        raise InputError(
            "folder holds other files",
            where=str(folder),
            expected="a new folder, or that of a study from frames: name it with out=…",
            found=found,
        )


def study_text(raw: Mapping[str, Any], comments: Mapping[str, str]) -> str:
    """A study file of plain values, whose tables are in ``frames/``.

    Args:
        raw: the study.
        comments: by dotted name of a section.
    """
    data = {"path": FRAMES, **{key: value for key, value in raw["data"].items() if key != "path"}}
    lines = [HEADER, "", *tomli_w.dumps(toml_values({**raw, "data": data})).splitlines()]
    above = {f"[{section}]": " ".join(text.split()) for section, text in comments.items()}
    return "".join(f"# {above[line]}\n{line}\n" if line in above else f"{line}\n" for line in lines)


def toml_values(value: Any, where: str = "rr.Study") -> Any:
    """Values that TOML can hold: sections without None, lists, and Python's numbers for those of NumPy.

    Raises:
        InputError: a value is of another type.
    """
    if isinstance(value, Mapping):
        return {str(key): toml_values(inner, f"{where}, {key}") for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple | np.ndarray):
        return [toml_values(inner, where) for inner in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool | int | float | str | date):
        return value
    raise InputError(
        "setting of a type that a study file cannot hold",
        where=where,
        expected="text, numbers, dates, Booleans, lists, or settings by name",
        found=type(value).__name__,
    )


def parquet_of(frame: pl.DataFrame, name: str) -> bytes:
    """A frame as a Parquet file.

    Raises:
        InputError: a column's type cannot be stored.
    """
    buffer = io.BytesIO()
    try:
        frame.write_parquet(buffer)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise InputError(
            "frame cannot be stored",
            where=name.removesuffix(".parquet"),
            expected="columns of numbers, text, dates or lists of them",
            found=str(error).splitlines()[0],
        ) from None
    return buffer.getvalue()
