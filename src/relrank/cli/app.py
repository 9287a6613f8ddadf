"""The command line: each command parses, calls one function, prints.

Nothing heavy is imported before a command needs it, so ``relrank --help`` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from relrank.errors import InputError, LeakError, did_you_mean, from_os_error, one_of
from relrank.io.atomic import named
from relrank.io.terminal_safe import terminal_safe
from relrank.parallel.environment import cores, recommended_environment
from relrank.parallel.memory import is_out_of_memory
from relrank.parallel.process_group import rank_here

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID
    from rich.status import Status

    from relrank.parallel.process_group import ProcessGroup
    from relrank.runs.fitted_run import FittedRun
    from relrank.serve.service import Service
    from relrank.study.cell import Cell
    from relrank.study.config import StudyConfig
    from relrank.study.engines.engine import Engine
    from relrank.study.prepare import StudyData

LONGEST = 86_400
"""Seconds that a time limit of the service may have."""
PAUSE = 5.0
"""Seconds between two lines of progress where there is no terminal."""
FILES = 64
"""That may be opened beside those that are, at least, before a command begins."""
INTERRUPTED = 130
"""Exit status that the command parser gives for Ctrl-C."""

app = typer.Typer(
    name="relrank",
    help="Which relations in your data make recommendations better? Answered with evidence.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    add_completion=False,
)

StudyFile = Annotated[Path, typer.Argument(help="The study file (TOML).", show_default=False)]
RunFolder = Annotated[
    Path, typer.Argument(help="Folder of a fitted model, or of a study (its winner is taken).", show_default=False)
]


@app.command()
def fetch(
    name: Annotated[str, typer.Argument(help="ml-100k, goodbooks-10k, ml-1m or gowalla.", show_default=False)],
    folder: Annotated[Path, typer.Argument(help="Where it goes.", show_default=False)],
) -> None:
    """Download a public data set, checked and resumable.

    Example: **relrank fetch ml-100k data/ml-100k**
    """
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from relrank.tables import fetch as fetching

    names = get_args(fetching.Name)
    if name not in names:
        found = repr(name) + did_you_mean(name, names)
        raise InputError("unknown data set", where="relrank fetch", expected=one_of(names), found=found)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def progress(description: str, done: int, total: int | None) -> None:
            if description not in tasks:
                tasks[description] = bar.add_task(description, total=total)
            bar.update(tasks[description], completed=done, total=total)

        where = fetching.fetch(cast("fetching.Name", name), folder, progress)
    print(f"{name} is in {where}")


User = Annotated[str | None, typer.Option(help="Key of a user, as in your tables.", show_default=False)]
History = Annotated[
    str | None, typer.Option(help="Item keys with commas: for somebody not in the data.", show_default=False)
]
Visit = Annotated[
    str | None, typer.Option(help="Item keys with commas, of the user's current visit.", show_default=False)
]
With = Annotated[
    list[str] | None,
    typer.Option("--with", help="NAME:VALUE, only items with this of a relation or column.", show_default=False),
]
AnyOf = Annotated[
    list[str] | None,
    typer.Option("--any", help="NAME:VALUE, likewise; one of these at least.", show_default=False),
]
Without = Annotated[list[str] | None, typer.Option(help="NAME:VALUE, only items without it.", show_default=False)]
Exclude = Annotated[list[str] | None, typer.Option(help="Key of an item to leave out.", show_default=False)]


@app.command()
def audit(study: StudyFile) -> None:
    """Check a study's data and split for leaks before anything is trained; say what memory and time its models take.

    Exit code 1 if there is a leak that the study file does not accept.

    Example: **relrank audit studies/ml-100k-loo.toml**
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from relrank.study.config import read_study
    from relrank.study.leaks import is_accepted, leaks_of
    from relrank.study.prepare import prepare

    config = read_study(study)
    one = config.study.model_copy(update={"seeds": config.study.seeds[:1]})
    console = Console()
    with _progress(console) as progress:
        material = prepare(config.model_copy(update={"study": one}), study.parent, progress=progress)
    _print_card(console, config, material)
    table = Table(title=f"audit of {config.name}, split seed {material.split_contexts[0].seed}", title_justify="left")
    for heading in ("", "check", "finding"):
        table.add_column(heading)
    colours = {"leak": "bold red", "warning": "yellow", "ok": "green"}
    accepted = config.study.accept_leaks
    leaks = leaks_of(material.findings)
    for f in material.findings:
        level = f"{f.level}, accepted" if f in leaks and is_accepted(f, accepted) else f.level
        table.add_row(Text(level, colours[f.level]), Text(f.check), Text(f.message))
    console.print(table)
    _print_estimates(console, config, material)
    if not all(is_accepted(f, accepted) for f in leaks):
        raise typer.Exit(1)


