"""The command about many studies: atlas."""

from __future__ import annotations

import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relrank.cli import completion
from relrank.cli.progress import print_plain
from relrank.cli.studies import Jobs, make_engine
from relrank.cli.study_data import prepare_data
from relrank.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from relrank.study.atlas.claims import JudgedClaim
    from relrank.study.atlas.config import Atlas, AtlasStudy, Claim
    from relrank.study.atlas.run import Outcome
    from relrank.study.result import StudyResult


def atlas(
    file: Annotated[Path, typer.Argument(help="The atlas file (TOML).", autocompletion=completion.study_files)],
    out: Annotated[Path, typer.Option(help="Folder of the studies' folders.")] = Path("runs/atlas"),
    page: Annotated[Path, typer.Option(help="The page (Markdown); its pictures are written beside it.")] = Path(
        "docs/atlas.md"
    ),
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a study to run, several times for several; all by default.",
            autocompletion=completion.of_atlas,
        ),
    ] = None,
    jobs: Jobs = 1,
    pages_only: Annotated[
        bool, typer.Option("--pages-only", help="Run nothing: write the page from the stored studies.")
    ] = False,
) -> None:
    """Run the studies of many data sets and write one page of what relations are worth across them.

    Cells that have finished are not run again, so that an interrupted study resumes and a finished one takes as long
    as reading its data. A study that fails does not end the others: the page names it, and the exit code is 1.

    Examples: **relrank atlas studies/atlas.toml** · **relrank atlas studies/atlas.toml --only planted --jobs 2** ·
    **relrank atlas studies/atlas.toml --pages-only**
    """
    from rich.console import Console

    from relrank.report.atlas.page import write_atlas
    from relrank.study.atlas.config import read_atlas
    from relrank.study.atlas.run import selected, stored_outcome

    of_file = read_atlas(file)
    to_run = selected(of_file, only or ())
    console = Console()
    outcomes = {study.name: stored_outcome(study, out) for study in of_file.studies}
    if not pages_only:
        outcomes |= _run(console, of_file, to_run, out, jobs)
    claims = write_atlas(of_file, [outcomes[study.name] for study in of_file.studies], page)
    _print_summary(console, of_file, outcomes, claims, page)
    if any(one.error is not None for one in outcomes.values()):
        raise typer.Exit(1)


def _run(console: Console, of_file: Atlas, pending: list[AtlasStudy], out: Path, jobs: int) -> dict[str, Outcome]:
    """Run studies one after the other; outcomes by name."""
    from relrank.study.atlas.run import attempt, seconds_left

    def run(study: AtlasStudy, folder: Path) -> StudyResult:
        claims = [claim for claim in of_file.config.claims if claim.study == study.name]
        return _run_study(console, study, folder, jobs, claims)

    outcomes: dict[str, Outcome] = {}
    began = time.monotonic()
    for at, study in enumerate(pending):
        left = seconds_left(pending[:at], time.monotonic() - began, pending[at:])
        estimate = "" if left is None else f", {_in_words(left)} left for all"
        print_plain(console, f"\nstudy {at + 1} of {len(pending)}: {study.name}{estimate}", "bold")
        started = time.monotonic()
        outcome = outcomes[study.name] = attempt(study, out, run)
        took = _in_words(time.monotonic() - started)
        if outcome.error is None:
            print_plain(console, f"{study.name} finished, {took}")
        else:
            print_plain(console, f"{study.name} failed, {took}: {outcome.problem}", "red")
            if not isinstance(outcome.error, InputError):
                print_plain(console, "".join(traceback.format_exception(outcome.error)), "dim")
    return outcomes


def _run_study(console: Console, study: AtlasStudy, folder: Path, jobs: int, claims: list[Claim]) -> StudyResult:
    """One study, as ``relrank study`` runs it, with its report but no fitted winner; then what claims need."""
    from relrank.cli.live import LiveStudy
    from relrank.report import write_report
    from relrank.study.atlas.claims import measure_used
    from relrank.study.atlas.run import Outcome, one_line
    from relrank.study.run import run_study

    with make_engine("local", jobs, None, None) as engine:
        data = prepare_data(console, study.config, study.path.parent)
        with LiveStudy(console, study.config.titles) as live:
            result = run_study(study.config, data, folder, live, engine)
    write_report(result, folder / "report.html")
    try:
        measure_used(claims, Outcome(study, folder, result), data, lambda text: print_plain(console, text, "dim"))
    except Exception as error:  # must not cost the study, which has finished
        print_plain(console, f"relations that the search leaves out could not be measured: {one_line(error)}", "red")
    return result


def _print_summary(
    console: Console, of_file: Atlas, outcomes: dict[str, Outcome], claims: list[JudgedClaim], page: Path
) -> None:
    """What a reader of the page will find, in a few lines."""
    done = sum(one.result is not None for one in outcomes.values())
    print_plain(console, f"\n{done} of {len(of_file.studies)} studies are on the page")
    for one in outcomes.values():
        if one.result is None:
            print_plain(console, f"  {one.study.name} is not: {one.problem}", "yellow")
    for claim in claims:
        print_plain(console, f"  {claim.answer}: {claim.claim.text} ({claim.claim.source})")
    print_plain(console, f"page     {page}")


def _in_words(seconds: float) -> str:
    """A time in the unit that fits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
