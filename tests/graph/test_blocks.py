import threading
import time
from collections import Counter
from itertools import combinations, pairwise, permutations

import numba
import numpy as np
import polars as pl
import pytest
import torch
from scipy.stats import chisquare

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.propagation import Propagation
from relrank.graph.relation import Relation
from relrank.graph.sampling.blocks import Adjacency, full_block
from relrank.graph.sampling.neighbour_sampling import NeighbourSampler, full_blocks, prefetch
from relrank.kernels import neighbour_sampling
from relrank.tables.ids import IdMap

Seq = np.random.SeedSequence


def graph_of(sizes, **relations):
    """``name=(source, target, pairs, weights or None)``; the first are the interactions."""
    made = [
        Relation.of(name, s, t, *np.array(pairs, np.int64).reshape(-1, 2).T, None if w is None else np.array(w))
        for name, (s, t, pairs, w) in relations.items()
    ]
    nodes = {t: IdMap(t, pl.Series(range(n), dtype=pl.Int64)) for t, n in sizes.items()}
    return Graph("user", "item", nodes, made[0], {r.name: r for r in made[1:]}, "f")


@pytest.fixture(scope="module")
def graph():
    """30 users, 20 items, 7 tags, 4 authors, 5 shelves outside all relations; users 28, 29 and item 19 are alone."""
    rng = np.random.default_rng(3)

    def pairs(n, m, edges):
        return np.unique(np.stack([rng.integers(0, n, edges), rng.integers(0, m, edges)], 1), axis=0)

    similar = pairs(19, 19, 50)
    similar = similar[similar[:, 0] < similar[:, 1]]
    tags, authors = pairs(19, 7, 40), pairs(19, 4, 25)
    return graph_of(
        {"shelf": 5, "user": 30, "tag": 7, "item": 20, "author": 4},
        interacts=("user", "item", pairs(28, 19, 160), None),
        similar=("item", "item", similar, rng.uniform(0.5, 3, len(similar))),
        has_tag=("item", "tag", tags, rng.uniform(0.5, 3, len(tags))),
        by=("item", "author", authors, None),
    )


def oracle(graph):
    """Per edge type name: {(destination, source): weight} in global numbers, written down naively."""
    first, n = {}, 0
    for t in ["user", "item", "tag", "author"]:
        first[t] = n
        n += len(graph.nodes[t])
    out = {}
    for r in [graph.interactions, *graph.relations.values()]:
        there, back = {}, {}
        for s, t, w in zip(r.src.tolist(), r.dst.tolist(), r.weight.tolist(), strict=True):
            there[first[r.target] + t, first[r.source] + s] = w
            back[first[r.source] + s, first[r.target] + t] = w
        if r.undirected:
            out[r.name] = there | back
        else:
            out[r.name], out[r.name + " reversed"] = there, back
    return out, n


def drawn(block, k):
    """The edges of one edge type in global numbers, with repeats: (destination, source, weight)."""
    source, destination = block.edge_index(k)
    nodes = block.nodes.tolist()
    edges = block.edges[k]
    return [
        (nodes[d], nodes[s], w)
        for d, s, w in zip(destination.tolist(), source.tolist(), edges.weight.tolist(), strict=True)
    ]


def well_formed(adjacency, block):
    """What every block promises: unique nodes, rows of the right type, local numbers in range, arrays that fit."""
    assert block.nodes.dtype == torch.int64
    assert len(set(block.nodes.tolist())) == block.n_src
    for e, (indptr, indices, weight) in zip(adjacency.edge_types, block.edges, strict=True):
        assert (indptr.dtype, indices.dtype, weight.dtype) == (torch.int64, torch.int32, torch.float32)
        assert indptr.shape == (block.n_dst + 1,)
        assert indptr[0] == 0
        assert (indptr.diff() >= 0).all()
        assert indptr[-1] == indices.numel() == weight.numel()
        sources = block.nodes[indices.long()]
        assert ((sources >= e.source.start) & (sources < e.source.stop)).all()
        receiving = block.nodes[: block.n_dst][indptr.diff() > 0]
        assert ((receiving >= e.destination.start) & (receiving < e.destination.stop)).all()
    used = torch.cat([torch.arange(block.n_dst), *(e.indices.long() for e in block.edges)])
    assert used.unique().numel() == block.n_src


