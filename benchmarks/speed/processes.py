"""Other programs, ended with all that they started, whatever becomes of us; a full pipe stops none of them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LOOK = 0.1
"""Seconds between two looks at the memory of a program that has a limit."""


class MemoryExceededError(Exception):
    """A program and its workers held more memory than they may."""


@dataclass(frozen=True)
class Ended:
    """What a program left.

    Attributes:
        status: 0 where it went well, below 0 the signal that ended it.
        out: what it printed.
        errors: what it printed on the other stream.
    """

    status: int
    out: str
    errors: str

    @property
    def why(self) -> str:
        """Why it failed, in one line; nothing where it did not."""
        return why(self.status, self.errors)


def run(
    command: Sequence[str],
    seconds: float,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    most_mb: float | None = None,
) -> Ended:
    """Run a program to its end, in a session of its own, so that its workers end with it.

    Args:
        command: program and words.
        seconds: that it may take.
        folder: where it is started.
        environment: its variables; ours by default.
        most_mb: resident memory that it may hold together with its workers, MiB; None for no limit. What it holds
            for less than ``LOOK`` may pass unseen.

    Raises:
        subprocess.TimeoutExpired: it took longer.
        MemoryExceededError: it held more.
    """
    # files, not pipes: a worker that outlives its parent would keep a pipe open
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(seconds) if most_mb is None else _watched(process, seconds, most_mb)
        finally:
            end(process)
        return Ended(status, *(_read(file) for file in (out, errors)))


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that leads a session, and whatever of its workers is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def why(status: int, errors: str) -> str:
    """Why a program failed, in one line: its signal, the last line that it said, or its status; nothing for 0."""
    if status < 0:
        return f"ended by signal {-status}"
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    return "" if status == 0 else said[-1] if said else f"exit status {status}"


def _watched(process: subprocess.Popen[bytes], seconds: float, most_mb: float) -> int:
    """Its status once it has ended within both limits."""
    end_at = time.monotonic() + seconds
    while True:
        try:
            return process.wait(max(0.0, min(LOOK, end_at - time.monotonic())))
        except subprocess.TimeoutExpired:
            if time.monotonic() >= end_at:
                raise subprocess.TimeoutExpired(process.args, seconds) from None
            if resident_mb(process.pid) > most_mb:
                raise MemoryExceededError(f"more than {most_mb:.0f} MB") from None


def resident_mb(session: int) -> float:
    """Resident memory of all processes of a session, MiB."""
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            # the session is the fourth field after the name, which may hold spaces and brackets
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                pages += int((folder / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
