"""Does a study find the planted truth? One study for each of 20 planted databases, and a tally of the verdicts.

python benchmarks/planted_seeds.py [--seeds N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from relrank.parallel.machine import machine
from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.run import run_study
from relrank.tables.synthetic import TRUTH, PlantedConfig

STUDY = Path(__file__).parent.parent / "studies" / "planted.toml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    config = read_study(STUDY)
    tally: Counter[tuple[str, str]] = Counter()
    for seed in range(arguments.seeds):
        planted = replace(config.data.planted or PlantedConfig(), seed=seed)
        one = config.model_copy(update={"data": config.data.model_copy(update={"planted": planted})})
        with tempfile.TemporaryDirectory() as folder:
            verdicts = run_study(one, prepare(one, STUDY.parent), Path(folder) / "study").verdicts
        said = dict(verdicts.select("relation", "verdict").iter_rows())
        tally.update(said.items())
        print(f"database {seed:2}: " + ", ".join(f"{r} {v}" for r, v in said.items()), flush=True)
    print(f"\nof {arguments.seeds}:")
    for relation, truth in TRUTH.items():
        counts = {verdict: n for (r, verdict), n in sorted(tally.items()) if r == relation}
        print(f"  {relation:8} truth: {truth:12} said: {counts}")
    if arguments.json:
        figures = [{"relation": r, "verdict": v, "databases": n} for (r, v), n in sorted(tally.items())]
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
