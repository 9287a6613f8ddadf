"""Vectors of texts that were read before, on disk: by hash of the text, in one folder per model.

A folder holds chunks, Parquet files with the columns ``sha256`` (of the text) and ``vector``, which are numbered in
the order they were written. A chunk is there whole or not at all, keeps its number, and is never changed, whoever
else writes; a text that is in several has the vector of the lowest number, and no chunk is ever put below one that is
there. So a vector that was returned once stays, unless a file is deleted. The texts themselves are not kept.
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from relrank.errors import InputError
from relrank.kernels.csr import Float32
from relrank.tables.config import at_home

MODEL_FILES = (".safetensors", ".json", ".txt", ".model")
"""Endings of files that decide what a model computes."""

FORMAT = "texts-2"
"""Folder of the caches; those of an earlier naming of chunks lie in another, and are not read."""


def cache_folder() -> Path:
    """``RELRANK_CACHE``, else ``relrank`` among the user's caches as the platform has it."""
    if named := os.environ.get("RELRANK_CACHE"):
        return at_home(Path(named), "RELRANK_CACHE")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "relrank"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "relrank"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relrank"


def identity(folder: Path, *settings: str) -> str:
    """Hash of a model's weights and configuration files, and of settings: the same content, the same model."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in MODEL_FILES and path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:32]


class TextCache:
    """The vectors of one model.

    Args:
        folder: made with the first chunk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The texts without a vector, each once, longest first."""
        hashes = {sha256(text): text for text in texts}
        for chunk in self._chunks():
            for known in _read(chunk, ["sha256"])["sha256"]:
                hashes.pop(known, None)
        return [text for _, text in sorted(hashes.items(), key=lambda pair: (-len(pair[1]), pair[0]))]

    def add(self, texts: list[str], vectors: Float32) -> None:
        """Keep a chunk; where another process kept one of these texts first, its vector stays the one that is found.

        Args:
            texts: [n], without a vector so far.
            vectors: float32 [n, d].

        Raises:
            InputError: the folder's file system has no hard links.
        """
        hashes = [sha256(text) for text in texts]
        frame = pl.DataFrame({"sha256": hashes, "vector": vectors}, schema_overrides={"sha256": pl.String})
        self._folder.mkdir(parents=True, exist_ok=True)
        temporary = self._folder / f"{uuid.uuid4().hex}.part"
        try:
            frame.write_parquet(temporary)
            chunks = self._chunks()
            number = int(chunks[-1].stem) + 1 if chunks else 0
            while not self._named(temporary, number):  # another process was quicker
                number += 1
        finally:
            temporary.unlink(missing_ok=True)

    def _named(self, temporary: Path, number: int) -> bool:
        """Give a written chunk its number; False if it is taken. A link, unlike a renaming, replaces nothing."""
        try:
            os.link(temporary, self._path(number))
        except FileExistsError:
            return False
        except OSError as error:
            raise InputError(
                "vectors of texts cannot be kept here: no hard links",
                where=str(self._folder),
                expected="another folder in RELRANK_CACHE",
                found=str(error),
            ) from error
        return True

    def find(self, texts: list[str]) -> Float32:
        """The vectors of texts that all have one, float32 [n, d].

        Raises:
            KeyError: one has none.
        """
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(sha256(text), []).append(row)
        table: Float32 | None = None
        for chunk in self._chunks():
            if not rows:
                break
            frame = _read(chunk)
            kept = frame["vector"].to_numpy()
            table = np.zeros((len(texts), kept.shape[1]), np.float32) if table is None else table
            for at, known in enumerate(frame["sha256"]):
                for row in rows.pop(known, ()):
                    table[row] = kept[at]
        if rows or table is None:
            raise KeyError(next(iter(rows), None))
        return table

    def _chunks(self) -> list[Path]:
        """By number. A folder listed while others write may lack a chunk below one that it has: each is asked for."""
        listed = [int(path.stem) for path in self._folder.glob("*.parquet") if path.stem.isdecimal()]
        return [path for path in map(self._path, range(max(listed, default=-1) + 1)) if path.exists()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"


def _read(chunk: Path, columns: list[str] | None = None) -> pl.DataFrame:
    try:
        return pl.read_parquet(chunk, columns=columns, glob=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "damaged file among the vectors of texts",
            where=str(chunk),
            expected="a chunk as relrank wrote it; delete the file, and its texts are read again",
            found=str(error).strip().splitlines()[0][:200],
        ) from None


def sha256(text: str) -> str:
    """Hash of a text's UTF-8 bytes, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
