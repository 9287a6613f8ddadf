"""Hostile or broken clients get a response or a closed connection, and leave no stack trace in the log."""

from __future__ import annotations

import asyncio
import http.client
import logging
import socket
import struct
import threading
import time
from contextlib import contextmanager, suppress

import pytest

pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("httptools", reason="needs the extra serve")

from test_connections import START, listening, opened, read, refusal

from relrank.serve import connections

ASKED = b"GET /recommend/reader%203?k=5 HTTP/1.1\r\nHost: x\r\n"
POSTED = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BODY = b'{"user": "reader 3", "k": 5}'
WHOLE = POSTED + b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


@contextmanager
def clean(caplog, **bounds):
    """A server that must still answer at the end, without a stack trace in its log."""
    caplog.set_level(logging.DEBUG)
    with listening(**bounds) as port:
        yield port
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("GET", "/health")
        assert client.getresponse().status == 200
        client.close()
    assert [r.getMessage() for r in caplog.records if r.exc_info or r.levelno >= logging.WARNING] == []


def statuses(text):
    """Statuses of the responses in a stream, which must contain nothing else."""
    found = []
    while text:
        head, _, rest = text.partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        assert lines[0].startswith(b"HTTP/1.1 "), text[:80]
        fields = {name.lower(): value for name, _, value in (line.partition(b": ") for line in lines[1:])}
        found.append(int(lines[0].split()[1]))
        text = rest[int(fields.get(b"content-length", 0)) :]
    return found


def test_a_refusal_comes_behind_the_answers_to_what_was_asked_before(caplog):
    """Regression: the error overwrote earlier responses, and their later writes raised."""
    long, many = b"X: " + b"a" * 40_000, b"".join(b"X%d: y\r\n" % n for n in range(200))
    with clean(caplog) as port:
        for rest in (START + long, START + many, b"nonsense\r\n\r\n", WHOLE + START + long + b"\r\n\r\n"):
            with opened(port) as connection:
                connection.sendall(3 * (ASKED + b"\r\n") + rest)
                found = statuses(read(connection))
                expected = 400 if rest.startswith(b"nonsense") else 431
                assert found == [200] * (4 if rest.startswith(WHOLE) else 3) + [expected]


def test_bounds_of_a_request_count_that_request_alone(caplog):
    """A chunk of input may contain several requests, each with headers up to the limit."""
    named = sum(map(len, (b"/health", b"Host", b"x", b"X"))) + 2 * 4
    large = START + b"X: " + b"a" * (32_768 - named) + b"\r\n\r\n"
    with clean(caplog) as port:
        for n in (1, 5):
            with opened(port) as connection:
                connection.sendall(n * large + START + b"Connection: close\r\n\r\n")
                assert statuses(read(connection)) == [200] * (n + 1)
        with opened(port) as connection:
            connection.sendall(2 * large + large.replace(b"aaaa", b"aaaaa", 1))
            assert statuses(read(connection)) == [200, 200, 431]


def test_hundreds_of_requests_at_once_are_answered_in_their_order(caplog):
    with clean(caplog) as port, opened(port) as connection:
        got = bytearray()
        reader = threading.Thread(target=lambda: got.extend(read(connection)))
        reader.start()
        for n in range(300):
            connection.sendall(b"GET /recommend/reader%%203?k=%d HTTP/1.1\r\nHost: x\r\n\r\n" % (1 + n % 9))
        connection.sendall(WHOLE + START + b"Connection: close\r\n\r\n")
        reader.join(60)
        assert statuses(bytes(got)) == [200] * 302
        ks = [int(part.split(b",")[0]) for part in bytes(got).split(b'"k":')[1:]]
        assert ks == [1 + n % 9 for n in range(300)] + [5]


def test_what_waits_for_its_turn_is_not_parsed_before(caplog):
    """Otherwise a client that sends without reading fills the memory with requests."""
    most, add = [0], connections.Connection.on_headers_complete

    def counted(self):
        add(self)
        most[0] = max(most[0], len(self.pipeline))

    connections.Connection.on_headers_complete = counted
    try:
        with clean(caplog, send_seconds=1) as port, opened(port) as connection:
            connection.settimeout(0.5)
            with suppress(OSError):
                for _ in range(200):
                    connection.sendall(500 * (ASKED + b"\r\n"))
    finally:
        connections.Connection.on_headers_complete = add
    assert 0 < most[0] <= connections.PARSE_CHUNK_BYTES // len(ASKED)


