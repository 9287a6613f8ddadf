"""Number formats for sentences: decimals by the size of the metric, signs, intervals."""

from __future__ import annotations

import math


def decimals_of(metric: float) -> int:
    """Decimals of a study's figures: four, and one more for each power of ten that its metric lies below .01."""
    return min(max(4, 2 - math.floor(math.log10(metric))), 8) if metric > 0 else 4


def signed(value: float, decimals: int = 4) -> str:
    """A difference with its sign; zero has none."""
    text = f"{value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text


def duration(seconds: float) -> str:
    """A time in seconds, minutes or hours: ``40 s``, ``3 min``, ``1.9 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def interval(low: float, high: float, decimals: int = 4) -> str:
    """An interval of a signed quantity."""
    return f"{signed(low, decimals)} to {signed(high, decimals)}"
