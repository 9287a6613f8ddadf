"""What a person sees while a study runs, and when it is done."""

from __future__ import annotations

import time
from typing import Any

import polars as pl
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from relrank.cli.live_progress import LiveProgress, plain_table
from relrank.evaluation.evaluate import HISTORY_LENGTH
from relrank.graph.relation import NO_TITLES, Titles
from relrank.study.cell import Cell
from relrank.study.cell_store import CellResult
from relrank.study.figures import decimals_of, signed
from relrank.study.leaks import leak_suffix
from relrank.study.metric_effects import contradicting_effects, in_words
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
ROWS = 12
MOST_CONTRARY = 2
"""Contradictions between a verdict and another metric that are told."""
AT_ONCE = 8
"""Running cells that are shown."""
BEYOND = {
    "coverage": ("cover", ".3f", "share of the catalogue in any list"),
    "gini": ("Gini", ".3f", "0 if all items are shown equally often"),
    "novelty": ("novelty", ".2f", "bits of surprise"),
    "popularity lift": ("lift", "+.2f", "popularity over that of the user's own items, 0 if as popular"),
    "intra-list similarity": ("alike", ".3f", "cosine inside a list"),
    "miscalibration": ("miscal.", ".3f", "divergence from the user's own mix, 0 if the same"),
}
"""Heading, format and meaning of what is measured of lists, by the name before the ``@``."""


class LiveStudy(LiveProgress):
    """A watcher that shows the best arms so far, the running cells and the time left; on a file, a line per cell.

    Args:
        console: to show it on.
        titles: of relations, read instead of their names.
    """

    def __init__(self, console: Console, titles: Titles = NO_TITLES) -> None:
        super().__init__(console)
        self._titles = titles
        self._scores: dict[tuple[str, str], list[float]] = {}
        self._metric = ""
        self._to_come: set[str] = set()
        self._running: dict[str, tuple[float, str]] = {}
        """When each running cell began, and what it said last."""

    def plan(self, cells: list[Cell], finished: int) -> None:
        """Cells to come, so many of them finished earlier."""
        for cell in cells:
            self._waiting[cell.model.name] = self._waiting.get(cell.model.name, 0) + 1
            self._to_come.add(self._named(cell))
        self._planned += len(cells)
        self._metric = cells[0].study.metric if cells else self._metric
        if finished:
            self._console.print(f"{finished} of {len(cells)} cells were finished earlier and are kept")
        self._bar.update(self._task, total=self._planned)

    def start(self, cell: Cell) -> None:
        """A cell begins."""
        self._running[self._named(cell)] = time.monotonic(), ""
        self._show()

    def on_status(self, cell: Cell, message: str) -> None:
        """What a running cell is doing; shown at most ten times a second."""
        name = self._named(cell)
        began, _ = self._running.get(name, (time.monotonic(), ""))  # another arm may read alike
        self._running[name] = began, message
        if time.monotonic() - self._shown >= 0.1:
            self._show()

    def worker_lost(self, cell: Cell, why: str) -> None:
        """The worker of a running cell is gone."""
        name = self._named(cell)
        self._running.pop(name, None)
        self._console.print(
            f"{name} begins again, its worker is gone: {why}", highlight=False, markup=False, soft_wrap=True
        )

    def done(self, cell: Cell, result: CellResult, fresh: bool) -> None:
        """A cell is there."""
        name, score = self._named(cell), result.evaluation.summary[self._metric]
        self._scores.setdefault((result.model, cell.arm.titled(self._titles)), []).append(score)
        self._finished += 1
        self._to_come.discard(name)
        self._waiting[result.model] -= 1
        if fresh:
            began, _ = self._running.pop(name, (time.monotonic(), ""))
            seconds = time.monotonic() - began
            self._seconds.setdefault(result.model, []).append(seconds)
            if not self._console.is_terminal:
                figures = f"{self._metric} {score:.{decimals_of(score)}f}, {seconds:.1f} s"
                self._console.print(
                    f"[{self._finished}/{self._planned}] {name}: {figures}",
                    highlight=False,
                    markup=False,
                    soft_wrap=True,
                )
        self._bar.update(self._task, completed=self._finished)
        if fresh:
            self._show()

    def skipped(self, cells: list[Cell], why: str) -> None:
        """Cells are left out; those that were planned are not waited for any more."""
        for cell in cells:
            name = self._named(cell)
            self._running.pop(name, None)
            if name in self._to_come:
                self._to_come.discard(name)
                self._waiting[cell.model.name] -= 1
                self._planned -= 1
        self._bar.update(self._task, total=self._planned)
        self._console.print(why, style="yellow", highlight=False, markup=False, soft_wrap=True)

    def _named(self, cell: Cell) -> str:
        return f"{cell.model.name} · {cell.arm.titled(self._titles)} · seed {cell.split_context.seed}"

    def _show(self) -> None:
        self._shown = time.monotonic()
        running = [f"{name}  {message}" for name, (_, message) in self._running.items()]
        what = f"{len(running)} cells at once" if len(running) > 1 else "".join(running)
        self._bar.update(self._task, description=escape(what), left=self._left(len(running)))
        if self._console.is_terminal:
            beside = [Text(line, overflow="ellipsis", no_wrap=True) for line in running[:AT_ONCE] if len(running) > 1]
            self._live.update(Group(self._table(), *beside, self._bar), refresh=True)

    def _table(self) -> Table:
        table = plain_table(f"best so far, test {self._metric}")
        table.add_column("model")
        table.add_column("arm")
        table.add_column("seeds", justify="right")
        table.add_column(self._metric, justify="right")
        means = sorted(((sum(s) / len(s), len(s), *key) for key, s in self._scores.items()), reverse=True)
        for mean, n, model, arm in means[:ROWS]:
            table.add_row(model, Text(arm), str(n), f"{mean:.{decimals_of(means[0][0])}f}")
        return table


