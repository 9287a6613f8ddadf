"""Parameters: one model a file. Add a model: the file, an entry here, its contract test, a row in the docs."""

from relrank.models.base import ClosedForm, Knob, Recommender, Trained
from relrank.models.bert4rec import BERT4Rec
from relrank.models.bspm import BSPM
from relrank.models.chebycf import ChebyCF
from relrank.models.ease import EASE
from relrank.models.feature_graphsage import FeatureGraphSAGE
from relrank.models.flat_filter import FlatFilter
from relrank.models.gatv2 import GATv2
from relrank.models.gf_cf import GFCF
from relrank.models.graphsage import GraphSAGE
from relrank.models.gru4rec import GRU4Rec
from relrank.models.hgt import HGT
from relrank.models.hybrid import Hybrid
from relrank.models.ials import IALS
from relrank.models.item_knn import ItemKNN
from relrank.models.lightgcn import RelationalLightGCN
from relrank.models.markov import Markov
from relrank.models.mf import MF
from relrank.models.path_fusion import PathFusion
from relrank.models.relational_ease import RelationalEASE
from relrank.models.relational_item_knn import RelationalItemKNN
from relrank.models.rgcn import RGCN
from relrank.models.rp3beta import RP3Beta
from relrank.models.sasrec import SASRec
from relrank.models.score_fusion import ScoreFusion
from relrank.models.sequence_fusion import SequenceFusion
from relrank.models.simple import Popularity, RandomOrder
from relrank.models.sparse_ease import SparseEASE
from relrank.models.two_view import TwoView
from relrank.models.xsimgcl import XSimGCL

MODELS: dict[str, type[ClosedForm] | type[Trained]] = {
    "random": RandomOrder,
    "popularity": Popularity,
    "item-knn": ItemKNN,
    "relational-item-knn": RelationalItemKNN,
    "rp3beta": RP3Beta,
    "markov": Markov,
    "ease": EASE,
    "relational-ease": RelationalEASE,
    "sparse-ease": SparseEASE,
    "gf-cf": GFCF,
    "bspm": BSPM,
    "chebycf": ChebyCF,
    "flat-filter": FlatFilter,
    "ials": IALS,
    "mf": MF,
    "graphsage": GraphSAGE,
    "graphsage-features": FeatureGraphSAGE,
    "rgcn": RGCN,
    "hgt": HGT,
    "gatv2": GATv2,
    "relational-lightgcn": RelationalLightGCN,
    "xsimgcl": XSimGCL,
    "path-fusion": PathFusion,
    "hybrid": Hybrid,
    "two-view": TwoView,
    "sasrec": SASRec,
    "gru4rec": GRU4Rec,
    "bert4rec": BERT4Rec,
    "sequence-fusion": SequenceFusion,
    "score-fusion": ScoreFusion,
}

__all__ = ["MODELS", "ClosedForm", "Knob", "Recommender", "Trained"]
