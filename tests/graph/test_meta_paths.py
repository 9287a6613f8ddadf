import numpy as np
import polars as pl
import pytest

from relrank.graph.graph import Graph
from relrank.graph.meta_paths import meta_paths, path_scores, root_of_difference
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.tables.ids import IdMap

SIZES = {"user": 7, "item": 9, "tag": 4, "city": 3}
ENDS = {
    "has_tag": ("item", "tag"),
    "holds": ("tag", "item"),
    "similar": ("item", "item"),
    "lives_in": ("user", "city"),
    "sells_to": ("city", "user"),
    "friend": ("user", "user"),
    "wished": ("user", "item"),
    "viewed_by": ("item", "user"),
    "about": ("tag", "city"),
}


def made(name, source, target, rng):
    """About half of all edges, with weights; an undirected pair once."""
    src, dst = np.nonzero(rng.random((SIZES[source], SIZES[target])) < 0.45)
    if source == target:
        src, dst = src[src < dst], dst[src < dst]
    return Relation.of(name, source, target, src, dst, rng.uniform(0.3, 3, src.size))


def graph(seed=0):
    rng = np.random.default_rng(seed)
    chose, *rest = (made(name, *ends, rng) for name, ends in {"chose": ("user", "item"), **ENDS}.items())
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in SIZES.items()}
    return Graph("user", "item", nodes, chose, {r.name: r for r in rest}, "paths")


def dense(relation):
    """Weights over the square roots of both ends' weighted degrees, float64, source by target."""
    w = np.zeros((SIZES[relation.source], SIZES[relation.target]))
    w[relation.src, relation.dst] = relation.weight
    if relation.source == relation.target:
        w[relation.dst, relation.src] = relation.weight
    degrees = np.outer(w.sum(1), w.sum(0))
    return np.divide(w, np.sqrt(degrees), out=np.zeros_like(w), where=w > 0)


def weights(relation):
    w = np.zeros((SIZES[relation.source], SIZES[relation.target]))
    w[relation.src, relation.dst] = relation.weight
    return w


def row_shares(w):
    return w / np.maximum(w.sum(1, keepdims=True), 1e-12)


def from_end(relation, end):
    return dense(relation) if relation.source == end else dense(relation).T


def oracle(g, name, history, users):
    """Path by path, in loops; the user itself is left out by name where a path stands at users."""
    a, n_items = dense(g.interactions), SIZES["item"]
    out = np.zeros((len(history), n_items))
    for r, (h, own) in enumerate(zip(history, users, strict=True)):
        if name == "chose":
            for j in range(n_items):
                for v in range(SIZES["user"]):
                    if v != own:
                        out[r] += h[j] * a[v, j] * a[v]
            continue
        relation = g.relations[name]
        if name == "about":  # over tags, a step in shares each
            a_tag, a_city = weights(g.relations["has_tag"]), weights(relation)
            there = row_shares(a_tag) @ row_shares(a_city)
            steps = there / np.maximum(np.sqrt(np.outer(there.sum(1), there.sum(0))), 1e-12)
            for j in range(n_items):
                for v in range(steps.shape[1]):
                    out[r] += h[j] * steps[j, v] * steps[:, v]
        elif "item" in ENDS[name]:
            steps = from_end(relation, "item")
            for j in range(n_items):
                if name == "similar":
                    out[r] += h[j] * steps[j]
                    continue
                for v in range(steps.shape[1]):
                    if not ("user" in ENDS[name] and v == own):
                        out[r] += h[j] * steps[j, v] * steps[:, v]
        elif own >= 0:
            steps = from_end(relation, "user")
            for c in range(steps.shape[1]):
                if name == "friend":
                    out[r] += steps[own, c] * a[c]
                    continue
                for v in range(SIZES["user"]):
                    if v != own:
                        out[r] += steps[own, c] * steps[v, c] * a[v]
    return out


def histories(n, seed=1):
    """Weights of items per row; the last row is empty."""
    rng = np.random.default_rng(seed)
    h = np.where(rng.random((n, SIZES["item"])) < 0.4, rng.uniform(0.2, 1, (n, SIZES["item"])), 0)
    h[-1] = 0
    return h, Csr.from_pairs(*np.nonzero(h), h.shape, h[np.nonzero(h)])


