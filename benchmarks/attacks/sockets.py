"""Abuse of a served run through raw sockets, and generated questions: no status 500, no trace, and it goes on.

Every kind of abuse is sent to ``relrank serve`` as it runs; after each the service has to be well and to give the
list that it gave before, at once. Numbers beyond the kinds vary them: cut anywhere, sent in pieces, twice on one
connection, followed by something good. Generated questions are those of tests/serve/questions.py, asked of the
application itself.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from attacks.lanes import Attack, die_with_parent
from attacks.ledger import Outcome, judged
from relrank.study.config import read_study
from relrank.study.fit_run import fit_run
from relrank.study.grid import cell_with_prerequisites
from relrank.study.prepare import prepare
from relrank.testing import planted_study

TESTS = Path(__file__).parents[2] / "tests" / "serve"
QUESTIONS = 40
"""Generated questions of one attack."""
PROMPT = 2.0
"""Seconds in which a good question is answered after the abuse."""


def get(path: str, *headers: str, method: str = "GET", version: str = "HTTP/1.1", host: str = "Host: x") -> bytes:
    """A request without a body."""
    return "\r\n".join([f"{method} {path} {version}", host, *headers, "", ""]).encode("utf-8", "surrogateescape")


def post(body: bytes | str, *headers: str, path: str = "/recommend", length: int | None = None) -> bytes:
    """A request with a body."""
    content = body if isinstance(body, bytes) else body.encode("utf-8", "surrogatepass")
    size = len(content) if length is None else length
    head = (f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {size}", *headers)
    return "\r\n".join([*head, "", ""]).encode() + content


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    """A request whose body comes in chunks as they are given."""
    head = (
        "POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    return head.encode() + b"".join(parts) + end


GOOD = '{"history": [1, 2], "k": 3}'
METHODS = (
    "DELETE",
    "PUT",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "HEAD",
    "get",
    "G\0T",
    "X" * 300,
    "",
    "GET GET",
    "PRI",
)
PATHS = (
    "",
    "*",
    "//",
    "/..",
    "/../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/.env",
    "/%00",
    "/%",
    "/%zz",
    "/%ff%fe",
    "/\x7f",
    "/a b",
    "/ä",
    "/recommend",
    "/recommend/",
    "/recommend//",
    "/recommend/%00",
    "/recommend/%0d%0aX:y",
    "/recommend/" + "9" * 400,
    "/recommend/" + "a" * 999,
    "/recommend/" + "a" * 1001,
    "/recommend/" + "%41" * 3000,
    "/recommend/-1",
    "/recommend/1e3",
    "/recommend/1.0",
    "/recommend/%E2%80%AE",
    "/recommend/%ED%A0%80",
    "/explain/1",
    "/explain/1/2/3",
    "/explain//",
    "/similar/",
    "/values/nothing",
    "/history/0/..",
    "/docs/..",
    "/openapi.json/x",
    "/static/%2e%2e/x",
    "http://other/health",
    "http:///health",
    "health",
    "/health#x",
    "/health?%",
    "/health?x",
    "/metrics?a=1",
    "\\health",
    "/;/health",
    "/index.html%00.js",
)
QUERIES = (
    "k=",
    "k=0",
    "k=-1",
    "k=1.5",
    "k=1e3",
    "k=99999999999999999999999",
    "k=%00",
    "k=3&k=4",
    "k[]=3",
    "K=3",
    "k=3;offset=1",
    "k=NaN",
    "offset=-1",
    "offset=100001",
    "offset=" + "9" * 5000,
    "exclude_seen=maybe",
    "exclude_seen=",
    "run=nothing",
    "run=",
    "run=%00",
    "with=",
    "with=:",
    "with=a",
    "with=driver:",
    "with=driver:%00",
    "with=nothing:1",
    "any=driver:d1&any=",
    "without=driver",
    "exclude=",
    "exclude=nothing",
    "exclude=1e400",
    "&".join("exclude=1" for _ in range(3000)),
    "&".join(f"with=driver:{n}" for n in range(50)),
    "=",
    "&&&&",
    "=&=&=",
    "%=%",
    "a=%ff",
    "__proto__=1",
    "k=3#",
    "k=٣",
    "k=+3",
    "k= 3",
    "k=0x3",
    "k=3%20",
    "q=" + "a" * 300,
)
HEADERS = (
    "Content-Length: 5",
    "Content-Length: -1",
    "Content-Length: 1e3",
    "Content-Length: 99999999999999999999",
    "Content-Length:",
    "Content-Length: 0\r\nContent-Length: 5",
    "Transfer-Encoding: chunked\r\nContent-Length: 3",
    "Transfer-Encoding: gzip",
    "Transfer-Encoding: chunked, chunked",
    "Transfer-Encoding: \x0bchunked",
    "Expect: 100-continue",
    "Expect: nothing",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13",
    "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
    "Connection: close, keep-alive",
    "Connection: \0",
    "Host: y",
    "Host:",
    "Host: [::1",
    "Host: a\tb",
    "Host: " + "a" * 5000,
    ": x",
    "A",
    "A : b",
    " A: b",
    "A: b\r\n c",
    "A: \0",
    "A: \x1b[2J",
    "A: ä",
    "A: " + "b" * 9000,
    "\r\n".join(f"A{n}: b" for n in range(99)),
    "\r\n".join(f"A{n}: b" for n in range(2000)),
    "Accept: nothing/nothing",
    "Accept-Encoding: gzip;q=x",
    "Range: bytes=0-1",
    "Range: bytes=5-1,9-,-3",
    "If-None-Match: *",
    "If-Modified-Since: soon",
    "Authorization: Bearer x",
    "Authorization: ",
    "Authorization: Basic " + "A" * 8000,
    "Cookie: " + "a=b;" * 2000,
    "X-Forwarded-For: 1\r\nX-Forwarded-Proto: \0",
    "Content-Type: application/json; charset=utf-7",
    "Content-Type: multipart/form-data",
    "Content-Encoding: gzip",
    "Trailer: A",
    "Max-Forwards: -1",
)
BODIES: tuple[str | bytes, ...] = (
    "",
    " ",
    "null",
    "0",
    '""',
    "[]",
    "{}",
    "{",
    "}",
    "[" * 100_000,
    '{"a":' * 50_000,
    "NaN",
    "-Infinity",
    '{"history": NaN}',
    '{"history": [1e400]}',
    '{"history": [' + "9" * 5000 + "]}",
    '{"history": [-0]}',
    '{"history": [1.0]}',
    '{"history": [true]}',
    '{"history": [null]}',
    '{"history": [[1]]}',
    '{"history": [{}]}',
    '{"history": "12"}',
    '{"history": {"0": 1}}',
    '{"history": 1}',
    '{"history": [1, 1, 1]}',
    '{"history": [' + ",".join("1" for _ in range(5000)) + "]}",
    '{"history": ["\\ud800"]}',
    '{"history": ["\\u0000"]}',
    '{"history": [], "k": 0}',
    '{"history": [], "k": 1e2}',
    '{"history": [], "k": "3"}',
    '{"history": [], "k": true}',
    '{"history": [], "K": 3}',
    '{"history": [1], "history": [2]}',
    '{"user": 1, "user": 2}',
    '{"user": {}}',
    '{"user": -9e99}',
    '{"user": 1, "history": null}',
    '{"k": 3}',
    '{"user": 0, "weights": {"driver": -1}}',
    '{"user": 0, "weights": {"driver": 1e308}}',
    '{"user": 0, "weights": {"nothing": 1}}',
    '{"user": 0, "weights": {"driver": NaN}}',
    '{"user": 0, "weights": []}',
    '{"user": 0, "weights": {"driver": 1e-320}}',
    '{"user": 0, "weights": {"": 1}}',
    '{"user": 0, "with": [{}]}',
    '{"user": 0, "with": {}}',
    '{"user": 0, "with": [{"relation": "driver"}]}',
    '{"user": 0, "with": [{"not": {"not": {}}}]}',
    '{"user": 0, "with": [' + '{"not":' * 2000 + '{"relation":"driver","value":"x"}' + "}" * 2000 + "]}",
    '{"user": 0, "with": [' + ",".join('{"relation":"driver","value":"x"}' for _ in range(500)) + "]}",
    '{"user": 0, "with": [{"any": []}]}',
    '{"user": 0, "with": [{"all": []}]}',
    '{"user": 0, "with": [{"column": "title", "min": "a", "max": 3}]}',
    '{"user": 0, "with": [{"column": "x", "min": NaN}]}',
    '{"user": 0, "with": [{"column": "title", "value": [1]}]}',
    '{"user": 0, "with": [{"relation": "driver", "column": "title", "value": 1}]}',
    '{"user": 0, "exclude": [' + ",".join(map(str, range(20_000))) + "]}",
    '{"user": 0, "exclude": "1"}',
    '{"user": 0, "run": 5}',
    '{"user": 0, "skip_unknown": "yes"}',
    '{"user": 0, "exclude_seen": 2}',
    '{"user": 0, "offset": 99999999999}',
    '{"user": 0, "more": 1}',
    '{"\\u0000": 1}',
    '{"user": "\\ud83d"}',
    '{"user": "' + "x" * 5000 + '"}',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b"\x1f\x8b\x08\x00",
    b'{"user": "\xff"}',
    b"a=b&c=d",
    b"<x/>",
    b"\0" * 1000,
    b" " * 1_000_000 + b"{}",
    b"{" + b" " * 1_100_000 + b"}",
)
FRAMES: dict[str, bytes] = {
    "nothing": b"",
    "an end of line": b"\r\n",
    "ends of lines": b"\r\n" * 5000,
    "zeros": b"\0" * 5000,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 500,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 60,
    "HTTP/0.9": b"GET /health\r\n",
    "HTTP/1.0": get("/health", version="HTTP/1.0"),
    "HTTP/3": get("/health", version="HTTP/3.0"),
    "HTTP/9.9": get("/health", version="HTTP/9.9"),
    "no version": b"GET /health\r\nHost: x\r\n\r\n",
    "lines of LF": b"GET /health HTTP/1.1\nHost: x\n\n",
    "lines of CR": b"GET /health HTTP/1.1\rHost: x\r\r",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "redis": b"*1\r\n$4\r\nPING\r\n",
    "smtp": b"EHLO x\r\n",
    "a chunk of no length": chunked(b"\r\n"),
    "a chunk of a negative length": chunked(b"-1\r\nx\r\n"),
    "a chunk of a huge length": chunked(b"ffffffffffffffffff\r\nx\r\n"),
    "a chunk of letters": chunked(b"xyz\r\nx\r\n"),
    "a chunk cut short": chunked(b"10\r\n{}"),
    "a chunk too long": chunked(b"1\r\n{}\r\n"),
    "an extension": chunked(b"2;a=" + b"b" * 9000 + b"\r\n{}\r\n"),
    "chunks of a byte": chunked(*(b"1\r\n%c\r\n" % byte for byte in GOOD.encode())),
    "endless chunks": chunked(*(b"4000\r\n" + b" " * 0x4000 + b"\r\n" for _ in range(80))),
    "trailers": chunked(b"2\r\n{}\r\n", end=b"0\r\nA: b\r\nContent-Length: 9\r\n\r\n"),
    "no last chunk": chunked(b"2\r\n{}\r\n", end=b""),
    "less body than said": post("{}", length=500),
    "more body than said": post(GOOD + "x" * 300, length=len(GOOD)),
    "a body with GET": get("/health", "Content-Length: 5") + b"hello",
    "two requests at once": get("/health") + get("/health"),
    "a hundred at once": get("/health") * 100,
    "smuggled": post("0\r\n\r\nGET /nowhere HTTP/1.1\r\nX: ", "Transfer-Encoding: chunked"),
    "a body of one MB and a byte": post(b" " * (2**20 + 1)),
    "a head without an end": b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 60_000,
    "an address without an end": b"GET /" + b"a" * 60_000,
    "nothing but names": b"GET /health HTTP/1.1\r\n" + b"a\r\n" * 50,
    "a status line": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "an address of bytes": b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header of bytes": b"GET /health HTTP/1.1\r\nHost: x\r\nA: \xff\xfe\x80\r\n\r\n",
    "a name of bytes": b"GET /health HTTP/1.1\r\nHost: x\r\n\xff: a\r\n\r\n",
    "tabs for spaces": b"GET\t/health\tHTTP/1.1\r\nHost: x\r\n\r\n",
}


def abuses() -> dict[str, bytes]:
    """Every kind of abuse by what it is."""
    found = {f"frame: {name}": sent for name, sent in FRAMES.items()}
    found |= {f"method: {m[:20]!r}": get("/recommend/0", method=m) for m in METHODS}
    found |= {f"path: {p[:40]!r}": get(p) for p in PATHS}
    found |= {f"query: {q[:40]!r}": get(f"/recommend/0?{q}") for q in QUERIES}
    found |= {f"header: {h[:40]!r}": get("/recommend/0?k=3", h) for h in HEADERS}
    for path in ("/recommend", "/explain"):
        found |= {f"body {path} {n}: {b[:40]!r}": post(b, path=path) for n, b in enumerate(BODIES)}
    return found


def varied(sent: bytes, rng: np.random.Generator) -> tuple[str, list[bytes]]:
    """The same, sent otherwise."""
    kind, at = (
        str(rng.choice(["cut", "pieces", "twice", "then good", "flip", "after good", "gone"])),
        int(rng.integers(len(sent) + 1)),
    )
    if kind == "cut":
        return kind, [sent[:at]]
    if kind == "pieces":
        places = sorted({0, len(sent), *(int(p) for p in rng.integers(0, len(sent) + 1, 8))})
        return kind, [sent[a:b] for a, b in pairwise(places)]
    if kind == "twice":
        return kind, [sent, sent]
    if kind == "then good":
        return kind, [sent + get("/health")]
    if kind == "after good":
        return kind, [get("/health"), sent]
    if kind == "flip" and sent:
        changed = bytearray(sent)
        for place in rng.integers(0, min(len(sent), 2000), 3):
            changed[int(place)] = int(rng.integers(256))
        return kind, [bytes(changed)]
    return "gone", [sent]


class Server:
    """``relrank serve`` on a port of this machine, and what it writes.

    Args:
        run: what is served.
        said: its output.
    """

    def __init__(self, run: Path, said: Path, *options: str) -> None:
        self._run, self._said, self._options = run, said, options
        self._start()
        self.list = self._ask("/recommend/0?k=5")

    def _start(self) -> None:
        line = [sys.executable, "-m", "relrank", "serve", str(self._run), "--port", "0", *self._options]
        with self._said.open("w") as out:
            self.process = subprocess.Popen(line, stdout=out, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
        until = time.monotonic() + 60
        while (found := re.search(r"http://127\.0\.0\.1:(\d+)", self.text)) is None:
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"the service does not start: {self.text[-2000:]}")
            time.sleep(0.02)
        self.port = int(found[1])

    @property
    def text(self) -> str:
        """What it said so far."""
        return self._said.read_text(errors="replace")

    def _ask(self, path: str) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=PROMPT) as connection:
            connection.sendall(get(path, "Connection: close"))
            return b"".join(iter(lambda: connection.recv(1 << 16), b""))

    def send(self, pieces: list[bytes], gone: bool) -> bytes:
        """What it answers, as far as it comes within a second; ``gone``: nobody waits for it."""
        answer = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PROMPT) as connection:
            with contextlib.suppress(OSError):
                for piece in pieces:
                    connection.sendall(piece)
                    if len(pieces) > 1:
                        time.sleep(0.005)
            if gone:
                return answer
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)
                connection.settimeout(1.0)
                while len(answer) < 1 << 22 and (part := connection.recv(1 << 16)):
                    answer += part
        return answer

    def is_well(self) -> bool:
        """Whether nothing is wrong with it, said for those who look; starts it again if it is gone."""
        assert self.process.poll() is None, f"the service ended with {self.process.poll()}: {self.text[-500:]}"
        trace = "Traceback" in self.text or "internal error" in self.text
        assert not trace, f"a trace in the log: {self.text[-1500:]}"
        assert self._ask("/health").startswith(b"HTTP/1.1 200"), "/health does not answer 200"
        found = self._ask("/recommend/0?k=5")
        assert found.partition(b"\r\n\r\n")[2] == self.list.partition(b"\r\n\r\n")[2], (
            f"another list: {found[:300]!r}"
        )
        return True

    def again(self) -> None:
        """A new one."""
        self.end()
        self._start()

    def end(self) -> None:
        """No more of it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def statuses(answer: bytes) -> Iterator[int]:
    """Of every answer in a stream."""
    for found in re.finditer(rb"HTTP/1\.[01] (\d{3}) ", answer):
        yield int(found[1])


