"""Effects of relations on one model: paired differences between its arms, and the evidence for verdicts."""

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
from relrank.study.coordinate_search import value_of
from relrank.study.results_by_arm import ResultsByArm, per_user_differences
from relrank.study.verdicts import Evidence

KINDS = ("drop", "alone", "placebo")
"""Effects that are the difference of two arms; "held" is measured in the cells of "all"."""

NamedEffect = tuple[str, str, Effect]
"""Names of two arms, and their difference."""

EFFECT_SCHEMA = {
    **dict.fromkeys(("model", "relation", "kind", "other", "arm_a", "arm_b"), pl.String),
    **dict.fromkeys(("mean", "low", "high", "p", "p_holm", "effect_size"), pl.Float64),
    **dict.fromkeys(("standard_error", "degrees_of_freedom", "detectable_effect"), pl.Float64),
    **dict.fromkeys(("n_users", "n_seeds"), pl.Int64),
}
VERDICT_SCHEMA = {
    **dict.fromkeys(("model", "relation", "verdict", "sentence", "interchangeable_with"), pl.String),
    "p": pl.Float64,
    **{f"{kind}{end}": pl.Float64 for kind in ("held", "drop", "alone", "placebo") for end in ("", "_low", "_high")},
    "subgroup_difference": pl.String,
    **dict.fromkeys(("unused", "detectable_effect", "margin"), pl.Float64),
    "true_verdict": pl.String,
}


def _pair(kind: str, relation: str, relations: Sequence[str], hops: Hops) -> tuple[Arm, Arm]:
    """The two arms whose difference is an effect of that kind."""
    if kind == "alone":
        return arm_of.alone(relation, hops), arm_of.alone_baseline(relation, hops)
    if kind == "drop":
        return arm_of.all_of(relations), arm_of.all_without(relations, relation, hops)
    return arm_of.all_of(relations), arm_of.rewired(relations, relation)