def test_every_relation_that_leads_from_users_or_items_opens_one_kind_and_no_other_does():
    g = graph()
    kinds = meta_paths(g)
    assert [k.name for k in kinds] == ["chose", *sorted(ENDS)]
    assert [k.name for k in meta_paths(g.only("about", "friend"))] == ["chose", "friend"]
    through = {"chose", "lives_in", "sells_to", "wished", "viewed_by"}
    assert {k.name for k in kinds if k.through_users} == through
    assert {k.name for k in kinds if k.start is not None} == {"lives_in", "sells_to", "friend"}
    assert [k.name for k in meta_paths(g.only())] == ["chose"]


@pytest.mark.parametrize("name", ["chose", *ENDS])
def test_sums_of_paths_are_those_counted_one_by_one(name):
    """For known users, for −1, which the graph does not know, and for a user asked for twice."""
    g = graph()
    kind = next(k for k in meta_paths(g) if k.name == name)
    users = np.array([3, -1, 0, 3, 6, 2, -1, 5])
    h, rows = histories(len(users))
    expected = oracle(g, name, h, users)
    found = path_scores(kind, rows, users)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    assert found.any()
    np.testing.assert_allclose(path_scores(kind, rows, None), oracle(g, name, h, [-1] * 8), rtol=1e-5, atol=1e-7)
    if kind.start is None and kind.through_users:  # leaving the user out must matter for this to be a test of it
        assert not np.allclose(found, oracle(g, name, h, [-1] * 8), rtol=1e-3)
    if kind.start is not None:
        assert not found[users < 0].any()
        np.testing.assert_array_equal(found[0], found[3])  # the user counts, not the history


def test_a_path_by_hand():
    """Users 0 and 1 share item 0; user 1 also has item 1, and nobody else has anything."""
    nodes = {name: IdMap(name, pl.Series(range(2))) for name in ("user", "item")}
    edges = Relation.of("chose", "user", "item", np.array([0, 1, 1]), np.array([0, 0, 1]))
    g = Graph("user", "item", nodes, edges, {}, "by hand")
    (kind,) = meta_paths(g)
    history = Csr.from_pairs(np.array([0]), np.array([0]), (1, 2))
    # item 0 → user 1: 1/√(2·2); user 1 → item 0: the same; → item 1: 1/√(2·1)
    found = path_scores(kind, history, np.array([0]))
    np.testing.assert_allclose(found, [[0.5 * 0.5, 0.5 / np.sqrt(2)]], rtol=1e-6)
    # a stranger with the same history also passes through user 0, who leads back to item 0
    stranger = path_scores(kind, history, None)
    np.testing.assert_allclose(stranger - found, [[1 / 2, 0]], rtol=1e-6)


def test_a_user_who_has_an_item_alone_reaches_it_by_no_path():
    """The target left in its own history: through itself a user reaches exactly the items it has."""
    g = graph()
    others = g.interactions.where(g.interactions.dst != 8)
    edges = Relation.of("chose", "user", "item", np.r_[others.src, 4], np.r_[others.dst, 8])
    (kind,) = meta_paths(Graph("user", "item", g.nodes, edges, {}, "paths"))
    mine = edges.csr(7, 9).take(np.array([4, 4]))
    known, unknown = path_scores(kind, mine, np.array([4, -1]))
    assert known[8] == 0
    assert unknown[8] > 0


def test_serial_and_parallel_give_the_same_bits():
    g = graph(5)
    users = np.arange(300) % 8 - 1
    _, rows = histories(300)
    for kind in meta_paths(g):
        serial = path_scores(kind, rows, users, parallel=False)
        np.testing.assert_array_equal(serial, path_scores(kind, rows, users, parallel=True))
        assert serial.any()


def test_asking_writes_into_nothing():
    g = graph()
    _, rows = histories(3)
    kinds = meta_paths(g)
    first = [path_scores(k, rows, np.array([1, -1, 2])) for k in kinds]
    again = [path_scores(k, rows, np.array([1, -1, 2])) for k in kinds]
    np.testing.assert_array_equal(first, again)
    assert rows.data.all()


def test_root_of_difference_by_hand():
    """Equal sums leave nothing, not the root of a rounding error."""
    whole = np.array([[5.0, 1.0, 0.0, 3.0], [2.0, 8.0, 1.0, 0.5]], np.float32)
    less = np.array([[2.0, 4.0, 1.0 - 1e-6, 0.0], [1.0, 1.0, 0.0, 3.0]], np.float32)
    factor = np.array([4.0, 0.25], np.float32)
    expected = np.sqrt([[0.0, 16.0, 0.0, 2.0], [1.0, 0.0, 0.0, 0.0]])
    found = root_of_difference(whole, np.array([1, 0]), less.copy(), factor)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.array_equal(found, root_of_difference(whole, np.array([1, 0]), less.copy(), factor, parallel=False))
