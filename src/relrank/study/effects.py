"""From finished cells to the tables of a study: leaderboard, effects, verdicts, curves, trials, notes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from math import nan
from typing import Any

import numpy as np
import polars as pl

from relrank.evaluation.comparison import Effect, Starts, compare, holm, mean_interval
from relrank.graph.relation import NO_TITLES, Titles
from relrank.graph.sequences import LENGTH_GROUPS
from relrank.study import arms as arm_of
from relrank.study import verdicts as rules
from relrank.study.arms import NO_HOPS, Arm, Hops
from relrank.study.cells import CellResult
from relrank.study.verdicts import Evidence

KINDS = ("drop", "alone", "placebo")
"""Effects that are the difference of two arms of one relation; "held" is told by "all" itself."""

EFFECT_SCHEMA = {
    "model": pl.String, "relation": pl.String, "kind": pl.String, "other": pl.String, "arm_a": pl.String,
    "arm_b": pl.String, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64, "p": pl.Float64,
    "p_holm": pl.Float64, "effect_size": pl.Float64, "error": pl.Float64, "freedom": pl.Float64,
    "visible": pl.Float64, "n_users": pl.Int64, "n_seeds": pl.Int64,
}  # fmt: skip
VERDICT_SCHEMA = {
    "model": pl.String, "relation": pl.String, "verdict": pl.String, "sentence": pl.String,
    "instead": pl.String, "p": pl.Float64,
    **{f"{kind}{end}": pl.Float64 for kind in ("held", "drop", "alone", "placebo") for end in ("", "_low", "_high")},
    "for_whom": pl.String, "unused": pl.Float64,
    "visible": pl.Float64, "margin": pl.Float64, "true_verdict": pl.String,
}  # fmt: skip
CURVE_SCHEMA = {
    "model": pl.String, "arm": pl.String, "seed": pl.Int64, "epoch": pl.Int64, "loss": pl.Float64,
    "metric": pl.Float64,
}  # fmt: skip
TUNING_SCHEMA = {
    "model": pl.String, "arm": pl.String, "seed": pl.Int64, "trial": pl.Int64, "metric": pl.Float64,
    "config": pl.String, "chosen": pl.Boolean,
}  # fmt: skip
NOTE_SCHEMA = {
    "model": pl.String, "arm": pl.String, "seed": pl.Int64, "note": pl.String, "key": pl.String,
    "value": pl.Float64, "sd": pl.Float64, "count": pl.Int64,
}  # fmt: skip


class CellResults:
    """The finished cells of a study by model, graph and seed.

    Args:
        cells: arm and result of each.
        metric: the study's metric.
        hops: by relation those that lead to it, where any do.
        titles: of relations, for sentences.
        draws_test: whether another seed is another split.
    """

    def __init__(
        self,
        cells: Iterable[tuple[Arm, CellResult]],
        metric: str,
        hops: Hops = NO_HOPS,
        titles: Titles = NO_TITLES,
        draws_test: bool = True,
    ) -> None:
        self.metric, self.hops, self.titles, self.draws_test = metric, hops, titles, draws_test
        self._arms: dict[str, Arm] = {}
        self._cells: dict[tuple[str, str], list[CellResult]] = {}
        self._names: dict[tuple[str, frozenset[str], str | None], str] = {}
        for arm, cell in cells:
            self._cells.setdefault((cell.model, arm.name), []).append(cell)
            self._names[cell.model, frozenset(arm.relations), arm.rewired] = arm.name
            self._arms[arm.name] = arm
        for group in self._cells.values():
            group.sort(key=lambda c: c.seed)

    @cached_property
    def decimals(self) -> int:
        """Of figures of the metric."""
        tested = [cell.evaluation.summary.get(self.metric, 0.0) for group in self._cells.values() for cell in group]
        return rules.decimals_of(max(tested, default=0.0))

    def items(self) -> Iterable[tuple[tuple[str, str], list[CellResult]]]:
        """((model, arm name), cells in seed order)."""
        return self._cells.items()

    def arm_name(self, model: str, arm: Arm) -> str | None:
        """The name under which this arm's graph was run; None where it was not."""
        return self._names.get((model, frozenset(arm.relations), arm.rewired))

    def arm_titles(self) -> dict[str, str]:
        """By name of an arm what people read instead, where that is not its name."""
        read = {name: arm.titled(self.titles) for name, arm in self._arms.items()}
        return {name: title for name, title in read.items() if title != name}

    def shuffled(self, arm: str) -> bool:
        """Whether the arm has a relation whose links are shuffled."""
        return self._arms[arm].rewired is not None

    def cells(self, model: str, arm: str) -> list[CellResult]:
        """Cells in seed order."""
        return self._cells[model, arm]

    def tables(self, model: str, arm: str) -> list[pl.DataFrame]:
        """Per-user tables in seed order."""
        return [cell.evaluation.table for cell in self._cells[model, arm]]

    def settled(self, model: str, arm: Arm) -> list[CellResult] | None:
        """Per split the arm's cell, or that of another arm that validates better and uses no relation beyond its own.

        An arm of more relations searches more settings. Where it gives those beyond this arm no weight, what it found
        is a setting of this arm, too, and no gain from the relations that it leaves out. None where the arm was not
        run.
        """
        own = self.arm_name(model, arm)
        if own is None:
            return None
        best = {cell.seed: cell for cell in self._cells[model, own]}
        for (of, relations, rewired), name in self._names.items():
            for cell in self._cells[model, name] if of == model and rewired is None else ():
                better = cell.seed in best and cell.valid > best[cell.seed].valid
                if better and self._in_use(cell, relations) <= set(arm.relations):
                    best[cell.seed] = cell
        return list(best.values())

    def _in_use(self, cell: CellResult, relations: Iterable[str]) -> set[str]:
        """Relations of a cell's arm that have a weight, and those that they are read through."""
        weights = cell.chosen.get("weights")
        if weights is None:
            return set(relations)
        return set(arm_of.over(self.hops, *(r for r in relations if weights.get(r, cell.chosen.get("weight")) != 0)))

    def effect(self, model: str, a: Arm, b: Arm) -> tuple[str, str, Effect] | None:
        """The paired effect a − b; None where one of the two was not run."""
        name_a, name_b = self.arm_name(model, a), self.arm_name(model, b)
        if name_a is None or name_b is None:
            return None
        tables = self.tables(model, name_a), self.tables(model, name_b)
        return name_a, name_b, compare(*tables, self.metric, starts=self.starts((model, (1, -1))))

    def starts(self, *sides: tuple[str, Sequence[int]]) -> Starts | None:
        """What starts of training add to a difference of arms; None where test rows differ, or nothing is known.

        A start is a little better or worse for all arms of a model, which a difference of its arms does not see.

        Args:
            sides: model, and the factors that its arms have in the difference, such as (1, -1) for a − b.
        """
        known = []
        for model, factors in sides:
            if model in self._luck:
                n_starts, of_arms, in_common = self._luck[model]
                one, freedom = in_common if sum(factors) else of_arms
                known.append((sum(f * f for f in factors) * one / n_starts, freedom))
        total = sum(v for v, _ in known)
        if not total:
            return None
        return Starts(total, total**2 / sum(v**2 / freedom for v, freedom in known if v))

    @cached_property
    def _luck(self) -> dict[str, tuple[int, tuple[float, float], tuple[float, float]]]:
        """By trained model: starts on the same test rows; variance between them and its degrees of freedom, twice.

        First of what a start does to one arm and not to the others, the rest of arms × starts; then with what it does
        to all of them.
        """
        means: dict[str, list[list[float]]] = {}
        for (model, _), cells in self._cells.items():
            trained = len(cells) > 1 and all(cell.history is not None for cell in cells)
            if trained and (not self.draws_test or _of_one_split(cells)):
                means.setdefault(model, []).append([cell.evaluation.summary[self.metric] for cell in cells])
        luck = {}
        for model, arms in means.items():
            n_starts = max(map(len, arms))
            table = np.array([one for one in arms if len(one) == n_starts])
            off = table - table.mean(1, keepdims=True)
            freedom = len(table) * (n_starts - 1)
            alone = max(len(table) - 1, 1) * (n_starts - 1)
            rest = ((off - off.mean(0)) ** 2).sum() / alone
            luck[model] = n_starts, (float(rest), float(alone)), (float((off**2).sum() / freedom), float(freedom))
        return luck


