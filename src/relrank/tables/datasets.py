"""Public data sets as canonical tables, a function each; missing values stay missing.

Every function takes the folder with the files under their published names and raises
:class:`~relrank.errors.InputError` if a file is missing or not as published.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import polars as pl

from relrank.errors import InputError
from relrank.tables.dataset_formats import read_atomic, read_lists, to_interactions
from relrank.tables.files import column, parse, read_table, read_text
from relrank.tables.lastfm import hetrec_lastfm
from relrank.tables.linked_data import linked_data
from relrank.tables.missing import refuse_missing
from relrank.tables.movielens import ml_1m, ml_100k
from relrank.tables.notices import Notice
from relrank.tables.tables import LinkTable, NodeTable, Tables
from relrank.tables.times import DATETIME_NS, UNKNOWN_TICKS, Clock
from relrank.tables.triples import read_recbole_triples, with_triples

__all__ = [
    "amazon_beauty",
    "facebook_books",
    "goodbooks_10k",
    "hetrec_lastfm",
    "lightgcn",
    "ml_1m",
    "ml_100k",
    "recbole",
    "s3rec",
    "sasrec",
    "yahoo_movies",
]


def goodbooks_10k(folder: Path, ratings: str = "ratings.csv") -> Tables:
    """Ten thousand books of Goodreads, their readers and tags, without times.

    Of a (user, book) that was rated twice (only in ``ratings_v1.csv``), the first row is kept. Tag counts below 1 are
    dropped, and of a duplicate (book, tag) the larger count is kept: the two are nearly equal counts of the same
    shelf, and their sum would count people twice. Notices count the dropped rows.

    Args:
        folder: with ``books.csv``, ``tags.csv``, ``book_tags.csv`` and the ratings.
        ratings: the file with columns ``user_id``, ``book_id`` and ``rating``, in any order.
    """
    notices = []
    rows = read_table(folder / ratings, as_text=())
    pair = [column(rows, name, ratings).name for name in ("user_id", "book_id")]
    first = rows.unique(pair, keep="first", maintain_order=True).rename({"book_id": "item_id"})
    if repeated := rows.height - first.height:
        notices.append(Notice(ratings, "repeated (user, book) rows dropped, the first kept", repeated))
    books = read_table(folder / "books.csv", as_text=["isbn", "isbn13"])
    books = books.with_columns(pl.col("original_publication_year").cast(pl.Int64))
    tags = read_table(folder / "tags.csv", as_text=["tag_name"])
    shelves = read_table(folder / "book_tags.csv", as_text=())
    positive = shelves.filter(pl.col("count") > 0)
    unique = positive.group_by("goodreads_book_id", "tag_id", maintain_order=True).agg(pl.col("count").max())
    if positive.height < shelves.height:
        notices.append(Notice("book_tags.csv", "counts below 1 dropped", shelves.height - positive.height))
    if unique.height < positive.height:
        message = "repeated (book, tag) rows dropped, the largest count kept"
        notices.append(Notice("book_tags.csv", message, positive.height - unique.height))
    return Tables(
        name=f"goodbooks-10k ({ratings})",
        user="user",
        item="book",
        interactions=to_interactions(first, ratings),
        nodes={
            "book": NodeTable("book", books, "book_id", "title"),
            "tag": NodeTable("tag", tags, "tag_id", "tag_name"),
        },
        links={
            "book_tags": LinkTable(
                "book_tags",
                unique.with_columns(pl.col("count").cast(pl.Float64)),
                source="book",
                source_column="goodreads_book_id",
                source_match="goodreads_book_id",
                target="tag",
                target_column="tag_id",
                target_match="tag_id",
                weight="count",
            )
        },
        notices=tuple(notices),
    )


def lightgcn(folder: Path, name: str | None = None) -> Tables:
    """A published split as in the LightGCN repositories: a line per user with the numbers of their items.

    ``train.txt`` and ``test.txt`` are required. A ``valid.txt`` (or ``lightgcnpp_valid.txt``) is the validation part;
    its rows are removed from the training part.
    """
    given = {"train": read_lists(folder / "train.txt")}
    notices: tuple[Notice, ...] = ()
    valid = next((p for p in (folder / "valid.txt", folder / "lightgcnpp_valid.txt") if p.is_file()), None)
    if valid is not None:
        given["valid"] = read_lists(valid)
        train = given["train"].join(given["valid"], on=["user", "item"], how="anti", maintain_order="left")
        moved = given["train"].height - train.height
        if moved:
            notices = (Notice(valid.name, "validation rows taken out of train.txt", moved),)
        given["train"] = train
    given["test"] = read_lists(folder / "test.txt")
    return Tables(name or folder.name, "user", "item", pl.concat(given.values()), given=given, notices=notices)


def amazon_beauty(folder: Path) -> Tables:
    """Amazon Beauty, 5-core, as sequences, with the attributes of each product: ``s3rec``."""
    return replace(s3rec(folder / "Beauty.txt"), name="amazon-beauty")


def facebook_books(folder: Path) -> Tables:
    """Books liked on Facebook (ESWC 2015 challenge), with DBpedia features: ``linked_data``; every rating is 1."""
    return linked_data(folder, "facebook-books", "book")


def yahoo_movies(folder: Path) -> Tables:
    """Ratings from 1 to 5 of Yahoo! Movies, with DBpedia features: ``linked_data``."""
    return linked_data(folder, "yahoo-movies", "movie")


def s3rec(path: Path) -> Tables:
    """A file of the S3-Rec repository, ``NAME.txt``, with the attributes of each product.

    Links: ``has_attribute`` (product to attribute), numbers without names.

    Args:
        path: lines with a user and their items in time order; ``NAME_item2attributes.json`` is in the same folder.
    """
    interactions = read_lists(path)
    path = path.with_name(f"{path.stem}_item2attributes.json")
    try:
        pairs = [(int(item), int(a)) for item, attributes in json.loads(read_text(path)).items() for a in attributes]
    except (ValueError, TypeError, AttributeError) as error:
        expected = "an object: item number -> list of attribute numbers"
        raise InputError("not readable as JSON", where=str(path), expected=expected, found=str(error)) from None
    links = pl.DataFrame(pairs, schema={"product_id": pl.Int64, "attribute": pl.Int64}, orient="row")
    products = interactions.select(product_id=pl.col("item").unique().sort())
    unknown = links.join(products, on="product_id", how="anti").height
    notices = (Notice(path.name, "attributes of products without interactions dropped", unknown),) if unknown else ()
    links = links.join(products, on="product_id", how="semi", maintain_order="left")
    return Tables(
        name=path.stem.removesuffix("_item2attributes"),
        user="user",
        item="product",
        interactions=interactions,
        nodes={"product": NodeTable("product", products, "product_id")},
        links={
            "has_attribute": LinkTable(
                "has_attribute", links, "product", "product_id", "product_id", "attribute", "attribute"
            )
        },
        ordered=True,
        notices=notices,
    )


def sasrec(path: Path) -> Tables:
    """A file of the SASRec repositories: ``user item`` per line, in time order inside a user."""
    rows = parse(read_text(path), path, " ", header=["user_id", "item_id"])
    return Tables(path.stem, "user", "item", to_interactions(rows, path.name), ordered=True)


def recbole(folder: Path) -> Tables:
    """A folder of RecBole's atomic files: ``.inter`` and optionally ``.item``, ``.user``, ``.kg`` and ``.link``.

    A published split is ``NAME.train.inter``, ``NAME.test.inter`` and optionally ``NAME.valid.inter``.

    ``token`` columns become keys or text, ``token_seq`` lists of text, ``float`` Float64. ``.inter`` needs columns
    ``user_id`` and ``item_id``; ``rating`` and ``timestamp`` are optional. Relations of the ``.kg`` become link
    tables of items and entities under their full names: see ``relrank.tables.triples``.
    """
    nodes, notices = {}, list[Notice]()
    stem, files = _inter_files(folder)
    parts = {part: to_interactions(read_atomic(p, typed=True), p.name, notices) for part, p in files.items()}
    clock = Clock.of([(files[part].name, f["time"]) for part, f in parts.items() if "time" in f.columns])
    dtype = DATETIME_NS if clock.ticks else pl.Int64  # also of parts without rows
    parts = {p: f.with_columns(f["time"].cast(dtype)) if "time" in f.columns else f for p, f in parts.items()}
    if len({tuple(frame.schema.items()) for frame in parts.values()}) > 1:
        shown = "; ".join(f"{files[part].name}: {dict(frame.schema)}" for part, frame in parts.items())
        raise InputError(
            "parts differ", where=str(folder), expected="the same columns, with keys of one type", found=shown
        )
    interactions = pl.concat(parts.values())
    for kind in ("user", "item"):
        path = stem.with_suffix(f".{kind}")
        if path.is_file():
            frame = read_atomic(path, typed=True)
            refuse_missing(column(frame, f"{kind}_id", path.name), path.name)
            title = next((c for c in frame.columns if "title" in c), None)
            nodes[kind] = NodeTable(kind, frame, f"{kind}_id", title)
    tables = Tables(
        stem.name,
        "user",
        "item",
        interactions,
        nodes,
        given=parts if len(parts) > 1 else {},
        notices=tuple(notices),
        ticks=UNKNOWN_TICKS if clock.ticks else 0,
    )
    kg = stem.with_suffix(".kg")
    return _with_kg(tables, kg) if kg.is_file() else tables


def _with_kg(tables: Tables, kg: Path) -> Tables:
    """The tables with the relations of a ``.kg``; without an ``.item``, items are those of the interactions."""
    if "item" not in tables.nodes:
        items = NodeTable("item", tables.interactions.select(item_id=pl.col("item").unique().sort()), "item_id")
        tables = replace(tables, nodes={**tables.nodes, "item": items})
    items_of = tables.nodes["item"].frame["item_id"]
    triples, entities, notices = read_recbole_triples(kg, kg.with_suffix(".link"), items_of)
    tables = replace(tables, notices=(*tables.notices, *notices))
    return with_triples(tables, triples, entities, kg, full_names=True)


def _inter_files(folder: Path) -> tuple[Path, dict[str, Path]]:
    """The path of all files without suffix, and the files of interactions by part; a single file is "train"."""
    paths = sorted(folder.glob("*.inter"))
    ends = {part: [p for p in paths if p.stem.endswith(f".{part}")] for part in ("train", "valid", "test")}
    if len(paths) == 1 and not any(ends.values()):
        return paths[0].with_suffix(""), {"train": paths[0]}
    files = {part: of_part[0] for part, of_part in ends.items() if of_part}
    stems = {p.with_suffix("").with_suffix("") for p in files.values()}
    if len(paths) != len(files) or len(stems) != 1 or not {"train", "test"} <= set(files):
        raise InputError(
            "no single .inter file, and no single split",
            where=str(folder),
            expected="NAME.inter, or NAME.train.inter, NAME.test.inter and perhaps NAME.valid.inter",
            found=", ".join(p.name for p in paths) or "none",
        )
    return stems.pop(), files
