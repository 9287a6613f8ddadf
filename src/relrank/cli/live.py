"""Terminal output of a study: progress while it runs, and the printed result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import polars as pl
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from relrank.cli.live_progress import LiveProgress, plain_table
from relrank.cli.progress import print_plain
from relrank.evaluation.evaluate import HISTORY_LENGTH
from relrank.graph.relation import NO_TITLES, Titles
from relrank.report import write_report
from relrank.report.decision import SMOKE_RUN, WEAK_JUDGE, caveats
from relrank.report.study_comparison import compare_studies
from relrank.report.verdict_summary import decision_sentence
from relrank.study.cell import Cell, cell_title
from relrank.study.cell_store import CellResult
from relrank.study.metric_effects import contradicting_effects, in_words
from relrank.study.number_format import decimals_of, signed
from relrank.study.progress import StudyProgress
from relrank.study.result import StudyResult, arm_titles_of, titles_of
from relrank.study.verdicts import NOT_READ, agrees

COLOURS = {
    "helps": "bold green",
    "interchangeable": "cyan",
    "hurts": "bold red",
    "negligible": "dim",
    "undecided": "yellow",
    NOT_READ: "dim",
}
SHOWN = {"held": "beside others", "alone": "alone", "placebo": "beyond shuffled"}
"""Headings of a relation's effects."""
MAX_ROWS = 12
"""Rows of the live leaderboard."""
MAX_CONTRADICTIONS = 2
"""Printed contradictions between a verdict and another metric."""
REFRESH = 5
"""Seconds after which a watched page reloads itself."""
MAX_RUNNING = 8
"""Running cells that are shown."""
BEYOND = {
    "coverage": ("cover", ".3f", "share of the catalogue in any list"),
    "gini": ("Gini", ".3f", "0 if all items are recommended equally often"),
    "novelty": ("novelty", ".2f", "mean self-information in bits"),
    "popularity lift": ("lift", "+.2f", "popularity relative to the user's history, 0 if equal"),
    "intra-list similarity": ("alike", ".3f", "mean cosine within a list"),
    "miscalibration": ("miscal.", ".3f", "divergence from the user's attribute distribution, 0 if equal"),
}
"""Heading, format and meaning of beyond-accuracy metrics, by the name before the ``@``."""


class LiveStudy(LiveProgress):
    """A study callback that shows the best arms so far, running cells and time left; in a file, a line per cell.

    Args:
        console: output.
        titles: titles of relations.
        page: where provisional results are written as a page that reloads itself; None for no page.
    """

    def __init__(self, console: Console, titles: Titles = NO_TITLES, page: Path | None = None) -> None:
        super().__init__(console)
        self._titles, self._page = titles, page
        self._answer = ""
        self._provisional: StudyResult | None = None
        self._scores: dict[tuple[str, str], list[float]] = {}
        self._metric = ""
        self._progress = StudyProgress()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if error is not None and self._page is not None and self._provisional is not None:
            write_report(self._provisional, self._page)  # reloads no more

    def begin(self, expected: Mapping[str, int]) -> None:
        """Show the expected number of cells; the progress bar shows it in a terminal."""
        self._progress.begin(expected)
        if not self._console.is_terminal:
            print_plain(self._console, f"about {self._progress.total} cells")

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Add planned cells, of which some were finished by an earlier run."""
        self._progress.plan(cells, finished)
        self._metric = cells[0].study.metric if cells else self._metric
        if finished:
            self._console.print(f"{finished} of {len(cells)} cells were finished earlier and are reused")
        self._update_bar()

    def start(self, cell: Cell) -> None:
        """A cell begins."""
        self._progress.start(cell)
        self._show()

    def on_status(self, cell: Cell, message: str) -> None:
        """Show a running cell's status, at most ten times a second."""
        self._progress.on_status(cell, message)
        if time.monotonic() - self._shown >= 0.1:
            self._show()

    def worker_lost(self, cell: Cell, why: str) -> None:
        """The worker of a running cell was lost; the cell restarts."""
        self._progress.worker_lost(cell, why)
        print_plain(self._console, f"{cell_title(cell, self._titles)} restarts, its worker was lost: {why}")

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell has a result, computed now (``fresh``) or earlier."""
        seconds, score = self._progress.seconds_running(cell), result.evaluation.summary[self._metric]
        self._scores.setdefault((result.model, cell.arm.titled(self._titles)), []).append(score)
        self._progress.done(cell, result, fresh)
        if fresh and not self._console.is_terminal:
            place = f"[{self._progress.n_done}/{self._progress.total}] {cell_title(cell, self._titles)}"
            figures = f"{self._metric} {score:.{decimals_of(score)}f}, {seconds:.1f} s"
            print_plain(self._console, f"{place}: {figures}")
        self._update_bar()
        if fresh:
            self._show()

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Cells are left out; planned ones no longer count."""
        self._progress.skipped(cells, why)
        self._update_bar()
        print_plain(self._console, why, "yellow")

    def provisional(self, assemble: Callable[[], StudyResult]) -> None:
        """Show what the finished cells say so far: in the display, as a line of a file, and on the page."""
        self._provisional = result = assemble()
        progress = result.card["progress"]
        cells = f"{progress['cells_done']} of about {progress['cells_total']} cells"
        text = f"provisional, {cells}: {decision_sentence(result)}"
        if not self._console.is_terminal:
            print_plain(self._console, text)
        if self._page is not None:
            write_report(result, self._page, refresh=REFRESH)
            if not self._answer:
                print_plain(self._console, f"watch    {self._page.absolute().as_uri()}")
        self._answer = text

    def _update_bar(self) -> None:
        self._bar.update(self._task, completed=self._progress.n_done, total=self._progress.total)

    def _show(self) -> None:
        self._shown = time.monotonic()
        cells = self._progress.running.values()
        running = [f"{cell_title(one.cell, self._titles)}  {one.message}" for one in cells]
        several = len(running) > 1
        description = f"{len(running)} cells at once" if several else "".join(running)
        self._bar.update(self._task, description=escape(description), left=str(self._progress.time_left or ""))
        if self._console.is_terminal:
            lines = [Text(line, overflow="ellipsis", no_wrap=True) for line in running[:MAX_RUNNING] if several]
            so_far = [Text(self._answer, "bold")] if self._answer else []
            self._live.update(Group(self._table(), *so_far, *lines, self._bar), refresh=True)

    def _table(self) -> Table:
        table = plain_table(f"best so far, test {self._metric}")
        table.add_column("model")
        table.add_column("arm")
        table.add_column("seeds", justify="right")
        table.add_column(self._metric, justify="right")
        means = sorted(((sum(s) / len(s), len(s), *key) for key, s in self._scores.items()), reverse=True)
        for mean, n, model, arm in means[:MAX_ROWS]:
            table.add_row(model, Text(arm), str(n), f"{mean:.{decimals_of(means[0][0])}f}")
        return table


