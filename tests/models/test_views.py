"""Views of items, part by part, against loops over their formulas."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn import functional
from written import written

from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.graph.sampling.blocks import Adjacency
from relrank.models.two_view.views import CrossAttention, Gate, Parts, Relations, attribute_relations
from relrank.tables.ids import IdMap

DIM = 4


def small() -> Graph:
    """Three items; item 0 has two texts, item 1 shares one of them, item 2 has only one whose vector is missing."""
    ids = {"user": 2, "item": 3, "text": 3, "tag": 2}
    known = np.array([True, True, False])
    x = np.array([[1.0, -2.0], [0.5, 1.0], [0.0, 0.0]], np.float32)
    edges = [Relation.of("chose", "user", "item", np.array([0, 1]), np.array([0, 1]))]
    edges.append(Relation.of("text", "item", "text", np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])))
    edges.append(Relation.of("tag", "item", "tag", np.array([0, 1, 1]), np.array([0, 0, 1]), np.array([1, 2, 1])))
    edges.append(Relation.of("like", "item", "item", np.array([0]), np.array([2])))
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in ids.items()}
    features = {"text": Feature("text", "text", known, dense=x)}
    return Graph("user", "item", nodes, edges[0], {e.name: e for e in edges[1:]}, "by hand", features=features)


def relations(names, seed=0):
    graph = small()
    adjacency = Adjacency(graph)
    made = Relations(graph, adjacency, names, DIM)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.reset(generator)
        for parameter in made.parameters():  # far from where they start, so that every term shows
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
    base = torch.randn(3, DIM, generator=generator)
    return made, base, torch.randn(adjacency.n_nodes, DIM, generator=generator), adjacency


def heard(attention, sources, destination, weights=None):
    """Additive attention of one node, by its formula."""
    left = sources @ attention.left.T
    inner = left + attention.right @ destination
    if attention.along is not None:
        inner = inner + torch.tensor(weights).log1p()[:, None] * attention.along.flatten()
    return ((functional.leaky_relu(inner, 0.2) * attention.vector.flatten()).sum(1).softmax(0)[:, None] * left).sum(0)


def test_what_is_content_and_what_is_structure():
    graph = small()
    assert attribute_relations(graph) == ("like", "tag")
    wish = Relation.of("wish", "user", "item", np.array([0]), np.array([2]))
    works = Relation.of("works", "user", "tag", np.array([0]), np.array([1]))
    more = replace(graph, relations=graph.relations | {"wish": wish, "works": works})
    assert attribute_relations(more) == ("like", "tag")
    # the other end first
    back = Relation.of("tag", "tag", "item", np.array([0, 0, 1]), np.array([0, 1, 1]))
    assert attribute_relations(replace(graph, relations=graph.relations | {"tag": back})) == ("like", "tag")


@torch.no_grad()
def test_content_is_attention_over_projected_vectors_and_missing_without_any():
    made, base, table, _ = relations(["text"])
    part, x = made.parts[0], torch.tensor([[1.0, -2.0], [0.5, 1.0]])
    one = torch.ones(2, 1)
    hidden = functional.relu(torch.cat([x, one], 1) @ part.hidden.weight)
    texts = torch.cat([hidden, one], 1) @ part.out.weight
    expected = [heard(part.attention, texts, base[0]), heard(part.attention, texts[1:], base[1])]
    found = made(base, table)
    torch.testing.assert_close(found.vectors[:2, 0], functional.normalize(torch.stack(expected), dim=1))
    assert found.known.tolist() == [[True], [True], [False]]
    assert not found.vectors[2].any()


@torch.no_grad()
def test_structure_is_two_hops_with_attention_of_their_own():
    made, base, table, adjacency = relations(["like", "tag"])
    like, tag = made.parts
    own = table[adjacency.types["tag"]]
    far = torch.stack([
        own[0] + heard(tag.far_attention, base[:2], own[0], [1.0, 2.0]),
        own[1] + heard(tag.far_attention, base[1:2], own[1], [1.0]),
    ])  # fmt: skip
    expected = [heard(tag.attention, far[:1], base[0], [1.0]), heard(tag.attention, far, base[1], [2.0, 1.0])]
    found = made(base, table)
    torch.testing.assert_close(found.vectors[:2, 1], functional.normalize(torch.stack(expected), dim=1))
    assert like.far_attention is None  # one hop among items
    alone = functional.normalize(base[2] @ like.attention.left.T, dim=0)
    torch.testing.assert_close(found.vectors[0, 0], alone)
    assert found.known.tolist() == [[True, True], [False, True], [True, False]]


def test_gates_share_among_what_is_known():
    gate = Gate(3, 2)
    with torch.no_grad():
        gate.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0], [5.0, 5.0]]))
        gate.bias.copy_(torch.tensor([0.0, 0.5, 9.0]))
    vectors = torch.tensor([[[1.0, 0], [0, 1], [0, 0]], [[0, 0], [0, 0], [0, 0]], [[0, 0], [1, 0], [0, 0]]])
    known = torch.tensor([[True, True, False], [False, False, False], [False, True, False]])
    low = 1 / (1 + np.exp(1.5))  # logits 1 and 2.5
    shares = gate.shares(Parts(vectors, known))
    np.testing.assert_allclose(shares.detach(), [[low, 1 - low, 0], [0, 0, 0], [0, 1, 0]], rtol=1e-6)
    mixed = gate(Parts(vectors, known))
    np.testing.assert_allclose(mixed.detach(), [[low, 1 - low], [0, 0], [1, 0]], rtol=1e-6)
    mixed.sum().backward()
    assert gate.weight.grad.isfinite().all()  # no 0 / 0 behind an item without parts


@torch.no_grad()
def test_cross_attention_asks_known_parts_alone():
    generator = torch.Generator().manual_seed(0)
    across = CrossAttention(3, DIM, 2)
    across.reset(generator)
    across.out.reset(generator)
    views, vectors = torch.randn(2, 2, DIM, generator=generator), torch.randn(2, 3, DIM, generator=generator)
    known = torch.tensor([[True, False, True], [False, False, False]])
    found = across(views, Parts(vectors, known))

    def project(affine, x):
        return torch.cat([x, torch.ones(len(x), 1)], 1) @ affine.weight

    query, there = project(across.query, views[0]), vectors[0][known[0]]
    key, value = project(across.key, there), project(across.value, there)
    halves = [
        ((query[:, h] @ key[:, h].T) / 2**0.5).softmax(1) @ value[:, h] for h in (slice(0, 2), slice(2, 4))
    ]  # fmt: skip
    torch.testing.assert_close(found[0], views[0] + project(across.out, torch.cat(halves, 1)))
    torch.testing.assert_close(found[1], views[1])  # nothing to ask
    # what stands where a part is missing is never read
    moved = torch.where(known[:, :, None], vectors, 99.0)
    torch.testing.assert_close(across(views, Parts(moved, known)), found)


def test_pitfall_attention_over_a_single_key_is_left_out():
    """Its share is always 1: attention would be a linear map."""
    across = CrossAttention(1, DIM, 2)
    across.reset(torch.Generator().manual_seed(0))
    views = torch.randn(2, 2, DIM)
    assert across(views, Parts(torch.randn(2, 1, DIM), torch.ones(2, 1, dtype=torch.bool))) is views


@pytest.mark.parametrize("item", [0, 6])
def test_an_item_without_text_is_missing_and_not_empty(item):
    graph = written()
    made = Relations(graph, Adjacency(graph), ["has_review"], DIM)
    assert bool(made.known()[item, 0]) == (item != 6)


@torch.no_grad()
def test_drawn_neighbours_are_some_of_the_neighbours():
    """Few enough to be all give the very same; fewer are without replacement, and each is drawn as often."""
    made, base, table, _ = relations(["like", "tag", "text"])
    exact = made(base, table)
    everything = made.draw(9, np.random.SeedSequence(0), False)
    torch.testing.assert_close(made(base, table, everything).vectors, exact.vectors)
    graph = written()
    wide = Relations(graph, Adjacency(graph), ["has_review", "has_tag"], DIM)
    rows = wide.parts[1].hops[1]  # items of a tag, about ten
    degrees = np.diff(rows.starts.numpy())
    counts = np.zeros(graph.n_items)
    for seed in range(300):
        ((near,), (back, far)) = wide.draw(3, np.random.SeedSequence(seed), False)
        assert np.diff(near.starts).max() == 2
        assert np.diff(back.starts).max() == 1
        drawn = np.diff(far.starts)
        assert (drawn == np.minimum(degrees, 3)).all()
        owner = np.repeat(np.arange(degrees.size), drawn)
        assert np.unique(owner * 1000 + far.sources).size == far.sources.size
        counts[far.sources] += 1
    tags = np.repeat(np.arange(degrees.size), degrees)
    expected = 300 * np.minimum(degrees, 3) / degrees
    deviation = np.abs(counts[rows.sources.numpy()] - expected[tags])
    assert deviation.max() < 5 * np.sqrt(300 * 0.25)
