"""Commands about studies: study, tune, compare, report."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from relrank.cli import completion
from relrank.cli.options import StudyFile, StudyFolder
from relrank.cli.progress import print_plain
from relrank.cli.study_data import prepare_data, print_card, with_seeds
from relrank.errors import InputError
from relrank.io.atomic import named
from relrank.io.terminal_safe import command_line

if TYPE_CHECKING:
    from rich.console import Console

    from relrank.study.config import StudyConfig
    from relrank.study.engines.engine import Engine
    from relrank.study.prepare import StudyData
    from relrank.study.result import StudyResult
    from relrank.tables.audit import Finding
    from relrank.tracking.tracker import Tracking

Smoke = Annotated[
    bool, typer.Option("--smoke", help="Test run: everything small, in a folder of its own (NAME-smoke).")
]
Fast = Annotated[
    bool,
    typer.Option(
        "--fast", help="First split and closed forms only; later, without it, the study goes on from there."
    ),
]
Thorough = Annotated[
    bool,
    typer.Option("--thorough", help="More splits, or initializations of trained models, than the study file says."),
]
Watch = Annotated[
    bool,
    typer.Option(
        "--watch", help="While the study runs, write report.html with provisional results; it reloads itself."
    ),
]
EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option(help='What runs the study: this machine, or Ray on many cores or machines (extra "ray").'),
]
Jobs = Annotated[
    int,
    typer.Option(
        "--jobs", "-j", min=1, help="Cells at once on this machine, each in a process with its share of the cores."
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        help='Ray cluster: IP:PORT of its head, or "auto" on one of its machines; $RAY_ADDRESS by default, else '
        "a new Ray on this machine.",
    ),
]
Cores = Annotated[int | None, typer.Option(min=1, help="Cores per cell under Ray; 1 by default.")]
Track = Annotated[
    str | None,
    typer.Option(
        help='"mlflow" logs the study as a run and each cell as a nested run (extra "mlflow").', show_default=False
    ),
]
TrackingUri = Annotated[
    str | None,
    typer.Option(help="MLflow store; $MLFLOW_TRACKING_URI by default, else sqlite:///mlflow.db."),
]
OfBaseline = Annotated[str | None, typer.Option(help="Of BASELINE, likewise.")]


def study(
    context: typer.Context,
    study: StudyFile,
    out: StudyFolder = None,
    smoke: Smoke = False,
    fast: Fast = False,
    thorough: Thorough = False,
    watch: Watch = False,
    engine: EngineName = "local",
    jobs: Jobs = 1,
    address: Address = None,
    cores: Cores = None,
    track: Track = None,
    tracking_uri: TrackingUri = None,
) -> None:
    """Fit every model on every arm, compare them user by user, print the verdicts and write the report.

    A leak that the study file does not accept ends the study with exit code 1 before anything is fitted.

    An interrupted study resumes; after a changed setting only what it affects runs again. While it runs, it says what
    its finished cells show so far.

    Examples: **relrank study studies/planted.toml** · **relrank study studies/planted.toml --track mlflow** ·
    **relrank study studies/planted.toml --jobs 2** · **relrank study studies/planted.toml --engine ray**
    """
    from rich.console import Console

    from relrank.cli.live import LiveStudy
    from relrank.study.budget import refuse_smaller
    from relrank.study.config import read_study
    from relrank.study.leaks import leaks_of, refuse_leaks
    from relrank.study.prepare import smoke as shrink
    from relrank.study.run import run_study

    _check_tracking(track, tracking_uri)
    engine_context = make_engine(engine, jobs, address, cores)
    config, left_out = _with_budget(read_study(study), fast, thorough)
    console = Console()
    folder = out or Path("runs") / config.name
    if smoke:
        config, folder = shrink(config), named(folder).with_name(folder.name + "-smoke")
    if folder.is_dir():
        _lock_study_folder(context, folder, config, smoke)  # a locked folder is reported before data are read
        if fast:
            refuse_smaller(config, folder)
    with ExitStack() as stack:
        # processes load their libraries while data are read; Ray starts once the data are known to be right
        running = stack.enter_context(engine_context) if engine == "local" else None
        data = prepare_data(console, config, study.parent, smoke)
        data = replace(data, findings=(*data.findings, *left_out))
        print_card(console, config, data)
        refuse_leaks(leaks_of(data.findings), config.study.accept_leaks)  # before a tracking run is opened
        _lock_study_folder(context, folder, config, smoke)
        tracking = None if track is None else _tracking(console, tracking_uri, config, data, study, folder)
        running = running or stack.enter_context(engine_context)
        live = stack.enter_context(LiveStudy(console, config.titles, folder / "report.html" if watch else None))
        callback = live if tracking is None else stack.enter_context(tracking.wrap(live))
        result = run_study(config, data, folder, callback, running)
    _show_and_save(console, config, data, folder, result, tracking)


def _with_budget(config: StudyConfig, fast: bool, thorough: bool) -> tuple[StudyConfig, list[Finding]]:
    """The study at another budget, and what that leaves out."""
    from relrank.study import budget

    if fast and thorough:
        raise InputError(
            "two budgets", where="relrank study", expected="--fast or --thorough", found="--fast and --thorough"
        )
    if thorough:
        return budget.thorough(config), []
    if not fast:
        return config, []
    config, left_out = budget.fast(config)
    return config, [] if left_out is None else [left_out]


def _show_and_save(
    console: Console,
    config: StudyConfig,
    data: StudyData,
    folder: Path,
    result: StudyResult,
    tracking: Tracking | None,
) -> None:
    """Print the result, write the report, fit and save the winner, and complete the tracking run."""
    from relrank.cli.live import print_result
    from relrank.report import write_report
    from relrank.report.verdict_summary import answer
    from relrank.study.winner import save_winner

    print_result(console, result, answer(result))
    page = write_report(result, folder / "report.html")
    print_plain(console, f"\nreport   {page}")
    print_plain(console, f"tables   {folder}/*.parquet, {folder}/results.json")
    with console.status("saving the winner") as status:
        winner = save_winner(config, data, folder, lambda text: status.update(f"fitting the winner: {text}"))
    print_plain(console, f"winner   {winner.note['model']} on {winner.note['arm']}; try")
    user = winner.split.users.keys[0]
    command = command_line(["relrank", "recommend", str(folder), "--user", str(user), "-k", "10"])
    print_plain(console, f"         {command}")
    if tracking is not None:
        print_plain(console, f"mlflow   {tracking.finish(result, page, winner)}")


def tune(
    context: typer.Context,
    study: StudyFile,
    trials: Annotated[int, typer.Option(min=1, help="Configurations per model and arm, at most.")] = 30,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Trials that fit into this time, the same number for each; at most --trials."),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(help="Models, separated by commas; all by default.", autocompletion=completion.models),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the search.")] = 0,
    out: StudyFolder = None,
) -> None:
    """Search hyper-parameters on validation data with equal trials per model and arm, and write a tuned study file.

    The first trial uses the defaults; unpromising trials of trained models are stopped early. An interrupted search
    resumes, and a higher number of trials extends it. With --minutes the first trial of each is timed, and the number
    that fits is said before the search goes on. Needs the extra "tune".

    Examples: **relrank tune studies/planted.toml --trials 20 --models ease,relational-ease** ·
    **relrank tune studies/planted.toml --minutes 30**
    """
    from rich.console import Console

    from relrank.cli.live_search import LiveSearch, print_searches
    from relrank.study.config import read_study
    from relrank.study.optuna_search import load_optuna, search_study
    from relrank.study.tuned_config import write_tuned

    load_optuna()
    config = read_study(study)
    console = Console()
    folder = out or Path("runs") / config.name
    if folder.is_dir():
        _lock_study_folder(context, folder, config)
    data = prepare_data(console, with_seeds(config, config.study.seeds[:1]), study.parent)
    print_card(console, config, data)
    names = [name.strip() for name in (models or "").split(",") if name.strip()]
    with LiveSearch(console) as live:
        seconds = None if minutes is None else 60 * minutes
        searches = search_study(config, data, folder, trials, names, seed, live, seconds)
    print_searches(console, searches)
    trials = min(len(search.trials) for search in searches)
    source = f"{trials} trials per model and arm, seed {seed}"
    tuned = write_tuned(config, searches, study.parent, folder / "tuned.toml", source)
    print_plain(console, f"\ntuned    {tuned}; try")
    print_plain(console, f"         {command_line(['relrank', 'study', str(tuned)])}")


def compare(
    new: Annotated[
        Path,
        typer.Argument(
            help="Folder of a study or a fitted model; or a Parquet table of metrics per user, or a folder of them.",
            autocompletion=completion.run_folders,
        ),
    ],
    baseline: Annotated[
        Path, typer.Argument(help="Likewise; what NEW is compared with.", autocompletion=completion.run_folders)
    ],
    metric: Annotated[str, typer.Option(help="Column of the metric.")] = "ndcg@10",
    margin: Annotated[
        str, typer.Option(help='Smallest difference that matters: "1%" of the baseline, or a number.')
    ] = "1%",
    model: Annotated[str | None, typer.Option(help="Of NEW, if a study; its winner by default.")] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            help='Of NEW, such as "all without brand"; the winner\'s, or with --model "all", by default.',
        ),
    ] = None,
    baseline_model: OfBaseline = None,
    baseline_arm: OfBaseline = None,
) -> None:
    """Test whether a model is superior, equivalent, non-inferior or inferior to another: a gate for CI.

    Paired by user and split; with several splits the interval covers both. Exit code 0 for the first three, 1 for
    inferior, 3 if undecided. Tables of other libraries work too: a column "user", one with the metric of each user,
    and with several splits one named "split".

    Examples: **relrank compare runs/new runs/live --metric ndcg@10 --margin 1%** ·
    **relrank compare runs/shop runs/shop --model sparse-ease --baseline-model item-knn** ·
    **relrank compare new.parquet live.parquet**
    """
    from relrank.study.model_comparison import EXIT_CODES, compare_models, comparison_summary
    from relrank.study.per_user_tables import read_per_user_tables

    sides = (
        read_per_user_tables(new, metric, model, arm),
        read_per_user_tables(baseline, metric, baseline_model, baseline_arm),
    )
    comparison = compare_models(*sides, metric, margin)
    print(comparison_summary(comparison, metric))
    if EXIT_CODES[comparison.answer]:
        raise typer.Exit(EXIT_CODES[comparison.answer])


def report(
    folder: Annotated[
        Path, typer.Argument(help="Folder of a finished study.", autocompletion=completion.run_folders)
    ],
    other: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of a second study: the page then compares the two.",
            show_default=False,
            autocompletion=completion.run_folders,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The page; FOLDER/report.html by default, for two studies FOLDER-and-OTHER.html."),
    ] = None,
) -> None:
    """Print the verdicts of a finished study again and write its report, or one page that compares two studies.

    Examples: **relrank report runs/planted** · **relrank report runs/shop runs/shop-2026**
    """
    from rich.console import Console

    from relrank.cli.live import print_comparison, print_result
    from relrank.io.manifest import consistent
    from relrank.report import answer, write_comparison, write_report
    from relrank.study.result import REPAIR_HINT, StudyResult

    result = StudyResult.load(folder)
    console = Console()
    if other is None:
        with consistent(folder, REPAIR_HINT):
            print_result(console, result, answer(result))
            page = write_report(result, out or folder / "report.html")
    else:
        second = StudyResult.load(other)
        names = _different_names(named(folder), named(other))
        print_comparison(console, result, second, names)
        default = named(folder).with_name(f"{named(folder).name}-and-{named(other).name}.html")
        page = write_comparison(result, second, out or default, names)
    print_plain(console, f"\nreport   {page}")


def _different_names(a: Path, b: Path) -> tuple[str, str]:
    """Names of two folders, with their parents if the folders have the same name."""
    return (a.name, b.name) if a.name != b.name else ("/".join(a.parts[-2:]), "/".join(b.parts[-2:]))


def make_engine(engine: str, jobs: int, address: str | None, cores: int | None) -> AbstractContextManager[Engine]:
    """The engine that runs the study's cells.

    Raises:
        InputError: options contradict each other, or Ray is missing or cannot be reached.
    """
    if engine == "local":
        if address is not None or cores is not None:
            option = "--cores" if address is None else "--address"
            raise InputError(
                "option of the Ray engine", where=f"relrank study {option}", expected="--engine ray", found="local"
            )
        if jobs > 1:
            from relrank.study.engines.process_engine import ProcessEngine

            return ProcessEngine(jobs)
        from relrank.study.engines.engine import SequentialEngine

        return nullcontext(SequentialEngine())
    if jobs > 1:
        raise InputError(
            "option of the local engine",
            where="relrank study --jobs",
            found="--engine ray",
            expected="--engine local; Ray runs as many cells at once as there are cores",
        )
    from relrank.study.engines.ray_engine import RayEngine

    return RayEngine(address or os.environ.get("RAY_ADDRESS"), cores or 1)


def _lock_study_folder(context: typer.Context, folder: Path, config: StudyConfig, is_smoke: bool = False) -> None:
    """Lock a study's folder until the command ends."""
    from relrank.study.folder import study_folder

    context.with_resource(study_folder(folder, config, is_smoke))


def _check_tracking(track: str | None, uri: str | None) -> None:
    """Check the tracking options before data are read.

    Raises:
        InputError: the options contradict each other, or MLflow is not installed.
    """
    if track is None and uri is None:
        return
    if track != "mlflow":
        found = "--tracking-uri alone" if track is None else repr(track)
        raise InputError("unknown tracking", where="relrank study --track", expected="mlflow", found=found)
    from relrank.tracking.mlflow_store import load_mlflow

    load_mlflow()


def _tracking(
    console: Console, uri: str | None, config: StudyConfig, data: StudyData, file: Path, folder: Path
) -> Tracking:
    from relrank.tracking.tracker import Tracking

    def warn(text: str) -> None:
        console.print(text, style="yellow", markup=False, highlight=False)

    return Tracking(uri, config, data, file, folder, warn)
