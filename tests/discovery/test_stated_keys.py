"""Folders of Parquet files that state their keys and times, shaped as RelBench's databases are."""

import json
import tomllib
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from relrank.cli.app import app
from relrank.discovery import Hints, Statement, discover
from relrank.discovery.columns import Column
from relrank.discovery.folder import read_folder
from relrank.discovery.statements import FOREIGN_KEYS, PRIMARY_KEY, TIME, statement_of
from relrank.study.config import read_study
from relrank.study.prepare import prepare

START = datetime(2020, 1, 1)


def days(numbers):
    return pl.Series([START + timedelta(hours=int(24 * n)) for n in numbers], dtype=pl.Datetime("ns"))


def save(folder, tables):
    """Tables with their statements, in the notation and under the names of RelBench."""
    folder.mkdir(parents=True)
    for name, (columns, key, foreign, time) in tables.items():
        metadata = {PRIMARY_KEY: json.dumps(key), FOREIGN_KEYS: json.dumps(foreign), TIME: json.dumps(time)}
        pl.DataFrame(columns).write_parquet(folder / f"{name}.parquet", metadata=metadata)


def spread(rng, users, items, each):
    """Each user's items in an order of their own, with increasing days: three arrays."""
    who = np.repeat(np.arange(users), each)
    what = np.concatenate([rng.choice(items, each, False) for _ in range(users)])
    when = np.concatenate([np.sort(rng.choice(700, each, False)) for _ in range(users)])
    return who, what, when


def words(rng, n, length=8):
    text = "how can one show that a sum of terms with odd roots is even or zero over each field"
    return [" ".join(rng.choice(text.split(), length)) for _ in range(n)]


def shop():
    """As rel-hm: whole numbers as keys of everything, purchases without a key of their own."""
    rng = np.random.default_rng(0)
    users, items = 150, 80
    who, what, when = spread(rng, users, items, 9)
    return {
        "customer": (
            {
                "customer_id": range(users),
                "age": rng.integers(18, 80, users),
                "club_member_status": rng.choice(["ACTIVE", "LEFT", "PRE"], users),
            },
            "customer_id", {}, None,
        ),
        "article": (
            {
                "article_id": range(items),
                "product_code": np.arange(items) // 3,
                "colour_group_name": rng.choice(["Black", "Blue", "Red", "White"], items),
                "department_no": rng.integers(0, 12, items),
            },
            "article_id", {}, None,
        ),
        "transactions": (
            {
                "t_dat": days(when), "price": np.round(rng.lognormal(3, 1, len(who)), 2), "customer_id": who,
                "article_id": what, "sales_channel_id": rng.integers(1, 3, len(who)),
            },
            None, {"customer_id": "customer", "article_id": "article"}, "t_dat",
        ),
    }  # fmt: skip


def reviews():
    """As rel-amazon: lists of categories, ratings with texts, names of customers."""
    rng = np.random.default_rng(1)
    users, items = 120, 90
    who, what, when = spread(rng, users, items, 8)
    kinds = np.array(["Art", "Cooking", "History", "Travel", "Poetry"])
    return {
        "product": (
            {
                "product_id": range(items),
                "category": [list(rng.choice(kinds, 2, False)) for _ in range(items)],
                "brand": rng.choice(["Penguin", "Vintage", "Tor"], items),
                "title": [f"Book {n}" for n in range(items)],
                "description": words(rng, items, 20),
                "price": np.round(rng.lognormal(2, 1, items), 2),
            },
            "product_id", {}, None,
        ),
        "customer": (
            {"customer_id": range(users), "customer_name": [f"Reader {n}" for n in range(users)]},
            "customer_id", {}, None,
        ),
        "review": (
            {
                "review_text": words(rng, len(who)), "summary": words(rng, len(who), 3), "review_time": days(when),
                "rating": rng.choice([1.0, 3.0, 4.0, 5.0], len(who)), "verified": rng.random(len(who)) < 0.8,
                "customer_id": who, "product_id": what,
            },
            None, {"customer_id": "customer", "product_id": "product"}, "review_time",
        ),
    }  # fmt: skip


def missing(rng, values, share):
    """Whole numbers of which some are missing, as pandas' Int64 is stored."""
    return pl.Series([None if rng.random() < share else int(v) for v in values], dtype=pl.Int64)


