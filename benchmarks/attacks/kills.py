"""The program ended at any moment, by anything, then run to its end: with the result of an undisturbed run.

Commands run as users run them, ``relrank …`` from its first line on, in a process forked from one that has loaded the
libraries already: loading would be most of what is killed. They are killed (kill -9, with all their children) at
random moments of what they take, or at the n-th change of the file system, which no moment hits; interrupted (Ctrl-C)
or told to end; refused more disk; or started twice in one folder. What ends by itself has to say one sentence. Then
the same command has to end with 0 and with the result of the undisturbed run, and nothing half written may be left. A
service that is killed and started again has to answer as before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from attacks.corruptions import plain
from attacks.lanes import Attack, die_with_parent, load_libraries
from attacks.ledger import Found, Outcome
from relrank.testing import planted_study

MODELS = """[[models]]
name = "relational-ease"
[[models]]
name = "relational-lightgcn"
arms = ["interactions", "all"]
config = { dim = 8, negatives = 32 }
train = { epochs = 6, batch = 128, every = 2 }
"""
AT_A_TIME = 3
"""Disturbances before a command may end."""
LONGEST = 300.0
"""Seconds of a command that is left alone."""
CHANGES = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
    "sqlite3.connect",
)
"""Events of Python before the file system changes; of "open", those that write."""


@dataclass(frozen=True)
class Command:
    """One command of the program.

    Attributes:
        name: for the table.
        arguments: by the folder that it works in.
        result: what the folder holds at the end, as text.
    """

    name: str
    arguments: Callable[[Path], list[str]]
    result: Callable[[Path], str]


def of_study(folder: Path) -> str:
    """Verdicts, effects and the rest of a study's tables."""
    told = plain(json.loads((folder / "out" / "results.json").read_text()))
    assert (folder / "out" / "report.html").stat().st_size > 10_000
    assert (folder / "out" / "winner" / "run.json").is_file()
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


def of_report(folder: Path) -> str:
    """A page."""
    return (folder / "page.html").read_text()


def commands(made: Path) -> dict[str, Command]:
    """All of them, on what ``Kills.prepare`` made."""
    study, run, done = str(made / "study.toml"), str(made / "run"), str(made / "whole" / "out")
    fit = ["fit", study, "--model", "relational-lightgcn", "--out"]
    to_parquet = ["export", run, "--to", "parquet", "--out"]
    found = (
        Command("study", lambda at: ["study", study, "--out", str(at / "out")], of_study),
        Command("tune", lambda at: ["tune", study, "--trials", "2", "--out", str(at / "out")], of_tuning),
        Command("fit", lambda at: [*fit, str(at / "out")], of_fit),
        Command("batch", lambda at: ["batch", run, "--out", str(at / "lists.parquet")], of_table),
        Command("export", lambda at: [*to_parquet, str(at / "export")], of_export),
        Command("study --jobs 2", lambda at: ["study", study, "--out", str(at / "out"), "--jobs", "2"], of_study),
        Command("report", lambda at: ["report", done, "--out", str(at / "page.html")], of_report),
    )
    return {command.name: command for command in found}


class Child:
    """The program in a forked process, which leads a group of its own; what it says goes to a file.

    Args:
        arguments: of the command line.
        said: the file.
        before: called in the process before the program begins.
    """

    def __init__(self, arguments: list[str], said: Path, before: Callable[[], None] = lambda: None) -> None:
        self.said = said
        self.code: int | None = None
        said.unlink(missing_ok=True)  # or the address of a service before this one would be read
        self.pid = os.fork()
        if self.pid == 0:
            self._run(arguments, said, before)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(self.pid, self.pid)

    @staticmethod
    def _run(arguments: list[str], said: Path, before: Callable[[], None]) -> None:
        """Never returns."""
        code = 70
        try:
            os.setpgid(0, 0)
            die_with_parent()
            out = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            for handle in (1, 2):
                os.dup2(out, handle)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            sys.stdout, sys.stderr = (open(handle, "w", closefd=False) for handle in (1, 2))  # noqa: SIM115
            sys.argv = ["relrank", *arguments]
            from relrank.cli.app import main

            before()
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            code = 1
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def ended(self) -> bool:
        """Whether it has come to its end."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait(self, seconds: float) -> bool:
        """Whether it ends in so many seconds."""
        until = time.monotonic() + seconds
        while not self.ended() and time.monotonic() < until:
            time.sleep(0.005)
        return self.ended()

    def signal(self, sign: int) -> None:
        """To it and those it started."""
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, sign)

    def kill(self) -> None:
        """SIGKILL to all of them, and wait for it."""
        self.signal(signal.SIGKILL)
        self.wait(30)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # workers of one that ended by itself

    @property
    def text(self) -> str:
        """What it said so far."""
        return self.said.read_text(errors="replace") if self.said.is_file() else ""


def at_change(n: int) -> Callable[[], None]:
    """Kills the process and its group before the file system changes for the n-th time."""
    left = n

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in CHANGES:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event == "open" and not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        left -= 1
        if left == 0:
            os.killpg(0, signal.SIGKILL)

    return lambda: sys.addaudithook(watch)


def little_disk(n_bytes: int) -> Callable[[], None]:
    """No file may become larger than this."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))


