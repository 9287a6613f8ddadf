"""Number formats of the page, and axes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeGuard

NOTHING = "–"
MINUS = "−"


def is_finite(value: float | None) -> TypeGuard[float]:
    """Whether the value is a finite number."""
    return value is not None and math.isfinite(value)


def number(value: float | None, decimals: int = 4) -> str:
    """A metric: fixed decimals, no leading zero (``.1615``), a dash for null, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{abs(value):.{decimals}f}"
    if float(text) < 1 and decimals:
        text = text[1:]
    return MINUS + text if value < 0 and float(text) else text


def signed(value: float | None, decimals: int = 4) -> str:
    """A difference: like ``number``, with a sign unless it rounds to zero."""
    text = number(value, decimals)
    return "+" + text if is_finite(value) and not text.startswith(MINUS) and float(text) else text


def interval(low: float | None, high: float | None, *, sign: bool = True, decimals: int = 4) -> str:
    """An interval, ``[+.0125, +.0225]``; a dash if an end is missing."""
    if not (is_finite(low) and is_finite(high)):
        return NOTHING
    write = signed if sign else number
    return f"[{write(low, decimals)}, {write(high, decimals)}]"


def count(value: float | None) -> str:
    """A whole number with thousands separators."""
    return f"{round(value):,}" if value is not None and math.isfinite(value) else NOTHING


def amount(value: float | None, decimals: int = 1) -> str:
    """Seconds or MB: fixed decimals, thousands separators."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{abs(value):,.{decimals}f}"
    return MINUS + text if value < 0 and float(text.replace(",", "")) else text


def extra(value: float | None, decimals: int = 1) -> str:
    """A difference of two amounts, with its sign."""
    text = amount(value, decimals)
    return "+" + text if value is not None and value > 0 and float(text.replace(",", "")) else text


def percent(value: float | None) -> str:
    """A share between 0 and 1 as ``97.3 %``, rounded down, so that only 1 is shown as 100.0 %."""
    return f"{math.floor(1000 * value + 1e-9) / 10:.1f} %" if value is not None and math.isfinite(value) else NOTHING


def share(value: float, digits: int | None = None) -> str:
    """A share as ``67 %``, or as ``1.8 %`` below a tenth; ``digits`` sets the decimals of both."""
    if digits is None:
        digits = 0 if abs(value) >= 0.0995 else 1
    text = f"{abs(100 * value):.{digits}f}"
    text = text.removesuffix(".0")
    return (MINUS if value < 0 and float(text) else "") + f"{text} %"


def relative(mean: float, low: float, high: float, base: float) -> tuple[str, str]:
    """A difference and its interval as shares of ``base``: ``("+67 %", "+59 to +75 %")``."""
    ends = [100 * value / base for value in (mean, low, high)]
    digits = 0 if max(map(abs, ends)) >= 9.95 else 1
    texts = [signed_percent(value, digits) for value in ends]
    return f"{texts[0]} %", f"{texts[1]} to {texts[2]} %"


def signed_percent(value: float, digits: int = 0) -> str:
    """A percentage with its sign and without the unit; zero has no sign."""
    text = f"{abs(value):.{digits}f}"
    return ("+" if value > 0 else MINUS) + text if float(text) else "0"


def of_base(value: float, base: float) -> str:
    """A tick of an axis as a share of ``base``: ``+20 %``; zero without sign."""
    percent = 100 * value / base
    return f"{signed_percent(percent, 0 if abs(percent) >= 9.95 or abs(percent - round(percent)) < 1e-6 else 1)} %"


def p_value(value: float | None) -> str:
    """A p-value with three decimals, ``<.001`` instead of zero."""
    return "<.001" if value is not None and value < 0.0005 else number(value, 3)


def typeset(sentence: str) -> str:
    """A sentence with figures of four or more decimals in the page's format: ``-0.0012`` as ``−.0012``."""
    pattern = r"(?<![\w.])(-?)0?(\.\d{4,8})(?!\d)"
    return re.sub(pattern, lambda match: match[1].replace("-", MINUS) + match[2], sentence)


def unbroken(sentence: str) -> str:
    """A sentence whose numbers stay on one line with their units."""
    return sentence.replace(" %", "\u00a0%").replace("± ", "±\u00a0")


def metric_name(name: str) -> str:
    """A metric's usual spelling: ``NDCG@10`` for ``ndcg@10``."""
    stem, at, k = name.partition("@")
    stem = stem.upper() if stem in {"ndcg", "mrr", "map"} else stem.replace("_", " ").capitalize()
    return f"{stem}{at}{k}"


def listed(names: list[str], most: int = 6) -> str:
    """``a, b and c``; more than ``most`` names are cut: ``a, b and 7 more``."""
    if len(names) > most:
        names = [*names[: most - 1], f"{len(names) - most + 1} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis with round ticks; positions are percentages of its width."""

    low: float
    high: float
    ticks: tuple[float, ...]
    decimals: int

    @classmethod
    def over(cls, values: Iterable[float | None], *, most: int = 6, margin: float = 0.04, unit: float = 1.0) -> Axis:
        """An axis that contains all finite values, with at most ``most`` ticks (steps of 1, 2 or 5 × 10ⁿ units)."""
        finite = [v / unit for v in values if v is not None and math.isfinite(v)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        if low == high:
            low, high = low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1)
        pad = margin * (high - low)
        low, high = low - pad, high + pad
        rough = (high - low) / most
        power = math.floor(math.log10(rough))
        step = next(s * 10.0**power for s in (1, 2, 5, 10) if s * 10.0**power >= rough)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return cls(low * unit, high * unit, tuple(i * step * unit for i in range(first, last + 1)), decimals)

    def at(self, value: float) -> float:
        """Position of a value in per cent, clipped to the axis."""
        return round(min(100.0, max(0.0, 100 * (value - self.low) / (self.high - self.low))), 2)

    def label(self, value: float, *, sign: bool = False) -> str:
        """Text of a tick."""
        return "0" if abs(value) < 1e-12 else (signed if sign else number)(value, self.decimals)
