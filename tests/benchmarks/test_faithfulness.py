"""The measure of faithfulness tells reasons from random paths, and a model without reasons from one with some."""

import numpy as np
import pytest
from small_graphs import tagged

from faithfulness import RandomPaths, faithfulness
from relrank.errors import InputError
from relrank.explanation.item_paths import INTERACTIONS, ItemPath, ItemPaths
from relrank.explanation.low_rank_update import LowRankUpdate
from relrank.graph.edge_removal import EdgeRemoval
from relrank.models.closed_form.baselines import Popularity
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.testing import planted_graph


@pytest.fixture(scope="module")
def graph():
    return planted_graph()


def test_the_named_paths_matter_more_than_random_ones(graph):
    model = RelationalEASE(graph, RelationalEASEConfig(l2=20.0, weight=10.0)).solve()
    found = faithfulness(model, graph, np.arange(20), 5, seed=0)
    assert found.n == 100
    assert found.strict >= 0.95
    assert found.unexplained == 0
    assert found.drop > 10 * found.random_drop
    assert found.share == found.strict + found.ties / 2
    named, random = found.drops.T
    assert found.strict == np.mean(named > random)
    again = faithfulness(model, graph, np.arange(4), 5, seed=0)
    np.testing.assert_array_equal(again.drops, found.drops[:20])
    assert (faithfulness(model, graph, np.arange(4), 5, seed=1).drops[:, 1] != random[:20]).any()


def test_a_model_that_reads_no_history_has_no_reasons(graph):
    found = faithfulness(Popularity(graph).solve(), graph, np.arange(4), 3, seed=0)
    assert (found.strict, found.ties, found.unexplained, found.drop) == (0, 0, 1, 0)
    with pytest.raises(InputError, match="nothing to explain"):
        faithfulness(Popularity(graph).solve(), graph, np.arange(4), 0, seed=0)


def test_random_paths_are_there_as_long_as_the_named_one_and_not_the_named_one():
    graph = tagged()
    model = RelationalEASE(graph).solve()
    paths, rng = RandomPaths(ItemPaths(model, graph, LowRankUpdate(model))), np.random.default_rng(0)
    tags = graph.relations["has_tag"].csr(4, 3)
    for like in (
        ItemPath(0, "has_tag", (("tag", 0),), 1),
        ItemPath(0, "similar", (), 1),
        ItemPath(0, INTERACTIONS, (), 1),
    ):
        drawn = [paths.draw(np.array([0, 1]), like, rng) for _ in range(60)]
        assert all((p.via, p.relation, p.through) != (like.via, like.relation, like.through) for p in drawn)
        assert {p.via for p in drawn} <= {0, 1}
        assert {len(p.through) for p in drawn} == {len(like.through)}
        for p in drawn:
            assert p.relation == INTERACTIONS if like.relation == INTERACTIONS else p.relation != INTERACTIONS
            if p.relation == "has_tag":
                ((kind, tag),) = p.through
                assert kind == "tag"
                assert {tag} <= set(tags.take(np.array([p.via])).indices) & set(tags.take(np.array([p.end])).indices)
            assert p.via != p.end or p.relation == INTERACTIONS
    lonely = paths.draw(np.array([3]), ItemPath(0, "has_tag", (("tag", 0),), 1), rng)
    assert lonely.cut == EdgeRemoval(None, ())
