"""Figures of a study's result, drawn with Plotly, which a user can restyle."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import polars as pl

from relrank.errors import InputError, did_you_mean, one_of
from relrank.report.formatting import metric_name, signed
from relrank.report.verdict_summary import primary_model
from relrank.study.result import StudyResult, arm_titles_of, titles_of
from relrank.study.verdicts import NOT_READ

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

EFFECTS = {
    "held": ("beside the others", "circle"),
    "alone": ("alone", "diamond-open"),
    "placebo": ("beyond its links shuffled", "square-open"),
}
"""Kinds of effects of a relation: title and marker."""
COLOURS = {
    "helps": "#1b7f4d",
    "interchangeable": "#2878b5",
    "hurts": "#b3261e",
    "negligible": "#7a7a7a",
    "undecided": "#b27300",
}
ROW_HEIGHT = 42
"""Pixels of a row of a figure."""


def load_plotly() -> Any:
    """Plotly's graph objects.

    Raises:
        InputError: Plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise InputError(
            "plotly is not installed", where="plots", expected='pip install "relrank[plot]"', found=str(error)
        ) from None
    return go


def effects(result: StudyResult, model: str | None = None) -> Figure:
    """A forest plot of what relations add: three effects with intervals per relation, and the margin as a band.

    Args:
        result: a finished study.
        model: that judges; by default the one whose verdicts come first.

    Raises:
        InputError: Plotly is not installed, no relation was judged, or not by this model.
    """
    go = load_plotly()
    judged = result.verdicts.filter(pl.col("verdict") != NOT_READ)
    models = judged["model"].unique(maintain_order=True).to_list()
    model = primary_model(result) if model is None else model
    if model not in models:
        found = repr(model) + did_you_mean(model, models) if models else "a study without verdicts"
        raise InputError("no verdicts of this model", where="plot_effects", expected=one_of(models), found=found)
    rows = judged.filter(pl.col("model") == model).sort(pl.col("held").fill_null(0.0), maintain_order=True)
    titles, digits = titles_of(result.card), result.decimals
    names = [
        f"{_label(titles, name)}<br><i>{verdict}</i>"
        for name, verdict in rows.select("relation", "verdict").iter_rows()
    ]
    metric, margin = metric_name(result.card["metric"]), rows["margin"][0]
    figure = go.Figure()
    if margin is not None:
        figure.add_vrect(
            -margin,
            margin,
            fillcolor="#7a7a7a",
            opacity=0.18,
            line_width=0,
            annotation_text="margin",
            annotation_position="top right",
            annotation_yshift=18,
        )
    figure.add_vline(0, line_color="#7a7a7a", line_width=1)
    for kind, (title, symbol) in EFFECTS.items():
        figure.add_trace(
            go.Scatter(
                x=rows[kind].to_list(),
                y=names,
                error_x=_bars(rows, kind),
                mode="markers",
                name=title,
                marker={"symbol": symbol, "size": 10, "color": [COLOURS[v] for v in rows["verdict"]]},
                customdata=[_spoken(row, kind, digits) for row in rows.iter_rows(named=True)],
                hovertemplate="%{y}<br>" + title + " %{customdata}<extra></extra>",
                visible=True if kind == "held" else "legendonly",
            )
        )
    figure.update_layout(
        title={"text": f"What each relation adds to {metric}, {model}"},
        xaxis_title=f"difference in {metric}, 95 % interval",
        height=_height(len(names)),
    )
    figure.update_yaxes(automargin=True, type="category")
    return figure


