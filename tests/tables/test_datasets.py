"""Public data sets: counts as published, one canonical form, missing values missing."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables import datasets
from relrank.tables.config import check
from relrank.tables.fetch import WHEEL_SHA256
from relrank.tables.movielens import FREEBASE
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.tables import Tables

Load = Callable[[str], Tables]


def counts(tables: Tables) -> dict[str, int]:
    return {n.message: n.count for n in tables.notices}


def test_ml_100k(ml_100k: Tables) -> None:
    rows = ml_100k.interactions
    assert (rows.height, rows["user"].n_unique(), rows["item"].n_unique()) == (100_000, 943, 1682)
    assert rows.columns == ["user", "item", "rating", "time"]
    assert rows.row(0) == (196, 242, 3.0, 881250949)
    users = ml_100k.nodes["user"].frame
    assert users.columns == ["user_id", "age", "gender", "occupation", "zip_code"]
    assert users.row(0) == (1, 24, "M", "technician", "85711")
    assert users["occupation"].n_unique() == 21
    assert "T8H1N" in users["zip_code"].to_list()
    movies = ml_100k.nodes["movie"].frame
    assert movies.columns == ["movie_id", "title", "year", "genre"]
    assert movies.row(0) == (1, "Toy Story", 1995, ["Animation", "Children's", "Comedy"])


def test_ml_100k_missing_is_missing_and_no_text(ml_100k: Tables) -> None:
    movies = ml_100k.nodes["movie"].frame
    assert movies.row(266) == (267, None, None, None)
    assert movies.row(1372) == (1373, "Good Morning", 1971, None)  # its only genre is "unknown"
    assert movies.row(1411)[1:3] == ("Land Before Time III: The Time of the Great Giving (V)", 1995)
    assert movies["year"].null_count() == movies["title"].null_count() == 1
    assert movies["title"].str.contains(r"\(\d{4}\)").sum() == 0
    words = {w for genres in movies["genre"].drop_nulls() for w in genres}
    assert len(words) == 18
    assert "unknown" not in words


def test_ml_100k_freebase_links(ml_100k: Tables) -> None:
    sizes = {name: table.frame.height for name, table in ml_100k.links.items()}
    assert sizes == {
        "directed_by": 1727, "written_by": 2381, "actor": 40152, "produced_by": 2615, "cinematography": 1416,
        "subjects": 709, "production_companies": 1396, "country": 2212, "language": 2231,
    }  # fmt: skip
    movies = set(ml_100k.nodes["movie"].frame["movie_id"])
    for name, table in ml_100k.links.items():
        assert table.frame.columns == ["movie_id", table.target] == [table.source_column, table.target_column]
        assert table.frame["movie_id"].dtype == pl.Int64
        assert set(table.frame["movie_id"]) <= movies
        assert table.target == dict(FREEBASE.values())[name]
    assert counts(ml_100k)["triples that do not start at an item dropped"] == 19_039


def test_freebase_in_plain_python_agrees(ml_100k: Tables, data_dir: Path) -> None:
    folder = data_dir / "ml-100k"
    links = [line.split() for line in (folder / "recbole_ml-100k.link").read_text().splitlines()[1:]]
    movie = {entity: int(item) for item, entity in links}
    expected = set()
    for line in (folder / "recbole_ml-100k.kg").read_text().splitlines()[1:]:
        head, relation, tail = line.split("\t")
        if relation == "film.film.directed_by" and head in movie:
            expected.add((movie[head], tail))
    assert set(ml_100k.links["directed_by"].frame.rows()) == expected


def test_atomic_files_are_those_of_the_wheel(atomic_ml_100k: Path) -> None:
    for name, sha256 in WHEEL_SHA256.items():
        assert hashlib.sha256((atomic_ml_100k / name).read_bytes()).hexdigest() == sha256


def test_both_layouts_of_ml_100k_are_the_same_tables(ml_100k: Tables, atomic_ml_100k: Path) -> None:
    other = datasets.ml_100k(atomic_ml_100k)
    assert other.interactions.equals(ml_100k.interactions)
    for name, node in ml_100k.nodes.items():
        assert other.nodes[name].frame.equals(node.frame)
    for name, link in ml_100k.links.items():
        assert other.links[name].frame.equals(link.frame)
    with pytest.raises(InputError, match="published parts"):
        datasets.ml_100k(atomic_ml_100k, "u1")


def test_ml_100k_u1(ml_100k_u1: Tables, ml_100k: Tables) -> None:
    assert {p: f.height for p, f in ml_100k_u1.given.items()} == {"train": 80_000, "test": 20_000}
    assert ml_100k_u1.interactions.sort("user", "item").equals(ml_100k.interactions.sort("user", "item"))


def test_header_rows_inside_a_kg_are_dropped_and_counted(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text("user_id:token\titem_id:token\nu\t1\nu\t2\n")
    (tmp_path / "x.item").write_text("item_id:token\ttitle:token_seq\tprice:float\n1\tA B\t2.5\n2\tC\t\n")
    (tmp_path / "x.link").write_text("item_id:token\tentity_id:token\n1\tm.1\n9\tm.9\n")
    head = "head_id:token\trelation_id:token\ttail_id:token\n"
    (tmp_path / "x.kg").write_text(head + "m.1\tr.a\tm.5\nm.5\tr.b\tm.1\n" + head + "m.1\tr.b\tm.6\n")
    tables = datasets.recbole(tmp_path)
    assert tables.nodes["item"].frame.rows() == [(1, ["A", "B"], 2.5), (2, ["C"], None)]
    assert {n: t.frame.rows() for n, t in tables.links.items()} == {
        "r.a": [(1, "m.5")],
        "r.b": [(1, "m.6")],
        "r.b_of_entity_to_item": [("m.5", 1)],
    }
    assert counts(tables) == {"header rows inside the file dropped": 1, "links of items without a row dropped": 1}
    (tmp_path / "x.item").unlink()
    (tmp_path / "x.kg").write_text(head + "m.1\tr.a\tm.5\nm.1\tr.a\n")
    with pytest.raises(InputError, match=r"value is missing[\s\S]*x\.kg"):
        datasets.recbole(tmp_path)
    (tmp_path / "x.kg").write_text(head + "m.1\tr.a\tm.5\n")
    assert datasets.recbole(tmp_path).links["r.a"].frame.rows() == [(1, "m.5")]  # items of the interactions


def test_recbole_on_ml_100k(atomic_ml_100k: Path) -> None:
    tables = datasets.recbole(atomic_ml_100k)
    assert tables.interactions.height == 100_000
    assert tables.nodes["item"].title == "movie_title"
    assert tables.links["film.film.directed_by"].frame.height == 1727
    with pytest.raises(InputError, match=r"no single \.inter"):
        datasets.recbole(atomic_ml_100k.parent)


def test_goodbooks(goodbooks: Tables) -> None:
    rows = goodbooks.interactions
    assert (rows.height, rows["user"].n_unique(), rows["item"].n_unique()) == (298_176, 2672, 9990)
    books = goodbooks.nodes["book"].frame
    assert books.height == 10_000
    assert books["original_publication_year"].dtype == pl.Int64
    assert books["original_publication_year"].null_count() == 21
    assert books["language_code"].null_count() == 1084
    assert books["isbn"].dtype == pl.String
    assert (goodbooks.nodes["tag"].key, goodbooks.nodes["tag"].title) == ("tag_id", "tag_name")
    assert "user" not in goodbooks.nodes
    shelves = goodbooks.links["book_tags"]
    assert (shelves.source_match, shelves.weight) == ("goodreads_book_id", "count")
    assert shelves.frame.height == 999_912 - 6 - 8
    assert counts(goodbooks) == {
        "counts below 1 dropped": 6,
        "repeated (book, tag) rows dropped, the largest count kept": 8,
    }
    twice = shelves.frame.filter((pl.col("goodreads_book_id") == 3) & (pl.col("tag_id") == 22743))
    assert twice["count"].to_list() == [6066.0]  # the file says 6,066 and 6,065


def test_book_tags_join_on_the_goodreads_id_and_not_on_the_book_id(goodbooks: Tables) -> None:
    tagged = goodbooks.links["book_tags"].frame["goodreads_book_id"]
    books = goodbooks.nodes["book"].frame
    assert books["goodreads_book_id"].is_in(tagged.implode()).all()
    assert books["book_id"].is_in(tagged.implode()).mean() < 0.1  # the wrong join would look like data, too


def test_goodbooks_v1_keeps_the_first_of_repeated_rows(load: Load, data_dir: Path) -> None:
    tables = load("goodbooks-v1-loo")
    assert counts(tables)["repeated (user, book) rows dropped, the first kept"] == 2278
    assert tables.interactions.height == 981_756 - 2278
    seen: dict[tuple[int, int], float] = {}
    for line in (data_dir / "goodbooks-10k" / "ratings_v1.csv").read_text().splitlines()[1:50_000]:
        book, user, rating = map(int, line.split(","))
        seen.setdefault((user, book), float(rating))
    head = tables.interactions[: len(seen)]
    assert dict(zip(head.select("user", "item").rows(), head["rating"], strict=True)) == seen


def test_goodbooks_names_the_rating_files_there_are(data_dir: Path) -> None:
    with pytest.raises(InputError) as error:
        datasets.goodbooks_10k(data_dir / "goodbooks-10k")
    assert "ratings_v2_users5pct.csv" in error.value.found


def test_ml_1m_in_the_order_of_the_sequence_file(load: Load) -> None:
    tables = load("ml-1m-loo")
    rows = tables.interactions
    assert (rows.height, rows["user"].n_unique(), rows["item"].n_unique()) == (999_611, 6040, 3416)
    assert tables.ordered
    assert rows.row(0) == (5988, 1198)  # the first lines of the two id maps
    movies = tables.nodes["movie"].frame
    assert movies.row(0) == (1, "Toy Story", 1995, ["Animation", "Children's", "Comedy"])
    assert (movies.height, movies["year"].null_count()) == (3883, 0)
    assert tables.nodes["user"].frame.row(0) == (1, "F", 1, "K-12 student", "48067")


def test_ml_1m_ratings_take_their_order_from_the_sequence_file(load: Load, data_dir: Path) -> None:
    tables, order = load("ml-1m-liked-loo"), load("ml-1m-loo").interactions
    assert tables.interactions.select("user", "item").equals(order)
    assert counts(tables) == {"ratings without a place in the order of ml-1m_sasrec.txt dropped": 598}
    lines = (data_dir / "ml-1m" / "ratings_uir.csv").read_text().splitlines()[1:1000]
    ratings = dict(zip(tables.interactions.select("user", "item").rows(), tables.interactions["rating"], strict=True))
    for line in lines:
        user, item, rating = map(int, line.split(","))
        assert ratings.get((user, item), rating) == rating


def test_official_ml_1m(tmp_path: Path) -> None:
    (tmp_path / "ratings.dat").write_text("1::7::5::978300760\n2::7::3::978302109\n")
    (tmp_path / "users.dat").write_text("1::F::1::10::48067\n2::M::56::16::70072\n")
    text = "7::L'Année: dernière (1961)::Drama|Sci-Fi\n8::Nameless::unknown\n"
    (tmp_path / "movies.dat").write_bytes(text.encode("latin-1"))
    tables = datasets.ml_1m(tmp_path)
    assert tables.interactions.rows() == [(1, 7, 5.0, 978300760), (2, 7, 3.0, 978302109)]
    assert tables.nodes["movie"].frame.rows() == [
        (7, "L'Année: dernière", 1961, ["Drama", "Sci-Fi"]),
        (8, "Nameless", None, None),
    ]
    assert not tables.ordered
    with pytest.raises(InputError, match="unknown rating file"):
        datasets.ml_1m(tmp_path, "ratings.csv")


def test_gowalla(load: Load, data_dir: Path) -> None:
    tables = load("gowalla")
    assert {p: f.height for p, f in tables.given.items()} == {"train": 719_081, "valid": 91_047, "test": 217_242}
    train = pl.concat([tables.given["train"], tables.given["valid"]])
    assert (train.height, tables.interactions["user"].n_unique(), tables.interactions["item"].n_unique()) == (
        810_128, 29_858, 40_981,
    )  # fmt: skip
    first = [int(n) for n in (data_dir / "gowalla" / "test.txt").read_text().split("\n", 1)[0].split()]
    assert tables.given["test"].filter(pl.col("user") == first[0])["item"].to_list() == first[1:]


def test_lists_with_empty_lines_and_bad_numbers(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("0 5 6 \n1\n2 7\n\n")
    (tmp_path / "test.txt").write_text("0 7\n")
    tables = datasets.lightgcn(tmp_path)
    assert tables.given["train"].rows() == [(0, 5), (0, 6), (2, 7)]
    (tmp_path / "test.txt").write_text("0 7\n1 x\n")
    with pytest.raises(InputError, match="line 2"):
        datasets.lightgcn(tmp_path)
    (tmp_path / "test.txt").write_text("0 7 7\n")
    with pytest.raises(InputError, match="occurs twice"):
        datasets.lightgcn(tmp_path)


def test_amazon_beauty(load: Load) -> None:
    tables = load("beauty-loo")
    rows = tables.interactions
    assert (rows.height, rows["user"].n_unique(), rows["item"].n_unique()) == (198_502, 22_363, 12_101)
    assert tables.ordered
    assert rows["item"][:5].to_list() == [1, 2, 3, 4, 5]
    attributes = tables.links["has_attribute"].frame
    assert attributes.filter(pl.col("product_id") == 83)["attribute"].to_list() == [4, 5, 6]


@pytest.mark.parametrize(
    ("section", "rows"),
    [
        ({"dataset": "ml-100k", "path": "ml-100k", "parts": "u1"}, 100_000),
        ({"dataset": "amazon-beauty", "path": "amazon-beauty-seq"}, 198_502),
        ({"dataset": "sasrec", "path": "ml-1m", "file": "sas_to_original_users.txt"}, 6040),
    ],
)
def test_by_name(data_dir: Path, section: dict[str, object], rows: int) -> None:
    assert read_tables(check(section, DataConfig, "x"), data_dir).interactions.height == rows
