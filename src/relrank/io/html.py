"""Small HTML for notebooks: escaped, without external resources, in the colours of the page around it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

LINE = "1px solid rgba(128,128,128,.4)"
"""A line that shows on light and on dark pages."""
BOX = "display:inline-block;max-width:100%;overflow-x:auto;text-align:left;line-height:1.45"


def escaped(value: object) -> str:
    """A value as text in HTML."""
    return escape(str(value), quote=True)


def block(title: str, *parts: str) -> str:
    """A box with a title and parts that are HTML already.

    Args:
        title: plain text.
        parts: HTML.
    """
    return f'<div style="{BOX}"><div style="font-weight:600">{escaped(title)}</div>{"".join(parts)}</div>'


def line(text: object, faint: bool = False) -> str:
    """A line of plain text."""
    return f'<div style="max-width:60em{";opacity:.7" if faint else ""}">{escaped(text)}</div>'


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], numbers: int = 0) -> str:
    """A table of plain values.

    Args:
        headings: of the columns.
        rows: values as they are shown.
        numbers: how many of the last columns are aligned on the right.
    """

    def cells(tag: str, values: Sequence[object]) -> str:
        texts = len(values) - numbers
        left, right = "text-align:left;max-width:34em", "text-align:right;white-space:nowrap"
        return "".join(
            f'<{tag} style="{left if at < texts else right};padding:.15em .8em .15em 0;'
            f'border-bottom:{LINE};vertical-align:top;background:none;color:inherit">{escaped(value)}</{tag}>'
            for at, value in enumerate(values)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    style = "border-collapse:collapse;margin:.4em 0;font-variant-numeric:tabular-nums;color:inherit"
    return f'<table style="{style}"><thead><tr>{cells("th", headings)}</tr></thead><tbody>{body}</tbody></table>'