def print_result(console: Console, result: StudyResult, answer: str) -> None:
    """What to build, who judges, leaderboard, verdicts, and the sentences behind them.

    Args:
        console: to print to.
        result: a finished study.
        answer: what it comes to in a sentence or two.
    """
    metric, digits = result.card["metric"], result.decimals
    titles, arm_titles = titles_of(result.card), arm_titles_of(result.card)
    _print_plan(console, result, answer)
    for judge in result.card.get("model_strength", []):
        weak = judge["stronger"] or judge["better_setting"] is not None
        console.print(judge["sentence"], style="bold yellow" if weak else "", highlight=False, markup=False)
    if result.card["smoke"]:
        console.print("smoke run: a few users, a few trials; the figures mean nothing", style="bold yellow")
    for leak in result.card.get("accepted_leaks", []):
        line = f"{leak_suffix([leak], titles)} ({leak['check']}: {leak['message']}); no figure below is evidence"
        console.print(line, style="bold red", highlight=False, markup=False)
    for look in result.card.get("suspicious_gains", []):
        console.print(look, style="bold yellow", highlight=False, markup=False)
    for skipped in result.card.get("skipped", []):
        console.print(skipped, style="yellow", highlight=False, markup=False)
    if result.card.get("features"):
        console.print(f"features: {_features(result.card['features'])}", highlight=False, markup=False)
    interval_caveat = result.card.get("interval_caveat")
    board = plain_table(
        f"leaderboard, test {metric}, 95 % intervals over users{'' if interval_caveat else ' and splits'}"
    )
    for heading in ("model", "arm", metric, "interval", ""):
        board.add_column(heading, justify="right" if heading == metric else "left", no_wrap=heading != "arm")
    rows = result.leaderboard.filter(~pl.col("arm").str.ends_with("rewired"))
    for row in rows.iter_rows(named=True):
        mark = "< EASE" if row["below_ease"] else ""
        arm = Text(arm_titles.get(row["arm"], row["arm"]))
        board.add_row(
            row["model"], arm, f"{row['mean']:.{digits}f}", _interval(row["low"], row["high"], digits), mark
        )
    console.print(board)
    _print_beyond(console, result)
    for gain in result.effects.filter(pl.col("kind") == "gain").iter_rows(named=True):
        spread = _interval(gain["low"], gain["high"], digits, "+")
        adds = signed(gain["mean"], digits)
        console.print(f"all relations together, {gain['model']}: {adds} ({spread})", highlight=False)
    _print_versus(console, result)
    _print_lengths(console, result)
    console.print()
    for (model,), said in result.verdicts.group_by("model", maintain_order=True):
        truth = said["true_verdict"].null_count() < len(said)
        table = plain_table(f"verdicts, {model}" + (" (✓ is what was planted)" if truth else ""))
        headings = ["relation", "verdict", *SHOWN.values()]
        for heading in headings:
            least = 15 if heading == "verdict" else None  # "interchangeable" in one piece
            table.add_column(heading, no_wrap=heading in headings[2:], overflow="fold", min_width=least)
        for row in said.iter_rows(named=True):
            instead = ", ".join(titles.get(name, name) for name in (row["interchangeable_with"] or "").split(", "))
            verdict = row["verdict"] + (f" with {instead}" if instead else "")
            effects = [_effect(row, kind, digits) for kind in SHOWN]
            if truth and row["true_verdict"]:
                right = agrees(row["verdict"], row["true_verdict"])
                verdict += " ✓" if right else f" (truth: {row['true_verdict']})"
            cells: list[Text | str] = [
                Text(titles.get(row["relation"], row["relation"])),
                Text(verdict, COLOURS[row["verdict"]]),
                *effects,
            ]
            table.add_row(*cells)
        console.print(table)
        for sentence in said["sentence"]:
            console.print(f"· {sentence}", highlight=False, markup=False)
    _print_contrary(console, result, titles)
    if not result.verdicts.is_empty():
        console.print(
            "What a relation adds. Beside others: all − all without it, nothing else changed · alone: "
            "interactions + it − interactions · beyond shuffled: all − all with its links shuffled",
            style="dim",
            highlight=False,
        )
    if interval_caveat:
        console.print(interval_caveat, highlight=False, markup=False)


