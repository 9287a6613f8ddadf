"""Types of the public names, which ``__init__.py`` looks up when they are used."""

from relrank.errors import InputError as InputError
from relrank.errors import LeakError as LeakError
from relrank.evaluation.comparison import Effect as Effect
from relrank.evaluation.comparison import compare as compare
from relrank.evaluation.evaluate import Evaluation as Evaluation
from relrank.evaluation.evaluate import evaluate as evaluate
from relrank.explanation.explainer import Explanation as Explanation
from relrank.explanation.explainer import explain as explain
from relrank.frames.estimator import Estimator as Estimator
from relrank.frames.sources import Links as Links
from relrank.frames.sources import Nodes as Nodes
from relrank.frames.sources import Texts as Texts
from relrank.frames.study import Study as Study
from relrank.graph.construction.build_graph import build_graph as build_graph
from relrank.graph.graph import Graph as Graph
from relrank.graph.relation import Relation as Relation
from relrank.models import MODELS as MODELS
from relrank.models.core.base import Recommender as Recommender
from relrank.report import write_report as write_report
from relrank.runs.fitted_run import FittedRun as FittedRun
from relrank.runs.fitted_run import load_run as load_run
from relrank.study.config import StudyConfig as StudyConfig
from relrank.study.config import read_study as read_study
from relrank.study.prepare import StudyData as StudyData
from relrank.study.prepare import prepare as prepare
from relrank.study.result import StudyResult as StudyResult
from relrank.study.run import run_study as run_study
from relrank.study.winner import save_winner as save_winner
from relrank.tables.audit import audit as audit
from relrank.tables.protocols import ProtocolConfig as ProtocolConfig
from relrank.tables.protocols import make_split as make_split
from relrank.tables.readers import read_tables as read_tables
from relrank.tables.split import Split as Split
from relrank.tables.tables import Tables as Tables
from relrank.training import TrainConfig as TrainConfig
from relrank.training import fit as fit

__version__: str
__all__: list[str]
