from relrank.models.graph.graphsage import GraphSAGE, GraphSAGEConfig
from relrank.testing import TrainedContract

N_USERS, N_ITEMS = 160, 120


class TestWholeGraph(TrainedContract):
    kind = GraphSAGE
    config = GraphSAGEConfig(dim=16, temperature=0.3)
    embedding_tables = ("table",)
    propagates = True


class TestSampled(TrainedContract):
    kind = GraphSAGE
    config = GraphSAGEConfig(dim=16, temperature=0.3, fanout=4)
    embedding_tables = ("table",)
    propagates = True


class TestUserVectors(TrainedContract):
    kind = GraphSAGE
    config = GraphSAGEConfig(dim=16, temperature=0.3, user_vectors=True)
    embedding_tables = ("table",)
    fold_in = "similar"
    propagates = True