def chained(blocks, seeds):
    """The last block's destinations are the seeds, and each block's are the sources of the one before."""
    assert blocks[-1].nodes[: blocks[-1].n_dst].tolist() == list(seeds)
    for outer, inner in pairwise(blocks):
        assert outer.nodes[: outer.n_dst].tolist() == inner.nodes.tolist()


def pair_sets(users, items):
    """Interactions to leave out, as edges of both interaction edge types in global numbers."""
    left = {(30 + i, u) for u, i in zip(users, items, strict=True)}
    return {"interacts": left, "interacts reversed": {(u, i) for i, u in left}}


def test_adjacency_numbers_nodes_as_propagation_does_and_holds_every_edge_in_both_directions(graph):
    adjacency, propagation = Adjacency(graph), Propagation(graph)
    assert {t: s.start for t, s in adjacency.types.items()} == propagation.offsets
    assert list(adjacency.types) == ["user", "item", "tag", "author"]
    assert (adjacency.n_nodes, adjacency.names) == (propagation.n_nodes, propagation.names)
    edges, _ = oracle(graph)
    assert [e.name for e in adjacency.edge_types] == [
        "interacts", "interacts reversed", "by", "by reversed", "has_tag", "has_tag reversed", "similar",
    ]  # fmt: skip
    degrees = np.zeros(adjacency.n_nodes, int)
    for e in adjacency.edge_types:
        found = {
            (e.destination.start + d, e.source.start + s): w
            for d, s, w in zip(e.csr.rows().tolist(), e.csr.indices.tolist(), e.csr.data.tolist(), strict=True)
        }
        assert found == edges[e.name]
        assert e.csr.indices.dtype == np.int32
        assert (np.diff(e.csr.indices)[np.diff(e.csr.rows()) == 0] > 0).all()
        assert e.unweighted == (e.name.split()[0] in ("interacts", "by"))
        for d, _ in found:
            degrees[d] += 1
    assert (adjacency.degrees() == degrees).all()


def test_adjacency_copies_neither_the_relations_arrays_nor_weights_that_are_all_one(graph):
    there, back = Adjacency(graph).edge_types[:2]
    assert back.csr.indices is graph.interactions.dst
    assert there.csr.data is back.csr.data is graph.interactions.weight


def test_all_neighbours_equal_the_naive_oracle_less_the_excluded_edges(graph):
    """Exactly the edges into the destinations, with their weights, less the excluded ones and nothing else."""
    adjacency, (edges, n) = Adjacency(graph), oracle(graph)
    sampler = NeighbourSampler(adjacency, [-1, -1])
    rng = np.random.default_rng(0)
    for trial in range(20):
        seeds = rng.permutation(n)[: rng.integers(1, 12)]
        some = rng.integers(0, len(graph.interactions), trial)  # with repeats
        users = np.r_[graph.interactions.src[some], 0, 29].astype(np.int64)
        items = np.r_[graph.interactions.dst[some], 19, 19].astype(np.int64)  # the last two are no interactions
        left_out = pair_sets(users.tolist(), items.tolist())
        blocks = sampler.sample(seeds, Seq(trial), exclude=(users, torch.from_numpy(items)))
        chained(blocks, seeds.tolist())
        for block in blocks:
            well_formed(adjacency, block)
            destinations = set(block.nodes[: block.n_dst].tolist())
            for k, e in enumerate(adjacency.edge_types):
                expected = {
                    (d, s, w)
                    for (d, s), w in edges[e.name].items()
                    if d in destinations and (d, s) not in left_out.get(e.name, ())
                }
                found = drawn(block, k)
                assert len(found) == len(set(found))
                assert set(found) == expected


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_draws_are_edges_of_the_graph_as_many_as_the_fan_out_of_their_relation(graph, weighted, replace):
    """Per-relation fan-outs; excluded edges never appear; a node with too few neighbours takes what there is."""
    adjacency, (edges, n) = Adjacency(graph), oracle(graph)
    fanouts = [
        {"interacts": 3, "by": 1, "has_tag": -1, "similar": 0},
        {"interacts": 2, "by": 0, "has_tag": 1, "similar": 4},
    ]
    sampler = NeighbourSampler(adjacency, fanouts, replace=replace, weighted=weighted)
    rng = np.random.default_rng(1)
    for trial in range(10):
        seeds = rng.permutation(n)[:15]
        some = rng.integers(0, len(graph.interactions), 60)
        users, items = (rows[some].astype(np.int64) for rows in (graph.interactions.src, graph.interactions.dst))
        left_out = pair_sets(users.tolist(), items.tolist())
        blocks = sampler.sample(seeds, Seq(trial), exclude=(users, items))
        chained(blocks, seeds.tolist())
        for block, by_name in zip(blocks, fanouts[::-1], strict=True):
            well_formed(adjacency, block)
            for k, e in enumerate(adjacency.edge_types):
                allowed = {key: w for key, w in edges[e.name].items() if key not in left_out.get(e.name, ())}
                found, fanout = drawn(block, k), by_name[e.name.split()[0]]
                assert all(allowed[d, s] == w for d, s, w in found)
                per_node = Counter(d for d, _, _ in found)
                for d in block.nodes[: block.n_dst].tolist():
                    free = sum(key[0] == d for key in allowed)
                    most = free if fanout < 0 else fanout * (free > 0) if replace else min(free, fanout)
                    assert per_node[d] == most
                if not replace or fanout < 0:
                    assert len({(d, s) for d, s, _ in found}) == len(found)


