"""Which relations in your data make recommendations better? Answered with evidence.

    import relrank as rr

Frames:   Study, a study of data frames; Estimator, one model             Nodes, Links, Texts
A study:  read_study, prepare, run_study, write_report, save_winner      StudyConfig, StudyData, StudyResult
A run:    load_run, explain                                             FittedRun, Explanation
Data:     read_tables, make_split, audit, build_graph                   Tables, ProtocolConfig, Split, Graph, Relation
Models:   MODELS, fit, evaluate, compare                                Recommender, TrainConfig, Evaluation, Effect
Errors:   InputError, what a user can mend; LeakError, a leak that the study file does not accept

    study = rr.Study(purchases, user="customer", item="sku", time="bought_at", nodes={"product": products})
    print(study.run())

``help(relrank.Graph)`` and the like say more of each; ``relrank --help`` shows the command line.
"""

# Names are looked up when they are used, so that importing the package imports neither torch nor polars. Their types
# are in __init__.pyi.

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

__version__ = "0.3.0.dev0"

_PUBLIC = {
    "Effect": "relrank.evaluation.comparison",
    "Estimator": "relrank.frames.estimator",
    "Evaluation": "relrank.evaluation.evaluate",
    "Explanation": "relrank.explanation.explainer",
    "FittedRun": "relrank.runs.fitted_run",
    "Graph": "relrank.graph.graph",
    "InputError": "relrank.errors",
    "LeakError": "relrank.errors",
    "Links": "relrank.frames.sources",
    "MODELS": "relrank.models",
    "Nodes": "relrank.frames.sources",
    "ProtocolConfig": "relrank.tables.protocols",
    "Recommender": "relrank.models.core.base",
    "Relation": "relrank.graph.relation",
    "Split": "relrank.tables.split",
    "Study": "relrank.frames.study",
    "StudyConfig": "relrank.study.config",
    "StudyData": "relrank.study.prepare",
    "StudyResult": "relrank.study.result",
    "Tables": "relrank.tables.tables",
    "Texts": "relrank.frames.sources",
    "TrainConfig": "relrank.training",
    "audit": "relrank.tables.audit",
    "build_graph": "relrank.graph.construction.build_graph",
    "compare": "relrank.evaluation.comparison",
    "evaluate": "relrank.evaluation.evaluate",
    "explain": "relrank.explanation.explainer",
    "fit": "relrank.training",
    "load_run": "relrank.runs.fitted_run",
    "make_split": "relrank.tables.protocols",
    "prepare": "relrank.study.prepare",
    "read_study": "relrank.study.config",
    "read_tables": "relrank.tables.readers",
    "run_study": "relrank.study.run",
    "save_winner": "relrank.study.winner",
    "write_report": "relrank.report",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names; none of them to ``help``, which would print every class in full behind the overview above."""
    frame = sys._getframe().f_back
    for _ in range(4):
        if frame is not None and frame.f_globals.get("__name__") == "pydoc":
            return []
        frame = frame and frame.f_back
    return __all__
