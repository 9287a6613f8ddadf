"""HetRec's Last.FM: counts as published, tags with and without their makers, and the leak of the latter."""

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables import datasets
from relrank.tables.audit import Finding, audit
from relrank.tables.cutoff import OWN, cut_tables
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import Tables

FILES = {
    "user_artists.dat": "userID\tartistID\tweight\n"
    + "".join(f"{user}\t{artist}\t{10 * artist}\n" for user in (1, 2) for artist in range(5)),
    "artists.dat": "id\tname\turl\tpictureURL\n"
    '0\tSigur Rós\tu\tp\n1\t"Weird Al"\tu\tp\n2\tC\tu\tp\n3\tD\tu\tp\n4\tE\tu\tp\n',
    "tags.dat": "tagID\ttagValue\n7\ttropicália\n8\trock\n",
    "user_taggedartists.dat": "userID\tartistID\ttagID\tday\tmonth\tyear\n"
    "1\t0\t7\t1\t1\t1956\n2\t0\t7\t1\t4\t2009\n2\t0\t8\t1\t4\t2009\n1\t9\t7\t1\t4\t2009\n",
    "user_friends.dat": "userID\tfriendID\n1\t2\n2\t1\n",
}  # fmt: skip


def written(folder: Path, **changed: str) -> Path:
    for name, text in (FILES | {f"{k}.dat": v for k, v in changed.items()}).items():
        (folder / name).write_bytes(text.encode("latin-1" if name == "tags.dat" else "utf-8"))
    return folder


def test_small_files_by_hand(tmp_path: Path) -> None:
    tables = datasets.hetrec_lastfm(written(tmp_path))
    assert tables.interactions.row(4) == (1, 4, 40.0)
    assert "time" not in tables.interactions.columns
    assert tables.nodes["artist"].frame["name"].to_list()[:2] == ["Sigur Rós", '"Weird Al"']
    assert tables.nodes["tag"].frame.rows() == [(7, "tropicália"), (8, "rock")]
    assert tables.nodes["user"].frame.rows() == [(1,), (2,)]
    assert tables.links["tagged"].frame.rows() == [(0, 7, 1), (0, 7, 2), (0, 8, 2)]
    assert tables.links["tagged"].by == "user_id"
    assert tables.links["tag_counts"].frame.rows() == [(0, 7, 2.0, [1, 2]), (0, 8, 1.0, [2])]
    assert (tables.links["tag_counts"].by, tables.links["tag_counts"].weight) == (None, "users")
    assert tables.links["friends"].frame.rows() == [(1, 2), (2, 1)]
    assert [str(n) for n in tables.notices] == [
        "user_taggedartists.dat: tags of artists that nobody listened to dropped (1)"
    ]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"user_artists": "userID\tartistID\tweight\n1\t0\tmany\n"}, "not a finite number"),
        ({"user_artists": "userID\tartistID\tweight\n1\t0\t2\n1\t0\t3\n"}, "interaction occurs twice"),
        ({"user_artists": "userID\tweight\n1\t0\n"}, "column not found"),
        ({"user_taggedartists": "userID\tartistID\n1\t0\n"}, "column not found"),
        ({"artists": "id\tname\n1\tA\textra\n"}, "not readable as a table"),
        ({"tags": ""}, "file is empty"),
    ],
)
def test_files_that_are_not_as_published_are_one_error(tmp_path: Path, changed: dict[str, str], what: str) -> None:
    with pytest.raises(InputError, match=what) as error:
        datasets.hetrec_lastfm(written(tmp_path, **changed))
    assert next(iter(changed)) in error.value.where


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (written(tmp_path) / "user_friends.dat").unlink()
    with pytest.raises(InputError, match=r"no such file[\s\S]*user_friends\.dat"):
        datasets.hetrec_lastfm(tmp_path)


def test_published_counts(load: Callable[[str], Tables], data_dir: Path) -> None:
    tables = load("hetrec-lastfm")
    rows = tables.interactions
    assert (rows.height, rows["user"].n_unique(), rows["item"].n_unique()) == (92_834, 1892, 17_632)
    assert {name: node.frame.height for name, node in tables.nodes.items()} == {
        "user": 1892, "artist": 17_632, "tag": 11_946,
    }  # fmt: skip
    sizes = {name: link.frame.height for name, link in tables.links.items()}
    assert sizes == {"tagged": 186_479 - 1538, "tag_counts": 108_437, "friends": 25_434}
    friends = tables.links["friends"].frame
    assert friends.join(friends, left_on=["user_id", "friend_id"], right_on=["friend_id", "user_id"]).height == 25_434
    tagged = set()
    for line in (data_dir / "hetrec-lastfm-2k" / "user_taggedartists.dat").read_text().splitlines()[1:]:
        user, artist, *_ = line.split("\t")
        tagged.add((int(user), int(artist)))
    pairs = set(rows.select("user", "item").rows())
    assert round(len(pairs & tagged) / len(pairs), 3) == 0.223
    assert tables.nodes["tag"].frame.filter(pl.col("tag_id") == 2863)["name"].to_list() == ["tropicália"]


def leaks(tables: Tables, relation: str) -> tuple[list[Finding], list[str]]:
    split = make_split(tables, ProtocolConfig(name="hetrec-lastfm", split="random-ratio"), 0)
    _, notices = cut_tables(tables, split, [relation])
    found = audit(tables, split, None, [(relation, "tag_id")], {relation: (relation,)})
    return [f for f in found if f.level == "leak"], [n.message for n in notices]


def test_edges_of_all_users_are_a_named_leak_and_those_with_makers_are_none(load: Callable[[str], Tables]) -> None:
    tables = load("hetrec-lastfm")
    ((leak,), _) = leaks(tables, "tag_counts")
    assert (leak.names, leak.check) == (("tag_counts",), "tag_counts made of held-out rows")
    assert leak.remedy == "use table tagged, which says who made each row"
    split = make_split(tables, ProtocolConfig(name="hetrec-lastfm", split="random-ratio"), 0)
    held = split.valid.then(split.test)
    pairs = set(zip(split.users.at(held.user), split.items.at(held.item), strict=True))
    made = [(u, a) for a, _, u in tables.links["tagged"].frame.rows() if (u, a) in pairs]
    assert leak.count == len(made)
    assert f"made of {len(set(made)):,} of their {len(pairs):,} held-out items" in leak.message
    assert leaks(tables, "tagged") == ([], [OWN])
