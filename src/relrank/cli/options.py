"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from relrank.cli import completion

StudyFile = Annotated[Path, typer.Argument(help="The study file (TOML).", autocompletion=completion.study_files)]
StudyFolder = Annotated[
    Path | None,
    typer.Option(help="Folder of the study; runs/NAME by default.", autocompletion=completion.run_folders),
]
RunFolder = Annotated[
    Path,
    typer.Argument(
        help="Folder of a fitted model, or of a study (its winner is used).", autocompletion=completion.run_folders
    ),
]
User = Annotated[str | None, typer.Option(help="Key of a user, as in your tables.")]
History = Annotated[str | None, typer.Option(help="Item keys separated by commas: a user outside the data.")]
Visit = Annotated[str | None, typer.Option(help="Item keys separated by commas: the user's current visit.")]
With = Annotated[
    list[str] | None,
    typer.Option("--with", help="NAME:VALUE; items must have this relation or column value."),
]
AnyOf = Annotated[
    list[str] | None,
    typer.Option("--any", help="NAME:VALUE; items must have at least one of these."),
]
Without = Annotated[list[str] | None, typer.Option(help="NAME:VALUE; items must not have it.")]
Exclude = Annotated[list[str] | None, typer.Option(help="Key of an item to exclude.")]
