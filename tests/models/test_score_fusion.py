import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.kernels.csr import Csr
from relrank.models import MODELS
from relrank.models.core.base import override_config
from relrank.models.score_fusion import ScoreFusion, ScoreFusionConfig, z_scores
from relrank.testing import TrainedContract, planted_graph, planted_sequences
from relrank.training import TrainConfig, fit

TRAIN = TrainConfig(epochs=3, batch=512, lr=0.02, every=3, device="cpu")
PATHS = {"dim": 16, "temperature": 0.3}


class TestClosedAndTrained(TrainedContract):
    kind = ScoreFusion
    config = ScoreFusionConfig(parts={"ease": {}, "path-fusion": PATHS})
    fold_in = "similar"
    propagates = True

    def _node_types(self, model):
        return {"path-fusion.table": ["user", "item"]}


class TestTwoTrained(TrainedContract):
    kind = ScoreFusion
    config = ScoreFusionConfig(parts={"mf": {"dim": 16}, "relational-lightgcn": {"dim": 16}}, shares={"mf": 0.5})
    fold_in = "free"
    propagates = True

    def test_closed_forms_are_none(self) -> None:
        assert set(self.fitted().parts) == set(self.fitted()._trained_parts)


def alone(name, graph, settings, train=TRAIN):
    kind = MODELS[name]
    model = kind(graph, override_config(kind.Config(), settings, name))
    if name == "ease":
        return model.solve()
    fit(model, train, lambda: 0.0, seed=3)
    return model


def fused(graph, parts, train=TRAIN, **settings):
    model = ScoreFusion(graph, ScoreFusionConfig(parts=parts, **settings))
    fit(model, train, lambda: 0.0, seed=3)
    return model


def by_hand(scores, rows):
    """z-scores of what is outside the histories, one user at a time, float64."""
    made = np.zeros(scores.shape)
    for u, own in enumerate(rows):
        free = np.setdiff1d(np.arange(scores.shape[1]), own)
        x = scores[u].astype(np.float64)
        made[u] = (x - x[free].mean()) / x[free].std()
    return made


@pytest.mark.parametrize("workers", [0, 2])
def test_the_sum_of_z_scores_of_models_that_are_what_they_are_alone(workers):
    """Side by side each part draws and learns what it would alone, to the bit; shares weigh the sum."""
    graph = planted_graph()
    parts = {"ease": {"l2": 30.0}, "path-fusion": PATHS, "mf": {"dim": 16}}
    train = TrainConfig(epochs=3, batch=512, lr=0.02, every=3, device="cpu", workers=workers)
    model = fused(graph, parts, train, shares={"mf": 0.25})
    users = torch.arange(graph.n_users)
    rows = [model.history.take(np.array([u])).indices for u in range(graph.n_users)]
    expected = np.zeros((graph.n_users, graph.n_items))
    # path-fusion bears half of the edges in a batch at most; a batch of 512 is below that
    for name, settings in parts.items():
        single = alone(name, graph, settings, train)
        assert torch.equal(model.parts[name].score(users), single.score(users)), name
        expected += (0.25 if name == "mf" else 1) * by_hand(single.score(users).numpy(), rows)
    np.testing.assert_allclose(model.score(users), expected, atol=2e-4)


def test_new_users_are_summed_over_what_is_outside_their_history():
    graph = planted_graph()
    model = fused(graph, {"ease": {}, "mf": {"dim": 16}})
    histories = [torch.tensor([4, 8, 4]), torch.tensor([7])]
    scores = [part.fold_in(histories).numpy() for part in model.parts.values()]
    expected = sum(by_hand(s, [[4, 8], [7]]) for s in scores)
    np.testing.assert_allclose(model.fold_in(histories), expected, atol=2e-4)


def test_z_scores_by_hand():
    """Outside are 1, 3 and 5 of mean 3 and standard deviation √(8/3); the history's 100 counts for nothing."""
    scores = torch.tensor([[1.0, 3.0, 100.0, 5.0], [7.0, 7.0, 7.0, 7.0], [1e8, 1e8, 1e8, 1e8]])
    seen = Csr.from_pairs(np.array([0]), np.array([2]), (3, 4))
    step = 2 / (8 / 3) ** 0.5
    expected = torch.tensor([[-step, 0, 48.5 * step, step], [0.0] * 4, [0.0] * 4])
    torch.testing.assert_close(z_scores(scores, seen), expected)


