"""Triples as link tables: types, names, repeats and every way in, with a naive loop as oracle."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.construction.build_graph import Link, build_graph
from relrank.graph.relation_chains import hops
from relrank.tables import datasets
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.tables import NodeTable, Tables
from relrank.tables.triples import predicate_names, with_triples

KG = """m.1\tfilm.film.director\tp.1
m.2\tfilm.film.director\tp.1
m.1\tfilm.film.director\tp.1
m.2\tfilm.film.sequel_of\tm.1
p.1\tpeople.born_in\tc.1
p.1\tpeople.made\tm.2
m.9\tfilm.film.director\tp.2
"""
DATA = {
    "user": "user", "item": "film", "path": ".",
    "interactions": {"file": "rows.csv", "user": "user", "item": "film"},
    "triples": {
        "freebase": {
            "file": "kg.txt", "separator": "\t", "columns": ["head", "relation", "tail"],
            "items": {"file": "ids.csv"},
        }
    },
}  # fmt: skip


def written(folder: Path, **changed: str) -> Path:
    rows = "user,film\n" + "".join(f"{user},{film}\n" for user in range(4) for film in (1, 2, 3))
    files = {"rows.csv": rows, "kg.txt": KG, "ids.csv": "item,entity\n1,m.1\n2,m.2\n7,m.7\n"}
    for name, text in (files | {f"{k}.txt" if k == "kg" else f"{k}.csv": v for k, v in changed.items()}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def read(folder: Path, **changed: object) -> Tables:
    return read_tables(check(DATA | changed, DataConfig, "study.toml"), folder)


def rows_of(tables: Tables) -> dict[str, tuple[str, str, list[tuple[object, ...]]]]:
    return {name: (link.source, link.target, link.frame.rows()) for name, link in tables.links.items()}


def test_own_triples_by_hand(tmp_path: Path) -> None:
    tables = read(written(tmp_path))
    assert rows_of(tables) == {
        "director": ("film", "entity", [(1, "p.1"), (2, "p.1")]),
        "director_of_entity": ("entity", "entity", [("m.9", "p.2")]),  # a film without a row
        "sequel_of": ("film", "film", [(2, 1)]),
        "born_in": ("entity", "entity", [("p.1", "c.1")]),
        "made": ("entity", "film", [("p.1", 2)]),
    }
    assert tables.nodes["entity"].frame["entity"].to_list() == ["c.1", "m.9", "p.1", "p.2"]
    assert [str(n) for n in tables.notices] == [
        "ids.csv, column item: keys not in film dropped (1)", "kg.txt: repeated triples dropped (1)",
    ]  # fmt: skip


def test_entities_may_be_item_keys_or_have_a_node_table(tmp_path: Path) -> None:
    kg = "subject,verb,object\n1,likes,2\n1,in,40\n40,part_of,50\n2,in,60\n"
    written(tmp_path, kg=kg, places="id,name\n40,Rome\n50,Italy\n")
    section = {"file": "kg.txt", "separator": ",", "head": "subject", "relation": "verb", "tail": "object"}
    tables = read(tmp_path, triples={"kg": section | {"entity": "place", "computed": "2020-01-01"}})
    assert rows_of(tables) == {
        "likes": ("film", "film", [(1, 2)]),
        "in": ("film", "place", [(1, "40"), (2, "60")]),
        "part_of": ("place", "place", [("40", "50")]),
    }
    assert tables.links["in"].computed is not None
    nodes = {"place": {"file": "places.csv", "key": "id", "title": "name"}}
    tables = read(tmp_path, nodes=nodes, triples={"kg": section | {"entity": "place"}})
    assert rows_of(tables)["in"] == ("film", "place", [(1, 40)])
    assert tables.nodes["place"].title == "name"
    assert [str(n) for n in tables.notices] == [
        "kg.txt: numbers equal to a film key read as that film, as no items file is given: 67% of the film nodes "
        "have triples, 67% of the heads are such keys (2)",
        "kg.txt: film nodes without a triple (1)",
        "kg.txt: triples with entities not in place dropped (1)",
    ]
    written(tmp_path, places="id,name\n4,Rome\n", kg=kg.replace("1,likes,2\n", ""))
    with pytest.raises(InputError, match="no entity is in node table 'place'"):
        read(tmp_path, nodes=nodes, triples={"kg": section | {"entity": "place"}})


def test_items_without_a_triple_are_counted_and_text_keys_need_no_warning(tmp_path: Path) -> None:
    rows = "user,film\n" + "".join(f"{user},{film}\n" for user in range(4) for film in ("a", "b", "c"))
    written(tmp_path, rows=rows, kg="head\trelation\ttail\na\tin\tRome\n")
    section = {"file": "kg.txt", "separator": "\t"}
    tables = read(tmp_path, triples={"kg": section})
    assert [str(n) for n in tables.notices] == ["kg.txt: film nodes without a triple (2)"]


@pytest.mark.parametrize("second", ["m.2\twritten_by\tp.3\np.3\tlives_in\tc.1\n", "m.1\twritten_by\tp.3\n"])
def test_files_of_triples_share_their_entities(tmp_path: Path, second: str) -> None:
    (written(tmp_path) / "more.txt").write_text(second, encoding="utf-8")
    first = DATA["triples"]["freebase"]  # type: ignore[index]
    tables = read(tmp_path, triples={"freebase": first, "more": first | {"file": "more.txt"}})
    alone = read(tmp_path)
    assert tables.nodes["entity"].frame["entity"].to_list() == ["c.1", "m.9", "p.1", "p.2", "p.3"]
    films = {"m.1": 1, "m.2": 2}
    expected = {}
    for head, relation, tail in map(str.split, second.splitlines()):
        expected[relation] = ("film" if head in films else "entity", "entity", [(films.get(head, head), tail)])
    assert rows_of(tables) == rows_of(alone) | expected
    assert not any("not in entity" in n.message for n in tables.notices)


def test_several_files_of_triples_keep_to_a_node_table_that_is_given(tmp_path: Path) -> None:
    (written(tmp_path, places="id\np.1\nc.1\n") / "more.txt").write_text("m.2\tin\tc.1\nm.2\tin\tc.2\n")
    first = DATA["triples"]["freebase"] | {"entity": "place"}  # type: ignore[index]
    nodes = {"place": {"file": "places.csv", "key": "id"}}
    tables = read(tmp_path, nodes=nodes, triples={"freebase": first, "more": first | {"file": "more.txt"}})
    assert tables.nodes["place"].frame["id"].to_list() == ["p.1", "c.1"]
    assert rows_of(tables)["in"] == ("film", "place", [(2, "c.1")])


def test_a_chain_of_predicates_is_composed(tmp_path: Path) -> None:
    tables = read(written(tmp_path))
    split = make_split(tables, ProtocolConfig(split="random-leave-one-out"), 0)
    relations = {name: Link(kind="link", table=name) for name in ("director", "born_in", "sequel_of")}
    graph = build_graph(tables, split, relations)
    assert {r.name: (r.source, r.target, len(r)) for r in graph.relations.values()} == {
        "director": ("film", "entity", 2), "born_in": ("entity", "entity", 1), "sequel_of": ("film", "film", 1),
    }  # fmt: skip
    assert hops(graph)["born_in"] == ("director",)


def test_names_of_predicates() -> None:
    unique = pl.Series(["a.b.director", "http://x.org/ontology#writer", "http://x.org/star/", "plain", "..."])
    assert list(predicate_names(unique).values()) == ["director", "writer", "star", "plain", "..."]
    assert predicate_names(pl.Series(["film.actor", "tv.actor", "film.genre", "film.genre"])) == {
        "film.actor": "film.actor", "tv.actor": "tv.actor", "film.genre": "genre",
    }  # fmt: skip
    assert predicate_names(pl.Series(["film.genre"]), full=True) == {"film.genre": "film.genre"}


@pytest.mark.parametrize("seed", range(5))
def test_random_triples_agree_with_a_naive_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    triples = [(f"e{h}", f"x.r{r}", f"e{t}") for h, r, t in rng.integers(0, [12, 3, 12], (80, 3))]
    entity_of = [(int(i), f"e{e}") for i, e in enumerate(rng.integers(0, 8, 6))]  # entities of several items, too
    frame = pl.DataFrame(triples, ["head", "relation", "tail"], orient="row")
    items = pl.DataFrame({"film": range(6)})
    interactions = pl.DataFrame({"user": [0] * 6, "item": range(6)})
    tables = Tables("x", "user", "film", interactions, {"film": NodeTable("film", items, "film")})
    entities = pl.DataFrame(entity_of, ["item", "entity"], orient="row")
    made = with_triples(tables, frame, entities, Path("kg.txt"))
    expected: dict[str, dict[tuple[str, str], set[tuple[object, object]]]] = {}
    for head, relation, tail in triples:
        ends = [[i for i, e in entity_of if e == end] or [end] for end in (head, tail)]
        for source in ends[0]:
            for target in ends[1]:
                kinds = tuple("film" if isinstance(end, int) else "entity" for end in (source, target))
                expected.setdefault(relation, {}).setdefault(kinds, set()).add((source, target))
    suffixes = {
        ("film", "entity"): "", ("film", "film"): "_to_item",
        ("entity", "entity"): "_of_entity", ("entity", "film"): "_of_entity_to_item",
    }  # fmt: skip
    named = {}
    for relation, by_kind in expected.items():
        first = min(by_kind, key=list(suffixes).index)
        for kinds, pairs in by_kind.items():
            named[relation[2:] + ("" if kinds == first else suffixes[kinds])] = (*kinds, pairs)
    found = {name: (source, target, set(rows)) for name, (source, target, rows) in rows_of(made).items()}
    assert found == named
    assert all(len(rows) == len(set(rows)) for _, _, rows in rows_of(made).values())
    counted = {n.message: n.count for n in made.notices}
    assert counted.get("repeated triples dropped", 0) == len(triples) - len(set(triples))


@pytest.mark.parametrize(
    ("files", "what", "where"),
    [
        ({"kg": "m.1\tdirector\n"}, "not readable as a table|value is missing", "kg.txt"),
        ({"kg": "m.1\tdirector\t\n"}, "value is missing", "kg.txt"),
        ({"kg": "m.1\tdirector\tp.1\textra\n"}, "not readable as a table", "kg.txt"),
        ({"kg": "x\tdirector\ty\n"}, "no triple is about an item", "kg.txt"),
        ({"kg": ""}, "file is empty", "kg.txt"),
        ({"ids": "item,entity\n1,\n"}, "value is missing", "ids.csv"),
        ({"ids": "film,entity\n1,m.1\n"}, "column not found", "ids.csv"),
        ({"ids": "item,entity\nx,m.1\n"}, "empty join", "ids.csv"),
        ({"kg": "m.1\tr\tp\nm.1\tr\tm.2\nm.1\tr_to_item\tp\n"}, "a link table has this name", "kg.txt"),
    ],
)
def test_bad_files_are_one_error(tmp_path: Path, files: dict[str, str], what: str, where: str) -> None:
    with pytest.raises(InputError, match=what) as error:
        read(written(tmp_path, **files))
    assert where in error.value.where


def test_bad_sections_are_one_error(tmp_path: Path) -> None:
    (written(tmp_path) / "kg.txt").unlink()
    with pytest.raises(InputError, match=r"no such file[\s\S]*kg\.txt"):
        read(tmp_path)
    section = dict(DATA["triples"]["freebase"])  # type: ignore[index]
    for changed, what in (
        ({"entity": "film"}, "entity of triples is a node type of its own"),
        ({"tail": "head"}, "a column is used twice"),
        ({"tails": "x"}, "unknown key"),
    ):
        with pytest.raises(InputError, match=what):
            read(written(tmp_path), triples={"kg": section | changed})
    tables = read(written(tmp_path))
    split = make_split(tables, ProtocolConfig(split="random-leave-one-out"), 0)
    with pytest.raises(InputError, match=r"no such link table[\s\S]*did you mean 'director'"):
        build_graph(tables, split, {"by": Link(kind="link", table="directors")})
    with pytest.raises(InputError, match="triples does not go with dataset"):
        check({"dataset": "gowalla", "triples": {"kg": section}}, DataConfig, "x")
    with pytest.raises(InputError, match="kg does not go with dataset"):
        check({"dataset": "ml-100k", "kg": "folder"}, DataConfig, "x")


@pytest.mark.parametrize("ratings", ["ml-1m_sasrec.txt", "ratings_uir.csv"])
def test_ml_1m_with_the_triples_of_mkr(ratings: str, load: Callable[[str], Tables], data_dir: Path) -> None:
    section = {"dataset": "ml-1m", "path": "ml-1m", "ratings": ratings, "kg": "mkr-movie"}
    tables = read_tables(check(section, DataConfig, "x"), data_dir)
    sizes = {name: link.frame.height for name, link in tables.links.items()}
    published = {
        "genre": 5271, "writer": 3476, "language": 3135, "director": 2581, "country": 2256, "star": 2164,
        "rating": 1899,
    }  # fmt: skip
    assert {name: sizes[name] + sizes[f"{name}_of_entity"] for name in published} == published
    assert sum(sizes.values()) == 20_782
    folder = data_dir / "mkr-movie"
    movie = {e: int(m) for m, e in map(str.split, (folder / "item_index2entity_id.txt").read_text().splitlines())}
    assert len(movie) == 2347
    triples = [line.split() for line in (folder / "kg.txt").read_text().splitlines()]
    expected = {(movie[head], tail) for head, name, tail in triples if name == "film.film.director" and head in movie}
    assert set(tables.links["director"].frame.rows()) == expected
    plain = load("ml-1m-loo" if ratings == "ml-1m_sasrec.txt" else "ml-1m-liked-loo")
    assert tables.interactions.equals(plain.interactions)
    assert tables.name == plain.name  # so the named protocols go with it


def test_ml_1m_refuses_triples_of_other_movies(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "kg.txt").write_text("0\tfilm.film.genre\t9\n")
    (tmp_path / "item_index2entity_id.txt").write_text("5000\t0\n")
    with pytest.raises(InputError, match=r"unknown movie[\s\S]*5000"):
        datasets.ml_1m(data_dir / "ml-1m", "ml-1m_sasrec.txt", kg=tmp_path)


def test_recbole_loses_no_triple_and_items_are_items(atomic_ml_100k: Path) -> None:
    tables = datasets.recbole(atomic_ml_100k)
    lines = [line.split("\t") for line in (atomic_ml_100k / "ml-100k.kg").read_text().splitlines()[1:]]
    links = [line.split() for line in (atomic_ml_100k / "ml-100k.link").read_text().splitlines()[1:]]
    item = {entity: int(key) for key, entity in links}
    of_items: dict[str, list[tuple[int, object]]] = {}
    for head, relation, tail in lines:
        if head in item:
            of_items.setdefault(relation + "_to_item" * (tail in item), []).append((item[head], item.get(tail, tail)))
    assert {name: tables.links[name].frame.rows() for name in of_items} == of_items
    assert {name for name in of_items if name.endswith("_to_item")} == {
        "film.film.sequel_to_item", "film.film.prequel_to_item",
    }  # fmt: skip
    total = sum(link.frame.height for link in tables.links.values())
    assert total == len([line for line in lines if line[1] != "relation_id:token"])