def few_files(n: int) -> Callable[[], None]:
    """No more files than this may be open at once."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))


def elsewhere(work: Callable[[], str]) -> str:
    """What a function gives, in a process of its own, so that no library starts threads in this one."""
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        text = "!"
        try:
            text = hashlib.sha256(work().encode()).hexdigest()
        except BaseException as error:
            text = f"!{type(error).__name__}: {error}"[:1500]
        finally:
            os.write(writes, text.encode())
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return text


def wrong_with(child: Child, may_fail: bool = False) -> tuple[Found, str] | None:
    """What a command that came to an end by itself did wrong."""
    said = child.text
    if "Traceback (most recent call last)" in said or "panicked at" in said:
        return "trace", said[-1200:]
    if child.code is not None and child.code < 0:
        return "crash", f"signal {-child.code}: {said[-500:]}"
    if child.code and not may_fail:
        return "lost", f"exit code {child.code}: {said[-800:]}"
    return None


KILLS = ("kill", "kill", "kill", "change", "change", "change", "change", "twice")
"""Disturbances that end with SIGKILL; these are what the table counts."""
DISTURBANCES = (*KILLS, "interrupt", "end", "disk", "files")


class Killing:
    """What tries number n; ``made``: what ``Kills.prepare`` made."""

    def __init__(self, made: Path, seed: int) -> None:
        self._made, self._seed, self._scratch = made, seed, Path.cwd()
        self._commands = commands(made)
        load_libraries()
        self._known: dict[str, Any] = json.loads((made / "known.json").read_text())

    def __call__(self, number: int) -> Outcome:
        """Disturb a command a few times, let it end, and compare; or a service."""
        rng = random.Random(f"{self._seed} {number}")
        turns = [*self._commands, "study", "serve", "fit"]
        name = turns[number % len(turns)]
        folder = self._scratch / f"{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            if name == "serve":
                return self._serve(number, folder, rng)
            return self._command(number, self._commands[name], folder, rng)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _command(self, number: int, command: Command, folder: Path, rng: random.Random) -> Outcome:
        known, arguments, done = self._known[command.name], command.arguments(folder), []
        hit = 0
        for _ in range(AT_A_TIME):
            kind = rng.choice(DISTURBANCES)
            child, was_hit = self._disturbed(kind, arguments, folder.with_suffix(".said"), known, rng)
            done.append(f"{kind}{'' if was_hit else ' too late'}")
            hit += was_hit and kind in KILLS
            wrong = wrong_with(child, may_fail=True) if kind not in ("kill", "change", "end") else None
            if wrong:
                return Outcome(
                    command.name, wrong[0], f"number {number}: {', '.join(done)} | {wrong[1]}", max(hit, 1)
                )
        last = Child(arguments, folder.with_suffix(".said"))
        if not last.wait(LONGEST):
            last.kill()
            return Outcome(command.name, "hang", f"number {number}: {', '.join(done)} | {last.text[-300:]}", hit)
        last.kill()
        wrong = wrong_with(last)
        if wrong is None:
            found = elsewhere(lambda: command.result(folder))
            if found != known["result"]:
                wrong = "lost" if found.startswith("!") else "wrong", f"another result {found}"
            elif left := [str(path.relative_to(folder)) for path in folder.rglob("*.part")]:
                wrong = "lost", f"left behind: {left}"
        found_, what = wrong or ("same", "")
        return Outcome(command.name, found_, f"number {number}: {', '.join(done)}{f' | {what}' if what else ''}", hit)

    def _disturbed(
        self, kind: str, arguments: list[str], said: Path, known: dict[str, Any], rng: random.Random
    ) -> tuple[Child, bool]:
        """A command that was disturbed and ended; and whether it was before it would have ended by itself."""
        moment = rng.uniform(0.02, 1.0) * known["seconds"]
        if kind == "change":
            child = Child(arguments, said, at_change(rng.randint(1, known["changes"])))
            child.wait(LONGEST)
            hit = child.code == -signal.SIGKILL
        elif kind in ("disk", "files"):
            bound = (
                little_disk(int(10 ** rng.uniform(1.5, 5.2))) if kind == "disk" else few_files(rng.randint(8, 120))
            )
            child = Child(arguments, said, bound)
            child.wait(LONGEST)
            hit = bool(child.code)
        elif kind == "twice":
            child = Child(arguments, said)
            other = Child(arguments, said.with_suffix(".other"))
            other.wait(LONGEST)
            if wrong_with(other, may_fail=True):
                child.kill()
                return other, True
            time.sleep(rng.random() * 0.2)
            hit = not child.ended()
            child.kill()
            child.code = 0
        else:
            sign = {"kill": signal.SIGKILL, "interrupt": signal.SIGINT, "end": signal.SIGTERM}[kind]
            child = Child(arguments, said)
            hit = not child.wait(moment)
            child.signal(sign)
            child.wait(30)
        child.kill()
        return child, hit

    def _serve(self, number: int, folder: Path, rng: random.Random) -> Outcome:
        """A service killed as it starts or after questions, then started again; with workers, too."""
        workers = ["--workers", "2"] if rng.random() < 0.3 else []
        name, hit, said = f"serve{' --workers 2' if workers else ''}", 0, folder.with_suffix(".said")
        for last in (False, False, True):
            child = Child(["serve", str(self._made / "run"), "--port", "0", "--grace", "0", *workers], said)
            try:
                if not last and rng.random() < 0.5:  # while it starts
                    hit += not child.wait(rng.uniform(0.02, 1.5))
                    continue
                answers = _answers(child, (0.0, 0.0) if last else (0.0, 0.5), rng)
                if not last:
                    hit += not child.ended()
                    continue
                child.signal(signal.SIGTERM)
                if not child.wait(20):
                    return Outcome(name, "hang", f"number {number}: SIGTERM is not heard", hit)
                wrong = wrong_with(child)
                if wrong:
                    return Outcome(name, wrong[0], f"number {number}: {wrong[1]}", hit)
                right = answers == self._known["serve"]
                return Outcome(
                    name, "same" if right else "wrong", f"number {number}: {answers[:300]}" if not right else "", hit
                )
            finally:
                child.kill()
        raise AssertionError


def _answers(child: Child, pause: tuple[float, float], rng: random.Random) -> str:
    """What a service says to twenty users, as a sha256, or why it does not."""
    until = time.monotonic() + LONGEST
    while (found := re.search(r"http://[\d.]+:\d+", child.text)) is None:
        if child.ended() or time.monotonic() > until:
            return f"does not start: {child.text[-500:]}"
        time.sleep(0.01)
    answers = ""
    for user in range(20):
        try:
            with urllib.request.urlopen(f"{found[0]}/recommend/{user}?k=5", timeout=30) as answer:
                answers += json.dumps(plain(json.load(answer)), sort_keys=True)
        except urllib.error.HTTPError as error:
            answers += f"{error.code}"
    time.sleep(rng.uniform(*pause))
    return hashlib.sha256(answers.encode()).hexdigest()


class Kills:
    """The part "kills"."""

    name, seconds = "kills", 1500.0

    def prepare(self, folder: Path) -> None:
        """Every command once, undisturbed: how long it takes, how often the file system changes, and its result."""
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / "known.json").is_file():
            return
        (folder / "study.toml").write_text(
            planted_study("kills", 150, 80, groups=10, seed=0, study="seeds = [0]\ntrials = 3", models=MODELS)
        )
        load_libraries()
        self._whole(["fit", str(folder / "study.toml"), "--model", "relational-ease", "--out", str(folder / "run")])
        known: dict[str, Any] = {}
        for name, command in commands(folder).items():
            results = []
            for at in (folder / ("whole" if name == "study" else f"whole-{name}"), folder / f"again-{name}"):
                seconds, changes = self._whole(command.arguments(at))  # the second time, all is compiled
                results.append(elsewhere(partial(command.result, at)))
            if results[0] != results[1] or results[0].startswith("!"):
                raise RuntimeError(f"{name} gives {' and '.join(results)}")
            known[name] = {"seconds": seconds, "changes": changes, "result": results[0]}
        child = Child(["serve", str(folder / "run"), "--port", "0"], folder / "said")
        known["serve"] = _answers(child, (0.0, 0.0), random.Random(0))
        child.kill()
        (folder / "known.json").write_text(json.dumps(known, indent=1))

    @staticmethod
    def _whole(arguments: list[str]) -> tuple[float, int]:
        """Seconds and changes of a command that is left alone."""
        out = Path(arguments[-1] if "--jobs" not in arguments else arguments[-3])
        out.parent.mkdir(parents=True, exist_ok=True)
        reads, writes = os.pipe()

        def count() -> None:
            changes = 0

            def watch(event: str, given: tuple[Any, ...]) -> None:
                nonlocal changes
                if event in CHANGES and (event != "open" or (isinstance(given[2], int) and given[2] & 3)):
                    changes += 1
                    os.write(writes, b".")

            sys.addaudithook(watch)

        os.set_blocking(writes, False)
        began = time.monotonic()
        child = Child(arguments, out.with_suffix(".said"), count)
        if not child.wait(LONGEST) or child.code:
            raise RuntimeError(f"{arguments}: {child.text[-2000:]}")
        seconds = time.monotonic() - began
        os.close(writes)
        with os.fdopen(reads, "rb") as told:
            return seconds, len(told.read())

    def open(self, folder: Path, seed: int) -> Attack:
        """Commands work in the lane's folder."""
        return Killing(folder, seed)