N = 3000


def star(n_items, weights=None):
    """N users who all have the same items, so that one call makes N draws from one distribution."""
    pairs = [(u, i) for u in range(N) for i in range(n_items)]
    values = None if weights is None else np.tile(weights, N)
    return Adjacency(graph_of({"user": N, "item": n_items}, interacts=("user", "item", pairs, values)))


def sets_drawn(adjacency, fanout, excluded, seeds, **how):
    """How often each multiset of items was drawn by a user, over several calls; ``excluded`` items for all users."""
    sampler = NeighbourSampler(adjacency, [fanout], **how)
    users = np.repeat(np.arange(N), len(excluded))
    counted = Counter()
    for seed in range(seeds):
        block = sampler.sample(np.arange(N), Seq(seed), exclude=(users, np.tile(excluded, N).astype(np.int64)))[0]
        items = block.nodes[block.edges[1].indices.long()].reshape(N, fanout) - N
        counted.update(map(tuple, items.sort(1).values.tolist()))
    return counted


def agree(counted, chances):
    """Chi-square goodness of fit; no other outcome occurs."""
    assert set(counted) <= set(chances)
    assert sum(chances.values()) == pytest.approx(1)
    total = sum(counted.values())
    expected = [total * chance for chance in chances.values()]
    assert min(expected) > 5
    assert chisquare([counted[key] for key in chances], expected).pvalue > 1e-3


@pytest.mark.parametrize(("n_items", "fanout", "excluded"), [(7, 3, [0, 4]), (6, 1, []), (13, 10, [12])])
def test_uniform_draws_without_replacement_make_every_subset_equally_likely(n_items, fanout, excluded):
    """Floyd's algorithm and, for 10 of 12, selection sampling."""
    subsets = list(combinations([i for i in range(n_items) if i not in excluded], fanout))
    agree(sets_drawn(star(n_items), fanout, excluded, 2), dict.fromkeys(subsets, 1 / len(subsets)))


WEIGHTS = np.array([0.2, 5.0, 1.0, 0.7, 2.5, 1.6])


@pytest.mark.parametrize("excluded", [[], [1], [0, 5]])
def test_weighted_draws_without_replacement_are_successive_draws_by_weight(excluded):
    """The chance of a set is the sum over its orders of drawing one after another from what is left."""
    free = [i for i in range(6) if i not in excluded]
    chances = Counter()
    for order in permutations(free, 3):
        left, chance = sum(WEIGHTS[free]), 1.0
        for i in order:
            chance *= WEIGHTS[i] / left
            left -= WEIGHTS[i]
        chances[tuple(sorted(order))] += chance
    agree(sets_drawn(star(6, WEIGHTS), 3, excluded, 4, weighted=True), chances)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("excluded", [[], [5], [0, 3]])
