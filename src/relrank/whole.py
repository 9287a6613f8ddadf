"""A file is there whole or not at all."""

from __future__ import annotations

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
