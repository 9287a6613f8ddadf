"""HTTP connections with bounds: sizes and times of a request, their number, and an end that loses no answer.

uvicorn over httptools bounds neither the headers of a request nor the time that it may take: its setting for them
is of the slower parser alone. Here a request that is not there in time, or too large, is answered (408, 431, 413),
and its connection closed. Closing sends what is written, then the end of the stream, and reads on for a while: a
socket that is closed with something unread resets the connection, and the client may lose an answer on its way.

Requests that were sent without waiting for answers are answered one after another, a refusal last of all. What comes
behind them is parsed when they are answered, so that a connection holds few of them, whatever is sent. A client that
ended its side of the stream still gets its answers; one that does not read them is cut off.

When a server ends, ``stop_accepting`` lets the kernel drop new connections while those that wait in its queue are
still
accepted: whatever is in that queue when a listening socket is closed would be reset.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import select
import socket
import struct
import sys
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relrank.serve.limits import Limits
from relrank.serve.responses import error_response

LINGER_SECONDS = 2.0
"""A connection that was ended here is read for so long, unless the client ends it before."""
DISCARDED = 1 << 20
"""Bytes that are read and thrown away meanwhile, at most."""
QUIET_SECONDS = 1.0
"""When a server ends, a connection without a request is kept for so long: one may be on its way."""
QUEUE_SECONDS = 5.0
"""Connections that wait in the queue have so long to be accepted."""
PARSE_CHUNK_BYTES = 4096
"""Bytes that are parsed at once; what a request has of a piece is known to that, so that bounds have this slack."""
LINES = 64
"""Bytes of a request that are in no header: method, version, ends of lines."""
BODIES = (b"content-length", b"transfer-encoding")
"""Headers of requests that have a body."""
_IDLE, _HEAD, _BODY = range(3)
"""Where in a request a connection is."""


class _GracefulTransport:
    """A transport whose ``close`` loses nothing, and which takes no offence at calls after it is gone.

    Args:
        transport: whose methods all others are.
        patience: when it closes, a client that reads nothing of what was written for so many seconds is cut off.
    """

    def __init__(self, transport: Any, patience: float) -> None:
        self._transport, self._patience = transport, patience
        self.ended = self.client_ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more may be written."""
        return self.ended or bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """Send, unless the stream is at its end."""
        if not self.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Read no more for now."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if not self._transport.is_closing() and not self.client_ended:
            self._transport.resume_reading()

    def close(self) -> None:
        """End the stream, and go on reading until the client ends it, too, or has had time to."""
        if self.is_closing():
            return
        self.ended = True
        try:
            if self.client_ended:  # so there is nothing unread
                self._transport.close()
            else:
                self._transport.write_eof()
                self._transport.resume_reading()
        except (OSError, RuntimeError, NotImplementedError):  # gone already, or no stream that can be ended
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._linger(loop, loop.time() + self._patience, self._transport.get_write_buffer_size())

    def _linger(self, loop: asyncio.AbstractEventLoop, until: float, unsent: int) -> None:
        """Cut the connection a while after all was sent, or when nothing more of it is read."""
        left = self._transport.get_write_buffer_size()
        if left < unsent:
            until = loop.time() + self._patience
        if left and loop.time() < until:
            loop.call_later(0.25, self._linger, loop, until, left)
        else:
            loop.call_later(LINGER_SECONDS, self._transport.abort)


