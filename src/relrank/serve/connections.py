"""HTTP connections with bounds: sizes and times of a request, their number, and an end that loses no answer.

uvicorn over httptools bounds neither the headers of a request nor the time that it may take: its setting for them
is of the slower parser alone. Here a request that is not there in time, or too large, is answered (408, 431, 413),
and its connection closed. Closing sends what is written, then the end of the stream, and reads on for a while: a
socket that is closed with something unread resets the connection, and the client may lose an answer on its way.

When a server ends, ``no_more`` lets the kernel drop new connections while those that wait in its queue are still
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

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from relrank.serve.asked import Limits

LINGER_SECONDS = 2.0
"""A connection that was ended here is read for so long, unless the client ends it before."""
DISCARDED = 1 << 20
"""Bytes that are read and thrown away meanwhile, at most."""
QUIET_SECONDS = 1.0
"""When a server ends, a connection without a request is kept for so long: one may be on its way."""
QUEUE_SECONDS = 5.0
"""Connections that wait in the queue have so long to be accepted."""
_IDLE, _HEAD, _BODY = range(3)
"""Where in a request a connection is."""


class _Ending:
    """A transport whose ``close`` loses nothing; all else is the transport's own."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.write = transport.write
        self.ended = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether nothing more may be written."""
        return self.ended or bool(self._transport.is_closing())

    def close(self) -> None:
        """End the stream, and go on reading until the client ends it, too, or has had time to."""
        if self.is_closing():
            return
        self.ended = True
        try:
            self._transport.write_eof()
            self._transport.resume_reading()
        except (OSError, RuntimeError, NotImplementedError):  # gone already, or no stream that can be ended
            self._transport.close()
            return
        asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.abort)


class Connection(HttpToolsProtocol):
    """One connection; ``limited`` gives the class its bounds."""

    limits: Limits

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at, self._size, self._discarded = _IDLE, 0, 0
        self._deadline: asyncio.TimerHandle | None = None
        self._refusal: tuple[int, str, str] | None = None  # status, what is expected, what was found

    # the transport's side

    def connection_made(self, transport: Any) -> None:
        """Take a connection, or refuse it where there are too many."""
        super().connection_made(_Ending(transport))  # type: ignore[arg-type]
        if len(self.connections) > self.limits.connections:
            self._refuse(503, f"at most {self.limits.connections:,} connections", "more")
        else:
            self._expect(self.limits.head_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """No more of it."""
        self._expect(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, within the bounds."""
        if self.transport.is_closing():
            self._discarded += len(data)
            if self._discarded > DISCARDED:
                self.transport.abort()
            return
        before = self._at
        super().data_received(data)
        if self.transport.is_closing() or self.parser is None:
            return
        if self._at == _IDLE:
            self._expect(None)
            return
        if self._at != before:
            self._size = 0
            self._expect(self.limits.head_seconds if self._at == _HEAD else self.limits.body_seconds)
        self._size += len(data)
        if self._at == _HEAD and self._size > self.limits.head:
            self._refuse(431, f"headers of at most {self.limits.head:,} bytes", "more")
        elif self._at == _BODY and self._size > 8 * self.limits.body:  # chunks of one byte are eight times as large
            self._refuse(413, f"a body of at most {self.limits.body:,} bytes", "more")

    # the parser's side

    def on_message_begin(self) -> None:
        """A request begins."""
        self._at = _HEAD
        super().on_message_begin()

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
        self._at = _BODY
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is there."""
        self._at = _IDLE
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What the parser does not take, or was told not to take."""
        del msg
        self._refuse(*(self._refusal or (400, "a request in HTTP/1.1", "something else")))

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
        if self._at == _IDLE:  # nobody has asked anything
            self.transport.close()
        elif self._at == _HEAD and self._answering:  # the next request waits for the answer to the one before it
            self._expect(seconds)
        else:
            self._refuse(408, f"a request within {seconds:g} seconds", "a part of it")

    def _refuse(self, status: int, expected: str, found: str) -> None:
        """Answer what cannot be a request, and end the connection."""
        from relrank.serve.guard import failure

        cycle = self.cycle
        if self._at == _BODY and cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application hears that nobody waits for its answer
            cycle.message_event.set()
            if cycle.response_started:
                self.transport.close()
                return
        response = failure(status, REASONS[status], "request", expected, found, {"Connection": "close"})
        head = [f"HTTP/1.1 {status} {REASONS[status].title()}".encode()]
        head += [name + b": " + value for name, value in (*self.server_state.default_headers, *response.raw_headers)]
        self.transport.write(b"\r\n".join([*head, b"", bytes(response.body)]))
        self.transport.close()


REASONS = {
    400: "bad request", 408: "request timeout", 413: "content too large", 431: "request header fields too large",
    503: "service unavailable",
}  # fmt: skip


def limited(limits: Limits) -> type[Connection]:
    """Connections with these bounds."""
    return type("Connection", (Connection,), {"limits": limits})


_NO_SYN = ((0x30, 0, 0, 13), (0x54, 0, 0, 0x12), (0x15, 0, 1, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))
"""Berkeley packet filter: byte 13 of the TCP header & (SYN | ACK) == SYN is dropped, all else passes."""
_ATTACH_FILTER = 26


def no_more(listener: socket.socket) -> None:
    """New connections are not taken any more, while those that were taken can still be accepted. On Linux alone."""
    if sys.platform != "linux":
        return
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _NO_SYN))
    with contextlib.suppress(OSError):  # then it is as elsewhere
        listener.setsockopt(
            socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HP", len(_NO_SYN), ctypes.addressof(program))
        )


async def accept_rest(listener: socket.socket) -> None:
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
