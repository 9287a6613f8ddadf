"""MovieLens 100K and 1M as canonical tables."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from relrank.errors import InputError, one_of
from relrank.tables.dataset_formats import read_atomic, to_interactions
from relrank.tables.files import parse, read_table, read_text
from relrank.tables.missing import refuse_missing
from relrank.tables.notices import Notice
from relrank.tables.tables import LinkTable, NodeTable, Tables
from relrank.tables.tmdb import with_tmdb
from relrank.tables.triples import read_recbole_triples, with_mkr_triples

# fmt: off
GENRES_100K = [
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
]

OCCUPATIONS_1M = [
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
]
# fmt: on

FREEBASE = {
    "film.film.directed_by": ("directed_by", "person"),
    "film.film.written_by": ("written_by", "person"),
    "film.film.actor": ("actor", "person"),
    "film.film.produced_by": ("produced_by", "person"),
    "film.film.cinematography": ("cinematography", "person"),
    "film.film.subjects": ("subjects", "subject"),
    "film.film.production_companies": ("production_companies", "company"),
    "film.film.country": ("country", "country"),
    "film.film.language": ("language", "language"),
}
"""Freebase relation -> (link table, type of its target); the file also has the reverse of each."""


def ml_100k(folder: Path, parts: str | None = None, tmdb: Path | None = None) -> Tables:
    """MovieLens 100K, from the official files or from RecBole's atomic files, as the same tables.

    Users: ``user_id, age, gender, occupation, zip_code``. Movies: ``movie_id, title, year, genre`` (a list), the
    title without its year. Links: the relations of ``FREEBASE``, if the ``.kg`` and ``.link`` files are there.
    Movie 267 is published as "unknown": its title, year and genre are missing here, and so is the genre "unknown".

    RecBole spells movie 267 "unkonwn", and splits "Land Before Time III … (1995) (V)" (1412) into a title with the
    year and a year "V"; both are brought to the official form.

    Args:
        folder: with ``u.data`` … or ``ml-100k.inter`` ….
        parts: a published split, "u1" … "u5", "ua" or "ub" (official files only); it fills ``Tables.given``.
        tmdb: folder with ``tmdb_5000_movies.csv`` and ``ml-100k_join.csv``, for what :mod:`relrank.tables.tmdb` adds.
    """
    if (folder / "ml-100k.inter").is_file() and not (folder / "u.data").is_file():
        if parts is not None:
            raise InputError(
                "published parts are not in this folder",
                where=str(folder),
                expected=f"the official files {parts}.base and {parts}.test",
                found="RecBole's atomic files, which have all ratings in one file",
            )
        ratings, users, movies = _recbole_100k(folder)
    else:
        ratings, users, movies = _official_100k(folder)
    movies = movies.select(pl.col("movie_id").cast(pl.Int64), *_title_year("title"), "genre")
    users = users.with_columns(pl.col("user_id", "age").cast(pl.Int64))
    links, notices = _freebase(folder, movies["movie_id"])
    interactions = to_interactions(ratings, folder.name)
    given = {}
    if parts is not None:
        files = {"train": folder / f"{parts}.base", "test": folder / f"{parts}.test"}
        given = {p: to_interactions(_movielens_100k_ratings(f), f.name) for p, f in files.items()}
        interactions = pl.concat(given.values())
    tables = Tables(
        name="ml-100k" if parts is None else f"ml-100k ({parts})",
        user="user",
        item="movie",
        interactions=interactions,
        nodes={
            "user": NodeTable("user", users, "user_id"),
            "movie": NodeTable("movie", movies, "movie_id", "title"),
        },
        links=links,
        given=given,
        notices=notices,
    )
    return tables if tmdb is None else with_tmdb(tables, tmdb, "ml-100k_join.csv")


def _recbole_100k(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Ratings, users and movies from RecBole's atomic files."""
    ratings, users = read_atomic(folder / "ml-100k.inter"), read_atomic(folder / "ml-100k.user")
    movies = read_atomic(folder / "ml-100k.item").rename(
        {"item_id": "movie_id", "movie_title": "title", "release_year": "year", "class": "genre"}
    )
    # RecBole splits a title at its last bracket
    title = pl.concat_str(pl.col("title"), pl.lit(" ("), pl.col("year"), pl.lit(")"))
    movies = movies.with_columns(
        title=pl.when(pl.col("title") != "unkonwn").then(title), genre=_genres(pl.col("genre").str.split(" "))
    )
    return ratings, users, movies


