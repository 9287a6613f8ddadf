"""Days of the first and the last interaction, as the report shows them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np

from relrank.study.card import _dates
from relrank.tables.split import Interactions


def part(*times, ticks=1):
    rows = np.zeros(len(times), np.int32)
    return Interactions(rows, rows, time=np.array(times, np.int64), ticks=ticks)


def test_first_and_last_day_of_all_parts():
    day = 86_400
    split = SimpleNamespace(train=part(3 * day, 2 * day), valid=part(9 * day + 5), test=part(8 * day))
    assert _dates(split) == ["1970-01-03", "1970-01-10"]
    thousand = SimpleNamespace(train=part(86_400_000 * 400, ticks=1000), valid=part(), test=part())
    assert _dates(thousand) == ["1971-02-05", "1971-02-05"]


def test_an_order_is_no_date():
    order = part(1, 2, ticks=0)
    assert _dates(SimpleNamespace(train=order, valid=order, test=order)) is None
    without = replace(order, time=None)
    assert _dates(SimpleNamespace(train=without, valid=without, test=without)) is None
