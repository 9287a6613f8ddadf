"""Commands about data: fetch, audit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from relrank.cli import completion
from relrank.cli.options import StudyFile
from relrank.cli.progress import print_plain, progress_bars
from relrank.cli.study_data import prepare_data, print_card, with_seeds
from relrank.errors import InputError, did_you_mean, one_of

if TYPE_CHECKING:
    from rich.console import Console

    from relrank.study.config import StudyConfig
    from relrank.study.prepare import StudyData


def fetch(
    name: Annotated[
        str,
        typer.Argument(
            help="ml-100k, ml-1m, mkr-movie, goodbooks-10k, gowalla, amazon-beauty, hetrec-lastfm, facebook-books or "
            "yahoo-movies.",
            autocompletion=completion.data_sets,
        ),
    ],
    folder: Annotated[Path, typer.Argument(help="Where to store it.")],
) -> None:
    """Download a public data set, with checksums; interrupted downloads resume.

    Example: **relrank fetch ml-100k data/ml-100k**
    """
    from rich.console import Console
    from rich.progress import DownloadColumn

    from relrank.tables import fetch as fetching

    names = get_args(fetching.Name)
    if name not in names:
        found = repr(name) + did_you_mean(name, names)
        raise InputError("unknown data set", where="relrank fetch", expected=one_of(names), found=found)
    with progress_bars(Console(), DownloadColumn()) as progress:
        where = fetching.fetch(cast("fetching.Name", name), folder, progress)
    print(f"{name} is in {where}")


def audit(study: StudyFile) -> None:
    """Check a study's data and split for leaks before training, and estimate the memory and time of its models.

    Exit code 1 if there is a leak that the study file does not accept.

    Example: **relrank audit studies/ml-100k-loo.toml**
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from relrank.study.config import read_study
    from relrank.study.leaks import is_accepted, leaks_of

    config = read_study(study)
    console = Console()
    data = prepare_data(console, with_seeds(config, config.study.seeds[:1]), study.parent)
    print_card(console, config, data)
    table = Table(title=f"audit of {config.name}, split seed {data.split_contexts[0].seed}", title_justify="left")
    for heading in ("", "check", "finding"):
        table.add_column(heading)
    colours = {"leak": "bold red", "warning": "yellow", "ok": "green"}
    accepted = config.study.accept_leaks
    leaks = leaks_of(data.findings)
    for f in data.findings:
        level = f"{f.level}, accepted" if f in leaks and is_accepted(f, accepted) else f.level
        table.add_row(Text(level, colours[f.level]), Text(f.check), Text(f.message))
    console.print(table)
    _print_estimates(console, config, data)
    if not all(is_accepted(f, accepted) for f in leaks):
        raise typer.Exit(1)


def _print_estimates(console: Console, config: StudyConfig, data: StudyData) -> None:
    """Memory and time of each model on its largest arm, and which models do not fit."""
    from rich.text import Text

    from relrank.cli.live_progress import plain_table
    from relrank.parallel.memory import gb
    from relrank.study.grid import grid
    from relrank.study.memory_limits import estimate_of, exceeding_memory, memory_notices, memory_per_cell

    first = data.split_contexts[0]
    cells = [c for c in grid(config, data) if c.split_context is first and c.arm.rewired is None]
    available = memory_per_cell(config.study)
    table = plain_table(f"estimates, {gb(available)} GB are available")
    for heading in ("model", "GB", "minutes a fit, at least"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in dict.fromkeys(c.model.name for c in cells):
        estimates = [estimate_of(c) for c in cells if c.model.name == name]
        most, minutes = max(e.bytes for e in estimates), max(e.seconds for e in estimates) / 60
        memory = Text(gb(most), "bold red" if most > available else "")
        table.add_row(Text(name), memory, "< 1" if minutes < 1 else f"{minutes:,.0f}")
    console.print(table)
    for notice in memory_notices(exceeding_memory(cells, available)):
        print_plain(console, f"· {notice.message}", "yellow")
