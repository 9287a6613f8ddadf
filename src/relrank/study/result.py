"""What a study found: the tables that are printed, stored and reported."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

from relrank.errors import InputError
from relrank.whole import whole

IN_JSON = ("leaderboard", "effects", "verdicts", "groups")


@dataclass(frozen=True, slots=True)
class StudyResult:
    """Everything the verdicts rest on, as plain tables. One file each in the study's folder.

    Attributes:
        card: what was studied, plain JSON. Keys: ``name``; ``title``; ``description``; ``protocol`` (name);
            ``fingerprints`` (one per split seed); ``seeds``; ``metric`` (e.g. "ndcg@10"); ``trials``;
            ``n_users``, ``n_items``, ``n_train``, ``n_valid``, ``n_test`` (of the first seed); ``nodes``
            (list of {type, count}); ``relations`` (list of {name, source, target, edges, covered: share of
            items, else users, with an edge, kind}); ``notices`` (list of {where, message, count}); ``audit`` (list of
            {level: "leak"|"warning"|"ok", check, message, count}); ``machine`` ({cpu, cores, memory_gb, python,
            torch, relrank}); ``planted`` (true verdict per relation where known, else null); ``smoke`` (bool).
        leaderboard: one row per (model, arm), best first: ``model``, ``arm``, ``n_seeds``, ``n_users``, ``valid``
            (the study's metric on validation), ``mean``, ``low``, ``high`` (on test), ``below_ease`` (bool), every
            other metric's mean under its own name (``hit@10``, ``mrr``, ``coverage@10``, ``gini@10``,
            ``novelty@10`` …), ``seconds`` (tuning + fit + evaluation, mean per cell), ``peak_mb``.
        effects: one row per paired difference: ``model``, ``relation`` (null for "gain"), ``kind`` ("gain" = all −
            interactions, "drop" = all − (all without r), "alone" = (interactions + r) − interactions, "placebo" =
            all − (all with r rewired), "beside" = (interactions + s + r) − (interactions + s), with ``other`` = s;
            "versus" = the model − the model ``other``, each with all relations where it has such an arm, "versus
            gain" = the model's gain − that model's gain),
            ``other`` (else null), ``arm_a``, ``arm_b``, ``mean``, ``low``, ``high``, ``p`` (sign-flip),
            ``p_holm``, ``effect_size`` (paired Cohen's d), ``smallest`` (smallest effect the data could have
            shown), ``n_users``, ``n_seeds``.
        verdicts: one row per (model, relation): ``model``, ``relation``, ``verdict`` ("helps", "redundant",
            "hurts", "no evidence"), ``sentence`` (what may be said, with figures), ``redundant_with`` (comma-
            separated names or null), ``drop``, ``drop_low``, ``drop_high``, ``alone``, ``alone_low``,
            ``alone_high``, ``placebo``, ``placebo_low``, ``placebo_high``, ``smallest``, ``true_verdict`` (or null).
        groups: effects by user group: ``model``, ``relation``, ``kind``, ``group`` (column, e.g.
            "history length"), ``label`` (e.g. "11–50"), ``order`` (int), ``mean``, ``low``, ``high``, ``n_users``.
        curves: learning curves of trained models: ``model``, ``arm``, ``seed``, ``epoch``, ``loss``, ``metric``
            (validation; null where it was not evaluated).
        tuning: every trial: ``model``, ``arm``, ``seed``, ``trial``, ``metric`` (validation), ``config`` (JSON
            text of the tried values), ``chosen`` (bool).
    """

    card: dict[str, Any]
    leaderboard: pl.DataFrame
    effects: pl.DataFrame
    verdicts: pl.DataFrame
    groups: pl.DataFrame
    curves: pl.DataFrame
    tuning: pl.DataFrame

    def save(self, folder: Path) -> None:
        """Write ``card.json``, one Parquet file per table, and ``results.json`` for readers without Parquet.

        Each file has its final name only when it is whole.
        """
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name == "card":
                _write_json(folder / "card.json", value)
            else:
                with whole(folder / f"{part.name}.parquet") as temporary:
                    value.write_parquet(temporary)
        tables = {part.name: getattr(self, part.name).to_dicts() for part in fields(self) if part.name in IN_JSON}
        _write_json(folder / "results.json", {"card": self.card, **tables})

    @classmethod
    def load(cls, folder: Path) -> StudyResult:
        """Read what ``save`` wrote.

        Raises:
            InputError: the folder holds no finished study.
        """
        for part in fields(cls):
            name = "card.json" if part.name == "card" else f"{part.name}.parquet"
            if not (folder / name).is_file():
                raise InputError("no finished study here", where=str(folder), expected=f"a file {name}", found="none")
        tables = {
            part.name: pl.read_parquet(folder / f"{part.name}.parquet", glob=False)
            for part in fields(cls)
            if part.name != "card"
        }
        return cls(card=json.loads((folder / "card.json").read_text(encoding="utf-8")), **tables)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """In the order the reader is meant to see, unlike the sorted JSON of a checkpoint."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False), encoding="utf-8")
