"""What clients lose when a server ends or takes another model, and how long they wait beside hostile connections.

    python benchmarks/stops.py [--rounds 10] [--seconds 1.5] [--workers 1 2] [--seed 0]

For each number of workers so many rounds of SIGTERM, and as many of a model that is replaced on disk, each under
eight clients: half of them keep their connections, half open one per request, half ask by GET and half by POST. An
accepted connection that is reset or ends without its answer is lost; an answer that is neither the one model's nor
the other's is wrong. Then the median and the 99th percentile of the wait of other requests: alone, beside two
connections that send headers without end, and beside two that send one byte a second. Exit code 1 for any loss, any
wrong answer, or a median above 50 ms beside them. On a machine that does other things, waits are upper bounds. Needs
the extra "serve".
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

CLIENTS, WANTED_MS, K = 8, 50.0, 10
STUDY = """
name = "stops"
[data]
dataset = "planted"
planted = {{ users = 400, items = 200, per_user = 8, groups = 12, seed = {seed} }}
[protocol]
split = "random-leave-one-out"
[study]
seeds = [0]
[[models]]
name = "ease"
config = {{ l2 = {l2} }}
trials = 1
"""
Answers = dict[str, set[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=1.5, help="of clients before and after what happens")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    total = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        runs = [fitted(home, name, arguments.seed, l2) for name, l2 in (("one", 5.0), ("two", 500.0))]
        right = answers_of(runs)
        for workers in arguments.workers:
            for what, happens in (("stop", stopped), ("reload", reloaded)):
                counts = Counter[str]()
                for number in range(arguments.rounds):
                    counts += happens(home, runs, right, workers, arguments.seconds, arguments.seed + number)
                found = ", ".join(f"{counts[name]:,} {name}" for name in ("answers", "lost", "wrong", "unfinished"))
                print(f"{arguments.rounds} rounds of {what}, workers {workers}: {found}", flush=True)
                total += counts
        slow = waits(home, runs[0], arguments.seed)
    if total["lost"] or total["wrong"] or total["unfinished"] or slow:
        raise SystemExit(1)


def fitted(home: Path, name: str, seed: int, l2: float) -> Path:
    """A small kept model."""
    (home / f"{name}.toml").write_text(STUDY.format(seed=seed, l2=l2))
    command = ["fit", home / f"{name}.toml", "--model", "ease", "--out", home / name]
    subprocess.run([sys.executable, "-m", "relrank", *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return home / name


def answers_of(runs: list[Path]) -> Answers:
    """By question what each of the models says."""
    from relrank.runs.fitted_run import load_run
    from relrank.serve.service import Service

    right: Answers = {}
    for run in runs:
        service = Service({"served": load_run(run)})
        for user in service.served().catalogue.user_ids[:50]:
            right.setdefault(str(user), set()).add(listed(service.recommend(user=user, k=K)))
    assert any(len(said) > 1 for said in right.values())  # else nobody could tell which model it was
    return right


def listed(answer: Any) -> str:
    """The items of an answer."""
    return ",".join(str(one["item"]) for one in answer["items"])


@contextmanager
def served(run: Path, workers: int, *options: object) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server as a child, and its port; its log must stay without a trace."""
    command = ["serve", run, "--port", 0, "--workers", workers, "--grace", 0.3, *options]
    child = subprocess.Popen(
        [sys.executable, "-m", "relrank", *map(str, command)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert child.stdout is not None
        port = next(int(at[1]) for line in child.stdout if (at := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
        yield port, child
    finally:
        if child.poll() is None:
            child.terminate()
        said = child.communicate(timeout=90)[1]
        if "Traceback" in said:
            raise SystemExit(f"a stack trace in the server's log:\n{said}")


class Clients:
    """Eight of them, until the server takes no more connections or they are told to stop."""

    def __init__(self, port: int, right: Answers, seed: int) -> None:
        self.counts, self._port, self._right = Counter[str](), port, right
        self._books, self._enough = threading.Lock(), threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number, seed)) for number in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def end(self, told: bool) -> Counter[str]:
        """What they counted."""
        if told:
            self._enough.set()
        for thread in self._threads:
            thread.join(60)
            self.counts["unfinished"] += thread.is_alive()
        self._enough.set()
        return self.counts

    def _ask(self, number: int, seed: int) -> None:
        draw, users, connection = random.Random(f"{seed} {number}"), list(self._right), None
        while not self._enough.is_set():
            user = draw.choice(users)
            try:
                if connection is None or number % 2:
                    if connection is not None:
                        connection.close()
                    connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
                    connection.connect()
            except ConnectionRefusedError:
                return  # nothing was accepted
            try:
                if number % 4 < 2:
                    connection.request("GET", f"/recommend/{user}?k={K}")
                else:
                    body = json.dumps({"user": user, "k": K})
                    connection.request("POST", "/recommend", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
            except ConnectionRefusedError:  # a kept connection was closed by an answer, and is opened anew
                return
            except (OSError, http.client.HTTPException):
                self._count("lost")
                return
            right = answer.status == 200 and listed(json.loads(content)) in self._right[user]
            self._count("answers" if right else "wrong")

    def _count(self, what: str) -> None:
        with self._books:
            self.counts[what] += 1


def stopped(home: Path, runs: list[Path], right: Answers, workers: int, seconds: float, seed: int) -> Counter[str]:
    """SIGTERM under the clients, who go on until they are refused."""
    del home
    with served(runs[0], workers) as (port, child):
        clients = Clients(port, right, seed)
        time.sleep(seconds * random.Random(seed).uniform(0.5, 1))
        child.send_signal(signal.SIGTERM)
        counts = clients.end(told=False)
        if child.wait(60):
            counts["wrong"] += 1
    return counts


def reloaded(home: Path, runs: list[Path], right: Answers, workers: int, seconds: float, seed: int) -> Counter[str]:
    """The other model takes the place of the one that is served, until all its answers are the other's."""
    there = home / "served"
    put(runs[0], there)
    with served(there, workers) as (port, child):
        clients = Clients(port, right, seed)
        time.sleep(seconds * random.Random(seed).uniform(0.5, 1))
        put(runs[1], there)
        child.send_signal(signal.SIGHUP)
        time.sleep(2 * seconds)
        counts = clients.end(told=True)
    return counts


def put(run: Path, there: Path) -> None:
    """A copy of a run in the place of what is there."""
    copy = there.with_name("copy")
    shutil.copytree(run, copy)
    shutil.rmtree(there, ignore_errors=True)
    copy.rename(there)


def waits(home: Path, run: Path, seed: int) -> bool:
    """Print waits beside hostile connections; whether a median is above the wanted one."""
    del home
    found = {}
    with served(run, 1) as (port, _):
        for what, does in (("alone", None), ("headers without end", endless), ("a byte a second", trickling)):
            with hostile(port, does):
                found[what] = np.percentile(measured(port, 400, seed), (50, 99))
            print(f"wait {what}: median {found[what][0]:.1f} ms, p99 {found[what][1]:.1f} ms", flush=True)
    return any(median > WANTED_MS for what, (median, _) in found.items() if what != "alone")


def measured(port: int, n: int, seed: int) -> list[float]:
    """Milliseconds of requests of one client, some of them on a connection of their own."""
    draw, spent = random.Random(seed), []
    kept = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for _ in range(n):
        one = kept if draw.random() < 0.8 else http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        began = time.perf_counter()
        one.request("GET", f"/recommend/{draw.randrange(50)}?k={K}")
        one.getresponse().read()
        spent.append(1000 * (time.perf_counter() - began))
        time.sleep(0.005)
    return spent


@contextmanager
def hostile(port: int, does: Callable[[socket.socket, threading.Event], None] | None) -> Iterator[None]:
    """Two connections that misbehave, and begin anew when they are cut off."""
    over = threading.Event()

    def again() -> None:
        while does is not None and not over.is_set():
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
                does(connection, over)

    threads = [threading.Thread(target=again) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def endless(connection: socket.socket, over: threading.Event) -> None:
    """Headers as fast as they are taken."""
    connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX: ")
    while not over.is_set():
        connection.sendall(b"a" * (1 << 16))


def trickling(connection: socket.socket, over: threading.Event) -> None:
    """A byte a second."""
    for byte in b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 1000:
        connection.sendall(bytes([byte]))
        if over.wait(1):
            return


if __name__ == "__main__":
    main()