def _of_one_split(cells: Sequence[CellResult]) -> bool:
    tables = [cell.evaluation.table for cell in cells]
    return (
        all("fingerprint" in t.columns for t in tables) and len({t["fingerprint"][0] for t in tables if len(t)}) == 1
    )


def leaderboard(found: CellResults) -> pl.DataFrame:
    """One row per (model, arm), best first; means over seeds, the study's metric with its interval.

    A figure that one of the seeds has no value of is null: cells that were stored earlier may know fewer of them.
    """
    rows: list[dict[str, Any]] = []
    summaries = [c.evaluation.summary for _, cells in found.items() for c in cells]
    names = dict.fromkeys(name for s in summaries for name in s if name not in ("n_users", found.metric))
    for (model, arm), cells in found.items():
        interval = mean_interval(found.tables(model, arm), found.metric)
        others = {name: sum(c.evaluation.summary.get(name, nan) for c in cells) / len(cells) for name in names}
        rows.append(
            {
                "model": model,
                "arm": arm,
                "n_seeds": interval.n_seeds,
                "n_users": interval.n_users,
                "valid": sum(c.valid for c in cells) / len(cells),
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                **others,
                "seconds": sum(c.cost["tune"] + c.cost["fit"] + c.cost["evaluate"] for c in cells) / len(cells),
                "peak_mb": max(c.cost["peak_mb"] for c in cells),
            }
        )
    ease = max((row["mean"] for row in rows if row["model"] == "ease"), default=None)
    for row in rows:
        row["below_ease"] = ease is not None and row["mean"] < ease - 5e-5  # less is rounding
    table = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col([*names]).fill_nan(None))
    return table.sort(["mean", "model", "arm"], descending=[True, False, False])