class Abuse:
    """What tries number n: every kind as it stands, then varied; every fourth number is generated questions."""

    def __init__(self, run: Path, seed: int) -> None:
        self._seed, self._kinds = seed, abuses()
        self._server = Server(run, Path("said").absolute(), "--workers", "1")
        self._app: Any = None

    def __call__(self, number: int) -> Outcome:
        """One kind, or forty questions."""
        if number % 4 == 3:
            return self._questions(number)
        at = number - (number + 1) // 4
        names, rng = list(self._kinds), np.random.default_rng([self._seed, number])
        name = names[at % len(names)]
        how, pieces = ("", [self._kinds[name]]) if at < len(names) else varied(self._kinds[name], rng)
        kind = name.split(":")[0].split(" ")[0]

        def answer() -> bool:
            found = self._server.send(pieces, how == "gone")
            bad = [status for status in statuses(found.partition(b"\r\n\r\n")[0]) if status >= 500]
            assert not bad, f"status {bad}"
            return self._server.is_well()

        try:
            outcome = judged(kind, f"number {number}: {name} {how}", answer)
        finally:
            if self._server.process.poll() is not None or "Traceback" in self._server.text:
                self._server.again()
        return outcome

    def _questions(self, number: int) -> Outcome:
        """Generated by Hypothesis from the number; each answer has the promised shape."""
        from hypothesis import HealthCheck, given, seed, settings

        if self._app is None:
            sys.path.insert(0, str(TESTS))
            self._questions_of = import_module("questions")
            self._app = self._questions_of.application()
        kinds, app = self._questions_of, self._app

        @seed(self._seed * 1_000_003 + number)
        @settings(max_examples=QUESTIONS, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(kinds.questions)
        def asked(question: Any) -> None:
            kinds.check(app, question)

        def answer() -> bool:
            asked()
            return True

        outcome = judged("generated questions", f"number {number}", answer)
        return Outcome(outcome.kind, outcome.found, outcome.done, QUESTIONS)


class Sockets:
    """The part "http"."""

    name, seconds = "http", 120.0

    def prepare(self, folder: Path) -> None:
        """A run with relations."""
        if (folder / "run").is_dir():
            return
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "small.toml").write_text(planted_study(users=60, items=40))
        config = read_study(folder / "small.toml")
        material = prepare(config, folder)
        fit_run(
            cell_with_prerequisites(config, material, "relational-ease"),
            material.tables,
            folder / "run",
            lambda _: None,
        )

    def open(self, folder: Path, seed: int) -> Attack:
        """A service of the lane's own."""
        return Abuse(folder / "run", seed)
