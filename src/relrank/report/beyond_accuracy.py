"""The beyond-accuracy section: metrics of lists, a chart of accuracy against novelty, paired differences.

The chart has many widths, but text has a fixed size. So points have positions in per cent, labels have offsets from
their point in pixels, and a label is placed where it covers nothing at several widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from relrank.report.formatting import Axis, is_finite

Row = dict[str, Any]

MEASURES = {
    "coverage": ("↑", 3),
    "gini": ("↓", 3),
    "novelty": ("↑", 2),
    "intra-list similarity": ("↓", 3),
    "miscalibration": ("↓", 3),
    "popularity lift": ("→ 0", 2),
}
"""Better direction and decimals, by the name before the ``@``."""

HUES = 6
HEIGHT = 360.0
"""Height of the chart in pixels, as in the style sheet."""
PHONE, DESK = (260.0, 450.0, 660.0), (640.0, 860.0, 1100.0)
"""Chart widths in pixels at which no label may cover another; on a phone points have numbers instead of names."""
LETTER, LINE, DOT = 6.6, 14.0, 6.0
"""Width and height of a letter and half the width of a dot in pixels, as upper bounds."""
RINGS = (10.0, 22.0, 36.0, 52.0)
SIDES = ((1, 0), (-1, 0), (0, -1), (0, 1), (0.7, -0.7), (0.7, 0.7), (-0.7, -0.7), (-0.7, 0.7))

Spot = tuple[float, float]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Label:
    """A point's label: its offset from the point in pixels; ``far`` labels need a line to it."""

    text: str
    x: float
    y: float
    anchor: str
    far: bool


def beyond_accuracy(
    rows: list[Row], shown: list[Row], columns: Sequence[str], effects: list[Row], judged: list[str], bare: set[str]
) -> Row:
    """The section's tables and chart.

    Args:
        rows: rows of the leaderboard.
        shown: rows of its headline arms.
        columns: columns of the leaderboard; those in ``MEASURES`` are shown.
        effects: paired differences of list metrics.
        judged: models with verdicts, which come first.
        bare: names of the arm without relations.
    """
    measures = [name for stem in MEASURES for name in columns if name.partition("@")[0] == stem]
    novelty = next((name for name in measures if name.startswith("novelty")), None)
    kinds = ("gain", "drop", "alone")
    models = dict.fromkeys([*judged, *(row["model"] for row in effects)])
    return {
        "measures": [{"name": name, "stem": name.partition("@")[0]} for name in measures],
        "better": {name: MEASURES[name.partition("@")[0]][0] for name in measures},
        "decimals": {name: decimals(name) for name in measures},
        "rows": shown,
        "every": [row for row in rows if row not in shown],
        "picture": _picture(shown, novelty, bare) if novelty else None,
        "models": [
            {"model": model, "rows": lines}
            for model in models
            if (lines := lines_of([row for row in effects if row["model"] == model and row["kind"] in kinds]))
        ],
        "versus": lines_of([row for row in effects if row["kind"] == "versus"]),
        "lacking": any(not is_finite(row[name]) for row in rows for name in measures),
        "effect_measures": [name for name in measures if any(row["measure"] == name for row in effects)],
    }


def decimals(name: str, others: int = 4) -> int:
    """Decimals of a column; ``others`` for those that are not in ``MEASURES``."""
    return MEASURES.get(name.partition("@")[0], ("", others))[1]


def lines_of(effects: list[Row]) -> list[Row]:
    """One row per model, relation and kind, with a cell per measure."""
    lines: dict[tuple[Any, ...], Row] = {}
    for row in effects:
        head = {name: row[name] for name in ("model", "relation", "kind", "other")}
        line = lines.setdefault(tuple(head.values()), {**head, "cells": {}})
        clear = is_finite(row["low"]) and is_finite(row["high"]) and (row["low"] > 0 or row["high"] < 0)
        line["cells"][row["measure"]] = {**row, "significant": clear}
    return list(lines.values())


