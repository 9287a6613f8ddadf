"""From finished cells to the tables of a study: leaderboard, effects, verdicts, curves, trials, notes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from math import nan
from typing import Any

import polars as pl

from relrank.comparison import Effect, compare, holm, mean_interval
from relrank.graph.sequences import LENGTH_GROUPS
from relrank.study import arms as arm_of
from relrank.study import verdicts as rules
from relrank.study.arms import NO_HOPS, Arm, Hops
from relrank.study.cells import CellResult
from relrank.study.tuning import value_of
from relrank.study.verdicts import Judged

KINDS = ("drop", "alone", "placebo")

EFFECT_SCHEMA = {
    "model": pl.String, "relation": pl.String, "kind": pl.String, "other": pl.String, "arm_a": pl.String,
    "arm_b": pl.String, "mean": pl.Float64, "low": pl.Float64, "high": pl.Float64, "p": pl.Float64,
    "p_holm": pl.Float64, "effect_size": pl.Float64, "smallest": pl.Float64, "n_users": pl.Int64,
    "n_seeds": pl.Int64,
}  # fmt: skip
VERDICT_SCHEMA = {
    "model": pl.String, "relation": pl.String, "verdict": pl.String, "sentence": pl.String,
    "redundant_with": pl.String,
    **{f"{kind}{end}": pl.Float64 for kind in ("drop", "alone", "placebo") for end in ("", "_low", "_high")},
    "smallest": pl.Float64, "true_verdict": pl.String,
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


class Found:
    """The finished cells of a study by model, graph and seed.

    Args:
        cells: arm and result of each.
        metric: the study's metric.
        resamples: bootstrap samples per interval.
        hops: by relation those that lead to it, where any do.
    """

    def __init__(
        self, cells: Iterable[tuple[Arm, CellResult]], metric: str, resamples: int, hops: Hops = NO_HOPS
    ) -> None:
        self.metric, self.resamples, self.hops = metric, resamples, hops
        self._cells: dict[tuple[str, str], list[CellResult]] = {}
        self._names: dict[tuple[str, frozenset[str], str | None], str] = {}
        self._shuffled: set[tuple[str, str]] = set()
        for arm, cell in cells:
            self._cells.setdefault((cell.model, arm.name), []).append(cell)
            self._names[cell.model, frozenset(arm.relations), arm.rewired] = arm.name
            if arm.rewired is not None:
                self._shuffled.add((cell.model, arm.name))
        for group in self._cells.values():
            group.sort(key=lambda c: c.seed)

    def items(self) -> Iterable[tuple[tuple[str, str], list[CellResult]]]:
        """((model, arm name), cells in seed order)."""
        return self._cells.items()

    def arm_name(self, model: str, arm: Arm) -> str | None:
        """The name under which this arm's graph was run; None where it was not."""
        return self._names.get((model, frozenset(arm.relations), arm.rewired))

    def shuffled(self, model: str, arm: str) -> bool:
        """Whether the arm has a relation whose links are shuffled."""
        return (model, arm) in self._shuffled

    def cells(self, model: str, arm: str) -> list[CellResult]:
        """Cells in seed order."""
        return self._cells[model, arm]

    def tables(self, model: str, arm: str) -> list[pl.DataFrame]:
        """Per-user tables in seed order."""
        return [cell.evaluation.table for cell in self._cells[model, arm]]

    def effect(self, model: str, a: Arm, b: Arm) -> tuple[str, str, Effect] | None:
        """The paired effect a − b; None where one of the two was not run."""
        name_a, name_b = self.arm_name(model, a), self.arm_name(model, b)
        if name_a is None or name_b is None:
            return None
        tables = self.tables(model, name_a), self.tables(model, name_b)
        return name_a, name_b, compare(*tables, self.metric, resamples=self.resamples)


def leaderboard(found: Found) -> pl.DataFrame:
    """One row per (model, arm), best first; means over seeds, the study's metric with its interval.

    A figure that one of the seeds has no value of is null: cells that were stored earlier may know fewer of them.
    """
    rows: list[dict[str, Any]] = []
    summaries = [c.evaluation.summary for _, cells in found.items() for c in cells]
    names = dict.fromkeys(name for s in summaries for name in s if name not in ("n_users", found.metric))
    for (model, arm), cells in found.items():
        interval = mean_interval(found.tables(model, arm), found.metric, resamples=found.resamples)
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
    found: Found, models: Sequence[str], rival: str, relations: Sequence[str],
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
        compared["versus"][model] = name_a, name_c, compare(a, c, found.metric, resamples=found.resamples)
        if len(mine) == len(theirs) == 2:
            (name_b, b), (_, d) = mine[1], theirs[1]
            gains = _less(a, b, found.metric), _less(c, d, found.metric)
            compared["versus gain"][model] = name_a, name_b, compare(*gains, found.metric, resamples=found.resamples)
    rows = []
    for kind, effects in compared.items():
        adjusted = holm([e.p for _, _, e in effects.values()]).tolist() if effects else []
        rows += [
            effect_row(model, kind, None, one, p, rival)
            for (model, one), p in zip(effects.items(), adjusted, strict=True)
        ]
    return rows