def _official_100k(folder: Path) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Ratings, users and movies from the official files."""
    ratings = _movielens_100k_ratings(folder / "u.data")
    names = ["user_id", "age", "gender", "occupation", "zip_code"]
    users = parse(read_text(folder / "u.user"), folder / "u.user", "|", header=names)
    names = ["movie_id", "title", "released", "video", "address", *GENRES_100K]
    movies = parse(read_text(folder / "u.item", "latin-1"), folder / "u.item", "|", header=names)
    flags = pl.concat_list([pl.when(pl.col(g) == "1").then(pl.lit(g)) for g in GENRES_100K]).list.drop_nulls()
    title = pl.when(pl.col("title") != "unknown").then(pl.col("title"))
    return ratings, users, movies.with_columns(genre=_genres(flags), title=title)


def ml_1m(folder: Path, ratings: str | None = None, tmdb: Path | None = None, kg: Path | None = None) -> Tables:
    """MovieLens 1M under its original ids.

    Args:
        folder: with ``users.dat``, ``movies.dat`` and one of the rating files.
        ratings: ``"ratings.dat"``, the official file with times; ``"ml-1m_sasrec.txt"``, the order of the SASRec
            repositories (items with at least 5 ratings), mapped to original ids by ``sas_to_original_*.txt``;
            ``"ratings_uir.csv"``, ratings without times, ordered by the SASRec file; its 598 rows of rarer items
            have no known order and are dropped with a notice. Default: the first of these that exists.
        tmdb: folder with ``tmdb_5000_movies.csv`` and ``ml-1m_join.csv``, for what :mod:`relrank.tables.tmdb` adds.
        kg: folder with ``kg.txt`` and ``item_index2entity_id.txt``: see ``triples.with_mkr_triples``.
    """
    names = ("ratings.dat", "ml-1m_sasrec.txt", "ratings_uir.csv")
    if ratings is None:
        ratings = next((name for name in names if (folder / name).is_file()), names[0])
    if ratings not in names:
        raise InputError("unknown rating file", where="[data] ratings", expected=one_of(names), found=repr(ratings))
    path = folder / ratings
    notices: tuple[Notice, ...] = ()
    if ratings == "ratings.dat":
        rows = _dat(path, ["user_id", "movie_id", "rating", "timestamp"])
    else:
        rows = _sasrec_order(folder)
        if ratings == "ratings_uir.csv":
            rated = read_table(path, as_text=())
            total = rated.height
            rows = rows.join(rated, on=["user_id", "movie_id"], how="inner", maintain_order="left")
            if total > rows.height:
                message = "ratings without a place in the order of ml-1m_sasrec.txt dropped"
                notices = (Notice(path.name, message, total - rows.height),)
    users = _dat(folder / "users.dat", ["user_id", "gender", "age", "occupation", "zip_code"]).with_columns(
        pl.col("user_id", "age").cast(pl.Int64),
        pl.col("occupation").cast(pl.Int64).replace_strict(dict(enumerate(OCCUPATIONS_1M)), return_dtype=pl.String),
    )
    movies = _dat(folder / "movies.dat", ["movie_id", "title", "genre"]).select(
        pl.col("movie_id").cast(pl.Int64), *_title_year("title"), genre=_genres(pl.col("genre").str.split("|"))
    )
    tables = Tables(
        name=f"ml-1m ({ratings})",
        user="user",
        item="movie",
        interactions=to_interactions(rows, path.name),
        nodes={
            "user": NodeTable("user", users, "user_id"),
            "movie": NodeTable("movie", movies, "movie_id", "title"),
        },
        ordered=ratings != "ratings.dat",
        notices=notices,
    )
    tables = tables if kg is None else with_mkr_triples(tables, kg)
    return tables if tmdb is None else with_tmdb(tables, tmdb, "ml-1m_join.csv")


def _movielens_100k_ratings(path: Path) -> pl.DataFrame:
    return parse(read_text(path), path, "\t", header=["user_id", "item_id", "rating", "timestamp"])


def _dat(path: Path, names: list[str]) -> pl.DataFrame:
    # "::" is not a single character, and ":" occurs in titles; the unit separator occurs nowhere
    return parse(read_text(path, "latin-1").replace("::", "\x1f"), path, "\x1f", header=names)


def _sasrec_order(folder: Path) -> pl.DataFrame:
    """The rows of ``ml-1m_sasrec.txt`` under original ids, in file order."""
    path = folder / "ml-1m_sasrec.txt"
    rows = parse(read_text(path), path, " ", header=["user", "item"])
    for kind, name in (("user", "user_id"), ("item", "movie_id")):
        ids = folder / f"sas_to_original_{kind}s.txt"
        mapping = parse(read_text(ids), ids, " ", header=[kind, name])
        rows = rows.join(mapping, on=kind, how="left", maintain_order="left")
        refuse_missing(rows[name], f"{path.name} through {ids.name}")
    return rows.select(pl.col("user_id", "movie_id").cast(pl.Int64))


def _title_year(title: str) -> list[pl.Expr]:
    """``Toy Story (1995)`` as title and year; a mark after the year, such as ``(V)``, stays in the title."""
    year = r" *\((\d{4})\)( \([A-Z]+\))?$"
    text = pl.col(title).str.strip_chars()
    return [
        pl.concat_str(text.str.replace(year, ""), text.str.extract(year, 2).fill_null("")).alias("title"),
        text.str.extract(year, 1).cast(pl.Int64).alias("year"),
    ]


def _genres(lists: pl.Expr) -> pl.Expr:
    """Lists of genres; "unknown" is no genre, and an empty list is missing."""
    lists = lists.list.eval(pl.element().filter(pl.element() != "unknown"))
    return pl.when(lists.list.len() > 0).then(lists)


def _freebase(folder: Path, movies: pl.Series) -> tuple[dict[str, LinkTable], tuple[Notice, ...]]:
    """The relations of ``FREEBASE`` as link tables, if the files exist."""
    stem = next((s for s in ("ml-100k", "recbole_ml-100k") if (folder / f"{s}.kg").is_file()), None)
    if stem is None:
        return {}, ()
    triples, entities, notices = read_recbole_triples(folder / f"{stem}.kg", folder / f"{stem}.link", movies)
    rows = triples.join(entities, left_on="head", right_on="entity", how="inner", maintain_order="left")
    others = triples.join(entities, left_on="head", right_on="entity", how="anti").height
    notices.append(Notice(f"{stem}.kg", "triples that do not start at an item dropped", others))
    links = {}
    for relation, (name, target) in FREEBASE.items():
        frame = rows.filter(pl.col("relation") == relation).select(movie_id="item", **{target: "tail"})
        links[name] = LinkTable(name, frame, "movie", "movie_id", "movie_id", target, target)
    unused = rows.height - sum(t.frame.height for t in links.values())
    if unused:
        notices.append(Notice(f"{stem}.kg", "triples of relations that are not used dropped", unused))
    return links, tuple(notices)
