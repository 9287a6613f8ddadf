"""What each relation does for one model: paired differences between its arms, and the evidence for verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import polars as pl

from relrank.evaluation.comparison import Effect, compare
from relrank.graph.relation import Titles
from relrank.study import arms as arm_of
from relrank.study import verdicts as rules
from relrank.study.arms import Arm, Hops
from relrank.study.cell_results import CellResults, per_user_differences
from relrank.study.verdicts import Evidence

KINDS = ("drop", "alone", "placebo")
"""Effects that are the difference of two arms of one relation; "held" is told by "all" itself."""


EFFECT_SCHEMA = {
    "model": pl.String,
    "relation": pl.String,
    "kind": pl.String,
    "other": pl.String,
    "arm_a": pl.String,
    "arm_b": pl.String,
    "mean": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "p": pl.Float64,
    "p_holm": pl.Float64,
    "effect_size": pl.Float64,
    "standard_error": pl.Float64,
    "degrees_of_freedom": pl.Float64,
    "detectable_effect": pl.Float64,
    "n_users": pl.Int64,
    "n_seeds": pl.Int64,
}


VERDICT_SCHEMA = {
    "model": pl.String,
    "relation": pl.String,
    "verdict": pl.String,
    "sentence": pl.String,
    "interchangeable_with": pl.String,
    "p": pl.Float64,
    **{f"{kind}{end}": pl.Float64 for kind in ("held", "drop", "alone", "placebo") for end in ("", "_low", "_high")},
    "subgroup_difference": pl.String,
    "unused": pl.Float64,
    "detectable_effect": pl.Float64,
    "margin": pl.Float64,
    "true_verdict": pl.String,
}


def _pair(kind: str, relation: str, relations: Sequence[str], hops: Hops) -> tuple[Arm, Arm]:
    """The two arms whose difference is an effect of that kind."""
    if kind == "alone":
        return arm_of.alone(relation, hops), arm_of.before(relation, hops)
    less = arm_of.drop(relations, relation, hops) if kind == "drop" else arm_of.rewired(relations, relation)
    return arm_of.all_of(relations), less


class ModelEffects:
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
        self.said = rules.decide_verdicts(self.evidence, self.margin)

    def _hold(self) -> None:
        """Effects in the setting of "all", which its cells were measured by where they were tuned."""
        name = self.found.arm_name(self.model, arm_of.all_of(self.relations))
        cells = [] if name is None else self.found.cells(self.model, name)
        if not cells or name is None or any(cell.held is None for cell in cells):
            return
        metric = self.found.metric
        whole = [cell.evaluation.table for cell in cells]
        for relation in self.known:
            other, smallest_weight_effect = [], []
            unused = 0
            for cell, users in zip(cells, whole, strict=True):
                assert cell.held is not None
                here = users.with_columns(cell.held.table[relation].alias(metric))
                is_unused = relation in cell.held.unused
                unused += is_unused
                other.append(users if is_unused else here)
                # where a weight is in use, its effect is the room that it has
                smallest_weight_effect.append((here, users) if is_unused else (users, here))
            self._held_tables[relation] = whole, other
            pair = name, f"{name} without {relation}, settings held", compare(whole, other, metric)
            self.effects["held", relation] = pair
            self._unused[relation] = unused / len(cells)
            if unused:
                self._room[relation] = compare(
                    [a for a, _ in smallest_weight_effect], [b for _, b in smallest_weight_effect], metric
                )

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
            drop,
            alone,
            of("held"),
            of("placebo"),
            None if placebo is None else placebo[2],
            self._room.get(relation),
            self._unused.get(relation, 0.0),
            self._replaced(relation, None),
            {other: e for other in self.beside[relation] if (e := self._replaced(relation, other)) is not None},
        )

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
        added = per_user_differences(with_it, without, metric)
        twice = [t.with_columns(pl.col(metric) * 2) for t in per_user_differences(wide, narrow, metric)]
        return compare(added, twice, metric, starts=self.found.starts((self.model, (1, -1, -2, 2))))

    def redundancy_arms(self) -> list[Arm]:
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
                "model": self.model,
                "relation": relation,
                "verdict": said.verdict,
                "sentence": rules.sentence(
                    relation,
                    self.found.metric,
                    said,
                    one,
                    self.margin,
                    together,
                    self.found.titles,
                    self.found.draws_test,
                    self.found.decimals,
                )
                + _chained(relation, self.relations, hops, self.found.titles)
                + (f" {(whom or {})[relation]}" if relation in (whom or {}) else ""),
                "subgroup_difference": (whom or {}).get(relation),
                "interchangeable_with": ", ".join(said.instead) or None,
                "p": said.p,
                "unused": one.unused,
                "detectable_effect": said.detectable_effect,
                "margin": self.margin,
                "true_verdict": (planted or {}).get(relation),
            }
            for kind, e in (("held", one.beside), ("drop", one.drop), ("alone", one.alone), ("placebo", one.placebo)):
                if e is not None:
                    row |= {kind: e.mean, f"{kind}_low": e.low, f"{kind}_high": e.high}
            rows.append({name: row.get(name) for name in VERDICT_SCHEMA})
        return rows


def effect_row(
    model: str,
    kind: str,
    relation: str | None,
    found: tuple[str, str, Effect],
    tests: int,
    other: str | None = None,
    p_holm: float | None = None,
) -> dict[str, Any]:
    """One row of the effects table; ``tests``: how many relations a claim of that kind is corrected for."""
    arm_a, arm_b, effect = found
    row = {"model": model, "relation": relation, "kind": kind, "other": other, "arm_a": arm_a, "arm_b": arm_b}
    return {**row, **asdict(effect), "detectable_effect": effect.detectable_effect(tests), "p_holm": p_holm}


def _chained(relation: str, relations: Sequence[str], hops: Hops, titles: Titles) -> str:
    """What the arms of a relation that is part of a chain have in common with those of others."""
    hanging = [titles.get(r, r) for r in relations if relation in hops.get(r, ())]
    said = f" Without it {', '.join(hanging)} cannot be read and is left out, too." if hanging else ""
    if hops.get(relation):
        through = ", ".join(titles.get(r, r) for r in hops[relation])
        said += f" It is read through {through}, beside which it was tried alone."
    return said
