"""The command that proposes a study file for a folder of tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relrank.cli.progress import print_plain
from relrank.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from relrank.discovery import Hints, Proposal
    from relrank.discovery.folder import Folder

Out = Annotated[Path, typer.Option(help="The study file to write; copies of tables go beside it.")]
HEADINGS = {
    "interactions": "Interactions",
    "ambiguous": "Could be otherwise",
    "nodes": "Nodes",
    "relation": "Relations",
    "behaviour": "Other behaviours",
    "texts": "Texts",
    "cleaning": "Cleaning",
    "protocol": "Protocol",
    "leak": "Likely leaks, left out",
    "left out": "Left out",
}
"""Headings of the findings, in the order in which they are printed."""
WARNING = ("leak", "ambiguous")


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with your tables.")],
    out: Out = Path("study.toml"),
    force: Annotated[bool, typer.Option(help="Replace the study file if there is one.")] = False,
    ask: Annotated[bool, typer.Option(help="Ask about what the tables leave open.")] = False,
    check: Annotated[bool, typer.Option(help="Build and audit the proposed graph, and leave out what leaks.")] = True,
    interactions: Annotated[str | None, typer.Option(help="The table with the interactions.")] = None,
    user: Annotated[str | None, typer.Option(help="Its column of users.")] = None,
    item: Annotated[str | None, typer.Option(help="Its column of items.")] = None,
    time: Annotated[str | None, typer.Option(help="Its column of times.")] = None,
    rating: Annotated[str | None, typer.Option(help="Its column of ratings.")] = None,
) -> None:
    """Look at a folder of tables, and write a commented study file that runs as it is.

    Reads CSV, TSV, Parquet, folders with parts of a table, JSON lines, SQLite and DuckDB files.

    Example: **relrank init our-shop**
    """
    from rich.console import Console

    from relrank.discovery import Hints, discover
    from relrank.discovery.folder import read_folder

    if out.exists() and not force:
        raise InputError(
            "study file exists", where=str(out), expected="no file of this name, --out with another, or --force",
            found="a file",
        )  # fmt: skip
    console = Console()
    tables = read_folder(folder)
    print_plain(console, f"{folder}: {_described(tables)}")
    hints = Hints(interactions=interactions, user=user, item=item, time=time, rating=rating)
    proposal = discover(tables.frames, hints, tables.stated)
    if ask:
        hints = _asked(console, proposal, hints)
        proposal = discover(tables.frames, hints, tables.stated)
    proposal = _written(proposal, tables, out, check)
    _print_findings(console, proposal, tables)
    relations = len(proposal.config.get("relations", {}))
    print_plain(console, f"\nwrote {out} with {relations} relation{'' if relations == 1 else 's'}", "bold")
    print_plain(console, f"next: relrank study {out} --smoke, then without --smoke; docs/study-file.md has every key")


def _described(tables: Folder) -> str:
    frames = tables.frames
    rows = sum(frame.height for frame in frames.values())
    return f"{len(frames)} table{'' if len(frames) == 1 else 's'} with {rows:,} rows in all"


def _asked(console: Console, proposal: Proposal, hints: Hints) -> Hints:
    """The hints with answers to what the tables leave open."""
    from dataclasses import replace

    from rich.prompt import Prompt

    for choice in proposal.choices:
        print_plain(console, choice.question)
        answer = Prompt.ask(choice.hint, choices=list(choice.options), default=choice.options[0], console=console)
        hints = replace(hints, **{choice.hint: answer})
    return hints


def _written(proposal: Proposal, tables: Folder, out: Path, check: bool) -> Proposal:
    """Write the study file, without what a check of the graph finds to leak; returns what was written."""
    from relrank.discovery.writing import write_study

    def write(current: Proposal) -> Path:
        write_study(current, tables, out)
        return out

    if not check:
        write(proposal)
        return proposal
    from relrank.discovery.verification import verified

    return verified(proposal, write)


def _print_findings(console: Console, proposal: Proposal, tables: Folder) -> None:
    """All findings under their headings."""
    findings = [*proposal.findings, *tables.findings]
    for kind, heading in HEADINGS.items():
        of_kind = [f for f in findings if f.kind == kind]
        if not of_kind:
            continue
        print_plain(console, f"\n{heading}", "bold yellow" if kind in WARNING else "bold")
        width = min(40, max(len(f.where) for f in of_kind))
        for f in of_kind:
            print_plain(console, f"  {f.where:<{width}}  {f.message}")
