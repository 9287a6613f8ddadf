"""SASRec beside RecTools' and RecBole's: seconds per epoch and peak memory, at equal settings, in one run.

    python benchmarks/sequence_models.py [--generated] [--steps N] [--json FILE]

The training rows of ml-1m-loo, read from ``$RELRANK_DATA/ml-1m``, or generated ones of the same size. Two layers, two
heads, a window of 200, dropout .2, softmax over the catalogue, batch 128, Adam, on the CPU. Every row of the table is
a process of its own, one after the other: two steps to warm up, then ``--steps`` that count, data loading included,
scaled to an epoch. Memory is the largest resident memory of that process, interpreter, libraries and the library's
own preparation of the data included; beside it, what that was before the first step.

What cannot be made equal:

- RecTools' feed-forward part is as wide as the model, RecBole's and relrank's have four times that by default. Each
  peer is compared with the relrank of its own width.
- RecTools and RecBole also drop entries of the attention weights, relrank does not.
- A batch is 128 users to relrank and RecTools, whose epoch asks once for the last 200 items of each. To RecBole it is
  128 prefixes of histories, each asked for one item, and its epoch has as many of them as items, less one per user.

Each peer gets an environment of its own under ``--environments``, made when it is first needed: this torch, installed
first, then the peer. RecTools 0.19.0 asks by itself for what it needs: pandas 2, and NumPy 1 on Python up to 3.12.
RecBole 1.2.1 has to be told: it sets ``np.float = np.float_`` and the like when it starts, which NumPy 2 answers with
an error, and fills columns in place, which pandas 3 ignores; ray<=2.6.3, which it requires, has wheels for Python up
to 3.11. A peer that pip cannot install, or whose row fails, is skipped with a word.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from relrank.parallel.machine import machine
from sequence_rows import Histories

PEERS = {
    "rectools": ("RecTools 0.19.0", ["rectools[torch]==0.19.0"]),
    "recbole": ("RecBole 1.2.1", ["recbole==1.2.1", "numpy<2", "pandas<3"]),
}
ROWS = (("relrank", 1), ("rectools", 1), ("relrank", 4), ("recbole", 4))
"""Library and width of its feed-forward part, in multiples of the model's; a peer is compared with the row above."""
SETTINGS = {"window": 200, "layers": 2, "heads": 2, "dropout": 0.2, "lr": 1e-3, "batch": 128}


def generated(n_users: int, n_items: int, n_rows: int, seed: int = 0) -> Histories:
    """Distinct items by a power law, each user's roughly in ascending order, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    chance = rng.permutation(1 / np.arange(1, n_items + 1) ** 0.7)
    share = rng.gamma(0.75, size=n_users)
    lengths = np.minimum(2 + rng.multinomial(n_rows - 2 * n_users, share / share.sum()), n_items)
    histories = []
    for length in lengths:
        items = rng.choice(n_items, length, replace=False, p=chance / chance.sum())
        histories.append(items[np.argsort(items + rng.normal(0, n_items / 20, length))])
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), np.concatenate(histories).astype(np.int32)


def ml_1m(folder: Path) -> tuple[Histories, int]:
    """Training histories of ml-1m-loo, oldest item first, and the size of the catalogue."""
    from relrank.tables.datasets import ml_1m as read
    from relrank.tables.protocols import ProtocolConfig, make_split

    split = make_split(read(folder, "ml-1m_sasrec.txt"), ProtocolConfig.model_validate({"name": "ml-1m-loo"}), 0)
    order = np.argsort(split.train.user, kind="stable")
    lengths = np.bincount(split.train.user, minlength=split.shape[0])
    return (np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), split.train.item[order]), split.shape[1]


def environment(library: str, folder: Path) -> str:
    """The interpreter of a peer's environment, which is made if it is not there.

    Raises:
        RuntimeError: pip refuses; its last word. Something else stands where the environment is to be.
    """
    home, wanted = folder / library, [f"torch=={torch.__version__.partition('+')[0]}", *PEERS[library][1]]
    python, ready = home / "bin" / "python", home / "ready.json"
    if ready.exists() and json.loads(ready.read_text()) == wanted:
        return str(python)
    if home.exists() and not (home / "pyvenv.cfg").exists():
        raise RuntimeError(f"{home} is there already and is no environment")
    print(f"installing {PEERS[library][0]} into {home}", flush=True)
    venv.create(home, clear=True, with_pip=True)
    # torch alone first: named beside others, pip may look for another build
    for packages in (wanted[:1], wanted):
        run = subprocess.run([python, "-m", "pip", "install", "-q", *packages], capture_output=True, text=True)
        if run.returncode:
            raise RuntimeError(last_line(run.stderr))
    ready.write_text(json.dumps(wanted))
    return str(python)


def last_line(text: str) -> str:
    """What went wrong, in its own words."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no word of why")


