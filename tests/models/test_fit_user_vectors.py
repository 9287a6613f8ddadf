from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from relrank.evaluation.ranking import top_k_from_histories
from relrank.models.core.base import history_rows
from relrank.models.core.fit_user_vectors import SHARPER, fit_to_histories
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.testing import planted_graph
from relrank.training import TrainConfig, fit

N_ITEMS, DIM = 40, 6


def items(seed=0):
    return torch.nn.functional.normalize(torch.randn(N_ITEMS, DIM, generator=torch.Generator().manual_seed(seed)))


def cost(u, history, length, temperature):
    """The formula of the file, in float64."""
    s = length * items().double().numpy() @ (u / np.linalg.norm(u)) / (SHARPER * temperature)
    rest = np.log(np.exp(np.delete(s, history)).sum())
    return sum(np.logaddexp(s[i], rest) - s[i] for i in history)


@pytest.mark.parametrize(("history", "length", "temperature"), [([3], 1.0, 0.3), ([1, 7, 30, 31], 1.7, 0.5)])
def test_it_is_the_least_of_the_loss(history, length, temperature):
    """Beside an independent minimiser, which begins at many places."""
    rows = history_rows([torch.tensor(history)], N_ITEMS)
    start = items()[history].sum(0, keepdim=True)
    found = fit_to_histories(start, rows, items(), temperature, length)[0].double().numpy()
    assert np.linalg.norm(found) == pytest.approx(length, rel=1e-5)
    rng = np.random.default_rng(0)
    best = min(minimize(cost, rng.standard_normal(DIM), (history, length, temperature)).fun for _ in range(10))
    before = cost(start[0].double().numpy(), history, length, temperature)
    assert cost(found, history, length, temperature) < best + 0.01 * (before - best)


def test_nobody_else_in_the_block_matters_and_nothing_stays_nothing():
    histories = [torch.tensor(h, dtype=torch.int64) for h in ([3, 9], [], range(N_ITEMS), [5, 6, 7])]
    start = torch.stack([items()[h].sum(0) + (1 if len(h) else 0) for h in histories])
    together = fit_to_histories(start, history_rows(histories, N_ITEMS), items(), 0.2)
    assert bool(together.isfinite().all())
    assert not together[1].any()
    for row, history in enumerate(histories):
        alone = fit_to_histories(start[row : row + 1], history_rows([history], N_ITEMS), items(), 0.2)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)
    still = fit_to_histories(torch.zeros(1, DIM), history_rows(histories[:1], N_ITEMS), items(), 0.2)
    assert not still.any()


def test_new_users_of_a_planted_graph_find_their_group():
    """People choose within their group; with the last item of each hidden, the fit finds it where chance does not."""
    graph = planted_graph()
    edges, strangers = graph.interactions, np.arange(0, graph.n_users, 4)
    model = RelationalLightGCN(
        replace(graph, interactions=edges.where(~np.isin(edges.src, strangers))), RelationalLightGCNConfig(dim=16)
    )
    own = [edges.dst[edges.src == u].astype(np.int64) for u in strangers]
    hidden = np.array([items[u % items.size] for u, items in enumerate(own)])
    histories = [torch.from_numpy(np.setdiff1d(i, h)) for i, h in zip(own, hidden, strict=True)]

    def hits():
        model.refresh()
        lists = top_k_from_histories(model, histories, graph.n_items, 20).items
        return (lists == hidden[:, None]).any(1).mean()

    model.init_weights(0)
    untrained = hits()
    fit(model, TrainConfig(epochs=15, batch=512, lr=0.02, every=15, device="cpu"), lambda: 1.0, seed=0)
    trained = hits()
    assert trained > untrained + 0.15, (trained, untrained)
    assert trained > 0.4
