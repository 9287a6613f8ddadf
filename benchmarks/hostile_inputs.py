"""Hostile tables and study files: each gets its plain meaning or one error, and never hangs.

    python benchmarks/hostile_inputs.py [--tables 3000] [--studies 2500] [--seed 0]

Tables are those of tests/tables/test_hostile_tables.py, held against a naive reader. Study files are a valid one of a
shop of a few rows, in which lines, values or bytes are changed; each is read, and where that works its tables,
split, graph and audit are made. Whatever is not an InputError ends up in the tally of what is wrong; so does anything
that takes longer than 20 seconds. Everything follows from the seed. Needs the test dependencies.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from importlib import import_module
from pathlib import Path
from types import FrameType

import numpy as np

from relrank.errors import InputError
from relrank.study.config import read_study
from relrank.study.run import grid, prepare

TESTS = Path(__file__).parent.parent / "tests" / "tables"
PER_SEED = 40
"""Tables of one seed."""
SECONDS = 20
SEEN = "user,item,stars,at\n" + "".join(
    f"u{u},{(7 * u + 3 * n) % 30},{1 + (u + n) % 5},{1_600_000_000 + 1000 * u + 86_400 * n}\n"
    for u in range(20)
    for n in range(8)
)
ITEMS = "item,brand,tags,price,text\n" + "".join(
    f"{i},b{i % 4},t{i % 3}|t{i % 5},{i}.50,words {i}\n" for i in range(30)
)
USERS = "user,city\n" + "".join(f"u{u},c{u % 3}\n" for u in range(20))
STUDY = """name = "shop"
[data]
path = "."
user = "user"
item = "item"
[data.interactions]
file = "seen.csv"
user = "user"
item = "item"
rating = "stars"
time = "at"
[data.nodes.item]
file = "items.csv"
key = "item"
[data.nodes.user]
file = "users.csv"
key = "user"
[protocol]
split = "last-leave-one-out"
min_rating = 1
core = 2
[relations.brand]
kind = "attribute"
node = "item"
column = "brand"
[relations.tags]
kind = "attribute"
node = "item"
column = "tags"
separator = "|"
[relations.price]
kind = "bins"
node = "item"
column = "price"
quantiles = 4
[relations.city]
kind = "attribute"
node = "user"
column = "city"
[relations.together]
kind = "cooccurrence"
window = 3
min_count = 1
[study]
metric = "ndcg@10"
ks = [10]
seeds = [0]
trials = 2
[[models]]
name = "sparse-ease"
config = { neighbours = 5 }
[[models]]
name = "relational-lightgcn"
config = { dim = 8, weights = { brand = 0.5 } }
train = { epochs = 2, batch = 64 }
"""
VALUES = (
    "0", "-1", "1", "999999999999999999999", "1e400", "nan", "-inf", "true", '""', '" "', '"nan"', '"../x"', '"user"',
    '"item"', "[]", "[[]]", "{}", "{ a = 1 }", '"brand"', '"seen.csv"', '"items.csv"', "2024-03-01", '"soon"',
    '"\\u0000"', '"' + "x" * 5000 + '"', "[0, 0]", '["brand", 3]', "0.5", "1e-320", '"ndcg@0"', '"\\n"',
    "2", "3", "0.3", '"tags"', '"price"', '"text"', '"city"', '"temporal"', '"cold-items"', '"random-leave-one-out"',
    '"given"', '"drop"', '"|"', '"recall@10"', '"ease"', '"path-fusion"', "[10, 5]",
)  # fmt: skip


MORE = (
    "cut = 1600300000", 'cut = "2020-09-16"', "valid_cut = 1600200000", 'missing = "drop"', 'missing = "node"',
    'time_unit = "ms"', 'duplicates = "keep"', 'duplicates = "last"', 'levels = ">"', "ignore_case = true",
    "margin = 0.5", "min_count = 2", "neighbours = 3", 'title = "A"', "item_share = 0.3", 'new_items = "keep"',
    'na_values = ["b0"]', 'time = "row"', 'user_groups = ["city"]', 'item_groups = ["brand"]',
    'attribute = "brand"', 'versus = "sparse-ease"', 'accept_leaks = ["brand"]', 'without_train = "drop"',
    "max_length = 3", 'weight = "rating"', "quantiles = 2",
)  # fmt: skip
"""Lines that may belong somewhere."""


def changed(rng: np.random.Generator) -> bytes:
    """The study file with one change to three; most of them leave a TOML file."""
    lines = STUDY.splitlines()
    for _ in range(1 + rng.binomial(2, 0.3)):
        settings = [at for at, line in enumerate(lines) if " = " in line]
        at = int(rng.choice(settings))
        name, _, value = lines[at].partition(" = ")
        match rng.integers(0, 9):
            case 0:
                del lines[at]
            case 1:
                lines.insert(int(rng.integers(1, len(lines))), lines[at])
            case 2 | 3 | 4:
                lines[at] = f"{name} = {VALUES[rng.integers(0, len(VALUES))]}"
            case 5:
                lines[at] = f"{name} = {lines[rng.choice(settings)].partition(' = ')[2]}"
            case 6 | 7:
                lines.insert(int(rng.integers(1, len(lines))), MORE[rng.integers(0, len(MORE))])
            case _:
                lines[at] = f"{name} = {value[: rng.integers(0, len(value) + 1)]}"
    text = bytearray("\n".join(lines).encode())
    if rng.random() < 0.1:
        text[rng.integers(0, len(text))] = rng.integers(0, 256)
    return bytes(text)


def too_long(number: int, frame: FrameType | None) -> None:
    """Ends what takes too long."""
    del number, frame
    raise TimeoutError(f"longer than {SECONDS} s")


def study_files(n: int, seed: int, folder: Path) -> Counter[str]:
    """What became of so many study files."""
    for name, text in (("seen.csv", SEEN), ("items.csv", ITEMS), ("users.csv", USERS)):
        (folder / name).write_text(text)
    counts: Counter[str] = Counter()
    signal.signal(signal.SIGALRM, too_long)
    for number in range(n):
        path = folder / "study.toml"
        path.write_bytes(changed(np.random.default_rng([seed, number])))
        signal.alarm(SECONDS)
        try:
            config = read_study(path)
            material = prepare(config, folder)
            grid(config, material)
            counts["study files that run"] += 1
        except InputError:
            counts["study files refused"] += 1
        except Exception:
            counts["study files WRONG"] += 1
            print(f"study file {number}:\n{path.read_bytes()!r}\n{traceback.format_exc()}", flush=True)
        finally:
            signal.alarm(0)
    return counts


def tables(n: int, seed: int, folder: Path) -> Counter[str]:
    """What became of at least so many tables."""
    sys.path.insert(0, str(TESTS))
    hostile = import_module("test_hostile_tables")
    counts: Counter[str] = Counter()
    for number in range(-(-n // PER_SEED)):
        try:
            hostile.test_hostile_tables_mean_what_they_say_or_are_one_error(1000 * seed + 100 + number, folder)
            counts["tables right or refused"] += PER_SEED
        except Exception:
            counts["seeds of tables WRONG"] += 1
            print(f"tables of seed {1000 * seed + 100 + number}:\n{traceback.format_exc()}", flush=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("tables", 3000), ("studies", 2500), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        counts = study_files(given.studies, given.seed, Path(folder))
        counts += tables(given.tables, given.seed, Path(folder))
    for what, count in sorted(counts.items()):
        print(f"{what:25} {count:6,}")
    print(f"{time.perf_counter() - began:.0f} s")
    sys.exit(any("WRONG" in what for what in counts))


if __name__ == "__main__":
    main()