def test_draws_with_replacement_are_independent(weighted, excluded):
    chance = np.where(np.isin(np.arange(6), excluded), 0, WEIGHTS if weighted else 1.0)
    chance /= chance.sum()
    chances = {
        (i, j): chance[i] * chance[j] * (1 if i == j else 2)
        for i in range(6)
        for j in range(i, 6)
        if chance[i] * chance[j]
    }
    counted = sets_drawn(star(6, WEIGHTS), 2, excluded, 8, replace=True, weighted=weighted)
    agree(counted, chances)


@pytest.mark.parametrize("weighted", [False, True])
def test_every_neighbour_of_a_hub_is_equally_likely(weighted):
    """One item with 3,000 users of whom 1,000 are excluded; equal weights other than one are uniform as well."""
    adjacency = star(1, [2.0])
    sampler = NeighbourSampler(adjacency, [50], weighted=weighted)
    out = np.arange(0, N, 3)
    seen = np.zeros(N)
    for seed in range(400):
        block = sampler.sample(np.array([N]), Seq(seed), exclude=(out, np.zeros_like(out)))[0]
        seen[block.nodes[1:].numpy()] += 1
    assert (seen[out] == 0).all()
    kept = np.delete(seen, out)
    assert kept.sum() == 400 * 50
    # 400 draws with chance 50/2000 each: chi-square over the 2,000, less the share that drawing without repeats takes
    statistic = ((kept - 10) ** 2 / (10 * (1 - 50 / 2000))).sum()
    assert abs(statistic - 1999) < 4 * np.sqrt(2 * 1999)


def test_draws_of_other_nodes_layers_and_seeds_are_independent():
    adjacency = star(6)
    sampler = NeighbourSampler(adjacency, [1, 1])

    def item(block):
        rows = block.edges[1].indptr[: N + 1]
        assert (rows.diff() == 1).all()
        return block.nodes[block.edges[1].indices[:N].long()].numpy()

    outer, inner = (item(b) for b in sampler.sample(np.arange(N), Seq(0)))
    other = item(sampler.sample(np.arange(N), Seq(1))[1])
    error = 4 * np.sqrt(1 / 6 * 5 / 6 / N)
    for a, b in ((outer, inner), (inner, other), (inner[1:], inner[:-1])):
        assert (a == b).mean() == pytest.approx(1 / 6, abs=error)


def bits(blocks):
    return [t for b in blocks for t in (b.nodes, *(t for e in b.edges for t in e))]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("replace", [False, True])
def test_same_seed_same_bits_on_any_number_of_threads_and_on_the_serial_kernel(graph, weighted, replace, monkeypatch):
    monkeypatch.setattr(neighbour_sampling, "_WORTH_THREADS", 0)
    sampler = NeighbourSampler(Adjacency(graph), [3, 2], replace=replace, weighted=weighted)
    seeds, out = np.arange(40), (graph.interactions.src[:50], graph.interactions.dst[:50])
    before, results = numba.get_num_threads(), []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        results.append(bits(sampler.sample(seeds, Seq(5), out, parallel=True)))
    numba.set_num_threads(before)
    results.append(bits(sampler.sample(seeds, Seq(5), out, parallel=False)))
    in_thread = threading.Thread(target=lambda: results.append(bits(sampler.sample(seeds, Seq(5), out))))
    in_thread.start()
    in_thread.join()
    assert all(same(results[0], r) for r in results[1:])
    assert not same(results[0], bits(sampler.sample(seeds, Seq(6), out)))


def test_the_order_of_the_seeds_does_not_change_what_a_node_draws(graph):
    adjacency = Adjacency(graph)
    sampler = NeighbourSampler(adjacency, [2])
    there = sampler.sample(np.arange(10, 45), Seq(1))[0]
    back = sampler.sample(np.arange(10, 45)[::-1], Seq(1))[0]
    for k in range(len(adjacency.edge_types)):
        assert sorted(drawn(there, k)) == sorted(drawn(back, k))


