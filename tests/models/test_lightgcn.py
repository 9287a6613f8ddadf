from relrank.models.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.testing import TrainedContract


class TestSoftmax(TrainedContract):
    kind = RelationalLightGCN
    config = RelationalLightGCNConfig(dim=16, layers=3, temperature=0.3)
    node_tables = ("table",)
    fold_in = "similar"


class TestBPR(TrainedContract):
    kind = RelationalLightGCN
    config = RelationalLightGCNConfig(dim=16, loss="bpr")
    node_tables = ("table",)
    fold_in = "similar"
