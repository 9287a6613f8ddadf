"""The Typer application and the console script, which turns exceptions into error messages.

Commands import heavy libraries inside their functions, so ``relrank --help`` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated

import typer

import relrank
from relrank.cli.atlas import atlas
from relrank.cli.console_encoding import replace_missing_characters
from relrank.cli.data import audit, fetch
from relrank.cli.doctor import doctor
from relrank.cli.init import init
from relrank.cli.models import batch, evaluate, explain, export, fit, recommend
from relrank.cli.service import serve
from relrank.cli.studies import compare, report, study, tune
from relrank.errors import InputError, LeakError, from_os_error
from relrank.io.terminal_safe import command_line, terminal_safe
from relrank.parallel.environment import cores, recommended_environment
from relrank.parallel.memory import is_out_of_memory
from relrank.parallel.process_group import rank_here

MIN_FREE_FILES = 64
"""Number of further files that a command must be able to open."""
INTERRUPTED = 130
"""Exit status of the command parser after Ctrl-C."""


def print_version(asked: bool) -> None:
    """Print the version and end, if ``--version`` is given."""
    if asked:
        print(f"relrank {relrank.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="relrank",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Which relations in your data make recommendations better? Answered with evidence."""


COMMANDS = (
    init,
    fetch,
    audit,
    study,
    tune,
    fit,
    evaluate,
    compare,
    recommend,
    explain,
    serve,
    export,
    batch,
    report,
    atlas,
)
for command in (*COMMANDS, doctor):
    app.command()(command)


def main() -> None:
    """Run the command line; errors that the user can fix print a message instead of a stack trace."""
    set_thread_environment()
    replace_missing_characters()
    rank = rank_here()
    try:
        if rank is not None and sys.argv[1:2] != ["fit"]:
            raise InputError(
                "command of one process", where="torchrun", expected="relrank fit", found=command_line(sys.argv[1:])
            )
        _check_open_file_limit()
        app()
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and end.code == INTERRUPTED:
            print("interrupted; finished work is kept, and the same command resumes it", file=sys.stderr)
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        input_error = _as_input_error(error)
        if input_error is None:
            raise
        message = terminal_safe(input_error, lines=True)
        print(f"error: {message}" if rank is None else f"error in process {rank}: {message}", file=sys.stderr)
        raise SystemExit(1 if isinstance(input_error, LeakError) else 2) from None


def _as_input_error(error: BaseException) -> InputError | None:
    """The message for an error that the user can fix; None for any other."""
    if isinstance(error, InputError):
        return error
    if (refused := from_os_error(error)) is not None:
        return refused
    if not is_out_of_memory(error):
        return None
    return InputError(
        "out of memory",
        where=command_line(["relrank", *sys.argv[1:]]),
        found=" ".join(str(error).split()),
        expected="more memory, or less work: fewer items, a core (docs/study-file.md), a smaller model",
    )


def _check_open_file_limit() -> None:
    """Check that files can be opened: otherwise Rust libraries panic later, with messages of their own.

    Raises:
        InputError: fewer than ``MIN_FREE_FILES`` can be opened.
    """
    opened: list[int] = []
    try:
        while len(opened) < MIN_FREE_FILES:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise InputError(
            "too few files may be open at once",
            where="this process",
            found=f"{len(opened)} more",
            expected=f"at least {MIN_FREE_FILES} more: ulimit -n {4 * MIN_FREE_FILES}",
        ) from None
    finally:
        for descriptor in opened:
            os.close(descriptor)


def set_thread_environment() -> None:
    """Set environment variables that numerical libraries read when they load; values set already are respected.

    Processes that torchrun starts on one machine share its cores: torchrun's default of one thread each leaves most
    cores idle, and numba, which torchrun does not configure, would use all cores in every process.
    """
    if (local_processes := int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) > 1:
        share = str(max(1, cores() // local_processes))
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":
            os.environ["OMP_NUM_THREADS"] = share
        # OpenMP accepts one number per nesting level: "4,2"
        os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"].partition(",")[0].strip())
    for name, value in recommended_environment().items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
