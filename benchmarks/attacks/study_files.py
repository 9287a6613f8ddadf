"""Hostile study files: every setting of a shop's study changed in turn; each is refused in one error, or runs."""

from __future__ import annotations

import copy
import io
import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import UTC, date, datetime, time
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import tomli_w

from attacks.lanes import Attack, load_libraries
from attacks.ledger import Outcome, judged
from attacks.tables import spoil
from relrank.errors import InputError, LeakError
from relrank.report import write_report
from relrank.study.config import read_study
from relrank.study.grid import grid
from relrank.study.memory_limits import estimate_of
from relrank.study.prepare import prepare
from relrank.study.run import run_study
from relrank.study.winner import save_winner

Generator = np.random.Generator
Path_ = tuple[str | int, ...]
READ_SECONDS, RUN_SECONDS = 20, 3
"""Reading has to end; a study that was asked for much may go on, and is left after so long."""
SEEN = "user,item,stars,at\n" + "".join(
    f"u{u},{(7 * u + 3 * n) % 30},{1 + (u + n) % 5},{1_600_000_000 + 1000 * u + 86_400 * n}\n"
    for u in range(20)
    for n in range(8)
)
HEAD, *LINES = SEEN.splitlines(keepends=True)
PARTS = {
    f"{part}.csv": HEAD + "".join(line for n, line in enumerate(LINES) if n % 8 in which)
    for part, which in (("train", range(6)), ("valid", (6,)), ("test", (7,)))
}
FILES = {
    "seen.csv": SEEN,
    **PARTS,
    "items.csv": "item,brand,tags,price,text,path,x1,x2\n"
    + "".join(
        f"{i},b{i % 4},t{i % 3}|t{i % 5},{i}.50,words{i} and w{i % 6}x,A > B{i % 3},{i},-{i}\n" for i in range(30)
    ),
    "users.csv": "user,city,age\n" + "".join(f"u{u},c{u % 3},{20 + u}\n" for u in range(20)),
    "made.csv": "item,author,share,when,who\n"
    + "".join(f"{i},a{i % 6},{1 + i % 3},{1_600_000_000 + i},u{i % 20}\n" for i in range(30)),
    "authors.csv": "author,born\n" + "".join(f"a{a},{1900 + a}\n" for a in range(6)),
    "lives.csv": "author,country\n" + "".join(f"a{a},{'xyz'[a % 3]}\n" for a in range(6)),
    "texts.csv": "item,kind,text,when,who\n"
    + "".join(
        f"{i},{k},story{i % 7} of {k},{1_600_000_000 + i},u{i % 20}\n" for i in range(30) for k in ("plot", "review")
    ),
}
SHOP: dict[str, Any] = {
    "name": "shop", "title": "A shop", "description": "Small.",
    "data": {
        "path": ".", "user": "user", "item": "item", "na_values": ["", "NA"],
        "interactions": {
            "file": "seen.csv", "separator": ",", "user": "user", "item": "item", "rating": "stars", "time": "at",
            "time_unit": "s", "missing": "error", "duplicates": "last", "unknown": "error",
        },
        "nodes": {
            "item": {"file": "items.csv", "key": "item", "title": "text", "computed": "2020-01-01"},
            "user": {"file": "users.csv", "key": "user", "separator": ","},
            "author": {"file": "authors.csv", "key": "author"},
        },
        "links": {
            "made": {
                "file": "made.csv", "source": "item", "source_column": "item", "source_match": "item",
                "target": "author", "target_column": "author", "weight": "share", "time": "when", "time_unit": "s",
                "by": "who",
                "missing": "drop", "unknown": "drop",
            },
            "lives": {
                "file": "lives.csv", "source": "author", "source_column": "author", "target": "country",
                "target_column": "country", "computed": "2020-01-01",
            },
        },
        "texts": {
            "file": "texts.csv", "node": "item", "key": "item", "kind": "kind", "text": "text", "time": "when",
            "by": "who", "unknown": "drop", "missing": "drop",
        },
    },
    "protocol": {"name": "own", "split": "last-leave-one-out", "min_rating": 1, "core": {"user": 2, "item": 1},
                 "new_items": "keep", "without_train": "drop"},
    "interactions": {"weight": "rating", "power": 1.5, "floor": 0.1},
    "relations": {
        "brand": {"kind": "attribute", "node": "item", "column": "brand", "target": "brand", "missing": "node",
                  "ignore_case": True, "title": "Brands"},
        "tags": {"kind": "attribute", "node": "item", "column": "tags", "separator": "|"},
        "path": {"kind": "attribute", "node": "item", "column": "path", "levels": ">"},
        "price": {"kind": "bins", "node": "item", "column": "price", "quantiles": 4, "missing": "drop"},
        "age": {"kind": "bins", "node": "user", "column": "age", "edges": [25, 30.5]},
        "made": {"kind": "link", "table": "made", "weight": "log1p", "top": 3, "min_target_degree": 1,
                 "duplicates": "sum"},
        "from": {"kind": "link", "table": "lives"},
        "alike": {"kind": "text", "node": "item", "columns": ["text"], "neighbours": 3, "min_similarity": 0.1,
                  "ngrams": [1, 2], "min_df": 1, "max_features": 100},
        "plot": {"kind": "texts", "of": "plot", "target": "plot", "dims": 3, "min_df": 1},
        "together": {"kind": "cooccurrence", "window": 3, "min_count": 1, "neighbours": 5},
    },
    "features": {
        "f_price": {"kind": "number", "node": "item", "column": "price", "log": True},
        "f_bins": {"kind": "bins", "node": "item", "column": "price", "quantiles": 3},
        "f_brand": {"kind": "category", "node": "item", "column": "brand", "min_count": 1},
        "f_tags": {"kind": "multi-hot", "node": "item", "column": "tags", "separator": "|", "min_count": 2},
        "f_words": {"kind": "text", "node": "item", "texts": "review", "dims": 4, "min_df": 1},
        "f_x": {"kind": "vector", "node": "item", "columns": ["x1", "x2"]},
    },
    "study": {"metric": "ndcg@10", "ks": [10], "seeds": [0], "trials": 2, "margin": 0.02, "user_groups": ["city"],
              "item_groups": ["brand"], "attribute": "brand", "versus": "ease", "accept_leaks": ["made", "plot"],
              "memory_gb": 2.0},
}  # fmt: skip
TRAIN = {"epochs": 2, "batch": 64, "every": 1, "lr": 0.01}
ARMS = ["interactions", "all"]
"""Changed by each study of ``STUDIES``: the relations that it has, what is over the shop's, by dotted name, and its
models: so little of each that a study runs in a second."""
STUDIES: tuple[tuple[str, dict[str, Any], list[dict[str, Any]]], ...] = (
    ("brand price made", {}, [{"name": "ease", "config": {"l2": 5.0}},
     {"name": "sparse-ease", "config": {"neighbours": 5}, "arms": ["interactions", "all", "drop"], "trials": 1}]),
    (
        "brand tags plot", {},
        [
            {"name": "ease"},
            {
                "name": "net", "model": "relational-lightgcn", "arms": list(ARMS), "trials": 1,
                "config": {"dim": 8, "negatives": 16, "weights": {"brand": 0.5}}, "train": dict(TRAIN),
                "arm": {"all": {"config": {"weights": {"tags": 0.1}}, "train": {"lr": 0.02}}},
            },
        ],
    ),
    (
        "together age",
        {"protocol.split": "temporal", "protocol.cut": 1_600_500_000, "protocol.valid_cut": "2020-09-17",
         "protocol.core": 0, "interactions": {"weight": "decay", "half_life": 30, "floor": 1e-6}},
        [{"name": "ease"}, {"name": "item-knn", "config": {"neighbours": 5}},
         {"name": "relational-ease", "arms": list(ARMS)}],
    ),
    (
        "made from",
        {"data.interactions.file": "train.csv", "data.interactions.valid": "valid.csv",
         "data.interactions.test": "test.csv", "protocol.split": "given", "protocol.truth_min_rating": 2,
         "protocol.valid_share": 0.2, "protocol.core": 0, "interactions": {"weight": "one"}},
        [{"name": "ease"}, {"name": "path-fusion", "config": {"dim": 8}, "train": dict(TRAIN), "arms": ["all"]}],
    ),
    (
        "brand alike", {"protocol.split": "cold-items", "protocol.item_share": 0.2, "protocol.core": 0},
        [{"name": "ease"}, {"name": "relational-item-knn", "arms": ["all"]},
         {"name": "ials", "config": {"dim": 4}, "arms": ["all"]}],
    ),
    (
        "tags price", {"data.interactions.duplicates": "keep", "interactions": {"weight": "count", "power": 2.0}},
        [{"name": "ease"}, {"name": "sparse-ease", "arms": ["all"], "trials": 1},
         {"name": "both", "model": "score-fusion", "train": dict(TRAIN),
          "config": {"parts": {"ease": {"l2": 20.0}, "mf": {"dim": 4}}, "shares": {"ease": 0.5}}}],
    ),
    (
        "brand plot", {},
        [{"name": "ease"}, {"name": "two-view", "config": {"dim": 8}, "train": dict(TRAIN), "arms": ["all"]},
         {"name": "graphsage-features", "config": {"dim": 8}, "train": dict(TRAIN), "arms": ["all"]}],
    ),
    (
        "path", {"study.ks": [5, 10], "interactions": {"weight": "one"}},
        [{"name": "ease"}, {"name": "sasrec", "config": {"dim": 8}, "train": dict(TRAIN)},
         {"name": "rp3beta"}, {"name": "markov"}, {"name": "gf-cf"},
         {"name": "bspm", "arms": list(ARMS), "trials": 1}],
    ),
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    3,
    0.5,
    1e400,
    -1e400,
    float("nan"),
    1e-320,
    1e308,
    2**31,
    2**63 - 1,
    -(2**63),
    True,
    False,
    "",
    " ",
    "nan",
    "x",
    "../x",
    "/",
    "~",
    "~nobody/x",
    "${NOTHING}",
    "${HOME",
    "user",
    "item",
    "brand",
    "tags",
    "price",
    "made",
    "plot",
    "seen.csv",
    "items.csv",
    "folder.csv",
    ".",
    "soon",
    "2020-09-16",
    "2020-09-16T10:00:00+05:00",
    "drop",
    "keep",
    "error",
    "row",
    "order",
    "ms",
    "days",
    "s",
    ">",
    "|",
    ",",
    "\t",
    "§",
    "\0",
    "\n",
    "a\nb",
    "\u202eab",
    "\ud7ff",
    "x" * 5000,
    "mrr",
    "ndcg@0",
    "ndcg@10",
    "recall@10",
    "all",
    "interactions",
    "alone",
    "ease",
    "mf",
    "path-fusion",
    "given",
    "temporal",
    "cold-items",
    "random-leave-one-out",
    "link",
    "attribute",
    "bins",
    "text",
    "texts",
    [],
    [[]],
    {},
    [0],
    [0, 0],
    [1, 2],
    [-1],
    [10, 5],
    ["brand"],
    ["brand", 3],
    ["brand", "brand"],
    [""],
    [1e400],
    {"a": 1},
    {"brand": -1.0},
    {"brand": 1e400},
    {"all": {}},
    [{}],
    [{"name": "ease"}],
    date(2020, 9, 16),
    datetime(2020, 9, 16, tzinfo=UTC),
    time(12, 0),
    datetime(1, 1, 1),
    datetime(9999, 12, 31, 23, 59),
)
ADDED: tuple[tuple[str, Any], ...] = (
    ("cut", 1_600_300_000),
    ("cut", "2020-09-16"),
    ("valid_cut", 1_600_200_000),
    ("missing", "drop"),
    ("missing", "node"),
    ("time_unit", "ms"),
    ("duplicates", "keep"),
    ("levels", ">"),
    ("ignore_case", True),
    ("margin", 0.5),
    ("min_count", 2),
    ("neighbours", 3),
    ("title", "A"),
    ("item_share", 0.3),
    ("new_items", "drop"),
    ("na_values", ["b0"]),
    ("time", "row"),
    ("columns", ["a", "b"]),
    ("columns", ["user", "item", "stars", "at"]),
    ("attribute", "tags"),
    ("versus", "sparse-ease"),
    ("without_train", "drop"),
    ("max_length", 3),
    ("weight", "rating"),
    ("quantiles", 2),
    ("encoder", "sentence"),
    ("dataset", "planted"),
    ("planted", {"users": 30, "items": 20}),
    ("seeds", [1, 2]),
    ("arms", ["drop", "alone", "rewired"]),
    ("l2", 0.0),
    ("dim", 1),
    ("layers", 0),
    ("negatives", 1),
    ("loss", "bpr"),
    ("epochs", 0),
    ("batch", 1),
    ("patience", 1),
    ("precision", "bfloat16"),
    ("device", "cuda:9"),
    ("workers", 3),
    ("decay", "linear"),
    ("features", True),
    ("weights", {}),
    ("weights", {"brnad": 1.0}),
    ("weight", 0.0),
    ("temperature", 1e-30),
    ("dropout", 0.99),
    ("heads", 3),
    ("window", 2),
    ("computed", 5),
    ("by", "who"),
    ("tmdb", "~x"),
    ("parts", "u1"),
    ("prefix", "x"),
    ("column", "x1"),
    ("edges", [1.0]),
)
"""Keys that may belong somewhere."""