def test_equal_scores_add_nothing():
    """Of a user who has everything, too."""
    scores = torch.tensor([[0.1, 0.2, 0.3]])
    everything = Csr.from_pairs(np.zeros(3, np.int64), np.arange(3), (1, 3))
    assert z_scores(scores, everything).isfinite().all()
    assert not z_scores(torch.full((1, 3), 0.1), everything).any()


def test_two_halves_of_the_truth_say_more_than_one():
    """Each sees the truth under noise of its own; one of them counts in thousands, and is not louder for it."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(50, 40))
    parts = [truth + rng.normal(size=truth.shape) * 1.5 for _ in range(2)]
    nothing = Csr.from_pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), (50, 40))
    scaled = [torch.from_numpy(p * scale).float() for p, scale in zip(parts, (1e-3, 1e3), strict=True)]
    both = sum(z_scores(p, nothing) for p in scaled).numpy()
    alike = [np.corrcoef(x.ravel(), truth.ravel())[0, 1] for x in (*parts, both)]
    assert alike[2] > max(alike[:2]) + 0.08


def test_seed_of_the_study_is_the_parts_unless_they_name_one():
    graph = planted_graph()
    parts = {"random": {}, "bspm": {"seed": 9}, "mf": {"dim": 4}}
    model = ScoreFusion(graph, ScoreFusionConfig(parts=parts, seed=5))
    assert (model.parts["random"].config.seed, model.parts["bspm"].config.seed) == (5, 9)


def test_it_reads_what_its_parts_read():
    graph = planted_graph()
    plain = ScoreFusionConfig(parts={"ease": {}, "mf": {}})
    assert ScoreFusion.used_relations(graph, plain) == ()
    assert ScoreFusion.used_relations(graph, ScoreFusionConfig()) == ("has_tag", "similar")
    assert not ScoreFusion.uses_features(plain)
    assert ScoreFusion.uses_features(ScoreFusionConfig(parts={"ease": {}, "two-view": {}}))


def test_what_a_history_says_is_all_only_where_it_is_for_every_part():
    graph = planted_sequences()
    both = ScoreFusion(graph, ScoreFusionConfig(parts={"ease": {}, "sasrec": {"dim": 8}}))
    assert both.from_history
    assert both.ordered
    other = ScoreFusion(graph, ScoreFusionConfig(parts={"relational-lightgcn": {"dim": 8}, "ease": {}}))
    assert not other.from_history
    assert not other.ordered


@pytest.mark.parametrize(
    ("parts", "shares", "says"),
    [
        ({"ease": {}, "easy": {}}, {}, r"unknown model[\s\S]*parts.easy[\s\S]*item-knn"),
        ({"ease": {}, "score-fusion": {}}, {}, r"unknown model[\s\S]*parts.score-fusion"),
        ({"mf": {}}, {}, r"out of range[\s\S]*two models or more[\s\S]*mf"),
        ({"ease": {}, "item-knn": {}}, {}, r"with gradients or more[\s\S]*ease, item-knn"),
        ({"ease": {"l3": 4.0}, "mf": {}}, {}, r"unknown hyper-parameter[\s\S]*parts.ease[\s\S]*l3"),
        ({"ease": 4.0, "mf": {}}, {}, r"not a table[\s\S]*parts.ease"),
        ({"ease": {}, "mf": {}}, {"mg": 1.0}, r"unknown part[\s\S]*one of ease, mf[\s\S]*'mg'"),
        ({"ease": {}, "mf": {}}, {"mf": 0.0}, r"shares.mf[\s\S]*above 0"),
        ({"ease": {}, "sasrec": {}}, {}, r"order"),
    ],
)
def test_parts_that_cannot_be_are_refused(parts, shares, says):
    with pytest.raises(InputError, match=says):
        ScoreFusion(planted_graph(), ScoreFusionConfig(parts=parts, shares=shares))


def test_parts_that_train_on_different_examples_are_refused():
    with pytest.raises(InputError, match=r"different examples[\s\S]*sasrec, mf"):
        ScoreFusion(planted_sequences(), ScoreFusionConfig(parts={"sasrec": {}, "mf": {}}))
