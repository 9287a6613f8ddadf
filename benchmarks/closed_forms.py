"""Closed forms on the Gowalla study's split: metrics, seconds to solve and to score and rank everybody, memory.

    python benchmarks/closed_forms.py [--models NAME ...] [--config JSON] [--part valid|test] [--json FILE]

Hyper-parameters are the defaults, or those of --config. Solved on the rows that a final fit gets, validation rows
included, and ranked on test; with ``--part valid`` solved without them and ranked on them. Times are of this run, on
all cores; the first model pays for the compiler. The data is read from ``$RELRANK_DATA/gowalla``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from relrank.evaluation.evaluate import evaluate
from relrank.graph.relation import Relation
from relrank.models import MODELS, ClosedForm
from relrank.models.core.base import override_config
from relrank.parallel.machine import machine
from relrank.parallel.memory import peak_memory_mb, reset_peak_memory
from relrank.study.config import read_study
from relrank.study.prepare import prepare

STUDY = Path(__file__).parent.parent / "studies" / "gowalla.toml"
CLOSED = [name for name, kind in MODELS.items() if issubclass(kind, ClosedForm)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=CLOSED, default=["popularity", "gf-cf", "bspm", "flat-filter"])
    parser.add_argument("--config", type=json.loads, default={}, help="hyper-parameters as JSON, for each model")
    parser.add_argument("--part", choices=["valid", "test"], default="test")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    split_context = prepare(read_study(STUDY), STUDY.parent).split_contexts[0]
    split = split_context.final if arguments.part == "test" else split_context.split
    edges = Relation.of(
        "interactions", split_context.graph.user, split_context.graph.item, split.train.user, split.train.item
    )
    graph = replace(split_context.graph, interactions=edges)
    figures = []
    for name in arguments.models:
        kind = MODELS[name]
        assert issubclass(kind, ClosedForm)
        reset_peak_memory()
        began = time.perf_counter()
        model = kind(graph, override_config(kind.Config(), arguments.config, name)).solve()
        solved = time.perf_counter()
        summary = evaluate(model, split, (20,), arguments.part).summary
        ranked = time.perf_counter()
        figures.append(
            {
                "model": name,
                "recall@20": round(summary["recall@20"], 5),
                "ndcg@20": round(summary["ndcg@20"], 5),
                "solve_s": round(solved - began, 1),
                "rank_s": round(ranked - solved, 1),
                "peak_mb": peak_memory_mb(),
            }
        )
        print("  ".join(f"{key} {value}" for key, value in figures[-1].items()), flush=True)
    if arguments.json:
        note = {"machine": machine(), "part": arguments.part, "config": arguments.config, "figures": figures}
        arguments.json.write_text(json.dumps(note, indent=1))


if __name__ == "__main__":
    main()