def _sides(found: Found, model: str, relations: Sequence[str]) -> list[tuple[str, list[pl.DataFrame]]]:
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


def judge(found: Found, model: str, relations: Sequence[str]) -> dict[str, dict[str, Judged]]:
    """Effects of every relation on one model, adjusted within each kind: kind → relation → judged effect."""
    judged: dict[str, dict[str, Judged]] = {}
    for kind in KINDS:
        effects = {r: found.effect(model, *_pair(kind, r, relations, found.hops)) for r in relations}
        known = {r: e[2] for r, e in effects.items() if e is not None}
        adjusted: Sequence[float] = holm([e.p for e in known.values()]).tolist() if known else []
        judged[kind] = {r: Judged(e, float(p)) for (r, e), p in zip(known.items(), adjusted, strict=True)}
    return judged


def _pair(kind: str, relation: str, relations: Sequence[str], hops: Hops) -> tuple[Arm, Arm]:
    """The two arms whose difference is an effect of that kind."""
    if kind == "alone":
        return arm_of.alone(relation, hops), arm_of.before(relation, hops)
    less = arm_of.drop(relations, relation, hops) if kind == "drop" else arm_of.rewired(relations, relation)
    return arm_of.all_of(relations), less


def useful_alone(judged: Mapping[str, Mapping[str, Judged]]) -> list[str]:
    """Relations that add something to the interactions."""
    return [r for r, j in judged["alone"].items() if j.positive]


def to_explain(
    judged: Mapping[str, Mapping[str, Judged]], relations: Sequence[str], hops: Hops = NO_HOPS
) -> list[Arm]:
    """Arms run where a relation seems redundant: beside each other useful one, and alone with its links shuffled.

    What hangs on a relation is not there without it.
    """
    useful = useful_alone(judged)
    redundant = [
        r for r in relations if r in judged["drop"] and r in judged["alone"] and said_of(judged, r) == "redundant"
    ]
    pairs = [(other, r) for r in redundant for other in useful if r not in arm_of.over(hops, other)]
    beside = [kind(*pair, hops) for pair in pairs for kind in (arm_of.beside, arm_of.without_beside)]
    return [*beside, *(arm_of.alone_rewired(r, hops) for r in redundant)]


def said_of(
    judged: Mapping[str, Mapping[str, Judged]], relation: str, alone_placebo: Judged | None = None
) -> rules.Verdict:
    """The verdict on one relation."""
    drop, alone = judged["drop"][relation], judged["alone"][relation]
    return rules.verdict(drop, alone, judged["placebo"].get(relation), alone_placebo)


def effect_row(model: str, kind: str, relation: str | None, found: tuple[str, str, Effect], p_holm: float,
               other: str | None = None) -> dict[str, Any]:  # fmt: skip
    """One row of the effects table."""
    arm_a, arm_b, effect = found
    row = {"model": model, "relation": relation, "kind": kind, "other": other, "arm_a": arm_a, "arm_b": arm_b}
    return {**row, **asdict(effect), "p_holm": p_holm}