def _picture(rows: list[Row], novelty: str, bare: set[str]) -> Row | None:
    """Accuracy against novelty: a point per row; a model's points are joined and share a hue and a label."""
    drawn = [row for row in rows if is_finite(row[novelty]) and is_finite(row["mean"])]
    if not drawn:
        return None
    x = Axis.over([row[novelty] for row in drawn], margin=0.07)
    y = Axis.over([row[end] for row in drawn for end in ("mean", "low", "high")], margin=0.07)
    models = list(dict.fromkeys(row["model"] for row in drawn))
    points: list[Row] = []
    for row in drawn:
        low, high = (round(100 - y.at(row[end]), 2) if is_finite(row[end]) else None for end in ("low", "high"))
        at = {"x": x.at(row[novelty]), "y": round(100 - y.at(row["mean"]), 2), "low": low, "high": high}
        hue = models.index(row["model"]) % HUES
        ends = {f"{end}_value": row[end] for end in ("low", "high")}
        style = {"hue": hue, "hollow": row["arm"] in bare, "name": None, "number": None}
        points.append({**row, **ends, **at, **style, "novelty": row[novelty]})
    spots = [(point["x"], point["y"]) for point in points]
    firsts = [next(i for i, row in enumerate(drawn) if row["model"] == model) for model in models]  # the best of each
    labelled = [spots[i] for i in firsts]
    names, clear = labels(labelled, spots, models, DESK)
    numbers, _ = labels(labelled, spots, [str(i + 1) for i in range(len(models))], PHONE + DESK)
    for i, name, number in zip(firsts, names, numbers, strict=True):
        points[i] |= {"name": name if clear else None, "number": number}
    arms = [[spots[i] for i, row in enumerate(drawn) if row["model"] == model] for model in models]
    return {
        "novelty": novelty,
        "x": x,
        "y": y,
        "points": points,
        "models": models,
        "named": clear,
        "joins": [{"hue": i % HUES, "ends": ends} for i, ends in enumerate(arms) if len(ends) > 1],
        "skipped": len(rows) - len(drawn),
    }


def labels(
    labelled: Sequence[Spot], dots: Sequence[Spot], texts: Sequence[str], widths: Sequence[float]
) -> tuple[list[Label], bool]:
    """A label for each point, and whether no label covers another, a dot or the edge at any width.

    Positions are tried ring by ring around the point, near ones first; if all overlap, the one with the fewest
    overlaps is taken.

    Args:
        labelled: points with a label, in per cent of width and height.
        dots: all points.
        texts: a text for each labelled point.
        widths: of the chart, in pixels.
    """
    placed: list[list[Box]] = [[] for _ in widths]
    placed_labels, clear = [], True
    for spot, text in zip(labelled, texts, strict=True):
        best: tuple[int, Label, list[Box]] | None = None
        for ring, (right, down) in product(RINGS, SIDES):
            anchor = "middle" if right == 0 else "start" if right > 0 else "end"
            label = Label(text, ring * right, ring * down, anchor, ring > RINGS[0])
            boxes = [_box(label, spot, width) for width in widths]
            overlaps = sum(
                _overlaps(box, width, [(dot[0] * width / 100, dot[1] * HEIGHT / 100) for dot in dots], before)
                for box, width, before in zip(boxes, widths, placed, strict=True)
            )
            if best is None or overlaps < best[0]:
                best = overlaps, label, boxes
            if overlaps == 0:
                break
        assert best is not None
        clear &= best[0] == 0
        placed_labels.append(best[1])
        for before, box in zip(placed, best[2], strict=True):
            before.append(box)
    return placed_labels, clear


def _box(label: Label, spot: Spot, width: float) -> Box:
    """Left, top, right and bottom of a label, in pixels."""
    x, y = spot[0] * width / 100 + label.x, spot[1] * HEIGHT / 100 + label.y
    wide = LETTER * len(label.text)
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[label.anchor]
    return left, y - LINE / 2, left + wide, y + LINE / 2


def _overlaps(box: Box, width: float, dots: Sequence[Spot], before: Sequence[Box]) -> int:
    """Number of labels and dots that a box covers, plus 1 if it leaves the chart."""
    left, top, right, bottom = box
    out = left < 0 or right > width or top < 0 or bottom > HEIGHT
    on_dots = sum(left - DOT < x < right + DOT and top - DOT < y < bottom + DOT for x, y in dots)
    return out + on_dots + sum(left < b[2] and b[0] < right and top < b[3] and b[1] < bottom for b in before)
