"""A folder with a manifest: what is read from it is what was written, or one error.

``manifest.json`` holds the sha256 of every file and of its own content. A subfolder that has a manifest of its own is
listed by that file alone. Files are read into memory once, checked there and parsed from there, so nobody who changes
them meanwhile changes what was read. This finds damage and mistakes; it is no signature.
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
from relrank.io.atomic import atomic_write

FORMAT = "relrank-manifest-1"
MANIFEST = "manifest.json"
NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ELOOP)
"""Errors that say that there is no such file, where others say that it cannot be read."""


def write_manifest(folder: Path, names: Iterable[str] | None = None, durable: bool = True) -> None:
    """Write a folder's manifest.

    Args:
        folder: that is complete otherwise.
        names: of the files that it speaks for; by default all.
        durable: see ``atomic_write``.
    """
    files = {name: sha256_of(folder / name) for name in sorted(_files_in(folder) if names is None else names)}
    manifest = {"format": FORMAT, "files": files}
    with atomic_write(folder / MANIFEST, durable) as temporary:
        temporary.write_text(json.dumps(manifest | {"sha256": _seal_of(manifest)}, indent=1), encoding="utf-8")


class ManifestReader:
    """A folder that ``write_manifest`` closed, opened to read.

    Args:
        folder: with a manifest.
        remedy: what to do if it is not what was written, for messages.

    Raises:
        InputError: it has no manifest, or one that was changed.
    """

    def __init__(self, folder: Path, remedy: str) -> None:
        self._folder, self._mend = folder, remedy
        if not os.path.lexists(folder / MANIFEST):
            raise self._error(
                folder, "folder has no manifest", f"a file {MANIFEST}", "none: an older one, or damaged"
            )
        manifest = parse_json_object(self._bytes(MANIFEST), str(folder / MANIFEST))
        write_manifest = manifest.pop("sha256", None)
        files = manifest.get("files")
        if manifest.get("format") != FORMAT or write_manifest != _seal_of(manifest) or not isinstance(files, dict):
            raise self._error(folder / MANIFEST, "manifest was changed", f"{FORMAT} as it was written", "another")
        self._files: dict[str, str] = files

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: the file is gone, leads out of the folder, or is not what was written.
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
        """Bytes of a file, before it is read.

        Raises:
            InputError: the file is gone.
        """
        try:
            return (self._folder / name).stat().st_size
        except OSError as error:
            raise self._gone(name, error) from None

    def json(self, name: str) -> dict[str, Any]:
        """The same of a JSON object."""
        return parse_json_object(self.read(name), str(self._folder / name))

    def table(self, name: str) -> pl.DataFrame:
        """The same of a Parquet table."""
        return parse_parquet(self.read(name), str(self._folder / name))

    def _bytes(self, name: str) -> bytes:
        try:
            return read_bytes_within(self._folder, name)
        except OSError as error:
            raise self._gone(name, error) from None

    def _gone(self, name: str, error: OSError) -> InputError:
        found = error.strerror or str(error)
        if error.errno not in NO_FILE:
            return UnavailableError(
                "file cannot be read", where=str(self._folder / name), expected="a file that can be read", found=found
            )
        return self._error(self._folder / name, "file cannot be read", "the one that was written", found)

    def _error(self, where: Path, what: str, expected: str, found: str) -> InputError:
        return InputError(what, where=str(where), expected=f"{expected}; {self._mend}", found=found)


def read_bytes_within(folder: Path, name: str) -> bytes:
    """The content of a file in a folder; the folder may be reached through a link, the file not beyond it.

    Raises:
        InputError: a link leads out of the folder.
        OSError: there is no such file.
    """
    path = folder / name
    refuse_leading_out(folder, path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))  # a pipe would be waited for
    return path.read_bytes()


def refuse_leading_out(folder: Path, path: Path) -> None:
    """Refuse a path below a folder that links lead out of it.

    Raises:
        InputError: they do.
    """
    real, root = (Path(os.path.realpath(p)) for p in (path, folder))
    if not real.is_relative_to(root):
        raise InputError(
            "link leads out of its folder", where=str(path), expected=f"files in {root}", found=str(real)
        )


@contextmanager
def consistent(where: Path, remedy: str) -> Iterator[None]:
    """What is put together from a folder's files fits, or one error says that it does not.

    Seals find what was changed since it was written, not what was written so.

    Raises:
        InputError: values are not there, or are of another type or shape than is asked for.
    """
    try:
        yield
    except (InputError, UnicodeError):  # a terminal that cannot show a title says nothing of files
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
    """A JSON object.

    Raises:
        InputError: it is none.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # not JSON, or not UTF-8
        raise InputError("not readable as JSON", where=where, expected="UTF-8 JSON", found=str(error)) from None
    if not isinstance(value, dict):
        raise InputError("not a JSON object", where=where, expected="names and values", found=type(value).__name__)
    return value


def parse_parquet(content: bytes, where: str) -> pl.DataFrame:
    """A Parquet table.

    Raises:
        InputError: it is none.
    """
    try:
        return pl.read_parquet(io.BytesIO(content))
    except PARQUET_ERRORS as error:
        raise InputError("file cannot be read", where=where, expected="Parquet", found=first_line(error)) from None


UNFIT = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, pl.exceptions.PolarsError)
"""What is raised where a value is not there, or is another than was meant."""
PARQUET_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, ValueError)
"""What Polars raises of a file that is no Parquet, or a damaged one."""


def first_line(error: BaseException) -> str:
    """What an error says, in a line."""
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


def _seal_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
