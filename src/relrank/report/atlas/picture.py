"""The pictures of an atlas as SVG: a matrix of kinds × data sets, and for narrow screens one column.

Both have light and dark colours of their own, which follow the reader's system.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from relrank.report.formatting import Axis, signed_percent
from relrank.study.atlas.gains import FAMILIES, Gain

Marks = Mapping[str, "Mark | None"]
"""By family, what a cell shows; None where the model has no figure."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One line of a cell.

    Attributes:
        gain: in percent, with its interval.
        verdict: decides the symbol.
        leaks: whether it is drawn as a leak.
    """

    gain: Gain
    verdict: str | None
    leaks: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Rows under one heading.

    Attributes:
        title: heading.
        columns: headings of the columns.
        rows: title of a row, and its cells in the order of the columns; None for an empty cell.
        margin: smallest difference that matters, in percent.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Marks | None, ...]], ...]
    margin: float


WIDE, NARROW = 1120, 390
"""Widths in pixels, also of a page on which text has its size of ``TEXT``."""
TEXT = 15
LINE = 22
LABEL = 170
"""Width of the rows' titles in the matrix."""
FIGURE = 54
"""Width of a figure such as "+12.3"."""
MOST_COLUMNS = 6
"""Of the matrix; further data sets are in a second one under it."""
SYMBOLS = {
    "helps": "M-6 5L0 -6L6 5Z",
    "hurts": "M-6 -5L0 6L6 -5Z",
    "interchangeable": "M-6 0L0 -6L6 0L0 6Z",
    "negligible": "M-5 -3H5V3H-5Z",
}
"""By verdict; all others are open circles."""
MEANINGS = ("helps", "interchangeable", "negligible", "hurts", "undecided or without a verdict")
STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;font-size:15px;fill:var(--ink)}
svg{--paper:#fff;--ink:#1f2328;--quiet:#59636e;--rule:#d1d9e0;--band:#eef1f4;--f0:#1a7f4b;--f1:#b35900;--f2:#4a54c4}
@media(prefers-color-scheme:dark){svg{--paper:#14181d;--ink:#e6edf3;--quiet:#9aa5b1;--rule:#3a434d;--band:#222931;
--f0:#4fc98a;--f1:#f0a052;--f2:#9aa5ff}}
.paper{fill:var(--paper)}.band{fill:var(--band)}.rule{stroke:var(--rule)}.zero{stroke:var(--quiet)}.quiet{fill:var(--quiet)}.bold{font-weight:600}
.f0{--c:var(--f0)}.f1{--c:var(--f1)}.f2{--c:var(--f2)}
.ci{stroke:var(--c);stroke-width:2}.open{fill:var(--paper);stroke:var(--c);stroke-width:2}.mark{fill:var(--c)}
.leak{stroke-dasharray:3 3}.number{fill:var(--c);font-weight:600;font-variant-numeric:tabular-nums}
"""


def wide_picture(groups: Sequence[Group], title: str) -> str:
    """A matrix per group: kinds in rows, data sets in columns, the models of a cell under each other."""
    return _drawing(WIDE, title, lambda canvas: _matrices(canvas, groups))


def narrow_picture(groups: Sequence[Group], title: str) -> str:
    """The same figures one under the other."""
    return _drawing(NARROW, title, lambda canvas: _lists(canvas, groups))


class _Canvas:
    """Elements of a drawing, from the top down."""

    def __init__(self, width: int) -> None:
        self.width, self.y, self.parts = width, 0.0, list[str]()

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start", room: float = 0) -> None:
        """Text with its baseline at y; squeezed where it is wider than the room that it has."""
        tight = f' textLength="{room:.0f}" lengthAdjust="spacingAndGlyphs"' if room and _width(text) > room else ""
        anchored = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}"{anchored}{tight}>{escape(text)}</text>')

    def wrapped(self, x: float, y: float, text: str, room: float, most: int, kind: str = "") -> None:
        """Text in up to so many lines."""
        for at, line in enumerate(_wrapped(text, room, most)):
            self.text(x, y + 18 * at, line, kind, room=room)

    def rule(self, y: float) -> None:
        """A line from one side to the other."""
        self.parts.append(f'<path d="M12 {y:.1f}H{self.width - 12}" class="rule"/>')

    def mark(self, mark: Mark | None, at: int, axis: Axis, box: tuple[float, float, float]) -> None:
        """Interval, symbol and figure of one model in a box: left, width, middle."""
        left, width, y = box
        if mark is None:
            self.text(left + width, y + 5, "–", "quiet", "end")
            return
        room = width - FIGURE

        def x(value: float) -> float:
            return left + axis.at(value) / 100 * room

        gain, digits = mark.gain, 0 if abs(mark.gain.mean) >= 99.5 else 1
        leak = " leak" if mark.leaks else ""
        shape = SYMBOLS.get(mark.verdict or "")
        symbol = f'<path d="{shape}" class="mark"' if shape else '<circle r="4.5" class="open"'
        self.parts.append(
            f'<g class="f{at}"><path d="M{x(gain.low):.1f} {y:.1f}H{x(gain.high):.1f}" class="ci{leak}"/>'
            f'{symbol} transform="translate({x(gain.mean):.1f} {y:.1f})"/></g>'
        )
        self.text(left + width, y + 5, signed_percent(gain.mean, digits), f"number f{at}", "end")

    def ground(self, axis: Axis, margin: float, box: tuple[float, float, float, float]) -> None:
        """The margin as a band and 0 as a line, behind the marks of a cell: left, width, top, height."""
        left, width, top, height = box
        room = width - FIGURE
        low, zero, high = (left + axis.at(value) / 100 * room for value in (-margin, 0.0, margin))
        self.parts.append(
            f'<rect x="{low:.1f}" y="{top:.1f}" width="{high - low:.1f}" height="{height:.1f}" class="band"/>'
            f'<path d="M{zero:.1f} {top:.1f}v{height:.1f}" class="zero"/>'
        )

    def legend(self, per_line: int) -> None:
        """What colours and symbols mean."""
        entries = [(f'<g class="f{i}"><path d="M-7 0H7" class="ci"/>', name) for i, name in enumerate(FAMILIES)]
        for name in MEANINGS:
            shape = SYMBOLS.get(name)
            drawn = f'<path d="{shape}" class="quiet"/>' if shape else '<circle r="4.5" class="open"/>'
            entries.append((f'<g style="--c:var(--quiet)">{drawn}', name))
        x, shown = 22.0, 0
        for symbol, name in entries:
            if shown == per_line or x + 18 + _width(name) > self.width:
                x, shown = 22.0, 0
                self.y += LINE + 2
            place = f'<g transform="translate({x:.1f} {self.y + 10:.1f})">'
            self.parts.append(f"{place}{symbol}</g></g>")
            self.text(x + 14, self.y + 15, name, "quiet")
            x, shown = x + 14 + _width(name) + 26, shown + 1
        self.y += LINE + 14


def _drawing(width: int, title: str, draw: Callable[[_Canvas], None]) -> str:
    canvas = _Canvas(width)
    canvas.y = 12.0
    draw(canvas)
    height = round(canvas.y + 8)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img"><title>{escape(title)}</title><style>{STYLE}</style>'
        f'<rect width="100%" height="100%" class="paper"/>\n' + "\n".join(canvas.parts) + "\n</svg>\n"
    )


def _matrices(canvas: _Canvas, groups: Sequence[Group]) -> None:
    canvas.legend(per_line=4)
    for group in groups:
        axis = _axis(group)
        for part in _parts(group):
            canvas.text(12, canvas.y + 16, part.title, "bold")
            n = len(part.columns)
            width = min((canvas.width - LABEL - 12) / max(n, 1), 300)
            lefts = [LABEL + at * width + 10 for at in range(n)]
            canvas.y += 22
            lines = max(len(_wrapped(column, width - 20, 2)) for column in part.columns)
            for left, column in zip(lefts, part.columns, strict=True):
                canvas.wrapped(left, canvas.y + 18, column, width - 20, 2, "bold")
            canvas.y += 8 + 18 * lines
            for title, cells in part.rows:
                families = _families(cells)
                height = LINE * max(len(families), 1) + 12
                canvas.rule(canvas.y)
                canvas.wrapped(12, canvas.y + 22, title, LABEL - 16, 2 if len(families) > 1 else 1)
                for left, cell in zip(lefts, cells, strict=True):
                    if cell is None:
                        continue
                    canvas.ground(axis, group.margin, (left, width - 20, canvas.y + 3, height - 6))
                    for line, family in enumerate(families):
                        middle = canvas.y + 6 + LINE * (line + 0.5)
                        canvas.mark(cell.get(family), FAMILIES.index(family), axis, (left, width - 20, middle))
                canvas.y += height
            canvas.rule(canvas.y)
            for left in lefts:
                _ticks(canvas, axis, left, width - 20)
            canvas.y += 40


def _lists(canvas: _Canvas, groups: Sequence[Group]) -> None:
    canvas.legend(per_line=2)
    left, width = 150.0, canvas.width - 162.0
    for group in groups:
        axis = _axis(group)
        canvas.text(12, canvas.y + 16, group.title, "bold", room=canvas.width - 24)
        canvas.y += 28
        for title, cells in group.rows:
            canvas.rule(canvas.y)
            canvas.text(12, canvas.y + 20, title, "bold", room=canvas.width - 24)
            canvas.y += 26
            for column, cell in zip(group.columns, cells, strict=True):
                families = [] if cell is None else _families([cell])
                if cell is None or not families:
                    continue
                canvas.ground(axis, group.margin, (left, width, canvas.y, LINE * len(families)))
                canvas.wrapped(12, canvas.y + 16, column, left - 24, len(families), "quiet")
                for line, family in enumerate(families):
                    middle = canvas.y + LINE * (line + 0.5)
                    canvas.mark(cell[family], FAMILIES.index(family), axis, (left, width, middle))
                canvas.y += LINE * len(families) + 6
        canvas.rule(canvas.y)
        _ticks(canvas, axis, left, width)
        canvas.y += 40


def _ticks(canvas: _Canvas, axis: Axis, left: float, width: float) -> None:
    """0 and the ends of the axis that are not too near to it, in percent."""

    def x(tick: float) -> float:
        return left + axis.at(tick) / 100 * (width - FIGURE)

    for tick in sorted({axis.ticks[0], 0.0, axis.ticks[-1]}):
        if tick == 0 or abs(x(tick) - x(0.0)) > 44:
            canvas.text(x(tick), canvas.y + 18, f"{signed_percent(tick)} %", "quiet", "middle")


def _families(cells: Sequence[Marks | None]) -> list[str]:
    """Families with a figure in one of the cells."""
    return [family for family in FAMILIES if any(cell and cell.get(family) for cell in cells)]


def _axis(group: Group) -> Axis:
    """The axis of a group; intervals that are much longer than the gains are cut off."""
    marks = [m for _, cells in group.rows for cell in cells if cell for m in cell.values() if m is not None]
    most = max([8.0, *(1.6 * abs(m.gain.mean) for m in marks)])
    ends = [min(max(end, -most), most) for m in marks for end in (m.gain.low, m.gain.high)]
    return Axis.over([-group.margin, group.margin, *ends], most=4)


def _parts(group: Group) -> list[Group]:
    """A group in parts of few columns; every row is in a part only where it has a cell."""
    if len(group.columns) <= MOST_COLUMNS:
        return [group]
    parts = []
    n_parts = -(-len(group.columns) // MOST_COLUMNS)
    size = -(-len(group.columns) // n_parts)
    for start in range(0, len(group.columns), size):
        rows = tuple((title, cells[start : start + size]) for title, cells in group.rows)
        title = group.title if not start else f"{group.title}, continued"
        rows = tuple(row for row in rows if any(row[1]))
        parts.append(Group(title, group.columns[start : start + size], rows, group.margin))
    return parts


def _wrapped(text: str, room: float, most: int) -> list[str]:
    """Text in up to so many lines; the last one may be too long."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines) < most and _width(f"{lines[-1]} {word}") > room:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _width(text: str) -> float:
    """Width of text of the usual size, roughly."""
    return 0.54 * TEXT * len(text)
