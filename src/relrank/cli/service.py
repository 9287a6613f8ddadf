"""The command that serves fitted models over HTTP."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from relrank.cli import completion
from relrank.errors import InputError
from relrank.io.terminal_safe import terminal_safe

MAX_SECONDS = 86_400
"""Longest time limit of the service."""


def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of fitted models, or of studies; the first is the default.",
            autocompletion=completion.run_folders,
        ),
    ],
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_env: Annotated[
        str | None, typer.Option(help="Environment variable with the bearer token that requests must carry.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help='Accepted "Host" header; "*.example.org" includes subdomains; any by default.'),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with its own copy of the models.")] = 1,
    grace: Annotated[float, typer.Option(help="Seconds between SIGTERM and the last new connection.")] = 1.0,
    connections: Annotated[int, typer.Option(min=1, help="Open connections per process; more get 503.")] = 1000,
    header_timeout: Annotated[float, typer.Option(help="Seconds to receive a request's headers.")] = 10.0,
    body_timeout: Annotated[float, typer.Option(help="Seconds to receive a request's body.")] = 30.0,
    idle_timeout: Annotated[float, typer.Option(help="Seconds between two requests of a connection.")] = 30.0,
    send_timeout: Annotated[
        float, typer.Option(help="Seconds after which a client that does not read its answers is disconnected.")
    ] = 30.0,
    max_history: Annotated[int, typer.Option(min=1, help="Longest history in a request, in items.")] = 2000,
    index_from: Annotated[
        int, typer.Option(min=1, help='Catalogues of at least this size use an approximate index (extra "ann").')
    ] = 200_000,
) -> None:
    """Serve over HTTP: recommendations, explanations, similar items, titles; and a page to look at them.

    A run that changes on disk is reloaded without a pause, as on SIGHUP. SIGTERM drains. Needs the extra "serve".

    Example: **relrank serve runs/ml-100k-loo --port 8000**
    """
    import logging

    from relrank.serve.limits import Limits
    from relrank.serve.options import Options, name_runs
    from relrank.serve.server import serve as serve_runs

    token = _token(token_env)
    times = {"header": header_timeout, "body": body_timeout, "idle": idle_timeout, "send": send_timeout}
    for name, seconds in times.items():
        _check_seconds(f"{name}-timeout", seconds)
    _check_seconds("grace", grace, may_be_zero=True)
    limits = Limits(
        history=max_history,
        connections=connections,
        header_seconds=header_timeout,
        body_seconds=body_timeout,
        idle_seconds=idle_timeout,
        send_seconds=send_timeout,
    )
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    hosts = tuple(allowed_host or ())
    options = Options(name_runs(runs), host, port, token, hosts, workers, grace, index_from=index_from, limits=limits)
    serve_runs(options, lambda text: print(terminal_safe(text, lines=True), flush=True))


def _token(variable: str | None) -> str | None:
    """The bearer token in an environment variable; None without a variable."""
    if variable is None:
        return None
    token = os.environ.get(variable)
    if not token:
        raise InputError(
            "no token",
            where="relrank serve --token-env",
            found="nothing",
            expected=f"the token in the environment variable {variable}",
        )
    return token


def _check_seconds(option: str, seconds: float, may_be_zero: bool = False) -> None:
    if not (0 if may_be_zero else 1e-3) <= seconds <= MAX_SECONDS:  # also refuses NaN
        raise InputError(
            "not a time limit",
            where=f"relrank serve --{option}",
            found=str(seconds),
            expected=f"seconds, above 0 and at most {MAX_SECONDS:,}" + (", or 0" if may_be_zero else ""),
        )