def studies() -> list[dict[str, Any]]:
    """The studies, whole."""
    found = []
    for names, over, models in copy.deepcopy(STUDIES):
        study = copy.deepcopy(SHOP)
        for name, value in over.items():
            *way, last = name.split(".")
            section = study
            for part in way:
                section = section[part]
            section[last] = value
        study["relations"] = {name: study["relations"][name] for name in names.split()}
        leaks = [name for name in ("made", "plot", "path", "together") if name in study["relations"]]
        study["study"] |= {"attribute": names.split()[0], "accept_leaks": leaks}
        found.append(study | {"models": models})
    return found


def settings(value: Any, at: Path_ = ()) -> Iterator[Path_]:
    """Where something stands in a study, sections and single values alike."""
    if at:
        yield at
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from settings(inner, (*at, name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from settings(inner, (*at, place))


def change(study: dict[str, Any], at: Path_, rng: Generator) -> str:
    """Change what stands at a place; returns what was done."""
    section: Any = study
    for part in at[:-1]:
        section = section[part]
    last: Any = at[-1]
    kind = str(
        rng.choice(["value", "value", "value", "value", "other", "drop", "typo", "add", "list", "text", "move"])
    )
    if kind == "value":
        section[last] = copy.deepcopy(VALUES[int(rng.integers(len(VALUES)))])
    elif kind == "other":
        places = list(settings(study))
        other: Any = study
        for part in places[int(rng.integers(len(places)))]:
            other = other[part]
        section[last] = copy.deepcopy(other)
    elif kind == "drop":
        del section[last]
    elif kind in ("typo", "move") and isinstance(section, dict):
        value = section.pop(last)
        if kind == "typo":
            section[str(rng.choice([last[1:], f"{last}s", last.upper(), f" {last}", last[::-1], ""]))] = value
        else:
            study[last] = value
    elif kind == "list":
        section[last] = [section[last]]
    elif kind == "text":
        section[last] = str(section[last])
    else:
        name, value = ADDED[int(rng.integers(len(ADDED)))]
        inner = section[last] if isinstance(section[last], dict) else section
        if isinstance(inner, dict):
            inner[name] = copy.deepcopy(value)
    return f"{kind} {'.'.join(map(str, at))}"


LITERAL = (
    "a = " + "[" * 3000 + "]" * 3000,
    "a = " + "9" * 5000,
    "a = {" * 800 + "}" * 800,
    "[" + ".".join(["a"] * 3000) + "]",
    "a = 0x" + "f" * 6000,
    "name = '''",
    "a = 1e99999",
    "a = 2020-13-45",
    '"" = 1',
    "a.b.c = 1\na.b = 2",
    "[[a]]\n[a]",
    "a = " + "1_" * 3000 + "1",
    "\ufeffname = 'x'",
    "name = 'x'\r",
    "a = inf",
    "# " + "x" * 100_000,
    "a = 1979-05-27T07:32:00-99:99",
)
"""What a TOML file may hold that no dictionary says."""


def hostile_study(number: int, rng: Generator) -> tuple[str, bytes]:
    """A study file with one change to three: settings in turn, so that each is changed as often as any other."""
    known = studies()
    study = known[number % len(known)]
    if rng.random() < 0.08:
        text = bytearray(tomli_w.dumps(study).encode())
        if rng.random() < 0.4:
            lines, piece = text.decode().splitlines(), LITERAL[int(rng.integers(len(LITERAL)))]
            lines.insert(int(rng.integers(len(lines))), piece)
            return f"TOML {piece[:40]!r}", "\n".join(lines).encode()
        return f"bytes {spoil(text, rng)}", bytes(text)
    places = list(settings(study))
    done = [change(study, places[number // len(known) % len(places)], rng)]
    for _ in range(int(rng.binomial(2, 0.2))):
        places = list(settings(study))
        done.append(change(study, places[int(rng.integers(len(places)))], rng))
    try:
        return "; ".join(done), tomli_w.dumps(study).encode("utf-8", "surrogatepass")
    except (TypeError, ValueError):  # a mixture that TOML cannot say
        return "; ".join(done), json.dumps(study, default=str).encode()


@contextmanager
def within(seconds: float, error: type[BaseException]) -> Iterator[None]:
    """End what takes longer, with this exception."""

    def too_long(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise error(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Enough(BaseException):
    """A study that was asked for much is left."""


def answer(path: Path, seconds: float, refuse_leaks: bool = False) -> bool:
    """Read, prepare and run a study for so many seconds at most; whether its figures are such."""
    with within(READ_SECONDS, TimeoutError):
        config = read_study(path)
        material = prepare(config, path.parent)
        cells = grid(config, material)
        for cell in cells:
            assert estimate_of(cell).bytes >= 0, "memory of less than nothing"
    out = path.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    try:
        with within(seconds, _Enough), redirect_stdout(io.StringIO()):
            result = run_study(config, material, out)
            write_report(result, out / "report.html")
            if not result.card["skipped"]:
                save_winner(config, material, out)
    except _Enough:
        return True
    except LeakError as error:
        if refuse_leaks:
            raise InputError(error.what, where=error.where, expected=error.expected, found=error.found) from None
        return True
    means = result.leaderboard["mean"]
    assert means.is_between(0, 1).all(), f"a metric of {means.to_list()}"
    return True


def attacked(number: int, seed: int, folder: Path) -> Outcome:
    """Study file ``number`` of the series that the seed gives."""
    rng, path = np.random.default_rng([seed, number]), folder / "study.toml"
    if not path.parent.is_dir():
        (folder / "folder.csv").mkdir(parents=True)
        for name, text in FILES.items():
            (folder / name).write_text(text)
    done, content = hostile_study(number, rng)
    path.write_bytes(content)
    kind = "bytes" if done.startswith(("TOML", "bytes")) else "settings"
    return judged(kind, f"number {number}: {done}", lambda: answer(path, RUN_SECONDS))


class StudyFiles:
    """The part "studies"."""

    name, seconds = "studies", 60.0

    def prepare(self, folder: Path) -> None:
        """Every study runs as it stands, or changes would say nothing."""
        for number, study in enumerate(studies()):
            at = folder / f"{number}"
            if (at / "out" / "card.json").is_file():
                continue
            (at / "folder.csv").mkdir(parents=True, exist_ok=True)
            for name, text in FILES.items():
                (at / name).write_text(text)
            (at / "study.toml").write_text(tomli_w.dumps(study))
            try:
                answer(at / "study.toml", 600, refuse_leaks=True)
            except InputError as error:
                raise RuntimeError(f"study {number}: {error}") from None

    def open(self, folder: Path, seed: int) -> Attack:
        """A study file in a folder of the lane; what can be read is run."""
        del folder
        load_libraries()  # half of one, where a study is left in the midst of it, would stay so
        return lambda number: attacked(number, seed, Path("x"))
