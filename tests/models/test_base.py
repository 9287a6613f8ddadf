from dataclasses import dataclass, field

import pytest
import torch

from relrank.errors import InputError
from relrank.models import MODELS
from relrank.models.core.base import history_rows, interaction_rows, override_config, user_rows
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.testing import planted_graph


@dataclass(frozen=True)
class Config:
    rank: int = 8
    l2: float = 1.5
    loss: str = "bpr"
    learn: bool = True
    weights: dict[str, float] = field(default_factory=dict)


def test_config_of_replaces_fields_and_entries():
    start = Config(weights={"a": 1.0})
    changed = override_config(
        start, {"rank": 16.0, "l2": 2, "loss": "softmax", "learn": False, "weights.b": 3.0}, "here"
    )
    assert changed == Config(16, 2.0, "softmax", False, {"a": 1.0, "b": 3.0})
    assert isinstance(changed.rank, int)
    assert isinstance(changed.l2, float)
    assert start == Config(weights={"a": 1.0})


@pytest.mark.parametrize(
    "values",
    [
        {"ranks": 8},
        {"rank.x": 8},
        {"rank": 8.5},
        {"rank": float("nan")},
        {"rank": True},
        {"l2": "big"},
        {"learn": 1},
        {"loss": 3},
        {"weights": 3.0},
        {"weights.a": "big"},
    ],
)
def test_config_of_refuses_unknown_names_and_other_types(values):
    with pytest.raises(InputError, match=next(iter(values)).split(".")[0]):
        override_config(Config(), values, "here")


def test_history_rows_are_sets_in_ascending_order():
    rows = history_rows([torch.tensor([3, 1, 3]), torch.tensor([], dtype=torch.int64), torch.tensor([0])], 4)
    assert rows.indptr.tolist() == [0, 2, 2, 3]
    assert rows.indices.tolist() == [1, 3, 0]
    assert rows.data.tolist() == [1, 1, 1]
    assert history_rows([], 4).n_rows == 0
    with pytest.raises(InputError, match="history 1"):
        history_rows([torch.tensor([0]), torch.tensor([4])], 4)


def test_user_rows_name_the_first_stranger():
    assert user_rows(torch.tensor([2, 0], dtype=torch.int32), 3).tolist() == [2, 0]
    with pytest.raises(InputError, match=r"position 1 of 3[\s\S]*found: +-1"):
        user_rows(torch.tensor([0, -1, 9]), 3)


def test_interactions_are_users_by_items():
    graph = planted_graph()
    rows = interaction_rows(graph)
    assert (rows.n_rows, rows.n_cols) == (graph.n_users, graph.n_items)
    assert set(zip(rows.rows().tolist(), rows.indices.tolist(), strict=True)) == set(
        zip(graph.interactions.src.tolist(), graph.interactions.dst.tolist(), strict=True)
    )


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_registered_under_its_name_and_can_be_tuned_from_its_start(name):
    kind, graph = MODELS[name], planted_graph()
    assert kind.name == name
    grid_parameters = kind.grid_parameters(graph)
    assert len({k.name for k in grid_parameters}) == len(grid_parameters)
    for knob in grid_parameters:
        assert knob.start in knob.grid_values
        assert list(knob.grid_values) == sorted(set(knob.grid_values))
        for value in knob.grid_values:
            override_config(kind.Config(), {knob.name: value}, name)
    without = (
        "random",
        "popularity",
        "item-knn",
        "rp3beta",
        "markov",
        "ease",
        "gf-cf",
        "mf",
        "sasrec",
        "gru4rec",
        "bert4rec",
    )
    assert (name not in without) == kind.relational


def test_load_state_brings_scores_up_to_date():
    """A trained model scores from propagated vectors, which must follow when other parameters are loaded."""
    first, second = (RelationalLightGCN(planted_graph(), RelationalLightGCNConfig(dim=16)) for _ in range(2))
    first.init_weights(1)
    second.init_weights(2)
    users, history = torch.arange(4), [torch.tensor([0, 4, 8])]
    expected = first.score(users), first.fold_in(history)
    assert not torch.equal(second.score(users), expected[0])
    assert not torch.equal(second.fold_in(history), expected[1])
    second.load_state(first.state())
    assert torch.equal(second.score(users), expected[0])
    assert torch.equal(second.fold_in(history), expected[1])


def test_state_of_a_trained_model_is_a_copy():
    model = RelationalLightGCN(planted_graph(), RelationalLightGCNConfig(dim=16))
    model.init_weights(0)
    state = model.state()
    before = state["table"].clone()
    with torch.no_grad():
        model.table += 1
    assert torch.equal(state["table"], before)
