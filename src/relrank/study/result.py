"""The result of a study: the tables that are printed, stored and reported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import polars as pl

from relrank.arguments import checked
from relrank.errors import InputError
from relrank.graph.relation import Titles
from relrank.io import html
from relrank.io.atomic import atomic_write, write_text
from relrank.io.manifest import ManifestReader, write_manifest
from relrank.study.number_format import signed

FORMAT = "relrank-study-2"
REPAIR_HINT = "run the study again, its finished cells are kept unless another version stored them"

IN_JSON = ("leaderboard", "effects", "verdicts", "groups", "group_metrics", "list_effects", "metric_effects", "notes")

NAMES = {"relation": pl.String, "title": pl.String}


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StudyResult:
    """Everything that the verdicts are based on, as plain tables; one file each in the study's folder.

    Every table with a column ``relation`` has a column ``title``, null without a title in the study file.

    Attributes:
        card: what was studied, plain JSON. Keys: ``format``; ``name``; ``config`` (hash of all settings);
            ``title``; ``description``; ``protocol`` (name);
            ``fingerprints`` (one per split seed); ``seeds``; ``metric`` (e.g. "ndcg@10"); ``trials``;
            ``attribute`` (the relation behind similarity and calibration, else null); ``interval_caveat`` (a sentence
            where the intervals do not include the variance between splits, else null); ``decimals`` (for values of
            the metric); ``n_users``, ``n_items``, ``n_train``, ``n_valid``, ``n_test`` (of the first seed); ``dates``
            (days of the first and the last interaction, ISO; null without times); ``nodes``
            (list of {type, count}); ``relations`` (list of {name, title: or null, source, target, edges, covered:
            share of items, else users, with an edge, kind; chain: node types of its chain, if it is read through
            other relations}); ``arms`` (list of {name, title}: arms that have relations with a title); ``notices``
            (list of {where, message, count}); ``skipped`` (sentences on cells that do not fit into memory); ``audit``
            (list of {level: "leak"|"warning"|"ok", check, message, count, names: relations and features concerned,
            accepted: whether the study file accepts it}); ``accepted_leaks`` (list of {names, check, message,
            count}); ``suspicious_gains`` (sentences); ``machine`` ({cpu, cores, memory_gb, python, torch, relrank});
            ``model_strength`` (see ``model_strength.model_strengths``); ``plan`` (null, or {model, base: metric of
            the interactions alone, margin, build: steps worth taking, enough: steps after which the rest is shown to
            be within the margin, or null, ends: why it stops, steps: list of {relation, arm, through: relations of
            its chain, alternatives, adds, beyond: compared with its links shuffled, total, left: what all relations
            add to these, each with _low and _high and null if it has not run, share: of the gain of all, confirmed,
            rows, nodes, seconds, peak_mb}}); ``cells`` (list of {model, arm, seed, key: folder under cells/});
            ``planted`` (true verdict per relation where known, else null); ``smoke`` (bool); while the study runs,
            ``progress`` ({cells_done, cells_total, seconds_left: or null, so_far: what is known of relations alone as
            long as there are no verdicts, else null}).
        leaderboard: one row per (model, arm), best first: ``model``, ``arm``, ``n_seeds``, ``n_users``, ``valid``
            (the study's metric on validation), ``mean``, ``low``, ``high`` (on test), ``below_ease`` (bool), every
            other metric's mean under its own name (``hit@10``, ``mrr``, ``coverage@10``, ``gini@10``,
            ``novelty@10``, ``popularity lift@10``, with ``[study] attribute`` ``intra-list similarity@10`` and
            ``miscalibration@10`` …; null if an older cell lacks it), ``seconds``
            (tuning + fit + evaluation, mean per cell), ``peak_mb``.
        effects: one row per paired difference: ``model``, ``relation`` (null for "gain"), ``kind`` ("gain" = all −
            interactions, "held" = all − all without r in the setting of "all", "drop" = all − (all without r), tuned
            again, "alone" = (interactions + r) − interactions, "placebo" = all − (all with r rewired), "beside" =
            (interactions + s + r) − (interactions + s), with ``other`` = s; "versus" = the model − the model
            ``other``, each with all relations where it has such an arm, "versus gain" = the model's gain − that
            model's gain, "strongest" = ``arm_a`` of the model − the interactions arm of the model ``other``, of all
            models of the study the best on the interactions alone, on validation), ``other`` (else null), ``arm_a``,
            ``arm_b``, ``mean``, ``low``, ``high``, ``p``, ``p_holm`` (of "versus"; claims on relations are corrected
            in ``verdicts``), ``effect_size`` (paired Cohen's d), ``standard_error``, ``degrees_of_freedom`` (of
            Student's t), ``detectable_effect`` (smallest true effect that would have been detected), ``n_users``,
            ``n_seeds``.
        verdicts: one row per (model, relation): ``model``, ``relation``, ``verdict`` ("helps", "interchangeable",
            "hurts", "negligible", "undecided"; "not read" if the model cannot read it, with null figures),
            ``sentence`` (the verdict with its figures), ``interchangeable_with`` (comma-separated names that it is
            interchangeable with, or null), ``p`` (of the claim, corrected over the
            relations; null without a claim), ``held``, ``drop``, ``alone``, ``placebo`` with ``_low`` and ``_high``
            each, ``subgroup_difference`` (a sentence where the effect
            differs between groups of users, else null), ``unused`` (share of splits where validation sets its
            weight to 0), ``detectable_effect``, ``margin``, ``true_verdict`` (or null).
        groups: effects by user group: ``model``, ``relation``, ``kind`` ("gain", "drop", "alone", "versus"),
            ``other`` (the rival of "versus", else null), ``group`` (column, e.g. "history length"), ``label`` (e.g.
            "11–50"), ``order`` (int, of the label), ``mean``, ``low``, ``high``, ``n_users``.
        group_metrics: metrics on test by user group, one row per (model, arm, group, label) for every arm without
            shuffled links: ``model``, ``arm``, ``group`` (column, as in ``groups``; "all users" for everybody),
            ``label``, ``order``, ``n_users`` (distinct, over all seeds), and every metric of the per-user tables at
            every cut under its own name (``hit@10``, ``recall@10``, ``precision@10``, ``ndcg@10``, ``map@10`` …,
            ``mrr``), averaged over users and seeds. A user whose group differs between seeds is in both.
        list_effects: effects on metrics of lists, one row per paired difference and metric: ``model``, ``relation``,
            ``kind`` and ``other`` as in ``groups``, ``measure`` ("novelty@10", "popularity lift@10", with
            ``[study] attribute`` "intra-list similarity@10" and "miscalibration@10"), ``mean``, ``low``, ``high``,
            ``n_users`` (who have a value in both lists), ``n_seeds``.
        metric_effects: likewise for all accuracy metrics except the study's own ("recall@50", "mrr" …). They are not
            corrected for multiple comparisons and decide no verdict.
        curves: learning curves of trained models: ``model``, ``arm``, ``seed``, ``epoch``, ``loss``, ``metric``
            (validation; null where it was not evaluated).
        tuning: all trials: ``model``, ``arm``, ``seed``, ``trial``, ``metric`` (validation), ``config`` (JSON
            text of the tried values), ``chosen`` (bool).
        notes: learned values of fitted models: ``model``, ``arm``, ``seed``, ``note`` (e.g. "relation weights",
            "graph's share", "own share by history length", "share of each view", "items without a view"), ``key``
            (relation, node type, range of lengths, view), ``value``; for a mean, also ``sd`` and ``count``, else
            null.
    """

    card: dict[str, Any]
    leaderboard: pl.DataFrame
    effects: pl.DataFrame
    verdicts: pl.DataFrame
    groups: pl.DataFrame
    group_metrics: pl.DataFrame
    list_effects: pl.DataFrame
    metric_effects: pl.DataFrame
    curves: pl.DataFrame
    tuning: pl.DataFrame
    notes: pl.DataFrame

    @property
    def decimals(self) -> int:
        """Decimals for values of the study's metric."""
        return int(self.card.get("decimals", 4))

    def __repr__(self) -> str:
        lines = [f"StudyResult({self._headline()})"]
        lines += [f"  {row['relation']}, {row['model']}: {row['verdict']}" for row in self.verdicts.to_dicts()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Plan and verdicts as tables, for notebooks."""
        titles, plan = titles_of(self.card), self.card.get("plan")
        parts = [html.line(self._headline(), faint=True)]
        if plan is not None and plan["steps"]:
            steps = [
                (
                    at,
                    titles.get(step["relation"], step["relation"]),
                    "yes" if at <= plan["build"] else "no",
                    self._effect(step, "adds"),
                    self._effect(step, "total"),
                )
                for at, step in enumerate(plan["steps"], 1)
            ]
            parts.append(html.table(("", "relation", "build", "adds", "so far"), steps, 2))
        for (model,), rows in self.verdicts.group_by("model", maintain_order=True):
            verdicts = [
                (
                    titles.get(row["relation"], row["relation"]),
                    row["verdict"] + (f" with {row['interchangeable_with']}" if row["interchangeable_with"] else ""),
                    *(self._effect(row, kind) for kind in ("held", "alone", "placebo")),
                )
                for row in rows.iter_rows(named=True)
            ]
            headings = (f"relation, {model}", "verdict", "beside others", "alone", "beyond shuffled")
            parts.append(html.table(headings, verdicts, 3))
        return html.block(self.card.get("title") or f"Study {self.card['name']}", *parts)

    def _headline(self) -> str:
        card = self.card
        users, n = f"{card['n_users']:,} users", len(card["seeds"])
        splits = f"{n} split{'s' if n > 1 else ''}"
        smoke = "smoke run, the figures mean nothing: " if card.get("smoke") else ""
        return f"{smoke}{card['name']}: {card['metric']}, {users}, {card['n_items']:,} items, {splits}"

    def _effect(self, row: Mapping[str, Any], kind: str) -> str:
        if row.get(kind) is None:
            return "not run"
        if row[kind] == row[f"{kind}_low"] == row[f"{kind}_high"] == 0:
            return "0, the same"
        low, high = (signed(row[f"{kind}_{end}"], self.decimals) for end in ("low", "high"))
        return f"{signed(row[kind], self.decimals)} ({low} … {high})"

    @checked("StudyResult.save")
    def save(self, folder: Path | str) -> None:
        """Write ``card.json``, one Parquet file per table, and ``results.json`` for readers without Parquet.

        Each file is written atomically; the manifest is written last.
        """
        folder = Path(folder)
        for part in fields(self):
            value = getattr(self, part.name)
            if part.name == "card":
                _write_json(folder / "card.json", value)
            else:
                with atomic_write(folder / f"{part.name}.parquet") as temporary:
                    value.write_parquet(temporary)
        tables = {part.name: getattr(self, part.name).to_dicts() for part in fields(self) if part.name in IN_JSON}
        _write_json(folder / "results.json", {"card": self.card, **tables})
        write_manifest(folder, [*self.files(), "results.json"])

    @classmethod
    def files(cls) -> list[str]:
        """Names of the files that ``save`` writes, except ``results.json`` and the manifest."""
        return ["card.json" if part.name == "card" else f"{part.name}.parquet" for part in fields(cls)]

    @classmethod
    @checked("StudyResult.load")
    def load(cls, folder: Path | str) -> StudyResult:
        """Read what ``save`` wrote.

        Raises:
            InputError: no finished study, one of another version, a file is missing, or a file was changed.
        """
        folder = Path(folder)
        names = cls.files()
        lacking = [name for name in names if not (folder / name).is_file()]
        if lacking:
            if len(lacking) == len(names):
                raise InputError("no finished study here", where=str(folder), expected="a card.json", found="none")
            raise InputError(
                "stored study is incomplete",
                where=str(folder),
                expected=", ".join(lacking),
                found=f"a study without: {REPAIR_HINT}",
            )
        sealed = ManifestReader(folder, REPAIR_HINT)
        tables = {part.name: sealed.table(f"{part.name}.parquet") for part in fields(cls) if part.name != "card"}
        card = sealed.json("card.json")
        if card.get("format") != FORMAT:
            raise InputError(
                "study of another version",
                where=str(folder),
                expected=f"{FORMAT}, so run the study again: finished cells are kept",
                found=str(card.get("format", "one of 0.2 or earlier")),
            )
        return cls(card=card, **tables)


def with_titles(table: pl.DataFrame, titles: Titles) -> pl.DataFrame:
    """Add a column ``title`` for the column ``relation``; null without a title."""
    known = pl.DataFrame({"relation": list(titles), "title": list(titles.values())}, schema_overrides=NAMES)
    return table.join(known, on="relation", how="left", maintain_order="left")


def titles_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Titles of relations by name, from a card."""
    return {row["name"]: row["title"] for row in card["relations"] if row.get("title")}


def arm_titles_of(card: Mapping[str, Any]) -> dict[str, str]:
    """Titles of arms by name, from a card."""
    return {row["name"]: row["title"] for row in card.get("arms", [])}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Keeps the order of keys, for people."""
    with atomic_write(path) as temporary:
        write_text(temporary, json.dumps(value, indent=1, ensure_ascii=False))
