"""A file or a folder is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write to, which becomes ``path`` when the block ends without an error.

    Missing parent folders are made. A killed or failed write leaves what was at ``path`` before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    yield temporary
    temporary.replace(path)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which becomes ``folder`` when the block ends without an error.

    What was there steps aside whole, so that a kill never leaves half of one: at worst the older stands beside it as
    ``.NAME.replaced``. Missing parent folders are made; a failed write leaves what was there before, nothing else.
    """
    part, aside = (folder.with_name(f".{folder.name}.{what}") for what in ("part", "replaced"))
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        shutil.rmtree(aside, ignore_errors=True)
        if folder.exists():
            folder.replace(aside)
        part.replace(folder)
        shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)