@pytest.mark.parametrize("sent", [ASKED + b"\r\n", WHOLE, 20 * (ASKED + b"\r\n"), 3 * WHOLE])
def test_a_client_that_ended_its_side_gets_its_answers(sent, caplog):
    with clean(caplog) as port, opened(port) as connection:
        connection.settimeout(25)  # less than a connection may be idle
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read(connection)) == [200] * max(sent.count(b"GET "), sent.count(b"POST "))


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET",
        START,
        POSTED + b"Content-Length: 30\r\n\r\n{",
        POSTED + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
def test_a_client_that_ended_its_side_in_the_middle_is_left(sent, caplog):
    with clean(caplog) as port, opened(port) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read(connection)) in ([], [400])


async def patient(scope, receive, send):
    """Answers complete requests after half a second, /early at once, and /large with a large body."""
    assert scope["type"] in ("http", "lifespan")
    if scope["type"] == "lifespan":
        return
    if scope["path"] != "/early":
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            if not message["more_body"]:
                break
    if scope["path"] == "/slow":
        await asyncio.sleep(0.5)
    body = b"x" * (1 << 23 if scope["path"] == "/large" else 2)
    length = (b"content-length", b"%d" % len(body))
    status = 401 if scope["path"] == "/early" else 200
    await send({"type": "http.response.start", "status": status, "headers": [length]})
    await send({"type": "http.response.body", "body": body})


SLOW = b"POST /slow HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
BROKEN = b"POST /slow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("bad", [BROKEN, b"nonsense\r\n\r\n", START + b"X: " + b"a" * 40_000])
def test_a_refusal_waits_for_answers_to_a_client_that_ended_its_side(bad, times):
    """Regression: the refused request counted as incomplete, and all responses were dropped."""
    with listening(patient) as port, opened(port) as connection:
        connection.sendall(times * SLOW + bad)
        connection.shutdown(socket.SHUT_WR)
        expected = 431 if bad.startswith(START) else 400
        assert statuses(read(connection)) == [200] * times + [expected]


def test_what_is_sent_behind_a_refusal_that_waits_is_not_read():
    """Regression: input was discarded up to a limit, and the connection was closed before the first response."""
    with listening(patient) as port, opened(port) as connection:

        def flood():
            with suppress(OSError):
                connection.sendall(SLOW + BROKEN + b"a" * (3 * connections.DISCARDED))

        sender = threading.Thread(target=flood)
        sender.start()
        text = b""
        with suppress(ConnectionError):  # it is disconnected, since it keeps sending
            while part := connection.recv(1 << 16):
                text += part
        sender.join()
        assert statuses(text) == [200, 400]


EARLY = b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"


