"""Links and texts with times, from files to the graph: what is later than a user's held-out rows is no edge."""

from pathlib import Path

import polars as pl
import pytest
from shops import SHOP

from relrank.errors import InputError
from relrank.study.config import read_study
from relrank.study.prepare import StudyData, prepare

REST = """time = "time"
[protocol]
name = "mine"
split = "last-leave-one-out"
[data.links.viewed]
file = "views.csv"
source = "customer"
source_column = "customer"
target = "product"
target_column = "product"
time = "time"
[data.links.tagged]
file = "tags.csv"
source = "product"
source_column = "product"
target = "tag"
target_column = "tag"
by = "customer"
[data.texts]
file = "reviews.csv"
key = "product"
text = "text"
by = "customer"
time = "time"
[relations.views]
kind = "link"
table = "viewed"
[relations.tags]
kind = "link"
table = "tagged"
duplicates = "first"
[relations.reviews]
kind = "texts"
of = "text"
min_df = 1
dims = 4
[features.said]
kind = "text"
node = "product"
texts = "text"
min_df = 1
dims = 4
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Each of 30 customers buys six products, and views, tags and reviews each at once; one view is days ahead."""
    rows = [(u, (u * 5 + k) % 17, 10_000 * u + 100 * k) for u in range(30) for k in range(6)]
    sales = pl.DataFrame(rows, schema=["customer", "product", "time"], orient="row")
    sales.write_csv(tmp_path / "sales.csv")
    ahead = pl.DataFrame({"customer": [7], "product": [(7 * 5 + 5) % 17], "time": [10_000 * 7 + 150]})
    same = sales.with_columns(pl.col("time") + 1)
    pl.concat([same.join(ahead, on=["customer", "product"], how="anti"), ahead]).write_csv(tmp_path / "views.csv")
    tag = pl.format("t{}", pl.col("customer"))
    sales.select("customer", "product", tag=tag).write_csv(tmp_path / "tags.csv")
    text = pl.format("word{} thing{}", pl.col("customer"), pl.col("product"))
    sales.with_columns(text=text).write_csv(tmp_path / "reviews.csv")
    (tmp_path / "study.toml").write_text(SHOP + REST)
    return tmp_path


def read(shop: Path, *replaced: tuple[str, str]) -> StudyData:
    text = (shop / "study.toml").read_text()
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new, 1)
    (shop / "changed.toml").write_text(text)
    return prepare(read_study(shop / "changed.toml"), shop)


TIMED_VIEWS = ('target_column = "product"\ntime = "time"', 'target_column = "product"')
WITH_MAKER = ('target_column = "tag"\nby = "customer"', 'target_column = "tag"')
WITH_WRITER = ('text = "text"\nby = "customer"\ntime = "time"', 'text = "text"')


def test_late_rows_are_no_edges_and_are_counted(shop: Path) -> None:
    material = read(shop)
    graph, split = material.split_contexts[0].graph, material.split_contexts[0].split
    held = {(u, i) for part in (split.valid, split.test) for u, i in zip(part.user, part.item, strict=True)}
    views = graph.relation("views")
    seen = set(zip(views.src.tolist(), views.dst.tolist(), strict=True))
    ahead = (int(split.users.find(pl.Series([7]))[0]), int(split.items.find(pl.Series([(7 * 5 + 5) % 17]))[0]))
    assert seen & held == {ahead}  # it was looked at before the customer's held-out rows
    assert len(seen) == 30 * 4 + 1
    counted = {(n.where, n.message.partition(":")[0]): n.count for n in graph.notices}
    assert counted["table 'viewed'", "rows at or after the cut of the split"] == 59
    assert counted["table 'tagged'", "rows that a user made of an item they have held out"] == 60
    assert counted["[data.texts]", "rows that a user made of an item they have held out"] == 60
    levels = {f.check: (f.level, f.count) for f in material.findings}
    assert levels["test rows in views"] == ("warning", 1)
    assert not [f for f in material.findings if f.level == "leak"]


def test_without_a_time_the_same_views_are_a_leak(shop: Path) -> None:
    levels = {f.check: (f.level, f.count) for f in read(shop, TIMED_VIEWS).findings}
    assert levels["test rows in views"] == ("leak", 30)
    assert levels["validation rows in views"] == ("leak", 30)


def test_texts_and_features_of_texts_hold_no_review_of_a_held_out_row(shop: Path) -> None:
    graph, whole = read(shop).split_contexts[0].graph, read(shop, WITH_WRITER).split_contexts[0].graph
    assert (len(graph.relation("reviews")), len(whole.relation("reviews"))) == (30 * 4, 30 * 6)
    assert graph.features["said"].sha256() != whole.features["said"].sha256()


def test_tags_without_their_givers_are_all_there(shop: Path) -> None:
    cut, whole = read(shop), read(shop, WITH_MAKER)
    assert len(cut.split_contexts[0].graph.relation("tags")) == 30 * 4
    assert len(whole.split_contexts[0].graph.relation("tags")) == 30 * 6


def test_what_is_wrong_with_a_time_names_file_and_row(shop: Path) -> None:
    lines = (shop / "views.csv").read_text().splitlines()
    lines[3] = lines[3].rpartition(",")[0] + ","
    (shop / "views.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=r"views\.csv") as error:
        read(shop)
    assert "row 3" in error.value.where
    (shop / "views.csv").write_text("customer,product,time\n1,7,10100\n")
    with pytest.raises(InputError, match="a column is used twice"):
        read(shop, ('by = "customer"\n[data.texts]', 'by = "tag"\ntime = "tag"\n[data.texts]'))


def test_who_made_rows_is_asked_where_a_column_seems_to_say_it(shop: Path) -> None:
    """Tags and reviews without a word on who gave them, in files with the column of the interactions' users."""
    for way, name in ((WITH_MAKER, "tagged"), (WITH_WRITER, "[data.texts]")):
        found = {f.check: f for f in read(shop, way).findings}[f"{name} made of held-out rows"]
        assert (found.level, found.count) == ("leak", 60)
        assert "of 60 of their 60 held-out items" in found.message
        assert found.remedy == f'say who made the rows of {name}: by = "customer"'
    assert not [f for f in read(shop).findings if "made of" in f.check]  # it is said
    assert set(found.names) == {"reviews", "said"}
    few = pl.read_csv(shop / "tags.csv").with_columns(pl.col("customer") % 2 + 900)  # nobody of the shop
    few.write_csv(shop / "tags.csv")
    found = {f.check: f for f in read(shop, WITH_MAKER).findings}["tagged made of held-out rows"]
    assert (found.level, found.count) == ("ok", 0)
