from relrank.models.ials import IALS, IALSConfig
from relrank.testing import ModelContract


class TestIALS(ModelContract):
    kind = IALS
    config = IALSConfig(dim=8, alpha0=0.1, l2=0.02)
    equivariant = False  # starting vectors are drawn by row


class TestRelations(ModelContract):
    kind = IALS
    config = IALSConfig(dim=8, alpha0=0.1, l2=0.02, weight=3.0)
    equivariant = False