def measure(python: str, spec: dict[str, Any]) -> dict[str, Any]:
    """One row, in a process of its own.

    Raises:
        RuntimeError: it fails; its last word.
    """
    with tempfile.TemporaryDirectory() as name:
        asked, result = Path(name) / "spec.json", Path(name) / "result.json"
        asked.write_text(json.dumps(spec))
        script = Path(__file__).parent.resolve() / "sequence_rows.py"
        # RecBole writes logs where it stands
        run = subprocess.run([python, script, asked, result], capture_output=True, text=True, cwd=name)
        if run.returncode:
            raise RuntimeError(f"exit {run.returncode}: {last_line(run.stderr)}")
        found: dict[str, Any] = json.loads(result.read_text())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generated", action="store_true", help="generated histories, not MovieLens 1M")
    parser.add_argument("--users", type=int, default=6_040, help="of the generated ones")
    parser.add_argument("--items", type=int, default=3_416, help="of the generated ones")
    parser.add_argument("--rows", type=int, default=987_531, help="of the generated ones, at most")
    parser.add_argument("--steps", type=int, default=20, help="counted steps of each row")
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--peers", nargs="*", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--environments", type=Path, default=Path(__file__).parent / ".venv")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    if arguments.generated:
        name, n_items = "generated", arguments.items
        histories = generated(arguments.users, n_items, arguments.rows)
    elif os.environ.get("RELRANK_DATA"):
        name = "ml-1m-loo"
        histories, n_items = ml_1m(Path(os.environ["RELRANK_DATA"]) / "ml-1m")
    else:
        sys.exit("RELRANK_DATA does not name a folder with ml-1m/ml-1m_sasrec.txt; or give --generated")
    interpreters = {"relrank": sys.executable}
    for peer in arguments.peers:
        try:
            interpreters[peer] = environment(peer, arguments.environments.resolve())
        except RuntimeError as error:
            print(f"{PEERS[peer][0]} skipped: {error}")
    where = machine()
    print(f"{where['cpu']}, {where['cores']} cores, torch {torch.__version__}, Python {platform.python_version()}")
    print(f"{name}: {len(histories[1]):,} training rows, {len(histories[0]) - 1:,} users, {n_items:,} items")
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        stored = Path(folder) / "histories.npz"
        np.savez(stored, indptr=histories[0], items=histories[1])
        fixed = {"histories": str(stored), "items": n_items, "steps": arguments.steps, **SETTINGS}
        for dim, precision in ((d, p) for p in arguments.precisions for d in arguments.dims):
            title = f"width {dim}, {precision}"
            head = (
                f"{'s/step':>9}{'steps/epoch':>13}{'s/epoch':>10}{'ratio':>8}{'peak MB':>10}{'before':>9}{'loss':>8}"
            )
            print(f"{title:36}{head}")
            base = float("nan")  # without a relrank beside it, a peer has no ratio
            for library, widening in ROWS:
                if library not in interpreters:
                    continue
                spec = {"library": library, "dim": dim, "precision": precision, "widening": widening, **fixed}
                base = float("nan") if library == "relrank" else base
                label = f"  {PEERS.get(library, (library,))[0]}, feed-forward {widening}x"
                try:
                    row = measure(interpreters[library], spec)
                except RuntimeError as error:
                    print(f"{label:36} failed: {error}", flush=True)
                    continue
                base = row["epoch_s"] if library == "relrank" else base
                row["ratio"] = row["epoch_s"] / base
                figures.append({"library": library, "dim": dim, "precision": precision, "widening": widening, **row})
                pace = f"{row['step_s']:9.3f}{row['steps']:13,.1f}{row['epoch_s']:10,.1f}{row['ratio']:7.1f}x"
                print(
                    f"{label:36}{pace}{row['peak_mb']:10,.0f}{row['before_mb']:9,.0f}{row['loss']:8.3f}", flush=True
                )
    if arguments.json:
        note = {"machine": where, "data": name, "steps": arguments.steps, "settings": SETTINGS, "figures": figures}
        arguments.json.write_text(json.dumps(note, indent=1))


if __name__ == "__main__":
    main()
