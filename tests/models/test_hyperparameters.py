"""Every model rejects invalid hyper-parameters."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from featured import featured

from relrank.errors import InputError, did_you_mean
from relrank.models import MODELS, ClosedForm
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.models.core.base import override_config
from relrank.models.core.hyperparameters import (
    OpenUnitInterval,
    Positive,
    PositiveInt,
    Power,
    UnitInterval,
    Weights,
    check_settings,
)
from relrank.models.score_fusion import ScoreFusion, ScoreFusionConfig
from relrank.testing import planted_graph, planted_sequences
from relrank.training import TrainConfig

GRAPH = featured(planted_sequences(40, 32, 5))
NUMBERS = [
    (name, f.name) for name, kind in MODELS.items() for f in fields(kind.Config)
    if type(getattr(kind.Config(), f.name)) in (int, float)
]  # fmt: skip


@dataclass(frozen=True)
class Made:
    """One field of each sort."""

    neighbours: PositiveInt = 10
    l2: Positive = 1.0
    power: Power = 0.0
    share: UnitInterval = 0.5
    inside: OpenUnitInterval = 0.5
    weights: Weights = field(default_factory=dict)
    learn: bool = True


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"neighbours": 0}, "a whole number, at least 1"),
        ({"neighbours": -5}, "a whole number, at least 1"),
        ({"neighbours": 2.5}, "a whole number, at least 1"),
        ({"neighbours": "10"}, "a whole number, at least 1"),
        ({"neighbours": True}, "a whole number, at least 1"),
        ({"neighbours": 2**31}, "at most 2.14748e+09"),
        ({"l2": 0.0}, "a finite number, above 0"),
        ({"l2": float("nan")}, "a finite number, above 0"),
        ({"l2": float("inf")}, "a finite number, above 0"),
        ({"l2": 10**400}, "at most 1e+12"),
        ({"l2": None}, "a finite number, above 0"),
        ({"power": -2.5}, "at least -2 and at most 2"),
        ({"share": 1.5}, "at least 0 and at most 1"),
        ({"inside": 1.0}, "above 0 and below 1"),
        ({"weights": {"tag": -1.0}}, "a finite number, at least 0"),
        ({"weights": {"tag": float("nan")}}, "a finite number, at least 0"),
        ({"weights": [1.0]}, "a mapping from names"),
        ({"learn": 1}, "true or false"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_what_could(values, expected):
    with pytest.raises(InputError) as error:
        check_settings(replace(Made(), **values), Made, "here")
    assert expected in error.value.expected
    assert error.value.where.startswith(f"here, {next(iter(values))}")


def test_numbers_of_numpy_become_plain_ones():
    found = check_settings(Made(np.int64(3), np.float32(0.5)), Made, "here")  # type: ignore[arg-type]
    assert (type(found.neighbours), type(found.l2)) == (int, float)
    assert found == Made(3, 0.5)
    same = Made()
    assert check_settings(same, Made, "here") is same


@pytest.mark.parametrize(("name", "field_name"), NUMBERS)
def test_no_model_takes_a_number_that_is_none_or_without_bounds(name, field_name):
    """NaN, infinity, what int32 does not hold, a text; and −1, but for exponents of degrees."""
    kind = MODELS[name]
    powers = {"user_power", "item_power", "outer_power", "power"} | ({"beta"} if name == "chebycf" else set())
    for value in (float("nan"), float("inf"), -float("inf"), 2**70, "1", *(() if field_name in powers else (-1,))):
        config = replace(kind.Config(), **{field_name: value})
        with pytest.raises(InputError) as error:
            kind(GRAPH, config)
        assert f"{name}, {field_name}" in error.value.where


@pytest.mark.parametrize("name", MODELS)
def test_every_value_that_a_search_tries_can_be(name):
    kind: Any = MODELS[name]
    for knob in kind.grid_parameters(GRAPH):
        for value in knob.grid_values:
            kind.validated_config(GRAPH, override_config(kind.Config(), {knob.name: value}, name), name)


@pytest.mark.parametrize("name", [name for name, kind in MODELS.items() if hasattr(kind.Config(), "weights")])
def test_a_weight_of_an_unknown_relation_is_refused_in_python(name):
    kind = MODELS[name]
    with pytest.raises(InputError, match=r"unknown relation[\s\S]*has_tag[\s\S]*'has_tga'; did you mean 'has_tag'\?"):
        kind(GRAPH, replace(kind.Config(), weights={"has_tga": 5.0}))


def test_a_weight_inside_parts_is_refused():
    parts = {"relational-ease": {"weights": {"similr": 1000.0}}, "mf": {}}
    with pytest.raises(InputError) as error:
        ScoreFusion(GRAPH, ScoreFusionConfig(parts=parts))
    assert error.value.where == "score-fusion, parts.relational-ease, weights"
    assert "did you mean 'similar'?" in error.value.found
    with pytest.raises(InputError, match=r"parts\.ease, l2"):
        ScoreFusion(GRAPH, ScoreFusionConfig(parts={"ease": {"l2": -5.0}, "mf": {}}))


def test_a_weight_of_a_relation_that_an_arm_leaves_out_is_no_slip():
    config = RelationalEASEConfig(weights={"has_tag": 5.0})
    graph = planted_graph(40, 32, 5)
    assert graph.without("has_tag").only().excluded_relations == {"has_tag", "similar"}
    plain = RelationalEASE(graph.only(), config).solve()
    same = RelationalEASE(graph.only()).solve()
    assert (plain.item_weights == same.item_weights).all()


def test_a_configuration_of_another_model_is_refused():
    with pytest.raises(InputError, match=r"item-knn[\s\S]*ItemKNNConfig\(…\)[\s\S]*EASEConfig"):
        MODELS["item-knn"](GRAPH, MODELS["ease"].Config())
    with pytest.raises(InputError, match=r"ItemKNNConfig\(…\)[\s\S]*\{'neighbours': 5\}"):
        MODELS["item-knn"](GRAPH, {"neighbours": 5})


@pytest.mark.parametrize(
    "values", [{"epochs": 0}, {"lr": float("nan")}, {"lr": float("inf")}, {"batch": -1}, {"patience": 2.5},
               {"decay": "liner"}, {"workers": True}],
)  # fmt: skip
def test_training_settings_that_cannot_be_are_refused(values):
    with pytest.raises(InputError, match=f"training settings, {next(iter(values))}"):
        TrainConfig(**values)


def test_a_walk_so_steep_that_products_vanish_writes_nowhere_else():
    """Products that underflow to 0 were counted again and again, past the end of a row of columns."""
    kind = MODELS["rp3beta"]
    assert issubclass(kind, ClosedForm)
    model = kind(planted_graph(), kind.Config(alpha=1e6)).solve()
    assert (model.score(torch.arange(5)) == 0).all()


@pytest.mark.parametrize(
    ("name", "known", "found"),
    [
        ("writen", ["written", "from"], "; did you mean 'written'?"),
        ("NDCG@10", ["ndcg@10", "mrr"], "; did you mean 'ndcg@10'?"),
        ("brand", ["written", "from"], ""),
        (7, [], ""),
    ],
)
def test_the_nearest_name_is_said(name, known, found):
    assert did_you_mean(name, known) == found
