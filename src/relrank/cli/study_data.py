"""A study's data as commands prepare and show them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from relrank.cli.progress import progress_bars

if TYPE_CHECKING:
    from rich.console import Console

    from relrank.study.config import StudyConfig
    from relrank.study.prepare import StudyData


def prepare_data(console: Console, config: StudyConfig, folder: Path, smoke: bool = False) -> StudyData:
    """Read, split and audit the data behind a progress bar; paths are relative to ``folder``."""
    from relrank.study.prepare import prepare

    with progress_bars(console) as progress:
        return prepare(config, folder, smoke, progress)


def with_seeds(config: StudyConfig, seeds: tuple[int, ...]) -> StudyConfig:
    """The same study with these split seeds."""
    return config.model_copy(update={"study": config.study.model_copy(update={"seeds": seeds})})


def print_card(console: Console, config: StudyConfig, data: StudyData) -> None:
    """Protocol, graph and notices of the first split."""
    context = data.split_contexts[0]
    console.print(context.split.protocol, context.split.fingerprint[:12], style="bold", highlight=False)
    console.print(context.graph.described(config.titles), highlight=False, markup=False)
    for notice in (*data.tables.notices, *context.split.notices, *context.graph.notices):
        console.print(f"  note: {notice}", style="dim", highlight=False, markup=False)
