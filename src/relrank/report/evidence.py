"""The evidence in front of the appendix: effects with the margin, the plan as a curve, groups of users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from relrank.report.formatting import Axis, is_finite

Row = dict[str, Any]

MOST_RELATIONS = 9
"""Relations in the first forest plot; the appendix has all."""
MOST_PANELS = 3
FEW_USERS = 30
"""Groups with fewer users do not set the axis; their intervals may end at its edge."""
BARS = 40.0
"""Height of the highest bar of the plan, in per cent of the chart."""


def overview(effects: list[Row], relations: Sequence[str], margin: float | None, base: float | None) -> Row | None:
    """The forest plot of one model: per relation what it adds beside the others and alone; None without effects.

    Args:
        effects: of the model.
        relations: in the order of the page.
        margin: smallest difference that matters.
        base: the metric of the interactions alone: ticks are per cent of it, if it is known.
    """
    of = {(row["relation"], row["kind"]): row for row in effects}
    blocks: list[Row] = []
    for relation in [None, *relations[:MOST_RELATIONS]]:
        kinds = ("gain",) if relation is None else ("held" if (relation, "held") in of else "drop", "alone")
        if rows := [of[relation, kind] for kind in kinds if (relation, kind) in of]:
            blocks.append({"relation": relation, "rows": rows})
    if not blocks:
        return None
    shown: list[Row] = [row for block in blocks for row in block["rows"]]
    ends: list[float | None] = [row[end] for row in shown for end in ("mean", "low", "high")]
    ends += [margin, -margin] if is_finite(margin) else []
    return {
        "blocks": blocks,
        "scale": Axis.over([0.0, *ends], most=8, unit=_unit(base)),
        "margin": margin if is_finite(margin) else None,
        "hidden": max(0, len(relations) - MOST_RELATIONS),
    }


def plan_curve(plan: Row, gain: Row | None, base: float | None) -> Row:
    """The plan as a curve: what the first relations add together, and how many links they have.

    Args:
        plan: with steps on one axis.
        gain: effect of all relations together, if it was measured.
        base: as in ``overview``.
    """
    steps, total = plan["steps"], 0
    y = Axis.over(_ends([*steps, *([gain] if gain else [])]), most=5, unit=_unit(base))
    columns = len(steps) + 1
    points = [{"x": _middle(0, columns), "y": _height(y, 0.0), "low": None, "high": None, "step": None}]
    bars = []
    for at, step in enumerate(steps, 1):
        total += step["rows"]
        ends = {end: _height(y, step[end]) if is_finite(step[end]) else None for end in ("low", "high")}
        points.append({"x": _middle(at, columns), "y": _height(y, step["mean"]), **ends, "step": step})
        bars.append({"x": _middle(at, columns), "links": total})
    cost = Axis.over([0, total], most=3, margin=0.0)
    for bar in bars:
        bar["height"] = round(BARS * bar["links"] / total, 2) if total else 0.0
    return {
        "y": y,
        "points": points,
        "bars": bars,
        "width": round(34 / columns, 2),
        "ticks": [{"links": tick, "y": round(100 - BARS * tick / total, 2)} for tick in cost.ticks if total],
        "all": _height(y, gain["mean"]) if gain and is_finite(gain["mean"]) else None,
        "gain": gain,
        "build": plan["build"],
        "columns": columns,
        "total": total,
    }


def group_overview(groups: list[Row], built: str | None) -> Row | None:
    """Up to three panels by groups of users: the gain of all relations, then the first relation to build."""
    panels = []
    for kind, relation in (("gain", None), ("drop", built), ("alone", built)):
        rows = [row for row in groups if row["kind"] == kind and row["relation"] == relation]
        for column in dict.fromkeys(row["group"] for row in rows):
            part = sorted((row for row in rows if row["group"] == column), key=lambda row: row["order"])
            if len(part) > 1 and (kind == "gain" or built is not None):
                panels.append({"title": relation, "kind": kind, "column": column, "rows": part})
    if not panels:
        return None
    panels = panels[:MOST_PANELS]
    rows = [row for panel in panels for row in panel["rows"]]
    large = [row for row in rows if row["n_users"] >= FEW_USERS]  # a group of four users would set the axis
    return {"panels": panels, "scale": Axis.over(_ends(large or rows), most=4)}


def _ends(rows: Iterable[Row]) -> list[float | None]:
    return [0.0, *(row[end] for row in rows for end in ("mean", "low", "high"))]


def _unit(base: float | None) -> float:
    return base / 100 if base else 1.0


def _middle(at: int, columns: int) -> float:
    """Centre of a column, in per cent of the width."""
    return round(100 * (at + 0.5) / columns, 2)


def _height(axis: Axis, value: float) -> float:
    """Distance of a value from the top, in per cent."""
    return round(100 - axis.at(value), 2)