@pytest.mark.parametrize("how", [{}, {"replace": True}, {"weighted": True}, {"replace": True, "weighted": True}])
def test_nodes_without_neighbours_and_a_user_all_of_whose_edges_are_excluded(how):
    graph = graph_of(
        {"user": 3, "item": 4}, interacts=("user", "item", [(0, 0), (0, 1), (1, 1), (1, 2)], [1, 2, 3, 4])
    )
    sampler = NeighbourSampler(Adjacency(graph), [2, 2], **how)
    alone = sampler.sample(np.array([6, 2]), Seq(0))
    assert [b.nodes.tolist() for b in alone] == [[6, 2], [6, 2]]
    assert [b.n_edges for b in alone] == [0, 0]
    blocks = sampler.sample(np.array([0, 4]), Seq(0), exclude=(np.array([0, 0]), np.array([1, 0])))
    chained(blocks, [0, 4])
    assert blocks[1].edges[1].indptr.tolist() == [0, 0, 0]
    item_1 = [(4, 1, 3.0)] * (2 if how.get("replace") else 1)
    assert drawn(blocks[1], 0) == item_1
    assert all(0 not in (d, s) for b in blocks for k in (0, 1) for d, s, _ in drawn(b, k))
    nobody = sampler.sample(np.empty(0, np.int64), Seq(0))
    assert [b.n_src for b in nobody] == [0, 0]


def test_what_is_refused(graph):
    adjacency = Adjacency(graph)
    sampler = NeighbourSampler(adjacency, [-1])
    with pytest.raises(InputError, match=r"more than once[\s\S]*position 2[\s\S]*node 7 again"):
        sampler.sample(np.array([7, 3, 7]), Seq(0))
    for beyond in (-1, adjacency.n_nodes):
        with pytest.raises(InputError, match="no node"):
            sampler.sample(np.array([0, beyond]), Seq(0))
    for users, items in (([30], [0]), ([0], [20]), ([-1], [0])):
        with pytest.raises(InputError, match="row out of range"):
            sampler.sample(np.array([7]), Seq(0), exclude=(np.array(users), np.array(items)))
    with pytest.raises(InputError, match="pairs do not fit"):
        sampler.sample(np.array([7]), Seq(0), exclude=(np.array([1, 2]), np.array([1])))
    assert sampler.sample(np.array([7, 3]), Seq(0))[0].nodes[:2].tolist() == [7, 3]  # and nothing is left behind
    for fanouts, message in (
        ([], "no layer"), ([2, -2], "negative"), ([{"interacts": 2}], "do not name"),
        ([{"interacts": 2, "by": 1, "has_tag": 1, "similar": 1, "knows": 1}], "do not name"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            NeighbourSampler(adjacency, fanouts)


def dense(graph, left_out=None):
    """Weighted sum over all edge types as one matrix."""
    edges, n = oracle(graph)
    a = torch.zeros(n, n, dtype=torch.float64)
    for name, weights in edges.items():
        for (d, s), w in weights.items():
            if (d, s) not in (left_out or {}).get(name, ()):
                a[d, s] += w
    return a


def gathered(block, below):
    """One layer, ``below`` [n_src, d]: the weighted sum of the messages of all edge types."""
    out = torch.zeros(block.n_dst, below.shape[1], dtype=below.dtype)
    for k, edges in enumerate(block.edges):
        source, destination = block.edge_index(k)
        out.index_add_(0, destination, edges.weight.double()[:, None] * below[source])
    return out


def test_local_numbers_index_the_blocks_nodes_and_not_the_global_table(graph):
    """Two layers through blocks of all neighbours are two products with the whole matrix, at the seeds."""
    adjacency, (_, n) = Adjacency(graph), oracle(graph)
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 3)))
    some = np.arange(0, 100, 3)
    users, items = graph.interactions.src[some], graph.interactions.dst[some]
    a = dense(graph, pair_sets(users.tolist(), items.tolist()))
    seeds = np.array([41, 3, 50, 22, 57])
    outer, inner = NeighbourSampler(adjacency, [-1, -1]).sample(seeds, Seq(0), (users, items))
    top = gathered(inner, gathered(outer, table[outer.nodes]))
    torch.testing.assert_close(top, (a @ a @ table)[seeds])


