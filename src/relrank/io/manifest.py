"""Folders with a manifest: a file that is read is the one that was written, or an error says so.

``manifest.json`` holds the sha256 of every file and of its own content. A subfolder with its own manifest is listed
by that file alone. Files are read into memory once, checked and parsed there; later changes on disk have no effect.
This detects damage and mistakes; it is no signature.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from relrank.errors import InputError, UnavailableError
from relrank.io.atomic import atomic_write, write_text

FORMAT = "relrank-manifest-1"
MANIFEST = "manifest.json"
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP)
"""Error numbers of a missing file; others mean that it cannot be read."""


def write_manifest(folder: Path, names: Iterable[str] | None = None, durable: bool = True) -> None:
    """Write a folder's manifest.

    Args:
        folder: complete but for its manifest.
        names: of the files to list; by default all.
        durable: see ``atomic_write``.
    """
    files = {name: sha256_of(folder / name) for name in sorted(_files_in(folder) if names is None else names)}
    manifest = {"format": FORMAT, "files": files}
    with atomic_write(folder / MANIFEST, durable) as temporary:
        write_text(temporary, json.dumps(manifest | {"sha256": _sha256_of(manifest)}, indent=1))


class ManifestReader:
    """Reads the files of a folder with a manifest.

    Args:
        folder: with a manifest.
        remedy: what to do about a changed folder, for messages.

    Raises:
        InputError: the manifest is missing, or was changed.
    """

    def __init__(self, folder: Path, remedy: str) -> None:
        self._folder, self._remedy = folder, remedy
        if not os.path.lexists(folder / MANIFEST):
            found = "none: the folder is damaged, or of an older version"
            raise self._error(folder, "folder has no manifest", f"a file {MANIFEST}", found)
        manifest = parse_json_object(self._bytes(MANIFEST), str(folder / MANIFEST))
        sha256 = manifest.pop("sha256", None)
        files = manifest.get("files")
        if manifest.get("format") != FORMAT or sha256 != _sha256_of(manifest) or not isinstance(files, dict):
            raise self._error(folder / MANIFEST, "manifest was changed", f"{FORMAT} as it was written", "another")
        self._files: dict[str, str] = files

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: the file is missing, leads out of the folder, or was changed.
        """
        if name not in self._files:
            raise self._error(self._folder / MANIFEST, "file is not in the manifest", name, ", ".join(self._files))
        content = self._bytes(name)
        if (found := hashlib.sha256(content).hexdigest()) != self._files[name]:
            raise self._error(
                self._folder / name, "file was changed", f"sha256 {self._files[name][:12]}…", found[:12]
            )
        return content

    def size(self, name: str) -> int:
        """The size of a file in bytes.

        Raises:
            InputError: the file is missing.
        """
        try:
            return (self._folder / name).stat().st_size
        except OSError as error:
            raise self._unreadable(name, error) from None

    def json(self, name: str) -> dict[str, Any]:
        """Like ``read``, a JSON object."""
        return parse_json_object(self.read(name), str(self._folder / name))

    def table(self, name: str) -> pl.DataFrame:
        """Like ``read``, a Parquet table."""
        return parse_parquet(self.read(name), str(self._folder / name))

    def _bytes(self, name: str) -> bytes:
        try:
            return read_bytes_within(self._folder, name)
        except OSError as error:
            raise self._unreadable(name, error) from None

    def _unreadable(self, name: str, error: OSError) -> InputError:
        found = error.strerror or str(error)
        if error.errno not in NO_FILE:
            return UnavailableError(
                "file cannot be read", where=str(self._folder / name), expected="a file that can be read", found=found
            )
        return self._error(self._folder / name, "file cannot be read", "the one that was written", found)

    def _error(self, where: Path, what: str, expected: str, found: str) -> InputError:
        return InputError(what, where=str(where), expected=f"{expected}; {self._remedy}", found=found)


def read_bytes_within(folder: Path, name: str) -> bytes:
    """The content of a file in a folder, which itself may be reached through a link.

    Raises:
        InputError: a link leads out of the folder.
        OSError: there is no such file.
    """
    path = folder / name
    refuse_leading_out(folder, path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))  # reading a pipe would block
    return path.read_bytes()


def refuse_leading_out(folder: Path, path: Path) -> None:
    """Refuse a path in a folder that leads out of it through links.

    Raises:
        InputError: it does.
    """
    real, root = (Path(os.path.realpath(p)) for p in (path, folder))
    if not real.is_relative_to(root):
        raise InputError(
            "link leads out of its folder", where=str(path), expected=f"files in {root}", found=str(real)
        )


@contextmanager
def consistent(where: Path, remedy: str) -> Iterator[None]:
    """Turn errors that inconsistent files cause into one InputError.

    Manifests detect files that were changed after they were written, not files that never fitted together.

    Raises:
        InputError: values are missing, or have another type or shape than expected.
    """
    try:
        yield
    except (InputError, UnicodeError):  # UnicodeError: the terminal cannot show a title
        raise
    except UNFIT as error:
        found = first_line(error)
        raise InputError(
            "parts do not fit together",
            where=str(where),
            expected=f"what was written together; {remedy}",
            found=f"{type(error).__name__}: {found}" if isinstance(error, LookupError) else found,
        ) from error


def parse_json_object(content: bytes, where: str) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: the file does not hold one.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise InputError("not readable as JSON", where=where, expected="UTF-8 JSON", found=str(error)) from None
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=where, expected="names and values", found=type(value).__name__)
    return value


def parse_parquet(content: bytes, where: str) -> pl.DataFrame:
    """The table in a Parquet file.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        return pl.read_parquet(io.BytesIO(content))
    except PARQUET_ERRORS as error:
        raise InputError("file cannot be read", where=where, expected="Parquet", found=first_line(error)) from None


UNFIT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, pl.exceptions.PolarsError)
"""Errors that missing or wrong values cause."""
PARQUET_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)
"""Errors of Polars for a file that is not Parquet, or is damaged."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def sha256_of(path: Path) -> str:
    """sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_in(folder: Path) -> Iterable[str]:
    for path in folder.iterdir():
        if path.is_file() and path.name != MANIFEST:
            yield path.name
        elif (path / MANIFEST).is_file():
            yield f"{path.name}/{MANIFEST}"


def _sha256_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
