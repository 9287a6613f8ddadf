"""What a study from frames shows: tables of its result, a short text, and HTML for notebooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from relrank.io import html
from relrank.runs.fitted_run import FittedRun, is_key
from relrank.study.config import StudyConfig
from relrank.study.result import StudyResult, titles_of

FINDINGS = {"kind": pl.String, "where": pl.String, "message": pl.String, "count": pl.Int64}
PLAN_SCHEMA = {
    "step": pl.Int64,
    "relation": pl.String,
    "title": pl.String,
    "build": pl.Boolean,
    "alternatives": pl.String,
    "adds": pl.Float64,
    "adds_low": pl.Float64,
    "adds_high": pl.Float64,
    "total": pl.Float64,
    "share": pl.Float64,
    "left": pl.Float64,
    "left_low": pl.Float64,
    "left_high": pl.Float64,
    "rows": pl.Int64,
    "seconds": pl.Float64,
}


@dataclass(frozen=True, slots=True, eq=False)
class Summary:
    """What a study shows of itself.

    Attributes:
        config: its settings.
        folder: where it is stored.
        tables: rows and columns of its frames by name.
        result: None if it has not run.
        answer: of the result, in a sentence or two.
        proposed: what ``init`` found: its kind, where, and a sentence.
    """

    config: StudyConfig
    folder: Path
    tables: dict[str, tuple[int, int]]
    result: StudyResult | None
    answer: str
    proposed: Sequence[tuple[str, str, str]] = ()
    proposes: bool = False
    """Whether relations are still to be proposed."""


def plan(result: StudyResult) -> pl.DataFrame:
    """The plan of a study as a table; without rows if there is none."""
    card, titles = result.card.get("plan") or {"steps": [], "build": 0}, titles_of(result.card)
    rows = [
        {name: step.get(name) for name in PLAN_SCHEMA}
        | {
            "step": at,
            "title": titles.get(step["relation"]),
            "build": at <= card["build"],
            "alternatives": ", ".join(step["alternatives"]),
        }
        for at, step in enumerate(card["steps"], 1)
    ]
    return pl.DataFrame(rows, schema=PLAN_SCHEMA)


def recommended(run: FittedRun, user: Any, k: int) -> pl.DataFrame:
    """A list for a user's key, or for a history: any list of keys of items."""
    if is_key(user):
        return run.recommend(user, k)
    return run.recommend_for(user.tolist() if hasattr(user, "tolist") else user, k)


def study_text(summary: Summary) -> str:
    """A study in a few lines."""
    lines = [f"Study {summary.config.name} in {summary.folder}"]
    lines += [f"  {name}: {rows:,} rows, {columns} columns" for name, (rows, columns) in summary.tables.items()]
    lines.append(f"  relations: {_relations(summary)}")
    lines.append(f"  {summary.answer}" if summary.result is not None else "  not run yet: run()")
    return "\n".join(lines)


def study_html(summary: Summary) -> str:
    """The same for a notebook, with what ``init`` found and with the verdicts."""
    config = summary.config
    parts = [
        html.table(
            ("frame", "rows", "columns"), [(n, f"{r:,}", c) for n, (r, c) in summary.tables.items()], numbers=2
        ),
        html.line(f"relations: {_relations(summary)}"),
        html.line(f"split: {config.protocol.split}; models: {', '.join(m.name for m in config.models)}", faint=True),
    ]
    if summary.proposed:
        parts.append(html.table(("found", "where", "why"), summary.proposed))
    if summary.result is None:
        parts.append(html.line("not run yet: run()", faint=True))
    else:
        parts += [html.line(summary.answer), summary.result._repr_html_()]
    return html.block(config.title or f"Study {config.name}", *parts)


def framed(page: str, height: int) -> str:
    """A complete page inside another one; it can neither read nor change the page around it."""
    style = "width:100%;border:1px solid rgba(128,128,128,.4);background:#fff"
    sandbox = "allow-scripts allow-popups allow-downloads allow-modals"
    frame = f'<iframe srcdoc="{escape(page)}" sandbox="{sandbox}" height="{int(height)}" style="{style}"></iframe>'
    return f"<div>{frame}</div>"


def _relations(summary: Summary) -> str:
    config = summary.config
    nothing = "to be proposed: init()" if summary.proposes else "none"
    return ", ".join(config.titles.get(name, name) for name in config.relations) or nothing