class ModelEffects:
    """Effects, evidence and verdicts of one model.

    Args:
        results: the study's finished cells.
        model: name.
        relations: those that the model reads.
        margin: smallest difference that matters, as a share of the metric of the interactions alone.

    Attributes:
        effects: by (kind, relation).
        judged_relations: those with both a "drop" and an "alone" effect.
        pair_effects: by relation and other relation, what the first adds to the second.
        alone_placebo: by relation, what it adds alone beyond its shuffled links.
        baseline_metric: mean metric of the interactions alone; None if they have not run.
        margin: in units of the metric.
        evidence: by judged relation.
        judgements: by judged relation.
    """

    def __init__(self, results: ResultsByArm, model: str, relations: Sequence[str], margin: float) -> None:
        self.results, self.model, self.relations = results, model, relations
        self.effects: dict[tuple[str, str], NamedEffect] = {}
        for kind in KINDS:
            for relation in relations:
                effect = results.effect(model, *_pair(kind, relation, relations, results.hops))
                if effect is not None:
                    self.effects[kind, relation] = effect
        self.judged_relations = [r for r in relations if ("drop", r) in self.effects and ("alone", r) in self.effects]
        self._held_tables: dict[str, tuple[list[pl.DataFrame], list[pl.DataFrame]]] = {}
        self._unused: dict[str, float] = {}
        self._smallest_weight_effects: dict[str, Effect] = {}
        self._add_held_effects()
        self.pair_effects = {r: self._pair_effects(r) for r in self.judged_relations}
        self.alone_placebo = {
            r: effect
            for r in self.judged_relations
            if (effect := results.effect(model, arm_of.alone(r, results.hops), arm_of.alone_rewired(r, results.hops)))
            is not None
        }
        interactions = results.arm_name(model, arm_of.INTERACTIONS)
        self.baseline_metric: float | None = None
        if interactions is not None:
            cells = results.cells(model, interactions)
            self.baseline_metric = sum(c.evaluation.summary[results.metric] for c in cells) / len(cells)
        self.margin = margin * (self.baseline_metric or 0.0)
        self.evidence = {r: self._evidence(r) for r in self.judged_relations}
        self.judgements = rules.decide_verdicts(self.evidence, self.margin)

    def _add_held_effects(self) -> None:
        """Effects at the settings of "all", as measured by its cells where they were tuned."""
        name = self.results.arm_name(self.model, arm_of.all_of(self.relations))
        cells = [] if name is None else self.results.cells(self.model, name)
        if not cells or name is None or any(cell.held is None for cell in cells):
            return
        metric = self.results.metric
        tables = [cell.evaluation.table for cell in cells]
        for relation in self.judged_relations:
            without, smallest_weight = [], []
            unused = 0
            for cell, users in zip(cells, tables, strict=True):
                assert cell.held is not None
                changed = users.with_columns(cell.held.table[relation].alias(metric))
                is_unused = relation in cell.held.unused
                unused += is_unused
                without.append(users if is_unused else changed)
                # for a weight in use, this is the effect of the weight itself
                smallest_weight.append((changed, users) if is_unused else (users, changed))
            self._held_tables[relation] = tables, without
            effect = compare(tables, without, metric)
            self.effects["held", relation] = name, f"{name} without {relation}, settings held", effect
            self._unused[relation] = unused / len(cells)
            if unused:
                self._smallest_weight_effects[relation] = compare(
                    [a for a, _ in smallest_weight], [b for _, b in smallest_weight], metric
                )

    def tables_of_added(self, relation: str) -> tuple[list[pl.DataFrame], list[pl.DataFrame]]:
        """Per-user tables, by seed, whose difference is what the relation adds to the others."""
        if relation in self._held_tables:
            return self._held_tables[relation]
        name_a, name_b, _ = self.effects["drop", relation]
        return self.results.tables(self.model, name_a), self.results.tables(self.model, name_b)

    def _pair_effects(self, relation: str) -> dict[str, NamedEffect]:
        """What the relation adds to each single other one, where that was run."""
        hops = self.results.hops
        effects = {
            other: self.results.effect(self.model, *_with_and_without(other, relation, hops))
            for other in self.relations
            if relation not in arm_of.with_chain(hops, other)
        }
        return {other: effect for other, effect in effects.items() if effect is not None}

    def _evidence(self, relation: str) -> Evidence:
        def of(kind: str) -> Effect | None:
            named = self.effects.get((kind, relation))
            return None if named is None else named[2]

        drop, alone = of("drop"), of("alone")
        assert drop is not None
        assert alone is not None
        placebo = self.alone_placebo.get(relation)
        redundancy_with = {other: self._redundancy(relation, other) for other in self.pair_effects[relation]}
        return Evidence(
            drop,
            alone,
            of("held"),
            of("placebo"),
            None if placebo is None else placebo[2],
            self._smallest_weight_effects.get(relation),
            self._unused[relation] if relation in self._unused else self._unused_alone(relation),
            self._redundancy(relation, None),
            {other: effect for other, effect in redundancy_with.items() if effect is not None},
        )

    def _unused_alone(self, relation: str) -> float:
        """Share of splits in which the search leaves a relation out beside the interactions."""
        cells = self.results.cells(self.model, self.effects["alone", relation][0])
        name = f"weights.{relation}"
        searched = [c for c in cells if c.trials and name in c.trials[0].values]
        return len([c for c in searched if value_of(c.chosen, name) == 0]) / len(cells)

    def _redundancy(self, relation: str, other: str | None) -> Effect | None:
        """Alone − 2 · (what it adds to all others, or to one other), user by user."""
        results, hops = self.results, self.results.hops
        if other is None:
            pair = arm_of.all_of(self.relations), arm_of.all_without(self.relations, relation, hops)
        else:
            pair = _with_and_without(other, relation, hops)
        tables = []
        for arm in (arm_of.alone(relation, hops), arm_of.alone_baseline(relation, hops), *pair):
            name = results.arm_name(self.model, arm)
            if name is None:
                return None
            tables.append(results.tables(self.model, name))
        alone, baseline, wide, narrow = tables
        metric = results.metric
        added = per_user_differences(alone, baseline, metric)
        twice = [t.with_columns(pl.col(metric) * 2) for t in per_user_differences(wide, narrow, metric)]
        return compare(added, twice, metric, starts=results.starts((self.model, (1, -1, -2, 2))))

    def redundancy_arms(self) -> list[Arm]:
        """Arms that explain why a relation helps alone, but not in addition to the others.

        It is combined with each other useful relation, except those that are read through it, and run alone with its
        links shuffled.
        """
        hops = self.results.hops
        useful = [r for r in self.judged_relations if self.evidence[r].alone.low > 0]
        redundant = [r for r in useful if self.judgements[r].verdict == "interchangeable"]
        pairs = [(other, r) for r in redundant for other in useful if r not in arm_of.with_chain(hops, other)]
        together = [arm_of.with_relations(pair, hops) for pair in pairs]
        without = [arm_of.pair_without(*pair, hops) for pair in pairs]
        return [*together, *without, *(arm_of.alone_rewired(r, hops) for r in redundant)]

    def rows(self) -> list[dict[str, Any]]:
        """Rows of the effects table."""
        n_tests = max(len(self.judged_relations), 1)
        rows = []
        if self.relations:
            gain = self.results.effect(self.model, arm_of.all_of(self.relations), arm_of.INTERACTIONS)
            if gain is not None:
                rows.append(effect_row(self.model, "gain", None, gain, 1))
        rows += [effect_row(self.model, kind, name, e, n_tests) for (kind, name), e in self.effects.items()]
        rows += [
            effect_row(self.model, "beside", name, effect, 1, other)
            for name, effects in self.pair_effects.items()
            for other, effect in effects.items()
        ]
        placebos = self.alone_placebo.items()
        return rows + [effect_row(self.model, "alone placebo", name, effect, n_tests) for name, effect in placebos]

    def verdicts(
        self, planted: Mapping[str, str] | None, by_group: Mapping[str, str] | None = None
    ) -> list[dict[str, Any]]:
        """Rows of the verdict table.

        Args:
            planted: true verdicts, where they are known.
            by_group: by relation, a sentence on groups of users between which its effect differs.
        """
        return [
            self._verdict_row(relation, (planted or {}).get(relation), (by_group or {}).get(relation))
            for relation in self.judged_relations
        ]

    def _verdict_row(self, relation: str, true_verdict: str | None, by_group: str | None) -> dict[str, Any]:
        results, judgement, evidence = self.results, self.judgements[relation], self.evidence[relation]
        together = None
        if judgement.instead:
            arm = arm_of.with_relations([relation, *judgement.instead], results.hops)
            gain = results.effect(self.model, arm, arm_of.INTERACTIONS)
            together = None if gain is None else gain[2]
        sentence = rules.verdict_sentence(
            relation,
            results.metric,
            judgement,
            evidence,
            self.margin,
            together,
            results.titles,
            results.draws_test,
            results.decimals,
        )
        row: dict[str, Any] = {
            "model": self.model,
            "relation": relation,
            "verdict": judgement.verdict,
            "sentence": sentence
            + _chain_sentences(relation, self.relations, results.hops, results.titles)
            + ("" if by_group is None else f" {by_group}"),
            "subgroup_difference": by_group,
            "interchangeable_with": ", ".join(judgement.instead) or None,
            "p": judgement.p,
            "unused": evidence.unused,
            "detectable_effect": judgement.detectable_effect,
            "margin": self.margin,
            "true_verdict": true_verdict,
        }
        for kind, effect in (
            ("held", evidence.added),
            ("drop", evidence.drop),
            ("alone", evidence.alone),
            ("placebo", evidence.placebo),
        ):
            if effect is not None:
                row |= {kind: effect.mean, f"{kind}_low": effect.low, f"{kind}_high": effect.high}
        return {name: row.get(name) for name in VERDICT_SCHEMA}


