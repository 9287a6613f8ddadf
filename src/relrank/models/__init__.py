"""All models, one per file. To add a model: the file, an entry here, its contract test, a row in the docs."""

from relrank.models.closed_form.baselines import Popularity, RandomOrder
from relrank.models.closed_form.bspm import BSPM
from relrank.models.closed_form.chebycf import ChebyCF
from relrank.models.closed_form.ease import EASE
from relrank.models.closed_form.flat_filter import FlatFilter
from relrank.models.closed_form.gf_cf import GFCF
from relrank.models.closed_form.ials import IALS
from relrank.models.closed_form.item_knn import ItemKNN
from relrank.models.closed_form.markov import Markov
from relrank.models.closed_form.recency_ease import RecencyEASE
from relrank.models.closed_form.relational_ease import RelationalEASE
from relrank.models.closed_form.relational_item_knn import RelationalItemKNN
from relrank.models.closed_form.rp3beta import RP3Beta
from relrank.models.closed_form.sparse_ease import SparseEASE
from relrank.models.core.base import ClosedForm, GridParameter, Recommender, Trained
from relrank.models.graph.feature_graphsage import FeatureGraphSAGE
from relrank.models.graph.gatv2 import GATv2
from relrank.models.graph.graphsage import GraphSAGE
from relrank.models.graph.hgt import HGT
from relrank.models.graph.hybrid import Hybrid
from relrank.models.graph.lightgcn import RelationalLightGCN
from relrank.models.graph.mf import MF
from relrank.models.graph.path_fusion import PathFusion
from relrank.models.graph.rgcn import RGCN
from relrank.models.graph.xsimgcl import XSimGCL
from relrank.models.score_fusion import ScoreFusion
from relrank.models.sequence.bert4rec import BERT4Rec
from relrank.models.sequence.gru4rec import GRU4Rec
from relrank.models.sequence.sasrec import SASRec
from relrank.models.sequence.sequence_fusion import SequenceFusion
from relrank.models.two_view.two_view import TwoView

MODELS: dict[str, type[ClosedForm] | type[Trained]] = {
    "random": RandomOrder,
    "popularity": Popularity,
    "item-knn": ItemKNN,
    "relational-item-knn": RelationalItemKNN,
    "rp3beta": RP3Beta,
    "markov": Markov,
    "ease": EASE,
    "relational-ease": RelationalEASE,
    "recency-ease": RecencyEASE,
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

ScoreFusion.kinds = MODELS

__all__ = ["MODELS", "ClosedForm", "GridParameter", "Recommender", "Trained"]
