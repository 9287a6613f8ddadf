from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from relrank.graph.construction import similarity
from relrank.graph.construction.relation_config import TextSimilarity
from relrank.graph.construction.similarity import cooccurring, places_near, similar_texts, similar_vectors, top_k_mask

TEXTS = ["red fox", "Red Fox runs", "blue whale", "the blue whale sings", "whale sings", "fox", "red fox"]


def config(**changes: object) -> TextSimilarity:
    return TextSimilarity.model_validate({"kind": "text", "node": "item", "columns": ["t"], "min_df": 1, **changes})


def naive_cosines(texts: list[str]) -> np.ndarray:
    """TF-IDF by hand: counts of words and word pairs × (ln((1 + n) / (1 + df)) + 1), rows of length one."""
    grams = []
    for text in texts:
        words = text.lower().split()
        grams.append(Counter(words + [f"{a} {b}" for a, b in pairwise(words)]))
    df = Counter(g for counts in grams for g in counts)
    idf = {g: math.log((1 + len(texts)) / (1 + df[g])) + 1 for g in df}
    rows = [{g: c * idf[g] for g, c in counts.items()} for counts in grams]
    norms = [math.sqrt(sum(v * v for v in row.values())) for row in rows]
    return np.array(
        [
            [sum(v * other.get(g, 0) for g, v in row.items()) / a / b for other, b in zip(rows, norms, strict=True)]
            for row, a in zip(rows, norms, strict=True)
        ]
    )


@pytest.mark.parametrize("cells", [1, 20, 1 << 20])
def test_similar_texts_agree_with_cosines_by_hand_whatever_the_block(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarity, "_BLOCK_CELLS", cells)
    cosines = naive_cosines(TEXTS)
    (src, dst, value), bare = similar_texts(TEXTS, config(neighbours=6, min_similarity=0.3))
    expected = {(i, j) for i, j in np.argwhere(cosines >= 0.3).tolist() if i != j}
    assert set(zip(src.tolist(), dst.tolist(), strict=True)) == expected
    assert 4 < len(expected) == len(src) < 42
    np.testing.assert_allclose(value, cosines[src, dst], rtol=1e-6)
    assert value.max() == 1  # texts 0 and 6 are equal, and a cosine is never above one
    assert bare == 0


def test_neighbours_are_the_nearest_others_and_ties_go_to_the_lower_row() -> None:
    (src, dst, _), _ = similar_texts(["a1 b1", "a1 b1", "a1 b1", "a1 c1"], config(neighbours=1, ngrams=(1, 1)))
    assert dict(zip(src.tolist(), dst.tolist(), strict=True)) == {0: 1, 1: 0, 2: 0, 3: 0}


def test_texts_without_a_shared_word_are_counted_and_near_nothing() -> None:
    (src, dst, _), bare = similar_texts(["red fox", "red hen", "zebra", "quux"], config(min_df=2))
    assert (sorted(zip(src.tolist(), dst.tolist(), strict=True)), bare) == ([(0, 1), (1, 0)], 2)


@pytest.mark.parametrize("cells", [1, 20, 1 << 20])
def test_similar_vectors_agree_with_cosines_by_hand_whatever_the_block(
    cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine vectors in blocks of one, of two (the last of one), and in one; two of them are equal."""
    monkeypatch.setattr(similarity, "_BLOCK_CELLS", cells)
    x = np.random.default_rng(0).standard_normal((9, 3))
    x[7] = x[2]
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    expected = {}
    for i, one in enumerate(x):
        others = [(sum(a * b for a, b in zip(one, other, strict=True)), j) for j, other in enumerate(x) if j != i]
        near = sorted((-cosine, j) for cosine, j in others if cosine >= 0.1)[:2]
        expected |= {(i, j): -minus for minus, j in near}
    src, dst, value = similar_vectors(x.astype(np.float32), config(neighbours=2, min_similarity=0.1))
    found = dict(zip(zip(src.tolist(), dst.tolist(), strict=True), value.tolist(), strict=True))
    assert found == pytest.approx(expected, rel=1e-5)
    assert len(found) == len(src)
    assert value.max() == found[2, 7] == found[7, 2] == pytest.approx(1)
    assert any(i != j and (j, i) not in found for i, j in found), "a neighbour need not name the one that names it"


edges = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(1, 4)), unique_by=lambda e: e[:2])


@given(edges, st.integers(1, 4))
def test_largest_agrees_with_sorting_each_row(rows: list[tuple[int, int, int]], k: int) -> None:
    row, other, weight = (np.array([e[i] for e in rows], np.int32) for i in range(3))
    mask = top_k_mask(row, other, weight.astype(np.float32), k)
    kept = {e for e, keep in zip(rows, mask.tolist(), strict=True) if keep}
    for r in range(4):
        mine = sorted((e for e in rows if e[0] == r), key=lambda e: (-e[2], e[1]))
        assert {e for e in kept if e[0] == r} == set(mine[:k])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=25), st.sampled_from([1, 2, 4, 2**31 - 1]),
       st.integers(1, 3))  # fmt: skip
def test_cooccurring_agrees_with_loops(rows: list[tuple[int, int]], window: int, min_count: int) -> None:
    user, item = (np.array([row[i] for row in rows], np.int32) for i in range(2))
    counts: Counter[tuple[int, int]] = Counter()
    near = 0
    for u in range(3):
        history = [i for v, i in rows if v == u]
        for at, first in enumerate(history):
            near += len(history[at + 1 : at + 1 + window])
            counts.update(tuple(sorted((first, then))) for then in history[at + 1 : at + 1 + window] if then != first)
    low, high, count = cooccurring(user, item, window, min_count)
    found = dict(zip(zip(low.tolist(), high.tolist(), strict=True), count.tolist(), strict=True))
    assert found == {pair: n for pair, n in counts.items() if n >= min_count}
    assert places_near(user, window) == near