@pytest.mark.parametrize("max_edges", [1, 40, 10_000])
def test_full_blocks_compute_a_layer_of_all_nodes_in_bounded_chunks(graph, max_edges):
    adjacency, (_, n) = Adjacency(graph), oracle(graph)
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 3)))
    new, seen = torch.full_like(table, torch.nan), []
    for block in full_blocks(adjacency, max_edges):
        well_formed(adjacency, block)
        assert block.n_dst == 1 or block.n_edges + block.n_dst <= max_edges
        new[block.nodes[: block.n_dst]] = gathered(block, table[block.nodes])
        seen += block.nodes[: block.n_dst].tolist()
    assert seen == list(range(n))
    torch.testing.assert_close(new, dense(graph) @ table)


def test_the_whole_block_is_the_whole_graph_less_what_is_left_out(graph):
    adjacency, (_, n) = Adjacency(graph), oracle(graph)
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 3)))
    block = full_block(adjacency)
    well_formed(adjacency, block)
    assert block.n_dst == n
    assert block.nodes.tolist() == list(range(n))
    assert block.n_edges == adjacency.degrees().sum()
    torch.testing.assert_close(gathered(block, table), dense(graph) @ table)
    users, items = graph.interactions.src[::2], graph.interactions.dst[::2]
    less = full_block(adjacency, (np.r_[users, users], np.r_[items, items]))
    well_formed(adjacency, less)
    a = dense(graph, pair_sets(users.tolist(), items.tolist()))
    torch.testing.assert_close(gathered(less, table), a @ table)
    from_whole = full_block(adjacency, (np.r_[users, users], np.r_[items, items]), block)
    assert from_whole.nodes.tolist() == less.nodes.tolist()
    for made, expected in zip(from_whole.edges, less.edges, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(made, expected, strict=True))
    # the interactions lose edges in both directions, the rest are not made again
    shared = [made is kept for made, kept in zip(from_whole.edges, block.edges, strict=True)]
    assert shared == [False, False] + [True] * (len(shared) - 2)


def test_a_block_moves_with_all_its_tensors(graph):
    moved = NeighbourSampler(Adjacency(graph), [2]).sample(np.arange(5), Seq(0))[0].to("meta")
    assert {t.device.type for t in (moved.nodes, *(t for e in moved.edges for t in e))} == {"meta"}
    assert moved.n_dst == 5


def test_prefetch_keeps_the_order_and_makes_few_ahead():
    made = []

    def make(i):
        time.sleep(0.004 * (i % 3 == 0))
        made.append(i)
        return i

    for workers in (0, 1, 3):
        made.clear()
        for at, value in enumerate(prefetch(make, 30, workers)):
            assert value == at
            time.sleep(0.001)  # the makers would be far ahead by now
            assert len(made) <= at + 1 + 2 * workers
        assert sorted(made) == list(range(30))
    assert list(prefetch(make, 0, 2)) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_prefetch_raises_in_place_of_the_thing_that_failed(workers):
    def make(i):
        if i == 5:
            raise InputError("fifth", where="here", expected="", found="")
        time.sleep(0.001 * (10 - i if i < 5 else 0))
        return i

    things = prefetch(make, 20, workers)
    assert [next(things) for _ in range(5)] == list(range(5))
    with pytest.raises(InputError, match="fifth"):
        next(things)
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetch_ends_when_its_consumer_does():
    """Closed with two things under way and one waiting: the two are waited for, the third is never begun."""
    with_warm_start, gate = [], threading.Event()

    def make(i):
        with_warm_start.append(i)
        if i:
            assert gate.wait(10)
        return i

    things = prefetch(make, 1000, 2)
    assert next(things) == 0
    while len(with_warm_start) < 3:
        time.sleep(0.001)
    threading.Timer(0.2, gate.set).start()
    things.close()
    assert sorted(with_warm_start) == [0, 1, 2]
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_prefetched_batches_are_those_made_in_the_callers_thread(graph):
    sampler = NeighbourSampler(Adjacency(graph), [2, 2])

    def make(i):
        return bits(sampler.sample(np.random.default_rng(i).permutation(61)[:20], Seq(i)))

    for alone, ahead in zip(prefetch(make, 12, 0), prefetch(make, 12, 3), strict=True):
        assert same(alone, ahead)