@pytest.mark.parametrize(
    ("sent", "then", "expected"),
    [
        (b"\r\n", b"\r\n", []),
        (START + b"\r\n", b"\r\n", [200]),
        (START + b"\r\n\r\n", b"\r\n", [200]),
        (EARLY, b"}", [401]),
        (EARLY, b"}\r\n", [401]),
        (EARLY + b"}" + EARLY, b"}", [401, 401]),
        (b"\r\n" + START + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", b"\r\n", [200]),
    ],
)
def test_bytes_that_ask_nothing_buy_no_time(sent, then, expected):
    """Regression: they cancelled the timer, and the connection stayed open."""
    with (
        listening(patient, header_seconds=1.5, body_seconds=1.5, idle_seconds=1.5) as port,
        opened(port) as connection,
    ):
        connection.sendall(sent)
        time.sleep(0.3)
        connection.sendall(then)
        assert statuses(read(connection)) == expected


def test_resets_at_any_moment_leave_no_trace(caplog):
    reset = struct.pack("ii", 1, 0)
    with clean(caplog) as port:
        for sent in (
            b"",
            START,
            ASKED + b"\r\n",
            WHOLE,
            WHOLE[:-5],
            50 * WHOLE,
            50 * (ASKED + b"\r\n") + b"nonsense",
        ):
            for pause in (0, 0.001, 0.01):
                connection = opened(port)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                connection.sendall(sent)
                time.sleep(pause)
                connection.close()
        time.sleep(0.2)


def test_who_does_not_read_is_cut_off(caplog):
    with clean(caplog, send_seconds=0.5) as port:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with connection:
            connection.settimeout(60)  # a server that waits forever ends this with another error
            connection.connect(("127.0.0.1", port))
            with suppress(ConnectionError):
                while True:
                    connection.sendall(100 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")


@pytest.mark.parametrize("ends", [b"", b"Connection: close\r\n"])
def test_who_reads_steadily_is_not_cut_off(ends):
    """Regression: the timeout ran from the first unsent byte on, even if the client was reading."""
    asked = b"GET /large HTTP/1.1\r\nHost: x\r\n" + ends + b"\r\n"
    with listening(patient, send_seconds=1.5, idle_seconds=1.5) as port, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", port))
        connection.sendall(asked)
        got, began = 0, time.monotonic()
        while part := connection.recv(1 << 18):
            got += len(part)
            time.sleep(max(0, began + got / (3 << 20) - time.monotonic()))  # 3 MiB a second: longer than 1.5 s
        assert got > 1 << 23


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (POSTED + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY), [100, 200]),
        (POSTED + b"Expect: 100-continue\r\nContent-Length: 99999999\r\n\r\n", [413]),
        (b"GET http://x/health HTTP/1.1\r\nHost: x\r\n\r\n", [200]),
        (b"GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [404]),
        (b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [400]),
        (b"GET /health HTTP/1.0\r\n\r\n", [200]),
        (b"GET /health\r\n\r\n", [200]),
        (b"GET /h\xc3\xa9alth HTTP/1.1\r\nHost: x\r\n\r\n", [400]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", [400]),
        (START + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + ASKED + b"\r\n", [200, 200]),
        (START + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n", [200]),
        (WHOLE.replace(b"Host: x", b"Host: x\r\nConnection: Upgrade\r\nUpgrade: h2c") + ASKED + b"\r\n", [400]),
        (START + b"Content-Length: 5\r\n\r\nabcde" + ASKED + b"\r\n", [200, 200]),
        (START + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n" + ASKED + b"\r\n", [200, 200]),
        (START + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", [400]),
        (START + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [400]),
        (START + b"Content-Length: -1\r\n\r\n", [400]),
        (START + b"Content-Length: 99999999999999999999999\r\n\r\n", [400]),
        (b"GET /items?" + b"q=a&" * 7000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [422]),
        (b"GET /recommend/reader%203?" + b"exclude=1&" * 2500 + b" HTTP/1.1\r\nHost: x\r\n\r\n", [422]),
        (POSTED + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"e" * 60_000, [431]),
        (POSTED + b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: " + b"t" * 60_000, [431]),
        (POSTED + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: t\r\n" * 200, [431]),
    ],
)  # fmt: skip
def test_odd_requests_get_one_clean_answer(sent, expected, caplog):
    with clean(caplog, header_seconds=1, body_seconds=1, idle_seconds=0.3) as port, opened(port) as connection:
        connection.sendall(sent)
        assert statuses(read(connection)) == expected


def test_a_body_byte_after_byte_is_as_good_as_any_and_bounded(caplog):
    pieces = b"".join(b"1\r\n%c\r\n" % letter for letter in BODY)
    with clean(caplog, body=2000, body_seconds=3) as port:
        with opened(port) as connection:
            connection.sendall(
                POSTED + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
            )
            assert statuses(read(connection)) == [200]
        with opened(port) as connection:
            connection.sendall(POSTED + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;xxxxxxxxxxxxxxxx\r\n \r\n" * 3000)
            refusal(read(connection), 413)


def test_what_was_written_is_read_slowly_to_its_end(monkeypatch):
    """Regression: the connection was closed two seconds after the last write, read or not."""
    monkeypatch.setattr(connections, "LINGER_SECONDS", 0.05)
    cut = []

    class Slow:
        left = 3  # the output stays unread

        def get_write_buffer_size(self):
            self.left -= 1
            return max(self.left, 0)

        def is_closing(self):
            return False

        def abort(self):
            cut.append(self.left)

        def write_eof(self):
            pass

        resume_reading = write_eof

    async def end(patience):
        connections._GracefulTransport(Slow(), patience).close()
        await asyncio.sleep(1)

    asyncio.run(end(30))
    asyncio.run(end(0))
    assert cut == [0, 1]  # all output was sent; without patience


def test_more_connections_than_may_be_refused_are_cut(caplog):
    with clean(caplog, connections=2) as port:
        kept = [opened(port) for _ in range(8)]
        time.sleep(0.3)
        found = []
        for connection in kept[2:]:
            try:
                found += statuses(read(connection)) or ["cut"]
            except OSError:
                found.append("cut")
        assert found == [503, 503, "cut", "cut", "cut", "cut"]
        for connection in kept:
            connection.close()
        time.sleep(0.2)
