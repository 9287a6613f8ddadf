from relrank.models.path_fusion import PathFusion, PathFusionConfig
from relrank.testing import TrainedContract


class TestKnownUsers(TrainedContract):
    kind = PathFusion
    config = PathFusionConfig(dim=16, temperature=0.3)
    node_tables = ("table",)
    fold_in = "similar"
    propagates = True


class TestNoUserVectors(TrainedContract):
    kind = PathFusion
    config = PathFusionConfig(dim=16, temperature=0.3, user_vectors=False)
    node_tables = ("table",)
    fold_in = "similar"
    propagates = True


class TestSampledNegatives(TrainedContract):
    kind = PathFusion
    config = PathFusionConfig(dim=16, temperature=0.3, loss="softmax", negatives=40)
    node_tables = ("table",)
    fold_in = "similar"
    propagates = True
