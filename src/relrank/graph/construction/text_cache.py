"""A cache of text vectors on disk, by hash of the text, with one folder per model.

A folder contains chunks: Parquet files with the columns ``sha256`` (of the text) and ``vector``, numbered in order of
writing. A chunk appears atomically, keeps its number and never changes, also when several processes write. A text
in several chunks has the vector of the lowest number, and no chunk is ever added below an existing one. So a vector
that was returned once stays the same, unless a file is deleted. The texts themselves are not stored.
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
"""Suffixes of the files that determine what a model computes."""

FORMAT = "texts-2"
"""Folder of the caches of this format."""


def cache_folder() -> Path:
    """``RELRANK_CACHE``, else ``relrank`` in the platform's cache folder of the user."""
    if named := os.environ.get("RELRANK_CACHE"):
        return at_home(Path(named), "RELRANK_CACHE")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "relrank"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "relrank"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relrank"


def identity(folder: Path, *settings: str) -> str:
    """Hash of a model's weights and configuration files, and of settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in sorted(path for path in folder.rglob("*") if path.suffix in MODEL_FILES and path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()[:32]


class TextCache:
    """The vectors of one model.

    Args:
        folder: created with the first chunk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, texts: Iterable[str]) -> list[str]:
        """The texts without a vector, each once, longest first."""
        hashes = {sha256(text): text for text in texts}
        for chunk in self._chunks():
            for cached in _read(chunk, ["sha256"])["sha256"]:
                hashes.pop(cached, None)
        return [text for _, text in sorted(hashes.items(), key=lambda pair: (-len(pair[1]), pair[0]))]

    def add(self, texts: list[str], vectors: Float32) -> None:
        """Store a chunk; if another process stored one of these texts before, that vector stays in use.

        Args:
            texts: [n], not in the cache.
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
            while not self._publish(temporary, number):  # another process took this number
                number += 1
        finally:
            temporary.unlink(missing_ok=True)

    def _publish(self, temporary: Path, number: int) -> bool:
        """Link a written chunk under a number; False if it is taken. Unlike a rename, a link replaces nothing."""
        try:
            os.link(temporary, self._path(number))
        except FileExistsError:
            return False
        except OSError as error:
            raise InputError(
                "text vectors cannot be cached here: no hard links",
                where=str(self._folder),
                expected="another folder in RELRANK_CACHE",
                found=str(error),
            ) from error
        return True

    def find(self, texts: list[str]) -> Float32:
        """The vectors of texts, float32 [n, d].

        Raises:
            KeyError: a text is not in the cache.
        """
        rows: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            rows.setdefault(sha256(text), []).append(row)
        table: Float32 | None = None
        for chunk in self._chunks():
            if not rows:
                break
            frame = _read(chunk)
            vectors = frame["vector"].to_numpy()
            table = np.zeros((len(texts), vectors.shape[1]), np.float32) if table is None else table
            for at, cached in enumerate(frame["sha256"]):
                for row in rows.pop(cached, ()):
                    table[row] = vectors[at]
        if rows or table is None:
            raise KeyError(next(iter(rows), None))
        return table

    def _chunks(self) -> list[Path]:
        """All chunks by number; each is tested, as a listing during writes may miss a chunk below one that it has."""
        listed = [int(path.stem) for path in self._folder.glob("*.parquet") if path.stem.isdecimal()]
        return [path for path in map(self._path, range(max(listed, default=-1) + 1)) if path.exists()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.parquet"


def _read(chunk: Path, columns: list[str] | None = None) -> pl.DataFrame:
    try:
        return pl.read_parquet(chunk, columns=columns, glob=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "damaged file in the cache of text vectors",
            where=str(chunk),
            expected="a chunk that relrank wrote; delete the file, and its texts are encoded again",
            found=str(error).strip().splitlines()[0][:200],
        ) from None


def sha256(text: str) -> str:
    """Hash of a text's UTF-8 bytes, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
