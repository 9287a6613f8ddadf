"""relrank's own side of every task, in a process of its own like everybody else's."""

from __future__ import annotations

import sys
from importlib import import_module

from speed.peer import run

if __name__ == "__main__":
    task = sys.argv[1]
    run("relrank", "relrank", {task: import_module(f"speed.tasks.{task}").relrank})
