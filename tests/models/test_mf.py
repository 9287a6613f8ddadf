import numpy as np
import torch

from relrank.models.graph.mf import MF, MFConfig
from relrank.testing import TrainedContract, planted_graph
from relrank.training import TrainConfig


class TestMF(TrainedContract):
    kind = MF
    config = MFConfig(dim=16)
    train = TrainConfig(epochs=40, batch=512, lr=0.02, every=10, device="cpu")
    embedding_tables = ("table",)
    fold_in = "similar"


def test_fold_in_is_ridge_regression_on_the_items():
    """argmin_u Σ_{i in history} (1 − u·v_i)² + w (mean_j (u·v_j)² + ‖u‖²), by numpy in float64."""
    graph = planted_graph()
    model = MF(graph, MFConfig(dim=8, fold_in_weight=0.3))
    model.init_weights(4)
    v = model.table.detach().numpy()[graph.n_users :].astype(np.float64)
    history = [5, 17, 80]
    own = v[history]
    left = own.T @ own + 0.3 * (v.T @ v / len(v) + np.eye(8))
    user = np.linalg.solve(left, own.sum(0))
    found = model.fold_in([torch.tensor(history), torch.tensor([], dtype=torch.int64)])
    np.testing.assert_allclose(found[0].numpy(), v @ user, rtol=1e-4, atol=1e-6)
    assert not found[1].any()


def test_scores_are_dot_products_of_the_table():
    graph = planted_graph()
    model = MF(graph, MFConfig(dim=8))
    model.init_weights(1)
    table = model.table.detach()
    expected = table[[3, 9]] @ table[graph.n_users :].T
    torch.testing.assert_close(model.score(torch.tensor([3, 9])), expected)
