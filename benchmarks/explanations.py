"""Are explanations faithful? Deleting the first reason of a recommended item, beside deleting a random path like it.

    python benchmarks/explanations.py [--study FILE] [--users N] [--k K] [--tried N] [--seed N]
                                      [--config JSON] [--json FILE]

Relational EASE under fixed weights on all relations of the study, fitted on the training rows of its first seed.
Random users have their k best items explained. Seconds are of this run, the fit apart.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

from faithfulness import faithfulness
from relrank.models.core.base import override_config
from relrank.parallel.machine import machine
from relrank.study.config import read_study
from relrank.study.fit_cell import fit_cell
from relrank.study.grid import cell_with_prerequisites
from relrank.study.prepare import prepare

STUDY = Path(__file__).parent.parent / "studies" / "goodbooks-loo.toml"
CONFIG = {"l2": 300.0, "weight": 30.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", type=Path, default=STUDY)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--k", type=int, default=10, help="items explained per user")
    parser.add_argument("--tried", type=int, default=20, help="paths per item whose counterfactual is computed")
    parser.add_argument("--seed", type=int, default=0, help="of the users and the random paths")
    parser.add_argument("--config", type=json.loads, default=CONFIG, help="hyper-parameters as JSON")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    config = read_study(arguments.study)
    cell = cell_with_prerequisites(config, prepare(config, arguments.study.parent), "relational-ease")[-1]
    chosen = override_config(cell.initial_config()[0], arguments.config, "--config")
    began = time.perf_counter()
    model, _ = fit_cell(cell, cell.graph, chosen, Path("unused"), print)
    fitted = time.perf_counter()
    print(f"{cell.graph!r}\nfitted in {fitted - began:.0f} s under {chosen}", flush=True)
    of_users, of_paths = np.random.SeedSequence(arguments.seed).generate_state(2).tolist()
    count = min(arguments.users, cell.graph.n_users)
    users = np.random.default_rng(of_users).choice(cell.graph.n_users, count, replace=False)
    found = faithfulness(model, cell.graph, users, arguments.k, of_paths, arguments.tried)
    seconds = time.perf_counter() - fitted
    named, random = found.drops.T
    print(
        f"{found.n} items of {len(users)} users in {seconds:.0f} s, {1000 * seconds / found.n:.0f} ms each\n"
        f"named path drops the rank further than a random one: {found.strict:.1%}, alike {found.ties:.1%}, "
        f"less {1 - found.strict - found.ties - found.unexplained:.1%}, no reason {found.unexplained:.1%}\n"
        f"mean drop in rank: named {found.drop:.2f}, random {found.random_drop:.2f}; "
        f"median: named {np.nanmedian(named):g}, random {np.nanmedian(random):g}\n"
        f"no drop at all: named {(named == 0).mean():.1%}, random {(random == 0).mean():.1%}"
    )
    if arguments.json:
        names = ("n", "strict", "ties", "unexplained", "drop", "random_drop")
        figures = {name: getattr(found, name) for name in names} | {"seconds": seconds, "config": arguments.config}
        arguments.json.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=1))


if __name__ == "__main__":
    main()