def print_result(console: Console, result: StudyResult, answer: str) -> None:
    """Print the plan, warnings, leaderboard and verdicts of a study.

    Args:
        console: output.
        result: a finished study.
        answer: its summary in a sentence or two.
    """
    _print_plan(console, result, answer)
    _print_warnings(console, result)
    _print_leaderboard(console, result)
    _print_beyond(console, result)
    for gain in result.effects.filter(pl.col("kind") == "gain").iter_rows(named=True):
        interval = _interval(gain["low"], gain["high"], result.decimals, "+")
        adds = signed(gain["mean"], result.decimals)
        console.print(f"all relations together, {gain['model']}: {adds} ({interval})", highlight=False)
    _print_versus(console, result)
    _print_lengths(console, result)
    console.print()
    _print_verdicts(console, result)
    _print_contradictions(console, result, titles_of(result.card))
    if not result.verdicts.is_empty():
        console.print(
            "What a relation adds. Beside others: all − all without it, nothing else changed · alone: "
            "interactions + it − interactions · beyond shuffled: all − all with its links shuffled",
            style="dim",
            highlight=False,
        )
    if caveat := result.card.get("interval_caveat"):
        _print(console, caveat)


def _print(console: Console, text: str, style: str = "") -> None:
    """Print text without markup or highlighting, wrapped at the console's width."""
    console.print(text, style=style, highlight=False, markup=False)


def print_comparison(console: Console, a: StudyResult, b: StudyResult, names: tuple[str, str]) -> None:
    """Print the answers of two studies, what cannot be compared, and the verdicts that differ."""
    view = compare_studies(a, b, names)
    for name, sentence in zip(names, view["answers"], strict=True):
        console.print()
        _print(console, name, "dim")
        _print(console, sentence, "bold")
    console.print()
    for limit in view["limits"]:
        _print(console, limit, "bold yellow")
    table = plain_table(f"{len(view['changed'])} of {len(view['shared'])} verdicts that both have differ")
    for heading in ("relation", *names):
        table.add_column(heading, overflow="fold")
    for row in view["changed"]:
        words = (
            Text("build" if built else word, COLOURS["helps"] if built else COLOURS.get(word, ""))
            for word, (_, _, built) in zip((row["verdict_a"], row["verdict_b"]), row["gains"], strict=True)
        )
        table.add_row(Text(row["title"]), *words)
    console.print(table)