def versus(
    found: CellResults, models: Sequence[str], rival: str, relations: Sequence[str],
    reads: Mapping[str, Sequence[str]] | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Is a model better than the rival, and does it use relations better? With rows as in ``effects``.

    "versus": the model minus the rival, each with all relations, or without any if it was not run with them. "versus
    gain", where both were run both ways: what all relations add to the model minus what they add to the rival, user
    by user, so that a model that is weaker to begin with is not blamed for it. Holm's correction runs over the
    models, within each kind.
    """
    reads = reads or {}
    theirs = _sides(found, rival, reads.get(rival, relations))
    compared: dict[str, dict[str, tuple[str, str, Effect]]] = {"versus": {}, "versus gain": {}}
    for model in models:
        mine = _sides(found, model, reads.get(model, relations))
        if model == rival or not mine or not theirs:
            continue
        (name_a, a), (name_c, c) = mine[0], theirs[0]
        one_each = found.starts((model, (1,)), (rival, (-1,)))
        compared["versus"][model] = name_a, name_c, compare(a, c, found.metric, starts=one_each)
        if len(mine) == len(theirs) == 2:
            (name_b, b), (_, d) = mine[1], theirs[1]
            gains = _less(a, b, found.metric), _less(c, d, found.metric)
            two_each = found.starts((model, (1, -1)), (rival, (-1, 1)))
            compared["versus gain"][model] = name_a, name_b, compare(*gains, found.metric, starts=two_each)
    rows = []
    for kind, effects in compared.items():
        adjusted = holm([e.p for _, _, e in effects.values()]).tolist() if effects else []
        rows += [
            effect_row(model, kind, None, one, len(effects), rival, p)
            for (model, one), p in zip(effects.items(), adjusted, strict=True)
        ]
    return rows


def against_strongest(found: CellResults, models: Sequence[str], strongest: str | None) -> list[dict[str, Any]]:
    """Every arm of the models, without shuffled ones, minus the strongest model on the interactions alone.

    So a gain over the model's own interactions is not taken for one over the best that there is without relations.

    Args:
        found: finished cells.
        models: whose arms are compared.
        strongest: the model that validates best on the interactions alone (``judge.strongest``); None for no rows.
    """
    base = None if strongest is None else found.arm_name(strongest, arm_of.INTERACTIONS)
    if strongest is None or base is None:
        return []
    rows = []
    for model in models:
        starts = found.starts((model, (1,)), (strongest, (-1,)))
        for of, arm in dict(found.items()):
            if of == model and (model, arm) != (strongest, base) and not found.shuffled(arm):
                tables = found.tables(model, arm), found.tables(strongest, base)
                effect = compare(*tables, found.metric, starts=starts)
                rows.append(effect_row(model, "strongest", None, (arm, base, effect), 1, strongest))
    return rows


def _sides(found: CellResults, model: str, relations: Sequence[str]) -> list[tuple[str, list[pl.DataFrame]]]:
    """Name and per-user tables of a model with all relations and with none, as far as it was run."""
    names = dict.fromkeys(found.arm_name(model, arm) for arm in (arm_of.all_of(relations), arm_of.INTERACTIONS))
    return [(name, found.tables(model, name)) for name in names if name is not None]


def _less(a: Sequence[pl.DataFrame], b: Sequence[pl.DataFrame], metric: str) -> list[pl.DataFrame]:
    """Tables of a whose metric is the user's difference to b."""
    subtracted = []
    for left, right in zip(a, b, strict=True):
        other = right.select("user", pl.col(metric).alias("_other"))
        both = left.join(other, on="user", how="left", maintain_order="left")
        subtracted.append(both.with_columns(pl.col(metric) - pl.col("_other")).drop("_other"))
    return subtracted


def _pair(kind: str, relation: str, relations: Sequence[str], hops: Hops) -> tuple[Arm, Arm]:
    """The two arms whose difference is an effect of that kind."""
    if kind == "alone":
        return arm_of.alone(relation, hops), arm_of.before(relation, hops)
    less = arm_of.drop(relations, relation, hops) if kind == "drop" else arm_of.rewired(relations, relation)
    return arm_of.all_of(relations), less


class Judge:
    """Effects, evidence and verdicts of one model, from the cells that were run.

    Args:
        found: the study's cells.
        model: name.
        relations: those that are judged.
        margin: smallest difference that matters, as a share of the metric of the interactions alone.
    """

    def __init__(self, found: CellResults, model: str, relations: Sequence[str], margin: float) -> None:
        self.found, self.model, self.relations = found, model, relations
        self.effects: dict[tuple[str, str], tuple[str, str, Effect]] = {}
        for kind in KINDS:
            for relation in relations:
                pair = found.effect(model, *_pair(kind, relation, relations, found.hops))
                if pair is not None:
                    self.effects[kind, relation] = pair
        self.known = [r for r in relations if ("drop", r) in self.effects and ("alone", r) in self.effects]
        self._held_tables: dict[str, tuple[list[pl.DataFrame], list[pl.DataFrame]]] = {}
        self._unused: dict[str, float] = {}
        self._room: dict[str, Effect] = {}
        self._hold()
        self.beside = {r: self._beside(r) for r in self.known}
        self.alone_placebo = {
            r: pair
            for r in self.known
            if (pair := found.effect(model, arm_of.alone(r, found.hops), arm_of.alone_rewired(r, found.hops)))
            is not None
        }
        interactions = found.arm_name(model, arm_of.INTERACTIONS)
        self.base: float | None = None  # mean metric of the interactions alone
        if interactions is not None:
            cells = found.cells(model, interactions)
            self.base = sum(c.evaluation.summary[found.metric] for c in cells) / len(cells)
        self.margin = margin * (self.base or 0.0)
        self.evidence = {r: self._evidence(r) for r in self.known}
        self.said = rules.judge(self.evidence, self.margin)

    def _hold(self) -> None:
        """Effects in the setting of "all", which its cells were measured by where they were tuned."""
        name = self.found.arm_name(self.model, arm_of.all_of(self.relations))
        cells = [] if name is None else self.found.cells(self.model, name)
        if not cells or name is None or any(cell.held is None for cell in cells):
            return
        metric = self.found.metric
        whole = [cell.evaluation.table for cell in cells]
        for relation in self.known:
            other, room = [], []
            unused = 0
            for cell, users in zip(cells, whole, strict=True):
                assert cell.held is not None
                here = users.with_columns(cell.held.table[relation].alias(metric))
                is_unused = relation in cell.held.unused
                unused += is_unused
                other.append(users if is_unused else here)
                # where a weight is in use, its effect is the room that it has
                room.append((here, users) if is_unused else (users, here))
            self._held_tables[relation] = whole, other
            pair = name, f"{name} without {relation}, settings held", compare(whole, other, metric)
            self.effects["held", relation] = pair
            self._unused[relation] = unused / len(cells)
            if unused:
                self._room[relation] = compare([a for a, _ in room], [b for _, b in room], metric)

    def beside_tables(self, relation: str) -> tuple[list[pl.DataFrame], list[pl.DataFrame]]:
        """Per-user tables, by seed, whose difference is what the relation adds beside the others."""
        if relation in self._held_tables:
            return self._held_tables[relation]
        name_a, name_b, _ = self.effects["drop", relation]
        return self.found.tables(self.model, name_a), self.found.tables(self.model, name_b)

    def _beside(self, relation: str) -> dict[str, tuple[str, str, Effect]]:
        """What the relation adds beside each other one, where that was run."""
        hops = self.found.hops
        pairs = {
            other: self.found.effect(
                self.model, arm_of.some([other, relation], hops), arm_of.without_beside(other, relation, hops)
            )
            for other in self.relations
            if relation not in arm_of.over(hops, other)
        }
        return {other: pair for other, pair in pairs.items() if pair is not None}

    def _evidence(self, relation: str) -> Evidence:
        def of(kind: str) -> Effect | None:
            pair = self.effects.get((kind, relation))
            return None if pair is None else pair[2]

        drop, alone = of("drop"), of("alone")
        assert drop is not None
        assert alone is not None
        placebo = self.alone_placebo.get(relation)
        return Evidence(
            drop, alone, of("held"), of("placebo"), None if placebo is None else placebo[2],
            self._room.get(relation), self._unused.get(relation, 0.0), self._replaced(relation, None),
            {other: e for other in self.beside[relation] if (e := self._replaced(relation, other)) is not None},
        )  # fmt: skip

    def _replaced(self, relation: str, other: str | None) -> Effect | None:
        """Alone − 2 · (what it adds beside the others, or beside one other), user by user."""
        hops = self.found.hops
        whole, less = arm_of.all_of(self.relations), arm_of.drop(self.relations, relation, hops)
        if other is not None:
            whole, less = arm_of.some([other, relation], hops), arm_of.without_beside(other, relation, hops)
        arms = arm_of.alone(relation, hops), arm_of.before(relation, hops), whole, less
        names = [self.found.arm_name(self.model, arm) for arm in arms]
        tables = [None if name is None else self.found.tables(self.model, name) for name in names]
        with_it, without, wide, narrow = tables
        if with_it is None or without is None or wide is None or narrow is None:
            return None
        metric = self.found.metric
        added = _less(with_it, without, metric)
        twice = [t.with_columns(pl.col(metric) * 2) for t in _less(wide, narrow, metric)]
        return compare(added, twice, metric, starts=self.found.starts((self.model, (1, -1, -2, 2))))

    def to_explain(self) -> list[Arm]:
        """Arms that are run where a relation helps alone, but not beside the others.

        It is tried beside each other useful relation, and alone with its links shuffled. What hangs on a relation is
        not there without it.
        """
        hops = self.found.hops
        useful = [r for r in self.known if self.evidence[r].alone.low > 0]
        hidden = [r for r in useful if self.said[r].verdict == "interchangeable"]
        pairs = [(other, r) for r in hidden for other in useful if r not in arm_of.over(hops, other)]
        beside = [arm_of.some(pair, hops) for pair in pairs]
        without = [arm_of.without_beside(*pair, hops) for pair in pairs]
        return [*beside, *without, *(arm_of.alone_rewired(r, hops) for r in hidden)]

    def rows(self) -> list[dict[str, Any]]:
        """Of the effects table."""
        found, tests = self.found, max(len(self.known), 1)
        rows = []
        everything = arm_of.all_of(self.relations)
        gain = found.effect(self.model, everything, arm_of.INTERACTIONS) if self.relations else None
        if gain is not None:
            rows.append(effect_row(self.model, "gain", None, gain, 1))
        rows += [effect_row(self.model, kind, name, pair, tests) for (kind, name), pair in self.effects.items()]
        rows += [
            effect_row(self.model, "beside", name, pair, 1, other)
            for name, pairs in self.beside.items()
            for other, pair in pairs.items()
        ]
        shuffled = self.alone_placebo.items()
        return rows + [effect_row(self.model, "alone placebo", name, pair, tests) for name, pair in shuffled]

    def verdicts(
        self, planted: Mapping[str, str] | None, whom: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of the verdict table; ``whom``: what is said of groups of users, by relation."""
        rows = []
        hops = self.found.hops
        for relation in self.known:
            said, one = self.said[relation], self.evidence[relation]
            together = None
            if said.instead:
                group = self.found.effect(
                    self.model, arm_of.some([relation, *said.instead], hops), arm_of.INTERACTIONS
                )
                together = None if group is None else group[2]
            row: dict[str, Any] = {
                "model": self.model, "relation": relation, "verdict": said.verdict,
                "sentence": rules.sentence(
                    relation, self.found.metric, said, one, self.margin, together, self.found.titles,
                    self.found.draws_test,
                    self.found.decimals,
                )
                + _chained(relation, self.relations, hops, self.found.titles)
                + (f" {(whom or {})[relation]}" if relation in (whom or {}) else ""),
                "for_whom": (whom or {}).get(relation),
                "instead": ", ".join(said.instead) or None, "p": said.p, "unused": one.unused,
                "visible": said.visible, "margin": self.margin, "true_verdict": (planted or {}).get(relation),
            }  # fmt: skip
            for kind, e in (("held", one.beside), ("drop", one.drop), ("alone", one.alone), ("placebo", one.placebo)):
                if e is not None:
                    row |= {kind: e.mean, f"{kind}_low": e.low, f"{kind}_high": e.high}
            rows.append({name: row.get(name) for name in VERDICT_SCHEMA})
        return rows


def effect_row(model: str, kind: str, relation: str | None, found: tuple[str, str, Effect], tests: int,
               other: str | None = None, p_holm: float | None = None) -> dict[str, Any]:  # fmt: skip
    """One row of the effects table; ``tests``: how many relations a claim of that kind is corrected for."""
    arm_a, arm_b, effect = found
    row = {"model": model, "relation": relation, "kind": kind, "other": other, "arm_a": arm_a, "arm_b": arm_b}
    return {**row, **asdict(effect), "visible": effect.visible(tests), "p_holm": p_holm}


def _chained(relation: str, relations: Sequence[str], hops: Hops, titles: Titles) -> str:
    """What the arms of a relation that is part of a chain have in common with those of others."""
    hanging = [titles.get(r, r) for r in relations if relation in hops.get(r, ())]
    said = f" Without it {', '.join(hanging)} cannot be read and is left out, too." if hanging else ""
    if hops.get(relation):
        through = ", ".join(titles.get(r, r) for r in hops[relation])
        said += f" It is read through {through}, beside which it was tried alone."
    return said


def _not_read(model: str, relation: str, titles: Titles) -> dict[str, Any]:
    """The row of a relation that a model cannot read: no figures."""
    return dict.fromkeys(VERDICT_SCHEMA) | {
        "model": model, "relation": relation, "verdict": rules.NOT_READ,
        "sentence": f"{titles.get(relation, relation)} is not read by {model}.",
    }  # fmt: skip


def effects_and_verdicts(
    judges: Sequence[Judge],
    relations: Sequence[str],
    planted: Mapping[str, str] | None,
    more: Sequence[dict[str, Any]] = (),
    whom: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The effects table and the verdict table of every model that uses relations.

    Of a relation that a model does not read nothing is said but that. ``more``: rows of the effects table that are of
    no single relation. ``whom``: what is said of groups of users, by model and relation.
    """
    effects = [row for one in judges for row in one.rows()] + [*more]
    said: list[dict[str, Any]] = []
    for one in judges:
        said += one.verdicts(planted, (whom or {}).get(one.model))
        said += [_not_read(one.model, name, one.found.titles) for name in relations if name not in one.relations]
    return pl.DataFrame(effects, schema=EFFECT_SCHEMA), pl.DataFrame(said, schema=VERDICT_SCHEMA)


def curves(found: CellResults) -> pl.DataFrame:
    """Learning curves of the trained models."""
    parts = [
        cell.history.select(
            pl.lit(model).alias("model"), pl.lit(arm).alias("arm"), pl.lit(cell.seed, pl.Int64).alias("seed"),
            "epoch", "loss", "metric",
        )
        for (model, arm), cells in found.items()
        for cell in cells
        if cell.history is not None
    ]  # fmt: skip
    return pl.concat(parts) if parts else pl.DataFrame(schema=CURVE_SCHEMA)


def tuning(found: CellResults) -> pl.DataFrame:
    """Every trial of every cell."""
    rows = []
    for (model, arm), cells in found.items():
        for cell in cells:
            rows += [
                (model, arm, cell.seed, i, t.metric, json.dumps(t.values), i == cell.chosen_trial)
                for i, t in enumerate(cell.trials)
            ]
    return pl.DataFrame(rows, schema=TUNING_SCHEMA, orient="row")


def notes(found: CellResults) -> pl.DataFrame:
    """What the fitted models say of themselves (``cells.NOTES``), one row per figure."""
    rows = []
    for (model, arm), cells in found.items():
        for cell in cells:
            for note, figures in cell.note.items():
                for key in sorted(figures, key=_place):
                    of = figures[key]
                    of = of if isinstance(of, dict) else {"mean": of}
                    rows.append((model, arm, cell.seed, note, key, of["mean"], of.get("sd"), of.get("count")))
    return pl.DataFrame(rows, schema=NOTE_SCHEMA, orient="row")


def _place(key: str) -> tuple[int, str]:
    """Lengths of histories in order, other keys by name."""
    return LENGTH_GROUPS.index(key) if key in LENGTH_GROUPS else -1, key
