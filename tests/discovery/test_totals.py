"""Lines of totals in exported tables are no users and no items."""

import polars as pl
import pytest

from relrank.discovery import discover
from relrank.discovery.folder import read_folder
from relrank.discovery.totals import without_totals

ROWS = [f"{n};Lamp {n};{n % 7},50;{2 * n}" for n in range(1, 21)]
SUM = sum(2 * n for n in range(1, 21))
PRICES = f"{sum(n % 7 + 0.5 for n in range(1, 21)):.2f}".replace(".", ",")


def export(tmp_path, *lines, header="product_id;name;price;sold"):
    (tmp_path / "products.csv").write_text("\n".join([header, *lines]) + "\n", "utf-8")
    return read_folder(tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        f"Total;;{PRICES};{SUM}", f";Grand total;;{SUM}", f"Summe:;;{PRICES};{SUM}", f"Gesamtsumme;;;{SUM}",
        f"** SUBTOTAL **;;;{SUM}", f"Total (20 rows);;;{SUM}", f";;{PRICES};{SUM}", f";;;{SUM}", "Total;;;",
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", [20, 7])
def test_a_line_of_totals_is_left_out_and_counted(line, at, tmp_path):
    lines = [*ROWS[:at], line, *ROWS[at:]]
    folder = export(tmp_path, *lines)
    left_out = 1 if at == 20 or not line.startswith(";;") else 0  # sums without a word are known at the end alone
    assert folder.frames["products"].height == 21 - left_out
    found = [(f.message, f.count) for f in folder.findings]
    assert found == [(f"1 line of totals left out, row {at + 1}", 1)] * left_out
    assert folder.sources["products"].direct is (left_out == 0)


@pytest.mark.parametrize(
    "line",
    [
        "21;Total;5,50;42", "P21;Total;5,50;42", "21;Sum;;", "Total;Lamp 21;5,50;42", ";;5,50;42", "21;;5,50;42",
        f"21;;{PRICES};{SUM}", "21;Total recall;5,50;42",
    ],
)  # fmt: skip
def test_a_row_with_a_key_or_without_sums_stays(line, tmp_path):
    folder = export(tmp_path, *ROWS, line)
    assert folder.frames["products"].height == 21
    assert folder.findings == []


@pytest.mark.parametrize(
    ("header", "row", "value", "left_out"),
    [
        ("brand;price", "B{n};{n},10", "3,1", 0), ("tag;n_posts", "t{n};{n}", "31", 0),
        ("tag;n_posts", "t{n};{n}", "89", 0), ("tag;n_posts", "t{n};{n}", "91", 1),
        ("tag;n_posts", "t{n};{n}", "969", 1),
        ("tag;n_posts;price", "t{n};{n};3", "969;4", 1), ("tag;n_posts;discount", "t{n};{n};0", "969;0", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("word", ["Total", "sum"])
def test_a_brand_or_tag_may_have_a_word_for_totals(header, row, value, left_out, word, tmp_path):
    rows = [row.format(n=n) for n in range(12, 46)]
    folder = export(tmp_path, *rows[:20], f"{word};{value}", *rows[20:], header=header)
    assert folder.frames["products"].height == len(rows) + 1 - left_out
    assert [f.count for f in folder.findings] == [1] * left_out


def test_sums_are_no_totals_where_no_key_is_missing(tmp_path):
    rows = [f"{n % 7 + 1};{2 * n}" for n in range(1, 21)]
    sums = f"{sum(n % 7 + 1 for n in range(1, 21))};{SUM}"
    assert export(tmp_path, *rows, sums, header="price;sold").frames["products"].height == 21


def test_sums_of_groups_and_empty_lines(tmp_path):
    lines = [*ROWS[:10], f"Zwischensumme;;;{SUM // 4}", ";;;", *ROWS[10:], f"Zwischensumme;;;{3 * SUM // 4}", ";;;"]
    folder = export(tmp_path, *lines, f"Summe;;;{SUM}")
    assert folder.frames["products"]["product_id"].to_list() == [str(n) for n in range(1, 21)]
    assert [f.message for f in folder.findings] == [
        "3 lines of totals left out, rows 11, 23, 25", "2 empty lines left out",
    ]  # fmt: skip


def test_a_value_that_many_rows_have_is_no_total():
    frame = pl.DataFrame({"level": ["total", "part"] * 20, "n": [None] * 40}, schema_overrides={"n": pl.String})
    assert without_totals(frame, "t")[0].height == 40


def test_a_total_is_neither_user_nor_item(tmp_path):
    rows = [f"u{n % 30},i{n * 7 % 25},2024-01-{n % 28 + 1:02},{n % 4 + 1}" for n in range(400)]
    pieces = sum(n % 4 + 1 for n in range(400))
    (tmp_path / "orders.csv").write_text("\n".join(["user,item,date,pieces", *rows, f"Total,400,,{pieces}"]))
    items = [f"i{n},{['red', 'blue', 'green'][n % 3]}" for n in range(25)]
    (tmp_path / "items.csv").write_text("\n".join(["item,colour", *items, "Total,"]))
    folder = read_folder(tmp_path)
    proposal = discover(folder.frames)
    assert proposal.config["data"]["nodes"]["item"]["key"] == "item"
    assert "Total" not in folder.frames["orders"]["user"]
    assert sorted((f.where, f.count) for f in folder.findings) == [("items", 1), ("orders", 1)]
