"""The frame of a peer script: reads the call, times the work, prints one JSON object as the last line.

    python peers/<peer>.py <task> --data FILE.npz [--option value ...]

It runs in the peer's own environment, so it imports NumPy and the standard library alone, never relrank. A script is

    def ease(call: Call) -> list[float]:
        matrix = ...call.data["train_user"]...              # not timed
        return call.repeat(lambda: fit(matrix), times=3)    # seconds of each

    if __name__ == "__main__":
        run("lenskit", "lenskit", {"ease": ease})

Scripts run with ``python -P``, so that ``peers/implicit.py`` does not stand in the way of ``import implicit``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Call:
    """What is asked of a peer.

    Attributes:
        data: arrays of the npz file; pairs are ``train_user``, ``train_item``, ``test_user``, ``test_item`` (int32
            rows) with ``n_users`` and ``n_items``.
        options: what else the task says, by name; numbers are numbers.
        figures: whatever the peer found beside the seconds, such as ``ndcg@20``; goes into the answer.
        peak_mb: memory that the work needed, where the process went on to do something else; else of the process.
        package: whose version is told, where it is not the script's; "" where the work is nobody's in particular.
    """

    data: dict[str, Any]
    options: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
    peak_mb: float | None = None
    package: str | None = None

    def repeat(self, work: Callable[[], object], times: int, warm_up: int = 1, at_most: float = 60.0) -> list[float]:
        """Seconds of each of ``times`` runs after ``warm_up`` uncounted ones; stops early after ``at_most`` seconds.

        One run is always counted. A warm-up that took longer than ``at_most`` is counted itself.
        """
        began = time.perf_counter()
        for _ in range(warm_up):
            work()
        if warm_up and (spent := time.perf_counter() - began) > at_most:
            return [spent / warm_up]
        seconds: list[float] = []
        while len(seconds) < times and not (seconds and time.perf_counter() - began > at_most):
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return seconds


def peak_mb() -> float:
    """Most memory that this process has held, interpreter and libraries included, MB.

    From VmHWM: ``ru_maxrss`` would start with what the parent held.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


def run(peer: str, package: str, tasks: dict[str, Callable[[Call], list[float]]]) -> None:
    """Answer the command line.

    Args:
        peer: its name, as the file is called.
        package: the installed distribution whose version is told.
        tasks: what it can do; each returns seconds.
    """
    task, *rest = sys.argv[1:]
    if task not in tasks:
        sys.exit(f"{peer} has no {task}")
    options: dict[str, Any] = {}
    for name, value in zip(rest[::2], rest[1::2], strict=True):
        try:
            options[name.removeprefix("--")] = json.loads(value)
        except ValueError:
            options[name.removeprefix("--")] = value
    data: dict[str, Any] = {}
    if "data" in options:
        with np.load(str(options.pop("data")), allow_pickle=False) as file:
            data = {name: file[name] if file[name].ndim else file[name].item() for name in file.files}
    call = Call(data, options)
    seconds = tasks[task](call)
    package = package if call.package is None else call.package
    answer = {
        "peer": peer,
        "version": version(package) if package else "",
        "task": task,
        "seconds": seconds,
        "peak_mb": call.peak_mb or peak_mb(),
        "figures": call.figures,
    }
    print(json.dumps(answer), flush=True)
    os._exit(0)  # threads of a library's own must not keep the next peer waiting
