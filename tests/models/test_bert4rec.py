from dataclasses import replace

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.graph.histories import Sequences
from relrank.models.sequence.bert4rec import BERT4Rec, BERT4RecConfig
from relrank.testing import SequenceContract, planted_sequences
from relrank.training import TrainConfig


class TestBERT4Rec(SequenceContract):
    kind = BERT4Rec
    causal = False
    config = BERT4RecConfig(dim=32, window=6, layers=1, dropout=0.05, masked=0.3, init_scale=0.1)
    train = TrainConfig(epochs=90, batch=80, lr=0.01, every=45, device="cpu")

    def graph(self):
        return planted_sequences(items=40, per_user=6)  # small, for hidden items take long to be learned


def fresh(**settings):
    model = BERT4Rec(planted_sequences(), BERT4RecConfig(dim=16, dropout=0.0, **settings))
    model.init_weights(0)
    return model


def made(model, histories, seed=0):
    return model.windows(histories, histories.lengths(), np.random.default_rng(seed))


def histories_of(*lengths):
    rng = np.random.default_rng(3)
    return Sequences.from_histories([torch.from_numpy(rng.permutation(120)[:n]) for n in lengths], 120)


def test_hidden_items_are_in_no_input():
    """The same window with other items in the hidden places has the same states; with others elsewhere it has not."""
    model, histories = fresh(window=16), histories_of(*range(2, 30))
    windows, target = made(model, histories)
    ends = np.minimum(histories.lengths(), 16)
    hidden, n_valid = windows.at.numpy(), np.arange(windows.items.shape[1]) < ends[:, None]
    starts = histories.indptr[1:] - ends
    place = (starts[:, None] + np.arange(hidden.shape[1]))[hidden]
    assert (histories.items[place] == target).all()  # what is to be found stands there
    assert (windows.items.numpy()[hidden] == 120).all()

    def states(items):
        other, _ = made(model, Sequences(histories.indptr, items))
        assert torch.equal(other.at, windows.at)
        with torch.no_grad():
            return model.target_states(other, model.outputs(), None)

    changed = histories.items.copy()
    changed[place] = (changed[place] + 7) % 120
    expected = states(histories.items)
    assert torch.equal(states(changed), expected)
    seen = np.flatnonzero(~np.isin(np.arange(histories.items.size), place))
    changed = histories.items.copy()
    changed[seen] = (changed[seen] + 7) % 120
    assert ((states(changed) - expected).abs().amax(1) > 1e-4).all()
    assert not (hidden & ~n_valid).any()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.99])
def test_a_share_of_every_window_is_hidden(share):
    """At least one item, never all, uniformly over the window."""
    model, n = fresh(window=10, masked=share, last=0.0), np.repeat([2, 5, 9, 40], 500)
    windows, target = made(model, histories_of(*n))
    count = windows.at.sum(1).numpy()
    n_valid = np.minimum(n, 10)
    assert (windows.n_valid.numpy() == n_valid).all()
    assert (count == np.clip(np.rint(share * n_valid), 1, n_valid - 1)).all()
    assert target.size == count.sum()
    often = windows.at.numpy()[n == 9].mean(0)[:9]
    assert np.abs(often - often.mean()).max() < 5 * 0.5 / np.sqrt(500)


def test_the_last_item_alone_is_hidden_as_often_as_said():
    n = np.full(2000, 9)
    alone = np.arange(9) == 8
    for last, low, high in ((0.0, 0, 0), (0.3, 0.25, 0.35), (1.0, 1, 1)):
        windows, _ = made(fresh(window=10, masked=0.4, last=last), histories_of(*n))
        assert low <= (windows.at.numpy() == alone).all(1).mean() <= high


def test_a_window_whose_last_item_is_hidden_is_the_question_about_the_rest():
    """Training and scoring meet: the same items, places and lengths, and so the same states."""
    model, histories = fresh(window=8, last=1.0), histories_of(2, 3, 7, 8, 9, 20)
    windows, target = made(model, histories)
    assert (target == histories.items[histories.indptr[1:] - 1]).all()
    scoring_windows = model.scoring_windows(Sequences.from_histories([h[:-1] for h in histories.tensors()], 120))
    for name in ("items", "n_valid", "lengths", "at"):
        assert torch.equal(getattr(scoring_windows, name), getattr(windows, name)), name
    with torch.no_grad():
        assert torch.equal(
            model.target_states(scoring_windows, model.outputs(), None),
            model.target_states(windows, model.outputs(), None),
        )


def test_every_moment_sees_both_sides():
    model = fresh(window=16)
    windows, _ = made(model, histories_of(9, 9))
    windows = replace(windows, items=windows.items % 120, at=torch.ones_like(windows.at))
    with torch.no_grad():
        before = model.target_states(windows, model.outputs(), None).view(2, 9, -1)
        for place in (0, 4, 8):
            items = windows.items.clone()
            items[:, place] = (items[:, place] + 5) % 120
            after = model.target_states(replace(windows, items=items), model.outputs(), None).view(2, 9, -1)
            assert ((after - before).abs().amax(2) > 1e-5).all()


@pytest.mark.parametrize("values", [{"masked": 0.0}, {"masked": 1.0}, {"last": -0.1}, {"last": 1.1}])
def test_senseless_settings_are_refused(values):
    with pytest.raises(InputError, match=f"bert4rec, {next(iter(values))}"):
        BERT4Rec(planted_sequences(), BERT4RecConfig(**values))