def _print_warnings(console: Console, result: StudyResult) -> None:
    """The judge, and what limits the evidence, as on the page."""
    card = result.card
    for judge in card.get("model_strength", []):
        weak = judge["stronger"] or judge["better_setting"] is not None
        _print(console, judge["sentence"], "bold yellow" if weak else "")
    for caveat in caveats(result):
        if caveat.title in (WEAK_JUDGE, SMOKE_RUN):
            continue  # printed above, with those of the other models; the answer begins with it
        style = "bold red" if caveat.level == "leak" else "bold yellow"
        _print(console, f"{caveat.title}: {caveat.text}", style)
    if features := card.get("features"):
        known = (f"{f['name']} ({f['kind']} of {f['node']}, known for {f['known']:.0%})" for f in features)
        _print(console, f"features: {', '.join(known)}")


def _print_leaderboard(console: Console, result: StudyResult) -> None:
    metric, digits, titles = result.card["metric"], result.decimals, arm_titles_of(result.card)
    splits = "" if result.card.get("interval_caveat") else " and splits"
    table = plain_table(f"leaderboard, test {metric}, 95 % intervals over users{splits}")
    for heading in ("model", "arm", metric, "interval", ""):
        table.add_column(heading, justify="right" if heading == metric else "left", no_wrap=heading != "arm")
    rows = result.leaderboard.filter(~pl.col("arm").str.ends_with("rewired"))
    for row in rows.iter_rows(named=True):
        table.add_row(
            row["model"],
            Text(titles.get(row["arm"], row["arm"])),
            f"{row['mean']:.{digits}f}",
            _interval(row["low"], row["high"], digits),
            "< EASE" if row["below_ease"] else "",
        )
    console.print(table)


def _print_verdicts(console: Console, result: StudyResult) -> None:
    """A table per model, and the sentences behind the verdicts."""
    titles = titles_of(result.card)
    for (model,), verdicts in result.verdicts.group_by("model", maintain_order=True):
        has_truth = verdicts["true_verdict"].null_count() < len(verdicts)
        table = plain_table(f"verdicts, {model}" + (" (✓ is what was planted)" if has_truth else ""))
        for heading in ("relation", "verdict", *SHOWN.values()):
            width = 15 if heading == "verdict" else None  # fits "interchangeable"
            wrap = heading in ("relation", "verdict")
            table.add_column(heading, no_wrap=not wrap, overflow="fold", min_width=width)
        for row in verdicts.iter_rows(named=True):
            instead = ", ".join(titles.get(name, name) for name in (row["interchangeable_with"] or "").split(", "))
            verdict = row["verdict"] + (f" with {instead}" if instead else "")
            if row["true_verdict"]:
                right = agrees(row["verdict"], row["true_verdict"])
                verdict += " ✓" if right else f" (truth: {row['true_verdict']})"
            table.add_row(
                Text(titles.get(row["relation"], row["relation"])),
                Text(verdict, COLOURS[row["verdict"]]),
                *(_effect(row, kind, result.decimals) for kind in SHOWN),
            )
        console.print(table)
        for sentence in verdicts["sentence"]:
            _print(console, f"· {sentence}")


def _print_contradictions(console: Console, result: StudyResult, titles: Titles) -> None:
    """Print metrics that contradict a verdict in one line; the report has all of them."""
    metric, digits = result.card["metric"], result.decimals
    rows = contradicting_effects(result.verdicts, result.metric_effects)
    clauses = [in_words(row, metric, titles, digits) for row in rows]
    if clauses:
        hidden = len(clauses) - MAX_CONTRADICTIONS
        more = f"; {hidden} more in the report" if hidden > 0 else ""
        _print(console, f"other metrics, not corrected: {'; '.join(clauses[:MAX_CONTRADICTIONS])}{more}", "yellow")


def _print_plan(console: Console, result: StudyResult, answer: str) -> None:
    """Print the answer, and the order in which to build relations with what each adds."""
    console.print()
    console.print(Text(answer, "bold"), highlight=False)
    plan = result.card.get("plan")
    if plan is None or not plan["steps"]:
        return
    titles, digits = titles_of(result.card), result.decimals
    table = plain_table(f"in this order, {plan['model']}, test {result.card['metric']}")
    for heading in ("", "build", "adds", "so far", "of all", "the rest", "rows"):
        is_name = heading == "build"
        table.add_column(heading, justify="left" if is_name else "right", no_wrap=not is_name, overflow="fold")
    for at, step in enumerate(plan["steps"], 1):
        others = ", ".join(titles.get(name, name) for name in step["alternatives"])
        name = titles.get(step["relation"], step["relation"]) + (f" (or {others})" if others else "")
        table.add_row(
            str(at),
            Text(name, "" if at <= plan["build"] else "dim"),
            _effect(step, "adds", digits),
            signed(step["total"], digits),
            "" if step["share"] is None else f"{step['share']:.0%}",
            _effect(step, "left", digits),
            f"{step['rows']:,}",
        )
    console.print(table)
    text = f"The order is chosen on validation data; figures are from the test data. The path ends: {plan['ends']}."
    if plan["enough"] is not None:
        text += f" After step {plan['enough']} the rest adds less than the margin of {plan['margin']:.{digits}f}."
    _print(console, text, "dim")


