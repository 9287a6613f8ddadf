from relrank.models.sasrec import SASRec, SASRecConfig
from relrank.testing import SequenceContract
from relrank.training import TrainConfig


class TestSASRec(SequenceContract):
    kind = SASRec
    config = SASRecConfig(dim=32, window=16, dropout=0.1)
    train = TrainConfig(epochs=40, batch=32, lr=0.005, every=20, device="cpu")