def plan(result: StudyResult) -> Figure:
    """The metric against the number of relations built, with what each step costs on hover.

    Raises:
        InputError: Plotly is not installed, or the study has no plan.
    """
    go = load_plotly()
    card = result.card.get("plan")
    if card is None or not card["steps"]:
        raise InputError("study without a plan", where="plot_plan", expected="a relation that adds", found="none")
    titles, digits, metric = titles_of(result.card), result.decimals, metric_name(result.card["metric"])
    steps = card["steps"]
    names = ["interactions", *(f"+ {_label(titles, s['relation'])}" for s in steps)]
    labels = [f"{at}. {name}" if at else name for at, name in enumerate(names)]
    values = [card["base"], *(card["base"] + (step["total"] or 0.0) for step in steps)]
    hover = ["no relation", *(f"adds {_spoken(s, 'adds', digits)}<br>{s['rows']:,} rows" for s in steps)]
    colours = [COLOURS["helps"] if 0 < at <= card["build"] else "#7a7a7a" for at in range(len(values))]
    figure = go.Figure(
        go.Scatter(
            x=labels,
            y=values,
            mode="lines+markers",
            marker={"size": 11, "color": colours},
            line={"color": "#7a7a7a"},
            customdata=hover,
            hovertemplate=f"%{{x}}: {metric} %{{y:.{digits}f}}<br>%{{customdata}}<extra></extra>",
            showlegend=False,
        )
    )
    best = values[-1]
    figure.add_hrect(best - card["margin"], best + card["margin"], fillcolor="#7a7a7a", opacity=0.12, line_width=0)
    figure.update_layout(
        title={"text": f"What to build first, {card['model']} (green: worth building)"},
        yaxis_title=f"{metric} on test",
        height=420,
    )
    figure.update_xaxes(type="category", automargin=True)
    return figure


def leaderboard(result: StudyResult, most: int = 20) -> Figure:
    """Models and arms without shuffled links, best first, with intervals.

    Raises:
        InputError: Plotly is not installed.
    """
    go = load_plotly()
    rows = result.leaderboard.filter(~pl.col("arm").str.ends_with("rewired")).head(most).reverse()
    titles, metric = arm_titles_of(result.card), metric_name(result.card["metric"])
    names = [f"{escape(model)} · {_label(titles, arm)}" for model, arm in rows.select("model", "arm").iter_rows()]
    figure = go.Figure()
    for model in rows["model"].unique(maintain_order=True).reverse():
        of_model = [at for at, name in enumerate(rows["model"]) if name == model]
        part = rows[of_model]
        figure.add_trace(
            go.Scatter(
                x=part["mean"].to_list(),
                y=[names[at] for at in of_model],
                error_x=_bars(part, "mean", "low", "high"),
                mode="markers",
                name=escape(model),
                marker={"size": 9},
                hovertemplate=f"%{{y}}: %{{x:.{result.decimals}f}}<extra></extra>",
            )
        )
    figure.update_layout(
        title={"text": f"{metric} on test, 95 % intervals"}, xaxis_title=metric, height=_height(len(names))
    )
    figure.update_yaxes(automargin=True, type="category", categoryorder="array", categoryarray=names)
    return figure


def _label(titles: Mapping[str, str], name: str) -> str:
    """A name as Plotly shows it, which reads some HTML."""
    return escape(titles.get(name, name))


def _height(rows: int) -> int:
    return 190 + ROW_HEIGHT * max(rows, 2)


def _bars(rows: pl.DataFrame, middle: str, low: str | None = None, high: str | None = None) -> dict[str, Any]:
    """Error bars from the ends of an interval."""
    low, high = low or f"{middle}_low", high or f"{middle}_high"
    return {
        "type": "data",
        "symmetric": False,
        "array": (rows[high] - rows[middle]).to_list(),
        "arrayminus": (rows[middle] - rows[low]).to_list(),
        "thickness": 1.5,
        "color": "#7a7a7a",
    }


def _spoken(row: dict[str, Any], kind: str, decimals: int) -> str:
    if row.get(kind) is None:
        return "not run"
    low, high = (signed(row[f"{kind}_{end}"], decimals) for end in ("low", "high"))
    return f"{signed(row[kind], decimals)} ({low} … {high})"
