"""Vectors of texts that were read before, on disk: by hash of the text, in one folder per model.

A folder holds chunks, Parquet files with the columns ``sha256`` (of the text) and ``vector``. A chunk is there whole
or not at all, and is never changed, whoever else writes; a text that is in several has the vector of the first. The
texts themselves are not kept.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

from relrank.csr import Float32
from relrank.errors import InputError

MODEL_FILES = (".safetensors", ".json", ".txt", ".model")
"""Endings of files that decide what a model computes."""


def cache_folder() -> Path:
    """``RELRANK_CACHE``, else ``relrank`` among the user's caches as the platform has it."""
    if named := os.environ.get("RELRANK_CACHE"):
        return Path(named).expanduser()
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
        """Keep a chunk; where another process kept these texts first, its vectors stay.

        Args:
            texts: [n], without a vector so far.
            vectors: float32 [n, d].
        """
        hashes = [sha256(text) for text in texts]
        content = hashlib.sha256("".join(hashes).encode()).hexdigest()[:16]
        frame = pl.DataFrame({"sha256": hashes, "vector": vectors}, schema_overrides={"sha256": pl.String})
        path = self._folder / f"{len(self._chunks()):06d}-{content}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.part")
        frame.write_parquet(temporary)
        if path.exists():  # another process was quicker: what it may have returned by now stays
            temporary.unlink()
        else:
            temporary.replace(path)

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
        return sorted(self._folder.glob("*.parquet"))


def _read(chunk: Path, columns: list[str] | None = None) -> pl.DataFrame:
    try:
        return pl.read_parquet(chunk, columns=columns, glob=False)
    except pl.exceptions.PolarsError as error:
        raise InputError(
            "damaged file among the vectors of texts", where=str(chunk),
            expected="a chunk as relrank wrote it; delete the file, and its texts are read again",
            found=str(error).strip().splitlines()[0][:200],
        ) from None  # fmt: skip


def sha256(text: str) -> str:
    """Hash of a text's UTF-8 bytes, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
