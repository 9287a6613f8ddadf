"""``relrank init``: the file that it writes, what it prints, and what it refuses."""

import tomllib

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from discovery_shops import plain_shop
from relrank.cli.app import app
from relrank.errors import InputError
from relrank.study.config import read_study
from relrank.study.prepare import prepare


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "our shop"
    folder.mkdir()
    for name, frame in plain_shop(300, 200).tables.items():
        frame.write_csv(folder / f"{name}.csv")
    return folder


def run(*words, answers=""):
    result = CliRunner().invoke(app, ["init", *map(str, words)], input=answers)
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_the_written_file_runs_and_says_why(shop, tmp_path):
    out = tmp_path / "studies" / "study.toml"
    printed = run(shop, "--out", out)
    config = read_study(out)
    assert config.name == "our-shop"
    assert config.data.interactions.file.endswith("study-tables/order_lines-with-orders.parquet")
    data = prepare(config, out.parent)
    assert set(data.split_contexts[0].graph.relations) == set(config.relations)
    assert not [f for f in data.findings if f.level == "leak"]
    text = out.read_text("utf-8")
    assert "# Left out:" in text
    for word in ("Interactions", "Likely leaks", "products.times_sold", "Left out", "next: relrank study"):
        assert word in printed
    assert "products.times_sold" in text


def test_a_study_file_is_replaced_with_force_alone(shop, tmp_path):
    out = tmp_path / "study.toml"
    out.write_text("mine")
    with pytest.raises(InputError, match="study file exists"):
        run(shop, "--out", out)
    assert out.read_text() == "mine"
    run(shop, "--out", out, "--force", "--no-check")
    assert read_study(out).relations


def test_a_relation_that_leaks_is_left_out_and_named(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u}", f"i{i}", f"2024-{1 + n:02}-01") for u in range(150) for n, i in enumerate(rng.choice(60, 9, False))
    ]
    sales = pl.DataFrame(rows, schema=["user", "item", "bought_at"], orient="row")
    lists = sales.group_by("user", maintain_order=True).agg("item")
    # each user's complete list under another name: the item's column says who bought it, held-out rows included
    number = {user: f"basket {n}" for n, user in enumerate(lists["user"])}
    whose = sales.group_by("item").agg(pl.col("user").replace_strict(number).str.join("|").alias("found_in"))
    whose = whose.with_columns(colour=pl.Series(rng.choice(["red", "green"], len(whose))))
    sales.write_csv(tmp_path / "sales.csv")
    whose.write_csv(tmp_path / "items.csv")
    printed = run(tmp_path, "--out", tmp_path / "study.toml")
    assert list(read_study(tmp_path / "study.toml").relations) == ["colour"]
    assert "found_in" in printed.partition("Likely leaks")[2].partition("Left out")[0]


def test_ask_asks_about_what_is_open(shop, tmp_path):
    folder = tmp_path / "two"
    folder.mkdir()
    views = pl.read_csv(shop / "views.csv")
    views.gather_every(2).write_csv(folder / "sales_north.csv")
    views.gather_every(2, 1).write_csv(folder / "sales_south.csv")
    out = tmp_path / "study.toml"
    printed = run(folder, "--out", out, "--ask", "--no-check", answers="sales_south\n")
    assert "Which table holds what is to be predicted?" in printed
    assert tomllib.loads(out.read_text("utf-8"))["data"]["interactions"]["file"].endswith("sales_south.csv")


def test_options_name_table_and_columns(shop, tmp_path):
    out = tmp_path / "study.toml"
    run(shop, "--out", out, "--interactions", "views", "--no-check")
    assert read_study(out).data.interactions.file == "views.csv"
    with pytest.raises(InputError, match="no such table") as error:
        run(shop, "--out", out, "--force", "--interactions", "vews")
    assert "did you mean 'views'" in error.value.found


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(InputError, match="no tables found") as error:
        run(tmp_path, "--out", tmp_path / "study.toml")
    assert "an empty folder" in error.value.found