class _Flow(FlowControl):
    """Reads on only where nothing of what was read, nor a refusal, waits for its turn."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Go on reading, if there is need of it."""
        if not self._connection.has_backlog and not self._connection.refused:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """One connection; ``connection_class`` gives the class its bounds."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at, self._entered = _IDLE, False
        self._size = self._silent = self._discarded = 0
        self._unparsed = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None  # ends a client that does not read
        self._refusal: tuple[int, str, str] | None = None  # status, what is expected, what was found
        self._last: bytes | None = None  # a refusal that is or will be the last answer

    # the transport's side

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or refuse it where there are too many."""
        super().connection_made(_GracefulTransport(transport, self.limits.send_seconds))  # type: ignore[arg-type]
        self.flow = _Flow(self)
        if len(self.connections) > 2 * self.limits.connections:
            self.transport.abort()  # not even time for an answer
        elif len(self.connections) > self.limits.connections:
            self._refuse(503, f"at most {self.limits.connections:,} connections", "more")
        else:
            self._expect(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """No more of it."""
        self._expect(None)
        self.resume_writing()
        self._unparsed = b""
        self.pipeline.clear()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, within the bounds."""
        if self.refused or self.transport.is_closing():
            self._discarded += len(data)
            if self._discarded > DISCARDED:
                self.transport.abort()
            return
        self._unparsed += data
        self._parse()
        if self._at != _IDLE or self._answering:  # else nothing was asked: ends of lines buy no time
            self._unset_keepalive_if_required()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more: what it asked for is answered all the same."""
        self.transport.client_ended = True  # type: ignore[attr-defined]
        self._expect(None)
        return not self.transport.is_closing() and self._owes_answers()

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to."""
        super().pause_writing()
        if self._unread is None:
            self._await_reading()

    def _await_reading(self, unsent: int | None = None) -> None:
        """Cut off a client that reads nothing for a while; what it had not read before is ``unsent``."""
        left = self.transport.get_write_buffer_size()
        if unsent is not None and left >= unsent:
            self.transport.abort()
        else:
            self._unread = self._loop_later(self.limits.send_seconds, self._await_reading, left)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # parsing

    @property
    def has_backlog(self) -> bool:
        """Whether something that was read waits until earlier requests are answered."""
        return bool(self.pipeline or self._unparsed)

    @property
    def refused(self) -> bool:
        """Whether a refusal is or will be the last answer, so that nothing more is parsed."""
        return self._last is not None

    def _parse(self) -> None:
        """Parse what is there, until a request has to wait for the answer to the one before it."""
        while self._unparsed and not self.pipeline and not self.refused and not self.transport.is_closing():
            piece, self._unparsed = self._unparsed[:PARSE_CHUNK_BYTES], self._unparsed[PARSE_CHUNK_BYTES:]
            self._feed(piece)
        if self.has_backlog:
            self.flow.pause_reading()
        elif self.transport.client_ended and not self._owes_answers():  # type: ignore[attr-defined]
            self.transport.close()

    def _owes_answers(self) -> bool:
        """Whether a client that ended its stream has requests that are whole, or refused, and not answered."""
        if self.refused:  # it was the last one, and is answered behind those that are
            return True
        if not self.has_backlog and self._at == _BODY and self._answering:  # the rest of the body will never come
            self._disconnect()
            return False
        return self.has_backlog or self._answering

    def _disconnect(self) -> None:
        """Let the application hear that nobody waits for its answer."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _feed(self, piece: bytes) -> None:
        self._entered, before = False, self._at
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:  # no other protocol is spoken here: it stays what it was
            self.parser = httptools.HttpRequestParser(self)
            self._unparsed = piece[upgrade.args[0] :] + self._unparsed
        except httptools.HttpParserError:
            self._refuse(*(self._refusal or (400, "a request in HTTP/1.1", "something else")))
            return
        if self._at == _IDLE:
            if self._answering:
                self._expect(None)
            elif before != _IDLE:  # the end of a request that was answered without it
                self._expect(self.limits.idle_seconds)
            return
        if self._entered:
            self._expect(self.limits.header_seconds if self._at == _HEAD else self.limits.body_seconds)
        self._size += len(piece)
        self._silent += len(piece)
        slack = PARSE_CHUNK_BYTES + LINES
        if self._at == _HEAD and self._size > self.limits.head + slack:
            self._refuse(431, f"headers of at most {self.limits.head:,} bytes", "more")
        elif self._at == _BODY and self._silent > self.limits.head + slack:
            self._refuse(431, f"at most {self.limits.head:,} bytes between parts of a body, or behind it", "more")
        elif (
            self._at == _BODY and self._size > 8 * self.limits.body + slack
        ):  # chunks of a byte take eight times that
            self._refuse(413, f"a body of at most {self.limits.body:,} bytes", "more")

    # the parser's side

    def on_message_begin(self) -> None:
        """A request begins."""
        self._enter(_HEAD)
        super().on_message_begin()

    def _enter(self, part: int) -> None:
        """Another part of a request, or that of another request; the piece at hand counts as its own."""
        self._at, self._entered = part, True
        self._size = self._silent = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """One more header, or trailer."""
        if len(self.headers) >= self.limits.header_lines:
            self._refusal = 431, f"at most {self.limits.header_lines} headers", "more"
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The request is known but for its body."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head:
            self._refusal = 431, f"headers of at most {self.limits.head:,} bytes", f"{size:,}"
            raise ValueError("headers are too large")
        if self.parser.should_upgrade() and any(name in BODIES and value != b"0" for name, value in self.headers):
            self._refusal = (
                400,
                "no Upgrade beside a body",
                "both",
            )  # the parser would take the body for something else
            raise ValueError("a body of another protocol")
        self._enter(_BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is there."""
        self._at = _IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer is out: the next request's turn, or that of what was read behind it."""
        is_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.refused and is_last:
            self._end_with_refusal()
            return
        self._parse()
        self.flow.resume_reading()

    # ends

    def shutdown(self) -> None:
        """The server ends: what is asked is answered, and what may be on its way, too."""
        self._loop_later(QUIET_SECONDS, self._leave)
        if self._answering:
            self.cycle.keep_alive = False

    def _leave(self) -> None:
        if self._answering:
            self.cycle.keep_alive = False
        elif self._at == _IDLE:
            self.transport.close()
        # else a request has begun: it is answered, or its time runs out

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self, seconds: float | None) -> None:
        """Something has to come in so many seconds; None for nothing."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if seconds is not None:
            self._deadline = self._loop_later(seconds, self._too_late, seconds)

    def _loop_later(self, seconds: float, call: Any, *args: Any) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, call, *args)

    def _too_late(self, seconds: float) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.has_backlog or (
            self._at == _HEAD and self._answering
        ):  # it waits for the answer to the one before it
            self._expect(seconds)
        elif self._at == _IDLE:  # nobody has asked anything
            self.transport.close()
        else:
            self._refuse(408, f"a request within {seconds:g} seconds", "a part of it")

    def _refuse(self, status: int, expected: str, found: str) -> None:
        """Answer what cannot be a request, behind what was asked before it, and end the connection."""
        response = error_response(status, REASONS[status], "request", expected, found, {"Connection": "close"})
        head = [f"HTTP/1.1 {status} {REASONS[status].title()}".encode()]
        head += [name + b": " + value for name, value in (*self.server_state.default_headers, *response.raw_headers)]
        self._last = b"\r\n".join([*head, b"", bytes(response.body)])
        self._expect(None)
        self._unparsed, cycle = b"", self.cycle
        waits = self._answering
        if self._at == _BODY and cycle is not None:
            if cycle.response_complete:  # answered without its body
                self.transport.close()
                return
            if self.pipeline:  # its turn has not come
                self.pipeline.popleft()
            else:
                waits = False
                self._disconnect()
                if cycle.response_started:
                    self.transport.close()
                    return
        if waits:  # what follows is thrown away up to a bound: not before the answers are out
            self.flow.pause_reading()
        else:
            self._end_with_refusal()

    def _end_with_refusal(self) -> None:
        assert self._last is not None
        self.transport.write(self._last)
        self.transport.close()


REASONS = {
    400: "bad request",
    408: "request timeout",
    413: "content too large",
    431: "request header fields too large",
    503: "service unavailable",
}


def connection_class(limits: Limits) -> type[Connection]:
    """Connections with these bounds."""
    return type("Connection", (Connection,), {"limits": limits})


_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""Berkeley packet filter: byte 13 of the TCP header & (SYN | ACK) == SYN is dropped, all else passes."""
_ATTACH_FILTER = 26


def stop_accepting(listener: socket.socket) -> None:
    """New connections are not taken any more, while those that were taken can still be accepted. On Linux alone."""
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    with contextlib.suppress(OSError):  # then it is as elsewhere
        listener.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
        )


async def drain_accept_queue(listener: socket.socket) -> None:
    """Wait until all connections in the queue are accepted, by whoever accepts here."""
    loop = asyncio.get_running_loop()
    until = loop.time() + QUEUE_SECONDS
    await asyncio.sleep(0.05)  # the last handshakes
    while _is_waiting(listener) and loop.time() < until:
        await asyncio.sleep(0.01)


def _is_waiting(listener: socket.socket) -> bool:
    """Whether a connection is in the queue."""
    if not hasattr(select, "poll"):  # Windows, where a set of sockets has no such bound
        return bool(select.select([listener], [], [], 0)[0])
    queue = select.poll()
    queue.register(listener, select.POLLIN)
    return bool(queue.poll(0))
