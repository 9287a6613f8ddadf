"""kill -9 at random moments over study, tune, fit, batch, export and serve, then the same command again to its end.

    python benchmarks/kills.py FOLDER [--kills 300] [--seed 0] [--minutes 30]

Every command is run once undisturbed. Then it is started in a folder of its own, killed up to three times at random
moments of what it takes, and run to the end: it has to end with 0, without a trace of Python, and with the result of
the undisturbed run. A service is killed beside its folder and started again: it has to answer as before. A line per
command that was killed goes to FOLDER/kills.jsonl; what is there is not made again. Ends with 1 if anything was lost.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

STUDY = """name = "kills"
[data]
dataset = "planted"
planted = { users = 150, items = 80, groups = 10, per_user = 6 }
[protocol]
split = "random-leave-one-out"
[relations.driver]
kind = "attribute"
node = "item"
column = "driver"
[study]
seeds = [0]
trials = 3
[[models]]
name = "relational-ease"
[[models]]
name = "relational-lightgcn"
arms = ["interactions", "all"]
config = { dim = 8, negatives = 32 }
train = { epochs = 6, batch = 128, every = 2 }
"""
AT_A_TIME = 3
"""Kills before a command may end."""
CHANGING = {"seconds", "peak_mb", "machine", "key", "cells", "created", "version"}
"""Names in results that differ between two runs of the same."""


@dataclass(frozen=True)
class Command:
    """One command of the program.

    Attributes:
        name: for the tally.
        arguments: by the folder that it works in.
        result: what the folder holds at the end, as text.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], str]


def _plain(value: Any) -> Any:
    """Without what differs between two runs of the same."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items() if name not in CHANGING and "second" not in name}
    return [_plain(v) for v in value] if isinstance(value, list) else value


def of_study(folder: Path) -> str:
    """Verdicts, effects and the rest of a study's tables."""
    told = _plain(json.loads((folder / "out" / "results.json").read_text()))
    assert (folder / "out" / "report.html").stat().st_size > 10_000
    return json.dumps(told, sort_keys=True)


def of_tuning(folder: Path) -> str:
    """The tuned study file."""
    return (folder / "out" / "tuned.toml").read_text()


def of_fit(folder: Path) -> str:
    """The tensors of a fitted model."""
    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for file in sorted((folder / "out").rglob("*.safetensors")):
        for name, array in sorted(load_file(file).items()):
            digest.update(name.encode() + array.tobytes())
    return digest.hexdigest()


def of_table(folder: Path) -> str:
    """A Parquet file of lists."""
    return pl.read_parquet(folder / "lists.parquet").write_csv()


def of_export(folder: Path) -> str:
    """Exported tables."""
    files = sorted((folder / "export").rglob("*.parquet"))
    return "".join(f"{file.name}\n{pl.read_parquet(file).write_csv()}" for file in files)


def commands(study: Path, run: Path) -> list[Command]:
    """All of them; ``run``: a fitted model for those that need one."""
    return [
        Command("study", lambda at: ["study", str(study), "--out", str(at / "out")], of_study),
        Command("tune", lambda at: ["tune", str(study), "--trials", "2", "--out", str(at / "out")], of_tuning),
        Command(
            "fit",
            lambda at: ["fit", str(study), "--model", "relational-lightgcn", "--out", str(at / "out")],
            of_fit,
        ),
        Command("batch", lambda at: ["batch", str(run), "--out", str(at / "lists.parquet")], of_table),
        Command("export", lambda at: ["export", str(run), "--to", "parquet", "--out", str(at / "export")], of_export),
    ]


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """The program in a group of processes of its own."""
    line = [sys.executable, "-m", "relrank", *arguments]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)


