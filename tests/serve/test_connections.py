"""Timeouts and limits of connections, which end without a reset; a server that ends answers accepted requests."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from library import library
from test_app import RUN, save, server

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
pytest.importorskip("httptools", reason="needs the extra serve")

from relrank.serve.app import make_app  # noqa: E402
from relrank.serve.connections import connection_class  # noqa: E402
from relrank.serve.limits import Limits  # noqa: E402
from relrank.serve.service import Service  # noqa: E402


@contextmanager
def listening(app=None, **bounds):
    """Serves an application on a free port in a thread."""
    limits = Limits(**bounds)
    app = app or make_app(Service({"one": RUN}, limits), page=Path("no page"))
    config = uvicorn.Config(
        app,
        port=0,
        http=connection_class(limits),
        log_config=None,
        ws="none",
        timeout_keep_alive=limits.idle_seconds,
        timeout_graceful_shutdown=5,
    )
    running = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join()


def opened(port):
    """A connection; nobody waits so long but for a server that does not end it."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def read(connection):
    """All input until the other side ends the stream; a reset raises an error."""
    text = b""
    while part := connection.recv(1 << 16):
        text += part
    return text


def refusal(text, status):
    head, _, body = text.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), text[:200]
    assert b"connection: close" in head.lower()
    assert list(json.loads(body)["error"]) == ["message", "where", "expected", "found"]


START = b"GET /health HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        START + b"X: " + b"a" * 40_000,  # an endless header
        START + b"X: " + b"a" * 40_000 + b"\r\n\r\n",  # a complete one
        START + b"".join(b"X%d: y\r\n" % number for number in range(200)),
        b"GET /" + b"a" * 40_000,
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
        + b"X: y\r\n" * 200,  # trailers
    ],
)
def test_headers_are_bounded(sent):
    with listening() as port, opened(port) as connection:
        connection.sendall(sent)
        refusal(read(connection), 431)


def test_pitfall_endless_headers_hold_nobody_up():
    """A parser that collects a header in pieces copies all of it for every piece."""
    with listening() as port:
        go_on = threading.Event()

        def flood():
            with opened(port) as connection:
                connection.sendall(START + b"X: ")
                try:
                    while not go_on.is_set():
                        connection.sendall(b"a" * (1 << 18))
                except OSError:
                    return
                pytest.fail("nobody stopped it")

        threads = [threading.Thread(target=flood) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)  # input is discarded up to a limit, then the connection is closed
        ended = [not thread.is_alive() for thread in threads]
        go_on.set()
        assert ended == [True, True]
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("GET", "/health")
        assert client.getresponse().status == 200


def test_a_request_has_to_be_there_in_time():
    body = b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{"
    with listening(header_seconds=0.3, body_seconds=0.3, idle_seconds=1) as port:
        for sent in (START, body):
            with opened(port) as connection:
                connection.sendall(sent)
                refusal(read(connection), 408)
        with opened(port) as connection:  # no request, no response
            assert read(connection) == b""
        with opened(port) as connection:  # single bytes do not extend the timeout
            connection.sendall(START)
            until = time.monotonic() + 60
            connection.settimeout(0.05)
            text = b""
            while not text and time.monotonic() < until:
                connection.sendall(b"X: y\r\n")
                with suppress(TimeoutError):
                    text = connection.recv(1 << 16)
            refusal(text, 408)
        with opened(port) as connection:  # two requests, then silence
            connection.sendall(2 * (START + b"\r\n"))
            assert read(connection).count(b"HTTP/1.1 200") == 2


def test_an_answer_arrives_although_the_rest_of_the_body_is_still_being_sent():
    """Closing a socket with unread input would reset the connection before the response arrives."""
    with listening(body=1000) as port:
        for _ in range(5):
            with opened(port) as connection:
                connection.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n")
                connection.sendall(b"x" * 500_000)
                time.sleep(0.05)
                refusal(read(connection), 413)


def test_connections_are_counted():
    with listening(connections=3) as port:
        kept = [opened(port) for _ in range(3)]
        for connection in kept:
            connection.sendall(START + b"\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
        with opened(port) as one_more:
            refusal(read(one_more), 503)
        for connection in kept:
            connection.close()
        text, until = b"", time.monotonic() + 60
        while (
            not text.startswith(b"HTTP/1.1 200") and time.monotonic() < until
        ):  # until the server has seen them close
            with opened(port) as again, suppress(ConnectionError):
                again.sendall(START + b"Connection: close\r\n\r\n")
                text = read(again)
        assert text.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_eight_clients_lose_nothing_when_the_server_ends(tmp_path, workers):
    save(library("ease"), tmp_path / "books")
    with server(tmp_path / "books", "--grace", 0.3, "--workers", workers) as (port, child):
        wrong, answers = [], []

        def ask(keeps):
            connection = None
            while True:
                try:
                    if connection is None or not keeps:
                        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                    connection.request("GET", "/recommend/reader%203?k=5")
                    answer = connection.getresponse()
                    answers.append((answer.status, answer.read()))
                except ConnectionRefusedError:
                    return  # not accepted
                except (OSError, http.client.HTTPException) as broken:
                    wrong.append(repr(broken))
                    return

        idle = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        idle.request("GET", "/health")
        idle.getresponse().read()
        threads = [threading.Thread(target=ask, args=(number % 2 == 0,)) for number in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(0.3)
        child.send_signal(signal.SIGTERM)
        time.sleep(0.6)  # an idle connection sends a request after the end of new connections
        idle.request("GET", "/recommend/reader%203?k=5")
        answer = idle.getresponse()
        answers.append((answer.status, answer.read()))
        assert child.wait(30) == 0
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len({*answers}) == 1
    assert answers[0][0] == 200


def _workers_of(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.is_file():
        pytest.skip("needs the children of a process in /proc")
    return [child for child in map(int, children.read_text().split()) if _is_worker(child)]


@pytest.mark.slow
def test_workers_end_with_the_process_that_started_them(tmp_path):
    save(library("ease"), tmp_path / "books")
    with server(tmp_path / "books", "--grace", 0, "--workers", 2) as (_, child):
        workers = _workers_of(child.pid)
        assert len(workers) == 2
        os.kill(child.pid, signal.SIGKILL)
        until = time.monotonic() + 20
        while any(map(_is_worker, workers)) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(map(_is_worker, workers))


@pytest.mark.slow
def test_a_worker_that_is_killed_at_its_end_holds_nobody_up(tmp_path):
    """Regression: setting the event blocked until the killed worker woke up."""
    save(library("ease"), tmp_path / "books")
    with server(tmp_path / "books", "--grace", 0, "--workers", 2) as (_, child):
        workers = _workers_of(child.pid)
        os.kill(workers[0], signal.SIGTERM)  # alone: it waits a second for the others to end
        time.sleep(0.5)
        os.kill(workers[0], signal.SIGKILL)
        time.sleep(0.2)
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


def _is_worker(pid):
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.parametrize(
    "bad",
    [
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx\r\n",
        b"POST /recommend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"nothing like it\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    ],
)
def test_what_was_asked_before_a_bad_request_is_answered_first(bad, caplog):
    """Regression: the error was written first, and pending responses failed on the closed stream."""
    good = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with listening() as port:
        for times in (1, 3):
            with opened(port) as connection:
                connection.sendall(good * times + bad)
                text = read(connection)
            statuses = re.findall(rb"HTTP/1\.1 (\d+) ", text)
            assert statuses == [b"200"] * times + [b"431" if bad.startswith(b"GET") else b"400"]
        assert [record for record in caplog.records if record.exc_info] == []