def _print_contrary(console: Console, result: StudyResult, titles: Titles) -> None:
    """One line on metrics that say the opposite of a verdict, where there are any; the page has them all."""
    metric, digits = result.card["metric"], result.decimals
    rows = contradicting_effects(result.verdicts, result.metric_effects)
    told = [in_words(row, metric, titles, digits) for row in rows]
    if told:
        more = f"; {len(told) - MOST_CONTRARY} more on the page" if len(told) > MOST_CONTRARY else ""
        line = f"other metrics, not corrected: {'; '.join(told[:MOST_CONTRARY])}{more}"
        console.print(line, style="yellow", highlight=False, markup=False)


def _print_plan(console: Console, result: StudyResult, answer: str) -> None:
    """What to build first, and what the rest still adds."""
    console.print()
    console.print(Text(answer, "bold"), highlight=False)
    plan = result.card.get("plan")
    if plan is None or not plan["steps"]:
        return
    titles, digits = titles_of(result.card), result.decimals
    table = plain_table(f"in this order, {plan['model']}, test {result.card['metric']}")
    for heading in ("", "build", "adds", "so far", "of all", "the rest", "rows"):
        named = heading == "build"
        table.add_column(heading, justify="left" if named else "right", no_wrap=not named, overflow="fold")
    for at, step in enumerate(plan["steps"], 1):
        others = ", ".join(titles.get(name, name) for name in step["alternatives"])
        name = titles.get(step["relation"], step["relation"]) + (f" (or {others})" if others else "")
        share = "" if step["share"] is None else f"{step['share']:.0%}"
        table.add_row(
            str(at),
            Text(name, "" if at <= plan["build"] else "dim"),
            _effect(step, "adds", digits),
            signed(step["total"], digits),
            share,
            _effect(step, "left", digits),
            f"{step['rows']:,}",
        )
    console.print(table)
    said = f"The order is chosen on validation, figures are of test. The path ends there: {plan['ends']}."
    if plan["enough"] is not None:
        said += f" After step {plan['enough']} the rest adds less than the margin of {plan['margin']:.{digits}f}."
    console.print(said, style="dim", highlight=False, markup=False)


def _print_beyond(console: Console, result: StudyResult) -> None:
    """What the lists are like, of the arms all and interactions."""
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
        cells = ("–" if value is None else f"{value:{places}}" for value, places in values)
        table.add_row(Text(row["model"]), Text(row["arm"]), *cells)
    console.print(table)
    said = " · ".join(f"{BEYOND[stem][0]}: {BEYOND[stem][2]}" for stem in shown)
    console.print(said, style="dim", highlight=False, markup=False)


def _print_versus(console: Console, result: StudyResult) -> None:
    """Whether other models are better than the study's rival, and whether they use relations better."""
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
            of_kind = rows.filter((pl.col("model") == model) & (pl.col("kind") == kind))
            row = of_kind.row(0, named=True) if len(of_kind) else None
            cells += (
                ["not run", ""]
                if row is None
                else [
                    f"{signed(row['mean'], digits)}\n{_interval(row['low'], row['high'], digits, '+')}",
                    f"{row['p_holm']:.3f}",
                ]
            )
        table.add_row(*cells)
    console.print(table)
    said = f"difference: with all relations, or none where it has no such arm, minus {rival} likewise"
    if gains:
        said += f" · gain − gain: what relations add to it, minus what they add to {rival}"
    console.print(said, style="dim", highlight=False, markup=False)


def _print_lengths(console: Console, result: StudyResult) -> None:
    """The study's metric by history length, where histories differ, of the arms all and interactions."""
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


def _features(features: list[dict[str, Any]]) -> str:
    return ", ".join(f"{f['name']} ({f['kind']} of {f['node']}, known of {f['known']:.0%})" for f in features)


def _effect(row: dict[str, Any], kind: str, decimals: int) -> str:
    if row.get(kind) is None:
        return "not run"
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    if row[kind] == low == high == 0:
        return "0, the same"
    return f"{signed(row[kind], decimals)}\n{_interval(low, high, decimals, '+')}"


def _interval(low: float, high: float, decimals: int, sign: str = "") -> str:
    return "…".join(f"{value:{sign}.{decimals}f}".replace("0.", ".", 1) for value in (low, high))
