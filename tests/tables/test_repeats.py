"""Repeats that are kept are counted until rows are held out; nothing of the held-out part is in a count."""

from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.audit import find_transition_overlap
from relrank.graph.bundle import load_graph, save_graph
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.construction.relation_config import Cooccurrence, InteractionWeights
from relrank.graph.edge_removal import without_user_edges
from relrank.graph.histories import Sequences
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import Tables

DAY = 86_400
NOW = 1_700_000_000
LAST = ProtocolConfig(split="last-leave-one-out")


def read(folder: Path, rows: list[tuple[str, str, int]], **more: object) -> Tables:
    (folder / "x.csv").write_text("u,i,t\n" + "".join(f"{u},{i},{NOW + t * DAY}\n" for u, i, t in rows))
    section = {"file": "x.csv", "user": "u", "item": "i", "time": "t", "duplicates": "keep", **more}
    config = {"user": "user", "item": "item", "interactions": section}
    return read_tables(check(config, DataConfig, "x"), folder)


def counts(split: Split, rows: Interactions) -> dict[tuple[str, str], int]:
    assert rows.count is not None
    pairs = zip(split.users.at(rows.user), split.items.at(rows.item), strict=True)
    return dict(zip(pairs, rows.count.tolist(), strict=True))


def test_counts_by_hand(tmp_path: Path) -> None:
    rows = [("a", "x", 1), ("a", "x", 2), ("a", "y", 3), ("a", "x", 4), ("a", "z", 5), ("a", "y", 6), ("a", "w", 7),
            ("a", "w", 8), ("b", "z", 1), ("b", "w", 2), ("b", "x", 3), ("b", "z", 4)]  # fmt: skip
    split = make_split(read(tmp_path, rows), LAST, 0)
    assert counts(split, split.train) == {("a", "x"): 3, ("a", "y"): 1, ("b", "z"): 1}  # a had y again after z
    assert counts(split, split.valid) == {("a", "z"): 1, ("b", "w"): 1}
    assert counts(split, split.test) == {("a", "w"): 1, ("b", "x"): 1}
    assert [n.count for n in split.notices if "repeats" in n.message] == [2, 3]
    weights = InteractionWeights(weight="count", power=0.5)
    graph = build_graph(read(tmp_path, rows), split, {}, None, weights)
    assert graph.interactions.weight.tolist() == pytest.approx([1, (1 / 3) ** 0.5, (1 / 3) ** 0.5])
    assert build_graph(read(tmp_path, rows), split, {}).interactions.weight.tolist() == [1, 1, 1]


def told(split: Split, rows: Interactions) -> dict[str, str]:
    """Items of each user in a row."""
    said: dict[str, str] = {}
    for user, item in zip(split.users.at(rows.user), split.items.at(rows.item), strict=True):
        said[user] = said.get(user, "") + item
    return said


def test_histories_hold_what_is_counted(tmp_path: Path) -> None:
    """Each time an item was chosen before anything of its user is held out, in time order, ties as in the file."""
    rows = [("a", "y", 3), ("a", "x", 1), ("a", "x", 2), ("a", "x", 4), ("a", "z", 5), ("a", "y", 6), ("a", "w", 7),
            ("b", "z", 1), ("b", "v", 1), ("b", "z", 1), ("b", "w", 2), ("b", "x", 3), ("b", "z", 4)]  # fmt: skip
    tables = read(tmp_path, rows)
    split = make_split(tables, LAST, 0)
    assert told(split, split.train) == {"a": "xy", "b": "zv"}
    assert told(split, split.events) == {"a": "xxyx", "b": "zvz"}
    assert told(split, split.refit().events) == {"a": "xxyxz", "b": "zvzw"}
    graph = build_graph(tables, split, {})
    histories = [split.items.at(h.numpy()).to_list() for h in Sequences.from_graph(graph).tensors()]
    assert histories == [list("xxyx"), list("zvz")]
    fewer = without_user_edges(graph, 0, int(split.items.find(pl.Series(["x"]))[0]))
    assert [h.numel() for h in Sequences.from_graph(fewer).tensors()] == [1, 3]
    once = make_split(read(tmp_path, rows, duplicates="first"), LAST, 0)
    assert once.repeats is None
    assert build_graph(tables, once, {}).events is None
    swapped = [("a", "x", 1), ("a", "y", 2), ("a", "x", 3), *rows[3:]]  # the second x after y
    assert make_split(read(tmp_path, swapped), LAST, 0).fingerprint != split.fingerprint


