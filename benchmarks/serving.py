"""Requests per second of a served run: wrk asks for the lists of 10 of one known user after the other.

    python benchmarks/serving.py RUN [--seconds 60] [--connections 16] [--workers 1] [--rounds 1] [--json FILE]

RUN is the folder of a fitted model or of a study. The server is a child on a free port of this machine and is stopped
by its process id; wrk has one thread. Beside the known users, as many seconds go to histories that were never seen
(POST, ten items each). Memory is the resident set of the server (of all its processes) before and after; a warm-up of
two seconds comes first. Needs wrk on the path, and the extra "serve".
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

SCRIPT = """
local addresses, bodies = {}, {}
for line in io.lines("%s") do
  local address, body = line:match("^(%%S+) ?(.*)$")
  addresses[#addresses + 1] = address
  bodies[#bodies + 1] = body
end
local at, wrong = 0, 0
wrk.headers["Content-Type"] = "application/json"
request = function()
  at = at %% #addresses + 1
  if bodies[at] == "" then return wrk.format("GET", addresses[at]) end
  return wrk.format("POST", addresses[at], nil, bodies[at])
end
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is not on the path")
    figures = []
    with served(arguments.run, arguments.workers) as (address, pid), tempfile.TemporaryDirectory() as folder:
        users = get(f"{address}/users?limit=1000")["users"]
        items = [i["item"] for i in get(f"{address}/items?limit=1000")["items"]]
        known = [f"/recommend/{user}?k=10" for user in users]
        bodies = [{"history": [items[(7 * n + 13 * m) % len(items)] for m in range(10)], "k": 10} for n in range(500)]
        unseen = [f"/recommend {json.dumps(body, separators=(',', ':'))}" for body in bodies]
        for _ in range(arguments.rounds):
            for what, lines in (("known users", known), ("unseen histories", unseen)):
                (Path(folder) / "asked").write_text("\n".join(lines) + "\n")
                script = Path(folder) / "asked.lua"
                script.write_text(SCRIPT % (Path(folder) / "asked"))
                wrk(address, script, arguments.connections, 2)
                before, cpu = memory(pid), processor(pid)
                found = wrk(address, script, arguments.connections, arguments.seconds)
                cpu = processor(pid) - cpu
                per_request = 1000 * cpu / max(found["requests"], 1)
                figures.append(
                    {
                        "asked": what, **found, "cpu_ms": per_request, "rss_mb": before,
                        "rss_after_mb": memory(pid), "workers": arguments.workers,
                    }
                )  # fmt: skip
                print(row(figures[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"run": str(arguments.run), "figures": figures}, indent=1))


@contextmanager
def served(run: Path, workers: int) -> Iterator[tuple[str, int]]:
    """A server as a child: its address and its process id."""
    command = [sys.executable, "-m", "relrank.cli.app", "serve", str(run), "--port", "0", "--workers", str(workers)]
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                print(line, end="", flush=True)
                if found := re.search(r"serving on (\S+)", line):
                    yield found[1], child.pid
                    break
            else:
                raise SystemExit("the server did not start")
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)


def wrk(address: str, script: Path, connections: int, seconds: int) -> dict[str, Any]:
    """What wrk finds: requests, requests per second, latencies in ms, answers that were none."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script), address]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    other, broken = re.search(r"Non-2xx or 3xx responses: (\d+)", text), re.search(r"Socket errors: (.*)", text)
    return {
        "requests": int(one(r"(\d+) requests in", text)),
        "rps": float(one(r"Requests/sec:\s+(\S+)", text)),
        **{f"p{p}_ms": milliseconds(one(rf"(?m)^\s+{p}%\s+(\S+)$", text)) for p in (50, 99)},
        "errors": (int(other[1]) if other else 0)
        + (sum(int(n) for n in re.findall(r"\d+", broken[1])) if broken else 0),
    }


def one(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"wrk said something else:\n{text}")
    return found[1]


def milliseconds(text: str) -> float:
    """How wrk writes it: 812.00us, 3.21ms, 1.02s."""
    for unit, factor in (("us", 1e-3), ("ms", 1.0), ("s", 1e3)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise SystemExit(f"no time: {text}")


def get(address: str) -> Any:
    with urlopen(address) as answer:
        return json.load(answer)


def processes(pid: int) -> list[Path]:
    """A process and its children, as folders of /proc."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{one}") for one in (pid, *children)]


def memory(pid: int) -> float:
    """Resident set in MB."""
    pages = sum(int((at / "statm").read_text().split()[1]) for at in processes(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor(pid: int) -> float:
    """Seconds of processor time so far."""
    ticks = 0
    for at in processes(pid):
        fields = (at / "stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def row(f: dict[str, Any]) -> str:
    return (
        f"{f['asked']:<17} {f['rps']:8,.0f} requests/s  p50 {f['p50_ms']:6.1f} ms  p99 {f['p99_ms']:6.1f} ms  "
        f"{f['cpu_ms']:.2f} ms of processor each  {f['errors']} errors  "
        f"memory {f['rss_mb']:,.0f} → {f['rss_after_mb']:,.0f} MB"
    )


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"in {time.perf_counter() - began:.0f} s")
