"""The causal filter against a naive sum, its gradient, and SASRec and the fusion with it."""

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.models.sequence.bert4rec import BERT4Rec, BERT4RecConfig
from relrank.models.sequence.causal_filter import CausalFilter
from relrank.models.sequence.sasrec import SASRec, SASRecConfig
from relrank.models.sequence.sequence_fusion import SequenceFusion, SequenceFusionConfig
from relrank.testing import SequenceContract, planted_sequences
from relrank.training import TrainConfig


class TestFilteredSASRec(SequenceContract):
    kind = SASRec
    config = SASRecConfig(dim=32, window=16, dropout=0.1, filter_share=0.5, filter_length=8)
    train = TrainConfig(epochs=40, batch=32, lr=0.005, every=20, device="cpu")


class TestFilteredFusion(SequenceContract):
    kind = SequenceFusion
    config = SequenceFusionConfig(dim=32, window=16, dropout=0.1, filter_share=0.5)
    train = TrainConfig(epochs=40, batch=32, lr=0.005, every=20, device="cpu")


def random_filter(dim, length):
    filtering = CausalFilter(dim, length).double()
    with torch.no_grad():
        filtering.kernel.copy_(torch.randn(dim, 1, length, generator=torch.Generator().manual_seed(1)))
    return filtering


@pytest.mark.parametrize(("length", "window"), [(3, 7), (7, 3), (4, 4), (1, 5)])
def test_is_the_sum_over_earlier_positions(length, window):
    """The last weight is that of the position itself; a window shorter than the filter uses its nearest weights."""
    filtering = random_filter(2, length)
    x = torch.randn(3, window, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    weights = filtering.kernel.detach().numpy()[:, 0, ::-1]  # by distance
    expected = np.zeros((3, window, 2))
    for t in range(window):
        for distance in range(min(length, t + 1)):
            expected[:, t] += weights[:, distance] * x.numpy()[:, t - distance]
    np.testing.assert_allclose(filtering(x).detach().numpy(), expected, atol=1e-12)


def test_gradients():
    filtering = random_filter(2, 3)
    x = torch.randn(2, 5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, kernel: filtering(x), (x, filtering.kernel))


def test_weights_halve_with_every_step_back():
    filtering = CausalFilter(2_000, 4)
    with torch.no_grad():
        filtering.reset(torch.Generator().manual_seed(0))
    mean = filtering.kernel.detach().mean(0)[0]
    np.testing.assert_allclose(mean.numpy(), np.array([1, 2, 4, 8]) / 15, atol=0.003)


def test_the_share_mixes_filter_and_attention():
    """At shares s the output is linear in s, between attention alone and the filter alone."""
    model = SASRec(planted_sequences(), SASRecConfig(dim=16, window=8, filter_share=0.25, filter_length=4))
    block = model.blocks[0]
    with torch.no_grad():
        block.reset(torch.Generator().manual_seed(3), 0.3)
        x = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(4))
        expected = 0.25 * block.filter(x) + 0.75 * block.self_attention(x, None)
        torch.testing.assert_close(block.mix(x, None), expected)
        assert not torch.allclose(block.filter(x), block.self_attention(x, None), atol=0.1)


def test_without_a_share_there_is_no_filter():
    model = SASRec(planted_sequences(), SASRecConfig(dim=16, window=8))
    assert not [name for name, _ in model.named_parameters() if "filter" in name]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (BERT4Rec, BERT4RecConfig(filter_share=0.5)),  # it reads both sides
        (SASRec, SASRecConfig(filter_share=1.0)),  # attention would stay untrained
        (SASRec, SASRecConfig(filter_length=7)),  # of no filter
        (BERT4Rec, BERT4RecConfig(filter_length=7)),
    ],
)
def test_settings_that_make_no_sense_are_refused(kind, config):
    with pytest.raises(InputError, match="filter_share"):
        kind(planted_sequences(), config)