def forum():
    """As rel-stack: posts that answer posts and have authors, links between posts, votes mostly without a user."""
    rng = np.random.default_rng(2)
    users, posts = 130, 160
    who, what, when = spread(rng, users, posts, 9)
    n = len(who)
    owner = rng.integers(0, users, posts)
    asked = np.array([rng.integers(0, max(1, p)) for p in range(posts)])
    edited = rng.integers(0, posts, 900)
    voted, badges = rng.integers(0, posts, 1500), rng.integers(0, users, 500)
    pairs = rng.integers(0, posts, (200, 2))
    return {
        "users": (
            {"Id": range(users), "CreationDate": days(np.linspace(-300, -1, users)), "AboutMe": words(rng, users)},
            "Id", {}, "CreationDate",
        ),
        "posts": (
            {
                "Id": range(posts), "OwnerUserId": missing(rng, owner, 0.1),
                "ParentId": missing(rng, asked, 0.4), "PostTypeId": rng.integers(1, 3, posts),
                "Title": [f"Question {p}" for p in range(posts)], "Body": words(rng, posts, 25),
                "CreationDate": days(np.linspace(-200, -1, posts)),
            },
            "Id", {"OwnerUserId": "users", "ParentId": "posts"}, "CreationDate",
        ),
        "comments": (
            {
                "Id": range(n), "PostId": what, "Text": words(rng, n), "UserId": missing(rng, who, 0.05),
                "ParentCommentId": missing(rng, np.arange(n) // 2, 0.5), "CreationDate": days(when),
            },
            "Id", {"UserId": "users", "PostId": "posts", "ParentCommentId": "comments"}, "CreationDate",
        ),
        "postHistory": (
            {
                "Id": range(900), "PostId": edited, "UserId": owner[edited], "Text": words(rng, 900),
                "CreationDate": days(rng.integers(0, 700, 900)),
            },
            "Id", {"PostId": "posts", "UserId": "users"}, "CreationDate",
        ),
        "votes": (
            {
                "Id": range(1500), "PostId": voted, "UserId": missing(rng, rng.integers(0, users, 1500), 0.9),
                "VoteTypeId": rng.integers(1, 6, 1500), "CreationDate": days(rng.integers(0, 700, 1500)),
            },
            "Id", {"PostId": "posts", "UserId": "users"}, "CreationDate",
        ),
        "badges": (
            {
                "Id": range(500), "UserId": badges, "Name": rng.choice(list("ABCDEFGHIJKL"), 500),
                "Date": days(rng.integers(0, 700, 500)),
            },
            "Id", {"UserId": "users"}, "Date",
        ),
        "postLinks": (
            {
                "Id": range(200), "PostId": pairs[:, 0], "RelatedPostId": pairs[:, 1],
                "LinkTypeId": rng.choice([1, 3], 200), "CreationDate": days(rng.integers(0, 700, 200)),
            },
            "Id", {"PostId": "posts", "RelatedPostId": "posts"}, "CreationDate",
        ),
    }  # fmt: skip


def init(folder, out, *options):
    result = CliRunner().invoke(app, ["init", str(folder), "--out", str(out), *options], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output, tomllib.loads(out.read_text("utf-8"))


def test_keys_are_no_times_however_large():
    values = pl.Series([1_600_000_000 + 86_400 * (n % 90) for n in range(200)])
    assert [Column("t", "made_on", values, role).kind for role in (None, "key")] == ["time", "number"]


SHAPES = {"rel-hm": shop, "rel-amazon": reviews, "rel-stack": forum}
EXPECTED = {
    "rel-hm": (
        ("db/transactions.parquet", "customer_id", "article_id", "t_dat"),
        {"customer_age", "customer_club_member_status", "product", "colour_group_name", "department"},
    ),
    "rel-amazon": (
        ("db/review.parquet", "customer_id", "product_id", "review_time"),
        {"category", "brand", "price", "similar_text"},
    ),
    "rel-stack": (
        ("db/comments.parquet", "UserId", "PostId", "CreationDate"),
        {
            "post_type", "similar_text", "post_owner_user", "post_parent", "badges", "post_history", "post_links",
            "votes",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHAPES)
def test_keys_and_times_are_taken_from_the_files(name, tmp_path):
    save(tmp_path / name / "db", SHAPES[name]())
    labels = {"train": pl.DataFrame({"customer_id": [1, 2], "label": [0, 1]})}
    (tmp_path / name / "tasks" / "churn").mkdir(parents=True)
    labels["train"].write_parquet(tmp_path / name / "tasks" / "churn" / "train.parquet")
    out = tmp_path / f"{name}.toml"
    printed, config = init(tmp_path / name, out)
    rows, relations = EXPECTED[name]
    interactions = config["data"]["interactions"]
    assert tuple(interactions[key] for key in ("file", "user", "item", "time")) == rows
    assert set(config["relations"]) == relations
    assert "holds keys of" in printed
    assert "as the file states" in printed
    assert "labels of tasks" in printed
    assert (
        f"# the key is '{next(iter(config['data']['nodes'].values()))['key']}', as the file states" in out.read_text()
    )
    data = prepare(read_study(out), out.parent)
    graph = data.split_contexts[0].graph
    assert {r for r in graph.relations if graph.relations[r].src.size} == relations
    assert not [f for f in data.findings if f.level == "leak"]


def stated(tables):
    """Frames and statements as ``discover`` takes them."""
    frames = {name: pl.DataFrame(columns) for name, (columns, *_) in tables.items()}
    return frames, {name: Statement(*of) for name, (_, *of) in tables.items()}


def test_a_forum_is_read_as_its_files_state():
    frames, statements = stated(forum())
    proposal = discover(frames, stated=statements)
    links = proposal.config["data"]["links"]
    assert (links["post_links"]["source"], links["post_links"]["target"]) == ("post", "post")
    owner = links["post_owner_user"]
    # authors comment on their own posts: the pair is cut where it is held out
    assert (owner["source_column"], owner["target_column"], owner["by"]) == ("Id", "OwnerUserId", "OwnerUserId")
    assert (owner["time"], owner["missing"]) == ("CreationDate", "drop")
    assert (links["badges"]["target"], links["badges"]["time"]) == ("badge", "Date")
    parent = proposal.config["relations"]["post_parent"]
    assert (parent["node"], parent["column"], parent["target"]) == ("post", "ParentId", "post")
    assert ("comments.ParentCommentId", "left out") in {(f.where, f.kind) for f in proposal.findings}


def test_hints_choose_among_the_tables_that_fit():
    marks = {"UserId": np.arange(600) % 130, "CommentId": np.arange(600)}
    marked = {"marks": (marks, None, {"UserId": "users", "CommentId": "comments"}, None)}
    frames, statements = stated(forum() | marked)
    proposal = discover(frames, Hints(interactions="votes", user="UserId", item="PostId"), statements)
    assert proposal.config["data"]["interactions"]["file"] == "votes"
    # comments have a user and a post: as nodes they would link held-out pairs
    assert "comment" not in proposal.config["data"]["nodes"]


def test_rows_that_repeat_the_author_of_a_post_are_no_choices():
    tables = forum()
    columns, *statement = tables["comments"]
    owners = tables["posts"][0]["OwnerUserId"].gather(columns["PostId"].tolist())
    mostly = pl.select(
        pl.when(pl.int_range(len(owners)) % 5 < 3).then(owners).otherwise(columns["UserId"])
    ).to_series()
    tables["comments"] = ({**columns, "UserId": mostly}, *statement)
    history, *statement = tables["postHistory"]
    rng = np.random.default_rng(5)
    tables["postHistory"] = ({**history, "UserId": rng.integers(0, 130, 900)}, *statement)
    frames, statements = stated(tables)
    assert discover(frames, stated=statements).config["data"]["interactions"]["file"] == "postHistory"


def chain():
    """Purchases with a shop; products of brands of countries; a table of purchases' keys, and one without any."""
    rng = np.random.default_rng(3)
    who, what, when = spread(rng, 100, 60, 9)
    seen, viewed, at = spread(rng, 100, 60, 12)
    return {
        "people": ({"k": range(100), "sort": rng.choice(["a", "b"], 100)}, "k", {}, None),
        "things": (
            {"k": range(60), "maker": missing(rng, rng.integers(0, 12, 60), 0.1), "spec": rng.permutation(60)},
            "k", {"maker": "makers", "spec": "specs"}, None,
        ),
        "specs": ({"k": range(60), "size": rng.choice(["S", "M", "L"], 60)}, "k", {}, None),
        "makers": ({"k": range(12), "land": rng.integers(0, 4, 12)}, "k", {"land": "lands"}, None),
        "lands": ({"k": range(4), "tongue": ["x", "y", "x", "y"]}, "k", {}, None),
        "stores": ({"k": range(60), "land": rng.integers(0, 4, 60)}, "k", {"land": "lands"}, None),
        "purchases": (
            {"k": range(len(who)), "a": who, "b": what, "c": days(when), "store": rng.integers(0, 20, len(who))},
            "k", {"a": "people", "b": "things", "store": "stores"}, "c",
        ),
        "views": (
            {"a": seen, "b": viewed, "c": days(at), "store": seen % 60},
            None, {"a": "people", "b": "things", "store": "stores"}, "c",
        ),
        "offers": (
            {"b": np.arange(90) % 60, "store": np.arange(90) * 7 % 60, "land": np.arange(90) % 7 % 4},
            None, {"b": "things", "store": "stores", "land": "lands"}, None,
        ),
        "sent": ({"of": rng.integers(0, 900, 700), "to": rng.integers(0, 20, 700)}, None,
                 {"of": "purchases", "to": "stores"}, None),
    }  # fmt: skip


def test_chains_and_tables_with_three_keys(tmp_path):
    save(tmp_path / "db", chain())
    out = tmp_path / "study.toml"
    _, config = init(tmp_path / "db", out, "--interactions", "purchases")
    data, relations = config["data"], config["relations"]
    assert {n: node["file"] for n, node in data["nodes"].items()} == {
        "people": "people.parquet", "thing": "things.parquet", "maker": "makers.parquet", "land": "lands.parquet",
        "spec": "specs.parquet", "store": "stores.parquet",
    }  # fmt: skip
    ends = {name: (r.get("node"), r.get("target")) for name, r in relations.items() if r["kind"] == "attribute"}
    assert ends["maker"] == ("thing", "maker")
    assert ends["land"] == ("maker", "land")
    assert ends["spec"] == ("thing", "spec")  # a column with a key per row is one of another table here
    links = {name: (link["source"], link["target"], link.get("by")) for name, link in data["links"].items()}
    assert links == {
        "views": ("people", "thing", None), "views_2": ("thing", "store", "a"),
        "offers": ("thing", "land", None), "offers_2": ("thing", "store", None),
    }  # fmt: skip
    assert {name for name, link in data["links"].items() if link.get("time") == "c"} == {"views", "views_2"}
    prepared = prepare(read_study(out), out.parent)
    assert set(prepared.split_contexts[0].graph.relations) == set(relations)


def broken(tables, name, columns=None, **changes):
    """Tables with other columns of one of them, or another statement."""
    own, key, foreign, time = tables[name]
    statement = {"key": key, "foreign": foreign, "time": time} | changes
    return tables | {name: ({**own, **(columns or {})}, *statement.values())}


@pytest.mark.parametrize(
    ("name", "columns", "changes", "where", "message", "count"),
    [
        ("things", {"maker": [30] * 6 + [n % 12 for n in range(54)]}, {}, "things.maker", "6 of 60 rows hold", 6),
        ("things", {"maker": [n + 30 for n in range(60)]}, {}, "things.maker", "hold none of makers.k", 60),
        ("things", {}, {"foreign": {"maker": "firms"}}, "things.maker", "there is no such table", None),
        ("things", {}, {"foreign": {"made_by": "makers"}}, "things", "'made_by' holds its keys of 'makers'", 0),
        ("makers", {}, {"key": None}, "things.maker", "has no column of keys", None),
        ("lands", {"k": [0, 1, 2, 2]}, {}, "lands.k", "0 of 4 rows have no value, 1 repeat one", 1),
        ("views", {}, {"time": "store"}, "views.store", "no times as stated: Int64, such as", 0),
        ("views", {}, {"time": "when"}, "views", "'when' holds its time", 0),
    ],
)  # fmt: skip
def test_what_contradicts_the_values_is_counted_and_not_used(name, columns, changes, where, message, count, tmp_path):
    save(tmp_path / "db", broken(chain(), name, columns, **changes))
    folder = read_folder(tmp_path / "db")
    proposal = discover(folder.frames, Hints(interactions="purchases"), folder.stated)
    found = [f for f in proposal.findings if f.where == where and message in f.message]
    assert len(found) == 1
    assert count in (None, found[0].count)
    out = tmp_path / "study.toml"
    init(tmp_path / "db", out, "--interactions", "purchases")
    prepare(read_study(out), out.parent)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({PRIMARY_KEY: "id"}, "pkey_col is 'id', expected the name of a column or null in JSON"),
        ({PRIMARY_KEY: '["id"]'}, "the name of a column or null"),
        ({FOREIGN_KEYS: '{"id": 1}'}, "expected an object with a table per column"),
        ({FOREIGN_KEYS: '["id"]'}, "an object with a table per column"),
        ({TIME: '{"id": "x"'}, "time_col is"),
    ],
)
def test_metadata_that_is_no_json_is_named_and_values_count(metadata, message, tmp_path):
    pl.DataFrame({"id": [1, 2]}).write_parquet(tmp_path / "a.parquet", metadata=metadata)
    folder = read_folder(tmp_path)
    assert folder.stated == {}
    assert [(f.kind, f.where) for f in folder.findings] == [("ambiguous", "a")]
    assert message in folder.findings[0].message
    assert "found by values" in folder.findings[0].message


def test_files_without_statements_are_read_by_their_values(tmp_path):
    pl.DataFrame({"id": [1]}).write_parquet(tmp_path / "a.parquet", metadata={"pandas": "{}"})
    assert statement_of(tmp_path / "a.parquet") == (None, None)