def _print_beyond(console: Console, result: StudyResult) -> None:
    """Print beyond-accuracy metrics of the arms "all" and "interactions"."""
    columns = {name.partition("@")[0]: name for name in result.leaderboard.columns}
    shown = [stem for stem in BEYOND if stem in columns]
    rows = result.leaderboard.filter(pl.col("arm").is_in(["all", "interactions"]))
    if not shown or rows.is_empty():
        return
    table = plain_table(f"beyond accuracy, lists of {columns[shown[0]].partition('@')[2]}")
    table.add_column("model", overflow="fold")
    table.add_column("arm", no_wrap=True)
    for stem in shown:
        table.add_column(BEYOND[stem][0], justify="right", no_wrap=True)
    for row in rows.iter_rows(named=True):
        values = [(row[columns[stem]], BEYOND[stem][1]) for stem in shown]
        cells = ("–" if value is None else f"{value:{spec}}" for value, spec in values)
        table.add_row(Text(row["model"]), Text(row["arm"]), *cells)
    console.print(table)
    _print(console, " · ".join(f"{BEYOND[stem][0]}: {BEYOND[stem][2]}" for stem in shown), "dim")


def _print_versus(console: Console, result: StudyResult) -> None:
    """Print differences between the other models and the study's rival, overall and in what relations add."""
    rows = result.effects.filter(pl.col("kind").is_in(["versus", "versus gain"]))
    if rows.is_empty():
        return
    rival, digits = rows["other"][0], result.decimals
    gains = "versus gain" in rows["kind"]
    question = f"does it use relations better than {rival}?" if gains else f"is it better than {rival}?"
    table = plain_table(f"{question} {result.card['metric']}, paired by user")
    for heading in ("model", "difference", "p", *(("gain − gain", "p") if gains else ())):
        table.add_column(heading, no_wrap=True)
    for model in rows["model"].unique(maintain_order=True):
        cells: list[Text | str] = [Text(model)]
        for kind in ("versus", "versus gain")[: 1 + gains]:
            effects = rows.filter((pl.col("model") == model) & (pl.col("kind") == kind)).to_dicts()
            if effects:
                interval = _interval(effects[0]["low"], effects[0]["high"], digits, "+")
                cells += [f"{signed(effects[0]['mean'], digits)}\n{interval}", f"{effects[0]['p_holm']:.3f}"]
            else:
                cells += ["not run", ""]
        table.add_row(*cells)
    console.print(table)
    text = f"difference: each with all relations (or none if it has no such arm), minus {rival}"
    if gains:
        text += f" · gain − gain: what relations add to the model, minus what they add to {rival}"
    _print(console, text, "dim")


def _print_lengths(console: Console, result: StudyResult) -> None:
    """Print the metric by history length for the arms "all" and "interactions", if there are several groups."""
    by_length = pl.col("group") == HISTORY_LENGTH
    rows = result.group_metrics.filter(by_length, pl.col("arm").is_in(["all", "interactions"]))
    labels = rows.sort("order").unique("label", keep="first", maintain_order=True)
    if len(labels) < 2:
        return
    metric, digits = result.card["metric"], result.decimals
    table = plain_table(f"by history length, test {metric} (users)")
    for heading in ("model", "arm", *(f"{r['label']} ({r['n_users']:,})" for r in labels.iter_rows(named=True))):
        table.add_column(heading, justify="left" if heading in ("model", "arm") else "right", no_wrap=True)
    means = {tuple(key): value for *key, value in rows.select("model", "arm", "label", metric).iter_rows()}
    for model, arm in result.leaderboard.select("model", "arm").iter_rows():
        cells = [means.get((model, arm, label)) for label in labels["label"]]
        if any(mean is not None for mean in cells):
            table.add_row(Text(model), Text(arm), *("" if mean is None else f"{mean:.{digits}f}" for mean in cells))
    console.print(table)


def _effect(row: dict[str, Any], kind: str, decimals: int) -> str:
    if row.get(kind) is None:
        return "not run"
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    if row[kind] == low == high == 0:
        return "0, the same"
    return f"{signed(row[kind], decimals)}\n{_interval(low, high, decimals, '+')}"


def _interval(low: float, high: float, decimals: int, sign: str = "") -> str:
    return "…".join(f"{value:{sign}.{decimals}f}".replace("0.", ".", 1) for value in (low, high))