def end(process: subprocess.Popen[str]) -> None:
    """SIGKILL to the process and those it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def to_the_end(arguments: list[str]) -> tuple[float, str]:
    """Seconds it took and what went wrong, if anything did."""
    began = time.monotonic()
    process = start(arguments)
    try:
        said, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        end(process)
        return time.monotonic() - began, "hangs"
    wrong = f"exit code {process.returncode}: {said[-800:]}" if process.returncode else ""
    return time.monotonic() - began, "stack trace" if "Traceback" in said else wrong


def killed(command: Command, folder: Path, seconds: float, right: str, rng: random.Random) -> dict[str, Any]:
    """A command killed a few times, then run to its end: how often, and what went wrong."""
    arguments, kills = command.arguments(folder), 0
    for _ in range(AT_A_TIME):
        process = start(arguments)
        time.sleep(rng.uniform(0.05, 1.0) * seconds)
        kills += process.poll() is None
        end(process) if process.poll() is None else process.communicate()
    _, wrong = to_the_end(arguments)
    if not wrong and command.result(folder) != right:
        wrong = "another result"
    left = [str(p.relative_to(folder)) for p in folder.rglob("*.part")]
    return {"command": command.name, "kills": kills, "wrong": wrong or (f"left behind: {left}" if left else "")}


def served(run: Path, rng: random.Random | None) -> tuple[str, int]:
    """Answers of a service; with a generator it is killed before, as it starts or after questions."""
    kills = 0
    for last in (rng is None,) if rng is None else (False, False, True):
        process = start(["serve", str(run), "--port", "0"])
        assert process.stdout is not None
        if rng is not None and not last and rng.random() < 0.5:  # while it starts
            time.sleep(rng.uniform(0.05, 3.0))
            kills += process.poll() is None
            end(process)
            continue
        said = ""
        while (found := re.search(r"http://[\d.]+:\d+", said)) is None:
            line = process.stdout.readline()
            if not line:
                return f"does not start: {said[-500:]}", kills
            said += line
        answers = ""
        for user in range(20):
            with urllib.request.urlopen(f"{found[0]}/recommend/{user}?k=5", timeout=30) as answer:
                answers += json.dumps(_plain(json.load(answer)), sort_keys=True)
        end(process)
        if last:
            return answers, kills
        kills += 1
    return "", kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    for name, default in (("kills", 300), ("seed", 0), ("minutes", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    folder, began = given.folder, time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    study, run, file = folder / "study.toml", folder / "run", folder / "kills.jsonl"
    study.write_text(STUDY)
    _, wrong = to_the_end(["fit", str(study), "--model", "relational-ease", "--out", str(run)])
    assert not wrong, wrong
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    known: dict[str, tuple[float, str]] = {}
    to_kill, right_answers = commands(study, run), served(run, None)[0]
    number = len(rows)
    while sum(row["kills"] for row in rows) < given.kills and time.monotonic() - began < 60 * given.minutes:
        rng = random.Random(f"{given.seed} {number}")
        which = number % (len(to_kill) + 1)
        if which == len(to_kill):
            answers, kills = served(run, rng)
            row = {"command": "serve", "kills": kills, "wrong": "" if answers == right_answers else answers[:500]}
        else:
            command = to_kill[which]
            if command.name not in known:
                whole = folder / f"whole-{command.name}"
                seconds, wrong = to_the_end(command.arguments(whole))
                assert not wrong, wrong
                known[command.name] = seconds, command.result(whole)
            row = killed(command, folder / f"{number}-{command.name}", *known[command.name], rng)
        rows.append(row)
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        print(number, row, flush=True)
        number += 1
    names = dict.fromkeys(row["command"] for row in rows)
    for name in names:
        of_name = [row for row in rows if row["command"] == name]
        kills, lost = (sum(row["kills"] for row in of_name), sum(bool(row["wrong"]) for row in of_name))
        print(f"{name:8} {kills:4} kills, {len(of_name):3} runs to the end, {lost} with anything wrong")
    print(f"{sum(row['kills'] for row in rows)} kills")
    sys.exit(any(row["wrong"] for row in rows))


if __name__ == "__main__":
    main()
