"""Commands about fitted models: fit, evaluate, recommend, explain, export, batch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relrank.cli import completion
from relrank.cli.options import AnyOf, Exclude, History, RunFolder, StudyFile, User, Visit, With, Without
from relrank.cli.progress import print_plain, progress_bars, status_callback
from relrank.cli.study_data import prepare_data, with_seeds
from relrank.errors import InputError
from relrank.io.terminal_safe import terminal_safe

if TYPE_CHECKING:
    from relrank.parallel.process_group import ProcessGroup
    from relrank.runs.fitted_run import FittedRun
    from relrank.serve.service import Service
    from relrank.study.cell import Cell
    from relrank.study.config import StudyConfig
    from relrank.study.prepare import StudyData

MAX_TITLES = 3
"""Titles of a user's history that ``recommend`` prints."""


def fit(
    study: StudyFile,
    model: Annotated[
        str, typer.Option(help="A model of relrank.models.MODELS.", autocompletion=completion.model)
    ] = "relational-ease",
    arm: Annotated[
        str | None,
        typer.Option(
            help='"all" (default if the model uses relations), "interactions", or relations separated by commas.',
            autocompletion=completion.arms,
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Split seed; the study's first by default.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the fitted model.")] = Path("runs/fitted"),
) -> None:
    """Tune and fit one model on the study's data and save it.

    Under torchrun several processes train a model with gradients together: docs/past-one-machine.md.

    Examples: **relrank fit studies/ml-100k-loo.toml --arm has_genre,directed_by --out runs/two-relations** ·
    **torchrun --standalone --nproc-per-node 2 -m relrank fit studies/ml-1m-liked.toml --model graphsage**
    """
    from rich.console import Console

    from relrank.study.config import read_study
    from relrank.study.fit_run import fit_run
    from relrank.study.grid import cell_with_prerequisites
    from relrank.study.leaks import accepted_leaks, leak_suffix, leaks_of, refuse_leaks

    with _process_group() as group:
        console = Console(quiet=not group.first)

        def prepare_cells() -> tuple[StudyConfig, StudyData, list[Cell]]:
            config = read_study(study)
            config = with_seeds(config, config.study.seeds[:1] if seed is None else (seed,))
            data = prepare_data(console, config, study.parent)
            cells = cell_with_prerequisites(config, data, model, arm)
            refuse_leaks(leaks_of(data.findings, cells[-1].arm, config.features), config.study.accept_leaks)
            return config, data, cells

        config, data, cells = group.on_all_ranks(prepare_cells)
        title = f"{model} on {cells[-1].arm.name}"
        with console.status(title) as status:
            leaks = accepted_leaks(leaks_of(data.findings, cells[-1].arm, config.features), config.study.accept_leaks)
            on_status = status_callback(console, status, title)
            run = fit_run(cells, data.tables, out, on_status, group, leaks)
    console.print(repr(run), markup=False, highlight=False)
    if leaks:
        console.print(leak_suffix(leaks), style="bold red", markup=False, highlight=False)
    print_plain(console, f"validation {config.study.metric} {run.note['valid']:.4f}\nsaved in {out}")


def evaluate(
    run: RunFolder,
    k: Annotated[
        list[int] | None, typer.Option("-k", min=1, help="Cutoff, once for each; 10, 20, 50 by default.")
    ] = None,
    attribute: Annotated[
        str | None, typer.Option(help="Relation of items, e.g. has_genre, for intra-list similarity and calibration.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the per-user table (Parquet).")] = None,
) -> None:
    """Rank the full catalogue for every test user and print the metrics.

    Example: **relrank evaluate runs/fitted -k 10 -k 50**
    """
    from rich.console import Console
    from rich.table import Table

    from relrank.evaluation.evaluate import evaluate as evaluate_model
    from relrank.runs.fitted_run import load_run
    from relrank.study.leaks import leak_suffix
    from relrank.study.prepare import attributes_of

    fitted = load_run(run)
    features = attributes_of(fitted.graph, attribute, "relrank evaluate --attribute")
    result = evaluate_model(fitted.model, fitted.split, tuple(k) if k else (10, 20, 50), features=features)
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


def recommend(
    run: RunFolder,
    user: User = None,
    history: History = None,
    visit: Visit = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the list.")] = 10,
    with_: With = None,
    any_: AnyOf = None,
    without: Without = None,
    exclude: Exclude = None,
) -> None:
    """Print the best items for a user, for a history of items, or for a user with the items of a visit.

    A filter can be repeated; its name is a relation of the study, a column of the item table, or a column of a table
    that relations lead to: **--with brand.country:IT**.

    Examples: **relrank recommend runs/ml-100k-loo --user 196 -k 10** · **relrank recommend runs/ml-100k-loo
    --history 50,181 --with has_genre:Drama --exclude 64**
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from relrank.runs.fallback import user_relations_read
    from relrank.runs.fitted_run import load_run

    keys = _item_keys(user, history, visit, "relrank recommend")
    fitted = load_run(run)
    console = Console()
    if user is not None:
        titles = [terminal_safe(t) for t in fitted.history(user)["title"]]
        few = " · ".join(titles[:MAX_TITLES]) + (" · …" if len(titles) > MAX_TITLES else "")
        message = f"user {terminal_safe(user)} chose {len(titles)} items, among them: {few}"
        console.print(message, markup=False, highlight=False)
    elif missing := user_relations_read(fitted.model):
        print(f"a history has no links of {', '.join(missing)}: the list is computed without them")
    if with_ or any_ or without or exclude or visit is not None:
        answer = _service(fitted, k).recommend(
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
        print("the model knows nothing about this user: these are the most popular items")
    for place, item, title, score in rows:
        table.add_row(str(place), Text(terminal_safe(item)), Text(terminal_safe(title)), f"{score:.3f}")
    console.print(table)


def explain(
    run: RunFolder,
    item: Annotated[str, typer.Argument(help="Key of the item.")],
    user: User = None,
    history: History = None,
    visit: Visit = None,
    n: Annotated[int, typer.Option("-n", min=1, max=20, help="Maximum number of reasons.")] = 5,
    with_: With = None,
    any_: AnyOf = None,
    without: Without = None,
    exclude: Exclude = None,
) -> None:
    """Print why an item is recommended: its rank in the list that the same options give, and what puts it there.

    Example: **relrank explain runs/ml-100k-loo 64 --user 196**
    """
    from relrank.runs.fitted_run import load_run

    keys = _item_keys(user, history, visit, "relrank explain")
    explained = _service(load_run(run), n).explain(
        item, user=user, history=keys, n=n, **_conditions(with_, any_, without, exclude)
    )
    title = terminal_safe(item if explained["item"]["title"] is None else explained["item"]["title"])
    print(f"{title}: rank {explained['rank']:,}, score {explained['score']:.3f}")
    if explained["fallback"]:
        print("the model knows nothing about this user: the list has the most popular items")
    elif not explained["reasons"]:
        print("no single path explains it")
    for reason in explained["reasons"]:
        print(f"- {terminal_safe(reason['sentence'])}")


def export(
    run: RunFolder,
    to: Annotated[str, typer.Option(help="parquet, faiss, onnx or torch.")],
    out: Annotated[Path, typer.Option(help="Folder of the export.")],
    neighbours: Annotated[
        int, typer.Option(min=1, help="Weights per item in Parquet, for models without vectors.")
    ] = 100,
) -> None:
    """Write a fitted model for other systems, with your own keys: vectors, item weights, an index, or a program.

    Models with user and item vectors can be written in every format. Closed forms without vectors, such as EASE, can
    be written as parquet (each item's largest weights), and as onnx or torch (a program from histories to scores).

    Example: **relrank export runs/ml-100k-loo --to onnx --out exports/ml-100k-loo**
    """
    from relrank.runs.export import export as export_run
    from relrank.runs.fitted_run import load_run

    fitted = load_run(run)
    files = export_run(fitted, to, out, neighbours)
    print(f"{fitted.note['model']} on {fitted.note['arm']} in {out}: {', '.join(files)}")
    if not json.loads((out / "note.json").read_text(encoding="utf-8"))["exact"]:
        print(f"only the {neighbours} largest weights of each item: lists approximate the model's")


def batch(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="The Parquet file.")],
    k: Annotated[int, typer.Option("-k", min=1, help="Length of the lists.")] = 10,
) -> None:
    """Write the best items of all users to a Parquet file: user, place, item, title, score.

    Memory does not grow with the number of users. An interrupted run resumes; the file appears when it is complete.

    Example: **relrank batch runs/ml-100k-loo --out lists.parquet -k 10**
    """
    from rich.console import Console

    from relrank.runs.batch import batch as write_lists
    from relrank.runs.fitted_run import load_run

    fitted = load_run(run)
    with progress_bars(Console()) as progress:
        n = write_lists(fitted, out, k, progress)
    print(f"{n:,} rows of {len(fitted.split.users):,} users in {out}")


def _item_keys(user: str | None, history: str | None, visit: str | None, command: str) -> list[str] | None:
    """The item keys of a history or a visit; None without either.

    Raises:
        InputError: neither or both of user and history, a visit without a user, or an empty list.
    """
    if (user is None) == (history is None):
        found = "both" if user else "neither"
        raise InputError("no single user", where=command, expected="either --user or --history", found=found)
    if visit is not None and user is None:
        raise InputError("visit without a user", where=f"{command} --visit", expected="--user", found="--history")
    option, text = ("visit", visit) if history is None else ("history", history)
    if text is None:
        return None
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        expected = "item keys separated by commas"
        raise InputError(f"{option} is empty", where=f"{command} --{option}", expected=expected, found=repr(text))
    return keys


def _conditions(
    with_: list[str] | None, any_: list[str] | None, without: list[str] | None, exclude: list[str] | None
) -> dict[str, Any]:
    """The filter options as arguments of the service."""
    from relrank.serve.candidate_filters import parse_conditions

    filters = parse_conditions(with_ or (), any_ or (), without or (), "--")
    return {"filters": filters, "exclude": exclude or ()}


def _service(fitted: FittedRun, k: int) -> Service:
    """A service of one run, whose lists are exact for catalogues of any size."""
    from relrank.serve.limits import Limits
    from relrank.serve.served_model import ServedModel
    from relrank.serve.service import Service

    limits, name = Limits(k=max(k, 1000), history=sys.maxsize), str(fitted.note["model"])
    return Service({name: ServedModel(name, fitted, limits, index_from=sys.maxsize)}, limits)


@contextmanager
def _process_group() -> Iterator[ProcessGroup]:
    """The processes that torchrun started; rank 0 prints an error of all ranks before any process ends."""
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