def _with_and_without(other: str, relation: str, hops: Hops) -> tuple[Arm, Arm]:
    """The arms of two relations, and without the second."""
    return arm_of.with_relations([other, relation], hops), arm_of.pair_without(other, relation, hops)


def effect_row(
    model: str,
    kind: str,
    relation: str | None,
    named_effect: NamedEffect,
    n_tests: int,
    other: str | None = None,
    p_holm: float | None = None,
) -> dict[str, Any]:
    """One row of the effects table; ``n_tests``: number of relations that a claim of its kind is corrected for."""
    arm_a, arm_b, effect = named_effect
    row = {"model": model, "relation": relation, "kind": kind, "other": other, "arm_a": arm_a, "arm_b": arm_b}
    return {**row, **asdict(effect), "detectable_effect": effect.detectable_effect(n_tests), "p_holm": p_holm}


def _chain_sentences(relation: str, relations: Sequence[str], hops: Hops, titles: Titles) -> str:
    """What the arms of a relation in a chain have in common with those of other relations; "" without a chain."""
    dependent = [titles.get(r, r) for r in relations if relation in hops.get(r, ())]
    text = f" Without it {', '.join(dependent)} cannot be read and is left out, too." if dependent else ""
    if hops.get(relation):
        through = ", ".join(titles.get(r, r) for r in hops[relation])
        text += f" It is read through {through}, beside which it was tried alone."
    return text
