"""The plots of the performance page, drawn as SVG: no library is needed to make them, none to show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from speed.frame import Row

INK, FAINT, OURS, SLOWER = "#1f2328", "#d0d7de", "#2f6f4f", "#b35900"
WIDE = 600
"""Drawing units across: a plot stays legible on a telephone and is not too large on a screen."""


def bars(rows: Sequence[Row]) -> str:
    """Ratios as horizontal bars on a logarithmic axis, one group per task and data, as SVG."""
    shownrows = [row for row in rows if row.ratio is not None and row.ratio != 1.0]
    low = min(1.0, *(row.ratio or 1.0 for row in shownrows)) if shownrows else 1.0
    high = max([10.0, *(row.ratio or 1.0 for row in shownrows)])
    first, last = math.floor(math.log10(low)), math.log10(high) + 0.05
    left, right = 12, WIDE - 70

    def x(ratio: float) -> float:
        return left + (math.log10(ratio) - first) / (last - first) * (right - left)

    parts, y, group = [], 66, ("", "")
    for row in shownrows:
        if (row.task, row.data) != group:
            group = (row.task, row.data)
            parts.append(_text(left, y + 12, f"{row.task}: {row.data}", 15, bold=True))
            y += 24
        ratio = row.ratio or 1.0
        colour = OURS if ratio >= 1 else SLOWER
        start, end = sorted((x(1), x(ratio)))
        parts.append(_text(left, y + 12, row.who, 14))
        parts.append(
            f'<rect x="{start:.1f}" y="{y + 18}" width="{max(end - start, 1):.1f}" height="12" fill="{colour}"/>'
        )
        parts.append(_text(end + 6, y + 29, f"{ratio:.3g} ×", 14))
        y += 40
    grid = []
    for power in range(first, math.floor(last) + 1):
        at = x(10.0**power)
        weight = 2 if power == 0 else 1
        grid.append(f'<path d="M{at:.1f} 58V{y}" stroke="{FAINT}" stroke-width="{weight}"/>')
        grid.append(_text(at, 52, f"{10.0**power:g} ×", 13, anchor="middle" if power > first else "start"))
    title = _text(left, 22, "How many times as long as relrank (right of 1 ×: relrank is faster)", 15)
    return _svg(y + 12, [title, *grid, *parts])


def curves(rows: Sequence[dict[str, Any]]) -> str:
    """Seconds and memory over the interactions, both axes logarithmic, as SVG."""
    lines = (
        ("seconds_epoch_estimated", "epoch, estimated, s", OURS, 1.0), ("seconds_graph", "graph, s", "#1f5fa8", 1.0),
        ("seconds_step", "step, s", SLOWER, 1.0), ("peak_mb", "peak memory, GB", "#8250a8", 1 / 1024),
    )  # fmt: skip
    values = [row[key] * factor for row in rows for key, _, _, factor in lines]
    sizes = [row["interactions"] for row in rows]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    left, right, top, bottom = 60, WIDE - 160, 40, 380
    first, last = math.log10(min(sizes)), max(math.log10(max(sizes)), math.log10(min(sizes)) + 0.1)

    def x(size: float) -> float:
        return left + (math.log10(size) - first) / (last - first) * (right - left)

    def y(value: float) -> float:
        return bottom - (math.log10(value) - low) / max(high - low, 1) * (bottom - top)

    parts = [_text(12, 22, "Time and memory over the number of interactions", 15)]
    for power in range(low, high + 1):
        parts.append(f'<path d="M{left} {y(10.0**power):.1f}H{right}" stroke="{FAINT}"/>')
        parts.append(_text(left - 6, y(10.0**power) + 5, f"{10.0**power:g}", 13, anchor="end"))
    parts += [_text(x(size), bottom + 22, f"{size / 1e6:g} M", 13, anchor="middle") for size in sizes]
    ends = sorted((y(rows[-1][key] * factor), key) for key, _, _, factor in lines)
    places, at = {}, -math.inf
    for height, key in ends:  # labels of lines that end close together stand apart
        places[key] = at = max(height, at + 18)
    for key, text, colour, factor in lines:
        points = " ".join(f"{x(row['interactions']):.1f},{y(row[key] * factor):.1f}" for row in rows)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        for row in rows:
            at_x, at_y = x(row["interactions"]), y(row[key] * factor)
            parts.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4" fill="{colour}"/>')
        parts.append(_text(right + 10, places[key] + 5, text, 14, colour=colour))
    return _svg(bottom + 36, parts)


def _text(
    x: float, y: float, text: str, size: int, anchor: str = "start", bold: bool = False, colour: str = INK
) -> str:
    weight = ' font-weight="600"' if bold else ""
    where = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
    return f'<text {where} fill="{colour}"{weight}>{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDE} {height:.0f}" width="{WIDE}" height="{height:.0f}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"
