"""Real data sets, read once for all tests of this room."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from relrank.tables import datasets
from relrank.tables.tables import Tables

PROTOCOL_DATA: dict[str, Callable[[Path], Tables]] = {
    "goodbooks-loo": lambda d: datasets.goodbooks_10k(d / "goodbooks-10k", "ratings_v2_users5pct.csv"),
    "goodbooks-v1-loo": lambda d: datasets.goodbooks_10k(d / "goodbooks-10k", "ratings_v1.csv"),
    "gowalla": lambda d: datasets.lightgcn(d / "gowalla", "gowalla"),
    "ml-1m-loo": lambda d: datasets.ml_1m(d / "ml-1m", "ml-1m_sasrec.txt"),
    "ml-1m-liked-loo": lambda d: datasets.ml_1m(d / "ml-1m", "ratings_uir.csv"),
    "ml-100k-u1": lambda d: datasets.ml_100k(d / "ml-100k", "u1"),
    "ml-100k-loo": lambda d: datasets.ml_100k(d / "ml-100k"),
    "beauty-loo": lambda d: datasets.amazon_beauty(d / "amazon-beauty-seq"),
    "hetrec-lastfm": lambda d: datasets.hetrec_lastfm(d / "hetrec-lastfm-2k"),
    "facebook-books": lambda d: datasets.facebook_books(d / "linked-facebook-books"),
    "facebook-books-5core": lambda d: datasets.facebook_books(d / "linked-facebook-books"),
    "yahoo-movies": lambda d: datasets.yahoo_movies(d / "linked-yahoo-movies"),
    "yahoo-movies-5core": lambda d: datasets.yahoo_movies(d / "linked-yahoo-movies"),
}


@pytest.fixture(scope="session")
def load(data_dir: Path) -> Callable[[str], Tables]:
    """The tables that a named protocol is defined on."""
    return cache(lambda name: PROTOCOL_DATA[name](data_dir))


@pytest.fixture
def ml_100k(load: Callable[[str], Tables]) -> Tables:
    return load("ml-100k-loo")


@pytest.fixture
def ml_100k_u1(load: Callable[[str], Tables]) -> Tables:
    return load("ml-100k-u1")


@pytest.fixture
def goodbooks(load: Callable[[str], Tables]) -> Tables:
    return load("goodbooks-loo")


@pytest.fixture(scope="session")
def atomic_ml_100k(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RecBole's five files, rebuilt from the official ones (their sha256 are checked by a test)."""
    source, folder = data_dir / "ml-100k", tmp_path_factory.mktemp("atomic") / "ml-100k"
    folder.mkdir()
    genres = [line.split("|")[0] for line in (source / "u.genre").read_text().splitlines() if line]
    heads = {
        "inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n",
        "user": "user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n",
        "item": "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n",
    }
    movies = ""
    for line in (source / "u.item").read_text("latin-1").splitlines():
        number, title, *_, flags = line.split("|", 5)
        name, _, year = title.strip().rpartition("(")
        if title == "unknown":
            name, year = "unkonwn", "unkonwn)"
        own = " ".join(g for g, flag in zip(genres, flags.split("|"), strict=True) if flag == "1")
        movies += f"{number}\t{name.strip()}\t{year[:-1]}\t{own}\n"
    bodies = {
        "inter": (source / "u.data").read_text(),
        "user": (source / "u.user").read_text().replace("|", "\t"),
        "item": movies,
    }
    for name, body in bodies.items():
        (folder / f"ml-100k.{name}").write_text(heads[name] + body)
    for name in ("kg", "link"):
        (folder / f"ml-100k.{name}").write_bytes((source / f"recbole_ml-100k.{name}").read_bytes())
    return folder
