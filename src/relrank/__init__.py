"""relrank: which relations in your data make recommendations better? Answered with evidence.

Names are looked up when they are used, so importing the package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_PUBLIC = {
    "Graph": "relrank.graph.graph",
    "InputError": "relrank.errors",
    "MODELS": "relrank.models",
    "ProtocolConfig": "relrank.tables.protocols",
    "Split": "relrank.tables.split",
    "Tables": "relrank.tables.tables",
    "apply": "relrank.tables.protocols",
    "audit": "relrank.tables.audit",
    "build_graph": "relrank.graph.construction.builders",
    "compare": "relrank.evaluation.comparison",
    "evaluate": "relrank.evaluation.evaluate",
    "explain": "relrank.explain.explainer",
    "fit": "relrank.training",
    "keep_winner": "relrank.study.run",
    "load_run": "relrank.runs.fitted_run",
    "prepare": "relrank.study.run",
    "read_study": "relrank.study.config",
    "read_tables": "relrank.tables.readers",
    "run_study": "relrank.study.run",
    "write_report": "relrank.report",
}

__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