@app.command()
def study(
    context: typer.Context,
    study: StudyFile,
    out: Annotated[Path | None, typer.Option(help="The study's folder; runs/NAME by default.")] = None,
    smoke: Annotated[
        bool, typer.Option("--smoke", help="Everything small, in a folder of its own: does it run at all?")
    ] = False,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help='Who runs it: this process, or Ray, on many cores or machines at once (extra "ray").'),
    ] = "local",
    jobs: Annotated[
        int,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            help="Cells at once on this machine, in a process each that gets its share of the cores.",
        ),
    ] = 1,
    address: Annotated[
        str | None,
        typer.Option(
            help='Ray cluster: IP:PORT of its head, or "auto" on one of its machines; $RAY_ADDRESS by default, else '
            "a Ray on this machine alone.",
            show_default=False,
        ),
    ] = None,
    cores: Annotated[
        int | None,
        typer.Option(min=1, help="Of each cell that Ray runs; 1 by default.", show_default=False),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            help='"mlflow" logs the study as a run, every cell as one below it (extra "mlflow").', show_default=False
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(help="Where to: $MLFLOW_TRACKING_URI by default, else sqlite:///mlflow.db.", show_default=False),
    ] = None,
) -> None:
    """Fit every model on every arm, compare user by user, print the verdicts, write the report.

    A leak that the study file does not accept ends the study with exit code 1 before anything is fitted.

    A study that was interrupted goes on where it was; a changed setting runs what it changes.

    Examples: **relrank study studies/planted.toml** · **relrank study studies/planted.toml --track mlflow** ·
    **relrank study studies/planted.toml --jobs 2** · **relrank study studies/planted.toml --engine ray**
    """
    from rich.console import Console

    from relrank.cli.live import LiveStudy, print_result
    from relrank.report import write_report
    from relrank.report.verdict_summary import answer
    from relrank.study.config import read_study
    from relrank.study.leaks import leaks_of, refuse_leaks
    from relrank.study.prepare import prepare
    from relrank.study.prepare import smoke as small
    from relrank.study.run import run_study
    from relrank.study.winner import save_winner

    _check_tracking(track, tracking_uri)
    engines = _engine(engine, jobs, address, cores)
    config = read_study(study)
    console = Console()
    folder = out or Path("runs") / config.name
    if smoke:
        config, folder = small(config), named(folder).with_name(folder.name + "-smoke")
    if folder.is_dir():
        _lock_study_folder(context, folder, config, smoke)  # said before data is read
    with _progress(console) as progress:
        material = prepare(config, study.parent, smoke, progress)
    _print_card(console, config, material)
    refuse_leaks(leaks_of(material.findings), config.study.accept_leaks)  # before a run is opened for tracking
    _lock_study_folder(context, folder, config, smoke)
    tracking = None
    if track is not None:
        from relrank.tracking.tracker import Tracking

        def warn(text: str) -> None:
            console.print(text, style="yellow", markup=False, highlight=False)

        tracking = Tracking(tracking_uri, config, material, study, folder, warn)
    with engines as running, LiveStudy(console, config.titles) as live, ExitStack() as stack:
        callback = live if tracking is None else stack.enter_context(tracking.beside(live))
        result = run_study(config, material, folder, callback, running)
    print_result(console, result, answer(result))
    page = write_report(result, folder / "report.html")
    console.print(f"\nreport   {page}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"tables   {folder}/*.parquet, {folder}/results.json", highlight=False, markup=False, soft_wrap=True
    )
    with console.status("keeping the winner") as status:
        winner = save_winner(config, material, folder, lambda text: status.update(f"fitting the winner: {text}"))
    console.print(f"winner   {winner.note['model']} on {winner.note['arm']}; try", markup=False, soft_wrap=True)
    user = winner.split.users.keys[0]
    command = shlex.join(["relrank", "recommend", str(folder), "--user", str(user), "-k", "10"])
    console.print(f"         {command}", highlight=False, markup=False, soft_wrap=True)
    if tracking is not None:
        logged = tracking.finish(result, page, winner)
        console.print(f"mlflow   {logged}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def tune(
    context: typer.Context,
    study: StudyFile,
    trials: Annotated[int, typer.Option(min=1, help="Configurations per model and arm.")] = 30,
    models: Annotated[str | None, typer.Option(help="Only these, with commas; all by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The study's folder; runs/NAME by default.")] = None,
) -> None:
    """Search hyper-parameters on validation, as many trials for every model and arm, and write a tuned study file.

    The first trial is the defaults; trials of trained models that fall behind are stopped early. A search that was
    interrupted goes on where it was, and more trials are added to those that are there. Needs the extra "tune".

    Example: **relrank tune studies/planted.toml --trials 20 --models ease,relational-ease**
    """
    from rich.console import Console

    from relrank.cli.live_search import LiveSearch, print_searches
    from relrank.study.config import read_study
    from relrank.study.optuna_search import load_optuna, search_study
    from relrank.study.prepare import prepare
    from relrank.study.tuned_config import write_tuned

    load_optuna()
    config = read_study(study)
    console = Console()
    folder = out or Path("runs") / config.name
    one = config.study.model_copy(update={"seeds": config.study.seeds[:1]})
    if folder.is_dir():
        _lock_study_folder(context, folder, config)
    with _progress(console) as progress:
        material = prepare(config.model_copy(update={"study": one}), study.parent, progress=progress)
    _print_card(console, config, material)
    wanted = [name.strip() for name in (models or "").split(",") if name.strip()]
    with LiveSearch(console) as live:
        found = search_study(config, material, folder, trials, wanted, seed, live)
    print_searches(console, found)
    how = f"{trials} trials per model and arm, seed {seed}"
    tuned = write_tuned(config, found, study.parent, folder / "tuned.toml", how)
    command = shlex.join(["relrank", "study", str(tuned)])
    console.print(f"\ntuned    {tuned}; try", highlight=False, markup=False, soft_wrap=True)
    console.print(f"         {command}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def fit(
    study: StudyFile,
    model: Annotated[str, typer.Option(help="A model of relrank.models.MODELS.")] = "relational-ease",
    arm: Annotated[
        str | None,
        typer.Option(help='"all" (default where the model uses relations), "interactions", or names with commas.'),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Split seed; the study's first by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the fitted model.")] = Path("runs/fitted"),
) -> None:
    """Tune and fit one model on the study's data and keep it.

    Under torchrun its processes train a model with gradients together: docs/past-one-machine.md.

    Examples: **relrank fit studies/ml-100k-loo.toml --arm has_genre,directed_by --out runs/two-relations** ·
    **torchrun --standalone --nproc-per-node 2 -m relrank fit studies/ml-1m-liked.toml --model graphsage**
    """
    from rich.console import Console

    from relrank.study.config import read_study
    from relrank.study.fit_run import fit_run
    from relrank.study.grid import cell_with_prerequisites
    from relrank.study.leaks import accepted_leaks, leak_suffix, leaks_of, refuse_leaks
    from relrank.study.prepare import prepare

    with _process_group() as group:
        console = Console(quiet=not group.first)

        def ready() -> tuple[StudyConfig, StudyData, list[Cell]]:
            config = read_study(study)
            seeds = config.study.seeds[:1] if seed is None else (seed,)
            config = config.model_copy(update={"study": config.study.model_copy(update={"seeds": seeds})})
            with _progress(console) as progress:
                material = prepare(config, study.parent, progress=progress)
            cells = cell_with_prerequisites(config, material, model, arm)
            refuse_leaks(leaks_of(material.findings, cells[-1].arm, config.features), config.study.accept_leaks)
            return config, material, cells

        config, material, cells = group.on_all_ranks(ready)
        named = f"{model} on {cells[-1].arm.name}"
        with console.status(named) as status:
            leaks = accepted_leaks(
                leaks_of(material.findings, cells[-1].arm, config.features), config.study.accept_leaks
            )
            on_status = _saying(console, status, named)
            run = fit_run(cells, material.tables, out, on_status, group, leaks)
    console.print(repr(run), markup=False, highlight=False)
    if leaks:
        console.print(leak_suffix(leaks), style="bold red", markup=False, highlight=False)
    console.print(
        f"validation {config.study.metric} {run.note['valid']:.4f}\nkept in {out}", markup=False, soft_wrap=True
    )


@app.command()
def evaluate(
    run: RunFolder,
    k: Annotated[
        list[int] | None,
        typer.Option("-k", min=1, help="Cuts, each with its own -k; 10, 20, 50 by default."),
    ] = None,
    attribute: Annotated[
        str | None, typer.Option(help="Relation of items, e.g. has_genre, for similarity and calibration of lists.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the per-user table (Parquet).")] = None,
) -> None:
    """Rank the full catalogue for every test user and print the metrics.

    Example: **relrank evaluate runs/fitted -k 10 -k 50**
    """
    from rich.console import Console
    from rich.table import Table

    from relrank.evaluation.evaluate import evaluate as measure
    from relrank.runs.fitted_run import load_run
    from relrank.study.leaks import leak_suffix
    from relrank.study.prepare import attributes_of

    fitted = load_run(run)
    features = attributes_of(fitted.graph, attribute, "relrank evaluate --attribute")
    result = measure(fitted.model, fitted.split, tuple(k) if k else (10, 20, 50), features=features)
    note = fitted.note
    table = Table(title=f"{note['model']} on {note['arm']} · {note['protocol']} · test", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result.summary.items():
        table.add_row(name, f"{value:,.0f}" if "users" in name else f"{value:.4f}")
    Console().print(table)
    if accepted := note.get("accepted_leaks"):
        print(leak_suffix(accepted))
    if out is not None:
        result.save(out)
        print(f"per-user table in {out}")


@app.command()
def compare(
    new: Annotated[
        Path,
        typer.Argument(
            help="Folder of a study or a kept model; or a Parquet table of users and metrics, or a folder of them.",
            show_default=False,
        ),
    ],
    baseline: Annotated[Path, typer.Argument(help="Likewise; what it is compared with.", show_default=False)],
    metric: Annotated[str, typer.Option(help="Which column.")] = "ndcg@10",
    margin: Annotated[
        str, typer.Option(help='Smallest difference that matters: "1%" of the baseline, or a number.')
    ] = "1%",
    model: Annotated[
        str | None, typer.Option(help="Of NEW, if a study; its winner by default.", show_default=False)
    ] = None,
    arm: Annotated[
        str | None,
        typer.Option(
            help='Of NEW, such as "all without brand"; the winner\'s, or with --model "all", by default.',
            show_default=False,
        ),
    ] = None,
    baseline_model: Annotated[str | None, typer.Option(help="Of BASELINE, likewise.", show_default=False)] = None,
    baseline_arm: Annotated[str | None, typer.Option(help="Of BASELINE, likewise.", show_default=False)] = None,
) -> None:
    """Say whether a model is superior, equivalent, non-inferior or inferior to another: a gate for CI.

    Paired by user and split; with several splits the interval holds both. Exit code 0 for the first three, 1 for
    inferior, 3 where the data do not decide it. Tables of other libraries will do: a column "user", one with the
    metric of each user, and with several splits one named "split".

    Examples: **relrank compare runs/new runs/live --metric ndcg@10 --margin 1%** ·
    **relrank compare runs/shop runs/shop --model sparse-ease --baseline-model item-knn** ·
    **relrank compare new.parquet live.parquet**
    """
    from relrank.study.model_comparison import EXIT_CODES, compare_models, said
    from relrank.study.per_user_tables import read_per_user_tables

    sides = (
        read_per_user_tables(new, metric, model, arm),
        read_per_user_tables(baseline, metric, baseline_model, baseline_arm),
    )
    found = compare_models(*sides, metric, margin)
    print(said(found, metric))
    if EXIT_CODES[found.answer]:
        raise typer.Exit(EXIT_CODES[found.answer])


@app.command()
def recommend(
    run: RunFolder,
    user: User = None,
    history: History = None,
    visit: Visit = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many.")] = 10,
    with_: With = None,
    any_: AnyOf = None,
    without: Without = None,
    exclude: Exclude = None,
) -> None:
    """Print the best items for a user, for a history of items, or for a user with the items of a visit.

    Each filter may be given several times; its name is a relation of the study, a column of the item table, or a
    column of what relations lead to: **--with brand.country:IT**.

    Examples: **relrank recommend runs/ml-100k-loo --user 196 -k 10** · **relrank recommend runs/ml-100k-loo
    --history 50,181 --with has_genre:Drama --exclude 64**
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from relrank.runs.fallback import user_relations_read
    from relrank.runs.fitted_run import load_run

    keys = _keys_of(user, history, visit, "relrank recommend")
    fitted = load_run(run)
    console = Console()
    if user is not None:
        chosen = fitted.history(user)
        among = _few(chosen["title"].to_list())
        console.print(
            f"user {terminal_safe(user)} chose {len(chosen)} items, among them: {among}",
            markup=False,
            highlight=False,
        )
    elif lacks := user_relations_read(fitted.model):
        print(f"without what {', '.join(lacks)} would say of them: a history alone has none")
    if with_ or any_ or without or exclude or visit is not None:
        answer = _one_served(fitted, k).recommend(
            user=user, history=keys, k=k, **_conditions(with_, any_, without, exclude)
        )
        rows = [(one["place"], one["item"], one["title"], one["score"]) for one in answer["items"]]
        fallback = answer["fallback"] is not None
    else:
        best = fitted.recommend(user, k) if user is not None else fitted.recommend_for(keys or [], k)
        rows = list(best.select("place", "item", "title", "score").iter_rows())
        fallback = bool(best["fallback"].any())
    console.print(f"{fitted.note['model']} on {fitted.note['arm']}", markup=False, highlight=False)
    table = Table()
    for heading in ("", str(fitted.graph.item), "title", "score"):
        table.add_column(heading, justify="left" if heading == "title" else "right")
    if fallback:
        print("nothing is known of them: the most popular items")
    for place, item, title, score in rows:
        table.add_row(str(place), Text(terminal_safe(item)), Text(terminal_safe(title)), f"{score:.3f}")
    console.print(table)


@app.command()
def explain(
    run: RunFolder,
    item: Annotated[str, typer.Argument(help="Key of the item.", show_default=False)],
    user: User = None,
    history: History = None,
    visit: Visit = None,
    n: Annotated[int, typer.Option("-n", min=1, max=20, help="Most reasons.")] = 5,
    with_: With = None,
    any_: AnyOf = None,
    without: Without = None,
    exclude: Exclude = None,
) -> None:
    """Print why an item is recommended: its place in the list that the same options give, and what carries it there.

    Example: **relrank explain runs/ml-100k-loo 64 --user 196**
    """
    from relrank.runs.fitted_run import load_run

    keys = _keys_of(user, history, visit, "relrank explain")
    fitted = load_run(run)
    found = _one_served(fitted, n).explain(
        item, user=user, history=keys, n=n, **_conditions(with_, any_, without, exclude)
    )
    title = found["item"]["title"]
    print(f"{terminal_safe(item if title is None else title)}: place {found['rank']:,}, score {found['score']:.3f}")
    if found["fallback"]:
        print("nothing is known of them: the list is that of the most popular items")
    elif not found["reasons"]:
        print("no single path carries it")
    for reason in found["reasons"]:
        print(f"- {terminal_safe(reason['sentence'])}")


def _keys_of(user: str | None, history: str | None, visit: str | None, command: str) -> list[str] | None:
    """The item keys of a history or a visit; None without either.

    Raises:
        InputError: there are neither or both of user and history, a visit without a user, or no keys.
    """
    if (user is None) == (history is None):
        raise InputError(
            "whom to recommend to",
            where=command,
            expected="either --user or --history",
            found="both" if user else "neither",
        )
    if visit is not None and user is None:
        raise InputError("visit without a user", where=f"{command} --visit", expected="--user", found="--history")
    text = visit if history is None else history
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        what = "visit" if history is None else "history"
        raise InputError(
            f"{what} is empty", where=f"{command} --{what}", expected="item keys with commas", found=repr(text)
        )
    return keys


def _conditions(
    with_: list[str] | None, any_: list[str] | None, without: list[str] | None, exclude: list[str] | None
) -> dict[str, Any]:
    """What lists are narrowed by, as the service takes it."""
    from relrank.serve.filters import parse_conditions

    filters = parse_conditions(with_ or (), any_ or (), without or (), "--")
    return {"filters": filters, "exclude": exclude or ()}


def _one_served(fitted: FittedRun, k: int) -> Service:
    """A service of one run: whatever the catalogue, its lists are exact."""
    from relrank.serve.limits import Limits
    from relrank.serve.served_model import ServedModel
    from relrank.serve.service import Service

    limits, name = Limits(k=max(k, 1000), history=sys.maxsize), str(fitted.note["model"])
    return Service({name: ServedModel(name, fitted, limits, index_from=sys.maxsize)}, limits)


@app.command()
def serve(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of fitted models, or of studies; the first is the default.", show_default=False),
    ],
    host: Annotated[str, typer.Option(help="Name or address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    token_env: Annotated[
        str | None, typer.Option(help="Environment variable with the bearer token that requests must have.")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(help='Name in "Host" that is answered, as "*.example.org" with those below it; any by default.'),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with the models in its memory.")] = 1,
    grace: Annotated[float, typer.Option(help="Seconds between SIGTERM and the end of new connections.")] = 1.0,
    connections: Annotated[int, typer.Option(min=1, help="Open at once, of each process; more get 503.")] = 1000,
    header_timeout: Annotated[float, typer.Option(help="Seconds that a request's headers may take.")] = 10.0,
    body_timeout: Annotated[float, typer.Option(help="Seconds that its body may take.")] = 30.0,
    idle_timeout: Annotated[float, typer.Option(help="Seconds between two requests of a connection.")] = 30.0,
    send_timeout: Annotated[
        float, typer.Option(help="Seconds after which a client that does not read its answers is cut off.")
    ] = 30.0,
    max_history: Annotated[int, typer.Option(min=1, help="Longest history of a question, in items.")] = 2000,
    index_from: Annotated[
        int, typer.Option(min=1, help='Catalogues this large are searched through an index (extra "ann").')
    ] = 200_000,
) -> None:
    """Answer over HTTP: lists, reasons, neighbours, titles; with a page to look at them.

    A run that is replaced on disk, or SIGHUP, is taken over without a pause. SIGTERM drains. Needs the extra "serve".

    Example: **relrank serve runs/ml-100k-loo --port 8000**
    """
    import logging

    from relrank.serve.limits import Limits
    from relrank.serve.options import Options, name_runs
    from relrank.serve.server import serve as answer

    token = None
    if token_env is not None and not (token := os.environ.get(token_env)):
        raise InputError(
            "no token",
            where="relrank serve --token-env",
            found="nothing there",
            expected=f"the token in the environment variable {token_env}",
        )
    times = {"header": header_timeout, "body": body_timeout, "idle": idle_timeout, "send": send_timeout}
    for name, seconds in (*((f"{name}-timeout", seconds) for name, seconds in times.items()), ("grace", grace)):
        if not (0 if name == "grace" else 1e-3) <= seconds <= LONGEST:  # "nan" is no number either
            raise InputError(
                "not a time",
                where=f"relrank serve --{name}",
                found=str(seconds),
                expected=f"seconds, above 0 and at most {LONGEST:,}" + (", or 0" if name == "grace" else ""),
            )
    limits = Limits(
        history=max_history,
        connections=connections,
        header_seconds=header_timeout,
        body_seconds=body_timeout,
        idle_seconds=idle_timeout,
        send_seconds=send_timeout,
    )
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.WARNING)
    options = Options(
        name_runs(runs),
        host,
        port,
        token,
        tuple(allowed_host or ()),
        workers,
        grace,
        index_from=index_from,
        limits=limits,
    )
    answer(options, lambda text: print(terminal_safe(text, lines=True), flush=True))


@app.command()
def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(help="parquet, faiss, onnx or torch.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder of the export.", show_default=False)],
    neighbours: Annotated[
        int, typer.Option(min=1, help="Weights per item, of a model without vectors in Parquet.")
    ] = 100,
) -> None:
    """Write a fitted model for other systems: vectors, item weights, an index, or a program; with your own keys.

    Models of users' and items' vectors go to every format. Closed forms without vectors, such as EASE, go to parquet
    as each item's largest weights, and to onnx and torch as a program from histories to scores.

    Example: **relrank export runs/ml-100k-loo --to onnx --out exports/ml-100k-loo**
    """
    from relrank.runs.export import export as write
    from relrank.runs.fitted_run import load_run

    fitted = load_run(run)
    files = write(fitted, to, out, neighbours)
    print(f"{fitted.note['model']} on {fitted.note['arm']} in {out}: {', '.join(files)}")
    if not json.loads((out / "note.json").read_text(encoding="utf-8"))["exact"]:
        print(f"the {neighbours} largest weights of each item: lists are near the model's, not the same")


@app.command()
def batch(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="The Parquet file.", show_default=False)],
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the lists.")] = 10,
) -> None:
    """Write the best items of all users to a Parquet file: user, place, item, title, score.

    Memory is bounded whatever the number of users. A run that was interrupted goes on where it was; the file appears
    when it is whole.

    Example: **relrank batch runs/ml-100k-loo --out lists.parquet -k 10**
    """
    from rich.console import Console

    from relrank.runs.batch import batch as write
    from relrank.runs.fitted_run import load_run

    fitted = load_run(run)
    with _progress(Console()) as progress:
        n = write(fitted, out, k, progress)
    print(f"{n:,} rows of {len(fitted.split.users):,} users in {out}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished study.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The page; FOLDER/report.html by default.")] = None,
) -> None:
    """Print a finished study's verdicts again and write its report.

    Example: **relrank report runs/planted**
    """
    from rich.console import Console

    from relrank.cli.live import print_result
    from relrank.io.manifest import consistent
    from relrank.report import write_report
    from relrank.report.verdict_summary import answer
    from relrank.study.result import REPAIR_HINT, StudyResult

    result = StudyResult.load(folder)
    console = Console()
    with consistent(folder, REPAIR_HINT):
        print_result(console, result, answer(result))
        page = write_report(result, out or folder / "report.html")
    console.print(f"\nreport   {page}", markup=False, soft_wrap=True)


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each piece of long work, gone when the block ends; nothing is shown where there is none."""
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}
    with ExitStack() as stack:

        def progress(what: str, done: int, total: int) -> None:
            if not tasks:
                stack.enter_context(bar)
            if what not in tasks:
                tasks[what] = bar.add_task(escape(what), total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield progress


def _saying(console: Console, status: Status, of: str) -> Callable[[str], None]:
    """Shows how far a fit is: a line that changes on a terminal, lines some seconds apart in a file or a pipe."""
    last = -PAUSE

    def on_status(text: str) -> None:
        nonlocal last
        if console.is_terminal:
            status.update(f"{of}: {text}")
        elif time.monotonic() - last >= PAUSE:
            last = time.monotonic()
            console.print(f"{of}: {text}", markup=False, highlight=False, soft_wrap=True)

    return on_status


@contextmanager
def _process_group() -> Iterator[ProcessGroup]:
    """The processes that torchrun started; an error of all is said by the first, before any of them ends."""
    from relrank.parallel.process_group import AllRanksError, distributed_group

    try:
        with distributed_group() as group:
            try:
                yield group
            except AllRanksError as error:
                if group.first:
                    print(f"error: {terminal_safe(error, lines=True)}", file=sys.stderr, flush=True)
                group.wait()
                raise
    except AllRanksError:
        raise SystemExit(2) from None


def _engine(engine: str, jobs: int, address: str | None, cores: int | None) -> AbstractContextManager[Engine]:
    """What runs the study's cells; what can be wrong with it is said before data is read."""
    if engine == "local":
        if address is not None or cores is not None:
            option = "--cores" if address is None else "--address"
            raise InputError("option of Ray", where=f"relrank study {option}", expected="--engine ray", found="local")
        if jobs > 1:
            from relrank.study.engines.process_engine import ProcessEngine

            return ProcessEngine(jobs)
        from relrank.study.engines.engine import SequentialEngine

        return nullcontext(SequentialEngine())
    if jobs > 1:
        raise InputError(
            "option of this machine alone",
            where="relrank study --jobs",
            found="--engine ray",
            expected="--engine local; Ray runs as many cells at once as there are cores",
        )
    from relrank.study.engines.ray_engine import RayEngine

    return RayEngine(address or os.environ.get("RAY_ADDRESS"), cores or 1)


def _lock_study_folder(context: typer.Context, folder: Path, config: StudyConfig, is_smoke: bool = False) -> None:
    """Hold a study's folder until the command ends."""
    from relrank.study.folder import study_folder

    context.with_resource(study_folder(folder, config, is_smoke))


def _check_tracking(track: str | None, uri: str | None) -> None:
    """Before data is read and anything is fitted."""
    if track is None and uri is None:
        return
    if track != "mlflow":
        found = "--tracking-uri alone" if track is None else repr(track)
        raise InputError("unknown tracking", where="relrank study --track", expected="mlflow", found=found)
    from relrank.tracking.mlflow_store import load_mlflow

    load_mlflow()


def _few(titles: list[str], n: int = 3) -> str:
    return " · ".join(terminal_safe(t) for t in titles[:n]) + (" · …" if len(titles) > n else "")


def _print_card(console: Any, config: StudyConfig, material: StudyData) -> None:
    split_context = material.split_contexts[0]
    console.print(split_context.split.protocol, split_context.split.fingerprint[:12], style="bold", highlight=False)
    console.print(split_context.graph.described(config.titles), highlight=False, markup=False)
    for notice in (*material.tables.notices, *split_context.split.notices, *split_context.graph.notices):
        console.print(f"  note: {notice}", style="dim", highlight=False, markup=False)


def _print_estimates(console: Console, config: StudyConfig, material: StudyData) -> None:
    """Memory and time of every model's largest arm, and which do not fit."""
    from rich.text import Text

    from relrank.cli.live_progress import plain_table
    from relrank.parallel.memory import gb
    from relrank.study.grid import grid
    from relrank.study.memory_limits import estimate_of, exceeding_memory, memory_per_cell, notices

    cells = [
        c for c in grid(config, material) if c.split_context is material.split_contexts[0] and c.arm.rewired is None
    ]
    available = memory_per_cell(config.study)
    table = plain_table(f"estimates, {gb(available)} GB are available")
    for heading in ("model", "GB", "minutes a fit, at least"):
        table.add_column(heading, justify="left" if heading == "model" else "right")
    for name in dict.fromkeys(c.model.name for c in cells):
        found = [estimate_of(c) for c in cells if c.model.name == name]
        most, minutes = max(e.bytes for e in found), max(e.seconds for e in found) / 60
        large = Text(gb(most), "bold red" if most > available else "")
        table.add_row(Text(name), large, "< 1" if minutes < 1 else f"{minutes:,.0f}")
    console.print(table)
    for notice in notices(exceeding_memory(cells, available)):
        console.print(f"· {notice.message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def main() -> None:
    """The console script: one clear message instead of a stack trace for whatever the user can mend."""
    _set_thread_environment()
    rank = rank_here()
    try:
        if rank is not None and sys.argv[1:2] != ["fit"]:
            raise InputError(
                "command of one process", where="torchrun", expected="relrank fit", found=shlex.join(sys.argv[1:])
            )
        _refuse_few_files()
        app()
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, SystemExit) and end.code == INTERRUPTED:
            print("stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise
    except BaseException as error:  # what libraries in Rust raise where they panic is no Exception
        told = error if isinstance(error, InputError) else from_os_error(error)
        if told is None and is_out_of_memory(error):
            told = InputError(
                "memory ended",
                where=shlex.join(["relrank", *sys.argv[1:]]),
                found=" ".join(str(error).split()),
                expected="more memory, or less work: fewer items, a core (docs/study-file.md), a smaller model",
            )
        if told is None:
            raise
        said = terminal_safe(told, lines=True)
        print(f"error: {said}" if rank is None else f"error in process {rank}: {said}", file=sys.stderr)
        raise SystemExit(1 if isinstance(told, LeakError) else 2) from None


def _refuse_few_files() -> None:
    """Libraries in Rust panic, with a message of their own, where they may open none; that is said before.

    Raises:
        InputError: fewer than ``FILES`` may be opened.
    """
    opened: list[int] = []
    try:
        while len(opened) < FILES:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise InputError(
            "too few files may be open at once",
            where="this process",
            found=f"{len(opened)}",
            expected=f"at least {FILES} more than there are: ulimit -n {4 * FILES}",
        ) from None
    finally:
        for one in opened:
            os.close(one)


def _set_thread_environment() -> None:
    """Settings that numerical libraries read once, when they are loaded; whoever set them already is heard.

    The processes that torchrun starts on one machine share its cores: its own default of one thread each leaves most
    of them idle, and numba, which it does not know, takes all of them.
    """
    if (here := int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) > 1:
        share = str(max(1, cores() // here))
        if os.environ.get("OMP_NUM_THREADS", "1") == "1":
            os.environ["OMP_NUM_THREADS"] = share
        # OpenMP takes a number for each level of nesting: "4,2"
        os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"].partition(",")[0].strip())
    for name, value in recommended_environment().items():
        os.environ.setdefault(name, value)


if __name__ == "__main__":
    main()