def effects_and_verdicts(
    found: Found,
    models: Sequence[str],
    relations: Sequence[str],
    planted: Mapping[str, str] | None,
    rival: str | None = None,
    beside_rival: Sequence[str] = (),
    reads: Mapping[str, Sequence[str]] | None = None,
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The effects table and the verdict table of every model that uses relations.

    ``beside_rival`` are the models that ``versus`` compares with ``rival``. ``reads`` are the relations that each
    model reads, by default all: of any other nothing is said but that.
    """
    every, reads = relations, reads or {}
    effects: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for model in models:
        relations = reads.get(model, every)
        gain = found.effect(model, arm_of.all_of(relations), arm_of.INTERACTIONS) if relations else None
        if gain is not None:
            effects.append(effect_row(model, "gain", None, gain, gain[2].p))
        judged = judge(found, model, relations)
        for kind, of_relation in judged.items():
            for relation, j in of_relation.items():
                arm_a, arm_b = (
                    found.arm_name(model, arm) or "" for arm in _pair(kind, relation, relations, found.hops)
                )
                effects.append(effect_row(model, kind, relation, (arm_a, arm_b, j.effect), j.p_holm))
        stand_in = gain[2].smallest if gain is not None else 0.0
        known = [r for r in relations if r in judged["drop"] and r in judged["alone"]]
        beside = {r: _beside(found, model, r, useful_alone(judged), effects) for r in known}
        shuffled = {r: _alone_placebo(found, model, r, effects) for r in known}
        verdicts = {r: said_of(judged, r, shuffled[r]) for r in known}
        because = {r: rules.redundant_with(beside[r]) if verdicts[r] == "redundant" else [] for r in known}
        for relation in known:
            drop, alone = judged["drop"][relation], judged["alone"][relation]
            placebo, verdict = judged["placebo"].get(relation), verdicts[relation]
            visible = rules.smallest([j.effect for j in (drop, alone, placebo) if j is not None], stand_in)
            mutual = any(relation in because[other] for other in because[relation])
            sentence = rules.sentence(
                relation, found.metric, verdict, drop, alone, placebo, because[relation], visible, mutual,
                shuffled[relation],
            )  # fmt: skip
            sentence += _chained(relation, relations, found.hops)
            row: dict[str, Any] = {
                "model": model, "relation": relation, "verdict": verdict, "sentence": sentence,
                "redundant_with": ", ".join(because[relation]) or None, "smallest": visible,
                "true_verdict": (planted or {}).get(relation),
            }  # fmt: skip
            for kind, one in (("drop", drop), ("alone", alone), ("placebo", placebo)):
                if one is not None:
                    e = one.effect
                    row |= {kind: e.mean, f"{kind}_low": e.low, f"{kind}_high": e.high}
            said.append({name: row.get(name) for name in VERDICT_SCHEMA})
        said += [_not_read(model, relation) for relation in every if relation not in relations]
    effects += versus(found, beside_rival, rival, every, reads) if rival else []
    return pl.DataFrame(effects, schema=EFFECT_SCHEMA), pl.DataFrame(said, schema=VERDICT_SCHEMA)


def _chained(relation: str, relations: Sequence[str], hops: Hops) -> str:
    """What the arms of a relation that is part of a chain have in common with those of others."""
    hanging = [r for r in relations if relation in hops.get(r, ())]
    said = f" Without it {', '.join(hanging)} cannot be read and is left out, too." if hanging else ""
    if hops.get(relation):
        said += f" It is read through {', '.join(hops[relation])}, beside which it was tried alone."
    return said


def _not_read(model: str, relation: str) -> dict[str, Any]:
    """The row of a relation that a model cannot read: no figures."""
    return dict.fromkeys(VERDICT_SCHEMA) | {
        "model": model, "relation": relation, "verdict": rules.NOT_READ,
        "sentence": f"{relation} is not read by {model}.",
    }  # fmt: skip


def _beside(
    found: Found, model: str, relation: str, useful: Sequence[str], effects: list[dict[str, Any]]
) -> dict[str, Judged]:
    """What the relation adds beside each other useful one, where that was run; rows are added to ``effects``."""
    judged = {}
    for other in useful:
        if relation in arm_of.over(found.hops, other):
            continue
        pair = arm_of.beside(other, relation, found.hops), arm_of.without_beside(other, relation, found.hops)
        extra = found.effect(model, *pair)
        if extra is not None:
            judged[other] = Judged(extra[2], extra[2].p)
            effects.append(effect_row(model, "beside", relation, extra, extra[2].p, other))
    return judged


def _alone_placebo(found: Found, model: str, relation: str, effects: list[dict[str, Any]]) -> Judged | None:
    """What the links bring beside the interactions that shuffled links do not, where that was run."""
    linked, shuffled = (make(relation, found.hops) for make in (arm_of.alone, arm_of.alone_rewired))
    extra = found.effect(model, linked, shuffled)
    if extra is None:
        return None
    effects.append(effect_row(model, "alone placebo", relation, extra, extra[2].p))
    return Judged(extra[2], extra[2].p)


def curves(found: Found) -> pl.DataFrame:
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


def tuning(found: Found) -> pl.DataFrame:
    """Every trial of every cell."""
    rows = []
    for (model, arm), cells in found.items():
        for cell in cells:
            fitted = ({name: value_of(cell.chosen, name) for name in t.values} == t.values for t in cell.trials)
            chosen = next((i for i, same in enumerate(fitted) if same), None)
            rows += [
                (model, arm, cell.seed, i, t.metric, json.dumps(t.values), i == chosen)
                for i, t in enumerate(cell.trials)
            ]
    return pl.DataFrame(rows, schema=TUNING_SCHEMA, orient="row")


def notes(found: Found) -> pl.DataFrame:
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
