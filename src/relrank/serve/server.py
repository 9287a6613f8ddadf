"""The server: one address, one or more processes, and signals.

SIGTERM drains: /health answers "draining" and responses close their connections; after the grace period no new
connection is accepted, those in the accept queue are, and the process ends once all requests are answered. A second
signal skips the rest of the grace period. Workers end with the process that started them.
SIGHUP loads all runs again; a run whose ``run.json`` or parameters were replaced is reloaded by itself. Requests in
progress finish on the old run, and a run that cannot be loaded leaves the old one in place.
"""

from __future__ import annotations

import errno
import socket
import sys
from contextlib import suppress
from dataclasses import replace

from relrank.errors import InputError
from relrank.serve.options import Options, Print
from relrank.serve.workers import Workers, stop_accepting

SPARE_FILES = 100
"""Open files of a process apart from its connections, at most."""


def serve(options: Options, report: Print = print) -> None:
    """Serve until a signal.

    Args:
        options: what is served, and how.
        report: prints a line for people.

    Raises:
        InputError: a run cannot be loaded, or the address cannot be used.
    """
    _check_extra()
    options = _raise_file_limit(options, report)
    listener = _listen(options.host, options.port)
    if options.token is None and not _is_loopback(options.host):
        report(f"note: no token is required, and {options.host} may be reachable from elsewhere (see --token-env)")
    address = _address(listener)
    with listener:
        if options.workers > 1:
            Workers(options, listener, report, address).run()
            return
        from relrank.serve.draining_server import run_process

        run_process(options, listener, report, lambda: report(address), lambda: stop_accepting(listener))


def _raise_file_limit(options: Options, report: Print) -> Options:
    """Raise the limit of open files to what the connections need, or lower the number of connections.

    Without a spare file no connection is accepted, not even to refuse it.
    """
    if sys.platform == "win32":  # which has no such limit
        return options
    import resource

    needed = 2 * options.limits.connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return options
    fewer = max(1, (soft - SPARE_FILES) // 2)
    report(f"note: at most {fewer:,} connections at once: the system opens at most {soft:,} files (see ulimit -n)")
    return replace(options, limits=replace(options.limits, connections=fewer))


def _check_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise InputError(
            "an extra is not installed",
            where="relrank serve",
            expected='pip install "relrank[serve]"',
            found=f"no module {error.name}",
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        InputError: the address is invalid or in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            if sys.platform == "win32":  # where SO_REUSEADDR would let a second server take a port that is in use
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
        return listener
    except (OSError, OverflowError) as error:
        is_taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        raise InputError(
            "address cannot be used",
            where=f"{host}, port {port}",
            expected="a free port of this machine: another --port, or --port 0 for any that is free",
            found="another program that listens there" if is_taken else str(error),
        ) from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"serving on http://{f'[{host}]' if ':' in host else host}:{port} (the API at /docs); Ctrl-C ends it"


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")
