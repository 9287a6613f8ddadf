"""Histories in time order against lists of lists."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relrank.errors import InputError
from relrank.graph.histories import Sequences
from relrank.testing import planted_graph, planted_sequences, renumbered

Lists = list[list[int]]
histories = st.lists(st.lists(st.integers(0, 9), max_size=6), max_size=5)


def of(lists: Lists) -> Sequences:
    return Sequences.from_histories([torch.tensor(h, dtype=torch.int64) for h in lists], 10)


def lists_of(sequences: Sequences) -> Lists:
    ends = sequences.indptr.tolist()
    return [sequences.items[a:b].tolist() for a, b in pairwise(ends)]


def check_types(sequences: Sequences) -> None:
    assert (sequences.indptr.dtype, sequences.items.dtype) == (np.int64, np.int32)
    assert (sequences.indptr[0], sequences.indptr[-1]) == (0, sequences.items.size)


@given(histories)
def test_histories_come_back_as_they_were_given(lists: Lists) -> None:
    """Repeated items, empty histories and no history at all included."""
    found = of(lists)
    check_types(found)
    assert lists_of(found) == lists
    assert found.n == len(lists)
    assert found.lengths().tolist() == [len(h) for h in lists]
    tensors = found.tensors()
    assert [h.tolist() for h in tensors] == lists
    assert all(h.dtype == torch.int64 for h in tensors)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_item_rows_may_be_of_any_whole_type(dtype: torch.dtype) -> None:
    assert lists_of(Sequences.from_histories([torch.tensor([3, 1], dtype=dtype)], 4)) == [[3, 1]]


@pytest.mark.parametrize("row", [-1, 10, 2**32 + 3])
def test_rows_outside_the_catalogue_are_refused_before_they_are_cut_to_32_bits(row: int) -> None:
    with pytest.raises(InputError, match="outside the catalogue") as error:
        of([[1], [2, row]])
    assert (error.value.where, error.value.found) == ("history 1", str(row))


@given(histories, st.data())
def test_take_is_indexing(lists: Lists, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=7)) if lists else []
    found = of(lists).take(np.array(rows, np.int64))
    check_types(found)
    assert lists_of(found) == [lists[row] for row in rows]


@given(st.lists(st.tuples(*[st.lists(st.integers(0, 9), max_size=4)] * 2), max_size=5))
def test_then_is_concatenation(pairs: list[tuple[list[int], list[int]]]) -> None:
    first, second = [a for a, _ in pairs], [b for _, b in pairs]
    found = of(first).then(of(second))
    check_types(found)
    assert lists_of(found) == [a + b for a, b in pairs]


def test_then_refuses_other_users() -> None:
    with pytest.raises(ValueError, match="shape"):
        of([[1], [2]]).then(of([[1]]))


@given(histories, st.integers(1, 7), st.data())
def test_windows_are_the_last_items_before_their_end(lists: Lists, width: int, data: st.DataObject) -> None:
    ends = None
    expected = [h[-width:] for h in lists]
    if data.draw(st.booleans()):
        drawn = [data.draw(st.integers(0, len(h))) for h in lists]
        ends = np.array(drawn, np.int64)
        expected = [h[max(end - width, 0) : end] for h, end in zip(lists, drawn, strict=True)]
    items, real = of(lists).windows(width, ends)
    assert (items.dtype, real.dtype) == (np.int64, np.int64)
    assert real.tolist() == [len(w) for w in expected]
    longest = max(map(len, expected), default=0)
    assert items.shape == (len(lists), longest)
    assert items.tolist() == [w + [0] * (longest - len(w)) for w in expected]


def test_padding_by_hand_on_either_side() -> None:
    """Item 0 is an item, and a history's true length is not the window's."""
    padded = np.array([[9, 9, 0, 3], [0, 3, 9, 9], [9, 9, 9, 9], [1, 0, 1, 2]])
    found = Sequences.from_padded(padded, 9)
    check_types(found)
    assert lists_of(found) == [[0, 3], [0, 3], [], [1, 0, 1, 2]]
    items, real = found.windows(3)
    assert items.tolist() == [[0, 3, 0], [0, 3, 0], [0, 0, 0], [0, 1, 2]]
    assert real.tolist() == [2, 2, 0, 3]
    assert found.lengths().tolist() == [2, 2, 0, 4]


def test_histories_of_a_graph_are_in_the_order_of_its_places() -> None:
    """Rings: from every item to the next of its block, and the user without edges has an empty one."""
    graph = planted_sequences(users=8, items=24, per_user=5)
    lists = lists_of(Sequences.from_graph(graph))
    assert [len(h) for h in lists] == [5] * 8
    for user, history in enumerate(lists):
        assert history == [(history[0] + 4 * step) % 24 for step in range(5)]
        assert history[0] % 4 == user % 4
    assert any(h != sorted(h) for h in lists)  # so that the order of edges would show
    kept = graph.interactions.src != 3
    places = graph.places
    assert places is not None
    fewer = replace(graph, interactions=graph.interactions.where(kept), places=places[kept])
    assert lists_of(Sequences.from_graph(fewer)) == [*lists[:3], [], *lists[4:]]


def test_renumbered_nodes_keep_their_order_in_time() -> None:
    graph = planted_sequences(users=8, items=24, per_user=5)
    other, moved = renumbered(graph, seed=1)
    before, after = (lists_of(Sequences.from_graph(g)) for g in (graph, other))
    assert any(moved["user"] != np.arange(8))
    for user, history in enumerate(before):
        assert after[moved["user"][user]] == moved["item"][history].tolist()


def test_a_graph_without_order_is_refused() -> None:
    with pytest.raises(InputError, match="no order in time"):
        Sequences.from_graph(planted_graph())
