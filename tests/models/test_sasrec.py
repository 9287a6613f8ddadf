import pytest

from relrank.errors import InputError
from relrank.models.sequence.sasrec import SASRec, SASRecConfig
from relrank.testing import SequenceContract, planted_sequences
from relrank.training import TrainConfig


class TestSASRec(SequenceContract):
    kind = SASRec
    config = SASRecConfig(dim=32, window=16, dropout=0.1)
    train = TrainConfig(epochs=40, batch=32, lr=0.005, every=20, device="cpu")


@pytest.mark.parametrize("field", ["l2", "contrast"])
def test_penalties_made_for_users_are_refused(field):
    with pytest.raises(InputError, match="out of range"):
        SASRec(planted_sequences(), SASRecConfig(**{field: 0.1}))
