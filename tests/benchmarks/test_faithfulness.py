"""The measure of faithfulness tells reasons from random paths, and a model without reasons from one with some."""

import numpy as np
import pytest

from faithfulness import faithfulness
from relrank.errors import InputError
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