@pytest.mark.parametrize("kind", ["last-leave-one-out", "random-leave-one-out", "temporal"])
def test_counts_agree_with_loops(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(3)
    rows = [(f"u{rng.integers(6)}", f"i{rng.integers(8)}", int(t)) for t in rng.permutation(300)]
    cut = {"cut": NOW + 200 * DAY} if kind == "temporal" else {}
    split = make_split(read(tmp_path, rows), ProtocolConfig(split=kind, **cut), 0)
    held = split.valid.then(split.test)
    out = set(counts(split, held))
    expected: Counter[tuple[str, str]] = Counter()
    happened: list[tuple[int, str, str]] = []
    first = {(u, i): t for u, i, t in sorted(rows, key=lambda row: -row[2])}
    for u, i, t in rows:
        bound = min((first[pair] for pair in out if pair[0] == u), default=10**9)
        late = {"temporal": t > 200, "last-leave-one-out": t >= bound, "random-leave-one-out": False}[kind]
        if (u, i) not in out and not late:
            expected[u, i] += 1
            happened.append((t, u, i))
    assert counts(split, split.train) == expected
    in_time = [(u, i) for _, u, i in sorted(happened)]
    assert told(split, split.events) == {u: "".join(i for v, i in in_time if v == u) for u in split.users.keys}
    graph = build_graph(read(tmp_path, rows), split, {})
    assert graph.events is not None
    assert split.events.item.tolist() == graph.interactions.dst[graph.events].tolist()
    save_graph(graph, tmp_path / "graph")
    again = load_graph(tmp_path / "graph").events
    assert again is not None
    assert again.tolist() == graph.events.tolist()
    assert not out & set(expected)
    assert split.refit().train.count is not None
    once = make_split(read(tmp_path, rows, duplicates="first"), ProtocolConfig(split=kind, **cut), 0)
    assert split.fingerprint != once.fingerprint


def test_repeats_across_own_parts_are_no_truth(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text(f"u,i,t\na,x,{NOW}\na,z,{NOW}\n")
    rows = [("a", item, n) for n, item in enumerate("xyxwvxuyts")]
    split = make_split(read(tmp_path, rows, test="test.csv"), ProtocolConfig(split="given", valid_share=0.15), 0)
    assert counts(split, split.test) == {("a", "z"): 1}
    found = counts(split, split.train) | counts(split, split.valid)
    assert found | {("a", "x"): 3, ("a", "y"): 2} == dict.fromkeys(found, 1) | {("a", "x"): 3, ("a", "y"): 2}
    assert len(found) == 7
    assert [n.count for n in split.notices if "earlier part" in n.message] == [1]


def test_counts_without_repeats_are_an_error(tmp_path: Path) -> None:
    tables = read(tmp_path, [("a", "x", 1), ("a", "y", 2), ("a", "z", 3)], duplicates="error")
    with pytest.raises(InputError, match="not counted"):
        build_graph(tables, make_split(tables, LAST, 0), {}, None, InteractionWeights(weight="count"))


@pytest.mark.parametrize("split", ["last-leave-one-out", "random-leave-one-out"])
def test_frames_with_repeats_are_looked_at_as_others_are(split: str) -> None:
    rows = pl.DataFrame({"user": ["a"] * 5, "item": list("xyxzw"), "time": range(NOW, NOW + 5)})

    def made(frame: pl.DataFrame) -> Split:
        return make_split(Tables("shop", "user", "item", frame, repeats=True), ProtocolConfig(split=split), 0)

    assert len(made(rows).train) == 2
    with pytest.raises(InputError, match="column"):
        made(rows.drop("user"))
    with pytest.raises(InputError, match="no rows"):
        made(rows.head(0))


def test_own_steps_are_those_that_a_cooccurrence_counts(tmp_path: Path) -> None:
    """In x y z x w only x y z w: x w is what b makes, and what a does twice is no second step."""
    text = "a x,a y,a z,a x,a w,a x,a w,b x,b w,b v,c w,c y,c v"
    rows = [
        (pair[0], pair[2], n) for n, pair in enumerate([*text.split(","), *(f"{u} {i}" for u in "abc" for i in "st")])
    ]
    tables = read(tmp_path, rows)
    split = make_split(tables, LAST, 0)
    near = check({"kind": "cooccurrence", "window": 1, "min_count": 1}, Cooccurrence, "near")
    graph = build_graph(tables, split, {"near": near})
    assert graph.events is not None
    found = find_transition_overlap(graph, "near")
    assert "7 of 7 steps" in found.message


@pytest.mark.parametrize("core", [2, 3, {"user": 3, "item": 2}])
def test_a_core_counts_different_partners(tmp_path: Path, core: int | dict[str, int]) -> None:
    """As a loop over sets has it; a user with one item bought ten times has one."""
    rng = np.random.default_rng(5)
    rows = [(f"u{rng.integers(12)}", f"i{int(rng.integers(9) ** 1.5)}", int(t)) for t in rng.permutation(60)]
    rows += [("often", "i0", 100 + n) for n in range(10)]
    least = core if isinstance(core, dict) else {"user": core, "item": core}
    pairs, before = {(u, i) for u, i, _ in rows}, 0
    while len(pairs) != before:
        before, users, items = len(pairs), Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        pairs = {(u, i) for u, i in pairs if users[u] >= least["user"] and items[i] >= least["item"]}
    split = make_split(
        read(tmp_path, rows), ProtocolConfig(split="random-leave-one-out", core=core, without_train="drop"), 0
    )
    kept = [row for row in rows if row[:2] in pairs]
    assert ("often", "i0") not in pairs
    assert "often" not in split.users.keys
    whole = split.train.then(split.valid).then(split.test)
    enough = {u for u, n in Counter(u for u, _ in pairs).items() if n > 2}  # with training rows
    found = set(zip(split.users.at(whole.user), split.items.at(whole.item), strict=True))
    assert found == {pair for pair in pairs if pair[0] in enough}
    outside = [n for n in split.notices if "outside the core" in n.message]
    assert [n.count for n in outside] == [len(rows) - len(kept)]
    assert "different partners" in outside[0].message
