"""HTTP connections with limits on size, time and number, and a shutdown that loses no response.

uvicorn with httptools limits neither the headers of a request nor its duration; its setting applies to the slower
parser only. Here a request that is too slow or too large gets an error (408, 431, 413), and its connection is closed.
Closing flushes the output, sends the end of the stream and keeps reading for a while: closing a socket with unread
input resets the connection, and the client may lose a response in transit.

Pipelined requests are answered one after another, an error for the connection last. Later input is parsed once they
are answered, so a connection holds few requests, whatever is sent. A client that has closed its side of the stream
still gets its responses; one that does not read them is disconnected.

At the end of a server ``stop_accepting`` makes the kernel drop new connections while those in the accept queue are
still accepted; closing the listening socket would reset them.
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
"""How long a closed connection is read, unless the client closes it first."""
DISCARDED = 1 << 20
"""Maximum number of bytes that are read and discarded meanwhile."""
QUIET_SECONDS = 1.0
"""How long idle connections stay open when the server ends: a request may be in transit."""
QUEUE_SECONDS = 5.0
"""How long connections in the accept queue may wait when the server ends."""
PARSE_CHUNK_BYTES = 4096
"""Bytes that are parsed at once; sizes of requests are known to this precision."""
LINES = 64
"""Bytes of a request line apart from the URL, and line ends."""
BODIES = (b"content-length", b"transfer-encoding")
"""Headers of requests with a body."""
_IDLE, _HEAD, _BODY = range(3)
"""Which part of a request a connection receives."""


class _GracefulTransport:
    """A transport whose ``close`` loses no output; calls after the end are ignored.

    Args:
        transport: the wrapped transport.
        patience: seconds after which a client that reads nothing of the remaining output is disconnected.
    """

    def __init__(self, transport: Any, patience: float) -> None:
        self._transport, self._patience = transport, patience
        self.ended = self.client_ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether the output has ended."""
        return self.ended or bool(self._transport.is_closing())

    def write(self, data: bytes) -> None:
        """Send data, unless the output has ended."""
        if not self.is_closing():
            self._transport.write(data)

    def pause_reading(self) -> None:
        """Stop reading for now."""
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Continue reading."""
        if not self._transport.is_closing() and not self.client_ended:
            self._transport.resume_reading()

    def close(self) -> None:
        """End the output, and keep reading until the client ends its side, or for ``LINGER_SECONDS``."""
        if self.is_closing():
            return
        self.ended = True
        try:
            if self.client_ended:  # nothing can be unread
                self._transport.close()
            else:
                self._transport.write_eof()
                self._transport.resume_reading()
        except (OSError, RuntimeError, NotImplementedError):  # closed already, or without half-close
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._linger(loop, loop.time() + self._patience, self._transport.get_write_buffer_size())

    def _linger(self, loop: asyncio.AbstractEventLoop, until: float, unsent: int) -> None:
        """Abort the connection a while after all output is sent, or once the client stops reading."""
        left = self._transport.get_write_buffer_size()
        if left < unsent:
            until = loop.time() + self._patience
        if left and loop.time() < until:
            loop.call_later(0.25, self._linger, loop, until, left)
        else:
            loop.call_later(LINGER_SECONDS, self._transport.abort)


class _Flow(FlowControl):
    """Flow control that resumes reading only without a backlog or a pending error."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.transport)
        self._connection = connection

    def resume_reading(self) -> None:
        """Continue reading, if there is no backlog."""
        if not self._connection.has_backlog and not self._connection.refused:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """One connection; ``connection_class`` gives the class its limits."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at, self._entered = _IDLE, False
        self._size = self._silent = self._discarded = 0
        self._unparsed = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None  # disconnects a client that does not read
        self._refusal: tuple[int, str, str] | None = None  # status, expected, found
        self._last: bytes | None = None  # an error that is or will be the last response

    # called by the transport

    def connection_made(self, transport: Any) -> None:
        """Accept a connection, or refuse it if there are too many."""
        super().connection_made(_GracefulTransport(transport, self.limits.send_seconds))  # type: ignore[arg-type]
        self.flow = _Flow(self)
        if len(self.connections) > 2 * self.limits.connections:
            self.transport.abort()  # too many even for an error
        elif len(self.connections) > self.limits.connections:
            self._refuse(503, f"at most {self.limits.connections:,} connections", "more")
        else:
            self._expect(self.limits.header_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up."""
        self._expect(None)
        self.resume_writing()
        self._unparsed = b""
        self.pipeline.clear()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def data_received(self, data: bytes) -> None:
        """Feed the parser, within the limits."""
        if self.refused or self.transport.is_closing():
            self._discarded += len(data)
            if self._discarded > DISCARDED:
                self.transport.abort()
            return
        self._unparsed += data
        self._parse()
        if self._at != _IDLE or self._answering:  # line ends between requests do not extend the idle timeout
            self._unset_keepalive_if_required()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client has closed its side; requests that it sent are still answered."""
        self.transport.client_ended = True  # type: ignore[attr-defined]
        self._expect(None)
        return not self.transport.is_closing() and self._owes_responses()

    def pause_writing(self) -> None:
        """The client reads more slowly than the server writes."""
        super().pause_writing()
        if self._unread is None:
            self._await_reading()

    def _await_reading(self, unsent: int | None = None) -> None:
        """Disconnect a client that reads nothing for a while; ``unsent`` is the output left at the last check."""
        left = self.transport.get_write_buffer_size()
        if unsent is not None and left >= unsent:
            self.transport.abort()
        else:
            self._unread = self._loop_later(self.limits.send_seconds, self._await_reading, left)

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    # parsing

    @property
    def has_backlog(self) -> bool:
        """Whether input waits until earlier requests are answered."""
        return bool(self.pipeline or self._unparsed)

    @property
    def refused(self) -> bool:
        """Whether an error is or will be the last response, so that no more input is parsed."""
        return self._last is not None

    def _parse(self) -> None:
        """Parse the input, until a request has to wait for the response to the one before it."""
        while self._unparsed and not self.pipeline and not self.refused and not self.transport.is_closing():
            piece, self._unparsed = self._unparsed[:PARSE_CHUNK_BYTES], self._unparsed[PARSE_CHUNK_BYTES:]
            self._feed(piece)
        if self.has_backlog:
            self.flow.pause_reading()
        elif self.transport.client_ended and not self._owes_responses():  # type: ignore[attr-defined]
            self.transport.close()

    def _owes_responses(self) -> bool:
        """Whether a client that has closed its side has complete or refused requests without a response."""
        if self.refused:  # the error follows the responses
            return True
        if not self.has_backlog and self._at == _BODY and self._answering:  # the body stays incomplete
            self._disconnect()
            return False
        return self.has_backlog or self._answering

    def _disconnect(self) -> None:
        """Tell the application that the client has disconnected."""
        self.cycle.disconnected = True
        self.cycle.message_event.set()

    def _feed(self, piece: bytes) -> None:
        self._entered, before = False, self._at
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:  # upgrades are ignored
            self.parser = httptools.HttpRequestParser(self)
            self._unparsed = piece[upgrade.args[0] :] + self._unparsed
        except httptools.HttpParserError:
            self._refuse(*(self._refusal or (400, "a request in HTTP/1.1", "something else")))
            return
        if self._at == _IDLE:
            if self._answering:
                self._expect(None)
            elif before != _IDLE:  # the request was answered before its end
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
        # chunks of one byte take eight
        elif self._at == _BODY and self._size > 8 * self.limits.body + slack:
            self._refuse(413, f"a body of at most {self.limits.body:,} bytes", "more")

    # called by the parser

    def on_message_begin(self) -> None:
        """A request starts."""
        self._enter(_HEAD)
        super().on_message_begin()

    def _enter(self, part: int) -> None:
        """Start a part of a request; the current piece of input counts as part of it."""
        self._at, self._entered = part, True
        self._size = self._silent = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer."""
        if len(self.headers) >= self.limits.header_lines:
            self._refusal = 431, f"at most {self.limits.header_lines} headers", "more"
            raise ValueError("too many headers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The headers are complete."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.head:
            self._refusal = 431, f"headers of at most {self.limits.head:,} bytes", f"{size:,}"
            raise ValueError("headers are too large")
        if self.parser.should_upgrade() and any(name in BODIES and value != b"0" for name, value in self.headers):
            # the parser would take the body for the other protocol
            self._refusal = 400, "no Upgrade beside a body", "both"
            raise ValueError("a body of another protocol")
        self._enter(_BODY)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._silent = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._at = _IDLE
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """A response is sent: continue with the next request, or with the input behind it."""
        is_last = not self.pipeline
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.refused and is_last:
            self._end_with_refusal()
            return
        self._parse()
        self.flow.resume_reading()

    # shutdown and errors

    def shutdown(self) -> None:
        """The server ends; requests in progress and in transit are still answered."""
        self._loop_later(QUIET_SECONDS, self._leave)
        if self._answering:
            self.cycle.keep_alive = False

    def _leave(self) -> None:
        if self._answering:
            self.cycle.keep_alive = False
        elif self._at == _IDLE:
            self.transport.close()
        # else a request has started: it is answered, or times out

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _expect(self, seconds: float | None) -> None:
        """Set the deadline for the next input; None for no deadline."""
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
        is_queued = self.has_backlog or (self._at == _HEAD and self._answering)
        if is_queued:  # behind the response to an earlier request
            self._expect(seconds)
        elif self._at == _IDLE:
            self.transport.close()
        else:
            self._refuse(408, f"a request within {seconds:g} seconds", "a part of it")

    def _refuse(self, status: int, expected: str, found: str) -> None:
        """Respond with an error after the responses to earlier requests, and close the connection."""
        response = error_response(status, REASONS[status], "request", expected, found, {"Connection": "close"})
        head = [f"HTTP/1.1 {status} {REASONS[status].title()}".encode()]
        head += [name + b": " + value for name, value in (*self.server_state.default_headers, *response.raw_headers)]
        self._last = b"\r\n".join([*head, b"", bytes(response.body)])
        self._expect(None)
        self._unparsed, cycle = b"", self.cycle
        waits = self._answering
        if self._at == _BODY and cycle is not None:
            if cycle.response_complete:  # answered before its body was complete
                self.transport.close()
                return
            if self.pipeline:  # not started yet
                self.pipeline.popleft()
            else:
                waits = False
                self._disconnect()
                if cycle.response_started:
                    self.transport.close()
                    return
        if waits:  # input is discarded only once the responses are sent
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
    """A class of connections with these limits."""
    return type("Connection", (Connection,), {"limits": limits})


_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""Berkeley packet filter that drops packets with byte 13 of the TCP header & (SYN | ACK) == SYN."""
_ATTACH_FILTER = 26


def stop_accepting(listener: socket.socket) -> None:
    """Drop new connections, while those in the accept queue can still be accepted. Only on Linux."""
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    with contextlib.suppress(OSError):  # as on other systems
        listener.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
        )


async def drain_accept_queue(listener: socket.socket) -> None:
    """Wait until all connections in the accept queue are accepted, by any process."""
    loop = asyncio.get_running_loop()
    until = loop.time() + QUEUE_SECONDS
    await asyncio.sleep(0.05)  # handshakes in progress
    while _is_waiting(listener) and loop.time() < until:
        await asyncio.sleep(0.01)


def _is_waiting(listener: socket.socket) -> bool:
    """Whether a connection is in the accept queue."""
    if sys.platform == "win32":  # where select takes any socket, and there is no poll
        return bool(select.select([listener], [], [], 0)[0])
    queue = select.poll()
    queue.register(listener, select.POLLIN)
    return bool(queue.poll(0))
