"""The most common mistakes: each error message names what, where, expected, found and how to fix it.

The texts are written out, since they are what a user sees. The exit code is 2: 1 says that a check ended badly,
as with a leak.
"""

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import relrank

from relrank.io.terminal_safe import terminal_safe
from relrank.models import MODELS
from relrank.study.config import read_study
from relrank.study.folder import study_folder

STUDY = """
name = "shop"
[data]
path = "data"
user = "customer"
item = "product"
[data.interactions]
file = "sales.csv"
user = "customer"
item = "product"
time = "day"
[data.nodes.product]
file = "products.csv"
key = "sku"
[protocol]
split = "last-leave-one-out"
[relations.brand]
kind = "attribute"
node = "product"
column = "brand"
[study]
metric = "ndcg@10"
trials = 1
[[models]]
name = "popularity"
[[models]]
name = "relational-ease"
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop of 20 customers with 4 of 12 products each, a day apart."""
    shop = tmp_path / "shop"
    (shop / "data").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = [
        (f"c{c:02}", f"p{p:02}", f"2024-03-{c + k + 1:02}")
        for c in range(20)
        for k, p in enumerate(rng.permutation([0, 1, 2, 3, 4 + c % 8] if c % 2 else [8, 9, 10, 11, c % 8])[:4])
    ]
    sales = "".join(f"{c},{p},{day}\n" for c, p, day in rows)
    (shop / "data" / "sales.csv").write_text("customer,product,day\n" + sales)
    products = "".join(f"p{n:02},{'abc'[n // 4]}\n" for n in range(12))
    (shop / "data" / "products.csv").write_text("sku,brand\n" + products)
    return shop


@pytest.fixture
def answer(shop, monkeypatch, capsys):
    """Message and exit code for a study file that differs from the correct one."""

    def run(*changes: tuple[str, str], words: tuple[str, ...] = ("audit", "study.toml")) -> str:
        text = STUDY
        for old, new in changes:
            assert text.count(old) >= 1
            text = text.replace(old, new, 1)
        (shop / "study.toml").write_text(text)
        code, _, err = relrank(monkeypatch, capsys, shop, *words)
        assert "Traceback" not in err
        assert (code, err[:7]) == (2, "error: "), err
        return err[7:].strip().replace(str(shop), "HERE")

    return run


CHANGES = {
    "wrong column": (
        ('item = "product"\ntime', 'item = "produkt"\ntime'),
        """column not found
  where:    data/sales.csv
  expected: a column 'produkt'
  found:    columns customer, product, day; did you mean 'product'?""",
    ),
    "wrong path": (
        ('path = "data"', 'path = "date"'),
        """no such file
  where:    date/products.csv
  expected: a file
  found:    no such folder, or an empty one""",
    ),
    "unknown model": (
        ('name = "relational-ease"', 'name = "relational-esae"'),
        f"""unknown model
  where:    [[models]] name
  expected: one of {", ".join(sorted(MODELS))}
  found:    'relational-esae'; did you mean 'relational-ease'?""",
    ),
    "typo in a key": (
        ("trials = 1", "trails = 1"),
        """unknown key
  where:    study.toml, key study.trails
  expected: one of accept_leaks, attribute, item_groups, ks, margin, memory_gb, metric, seeds, trials, """
        "user_groups, versus\n  found:    trails; did you mean 'trials'?",
    ),
    "typo in a setting": (
        ('name = "popularity"', 'name = "item-knn"\nconfig = { neighbors = 5 }'),
        """unknown hyper-parameter
  where:    [[models]] item-knn, config
  expected: one of neighbours, shrinkage
  found:    'neighbors'; did you mean 'neighbours'?""",
    ),
    "impossible setting": (
        ('name = "popularity"', 'name = "item-knn"\nconfig = { neighbours = 0 }'),
        """hyper-parameter is out of range
  where:    [[models]] item-knn, config, neighbours
  expected: a whole number, at least 1
  found:    0""",
    ),
    "typo in a relation": (
        ('name = "relational-ease"', 'name = "relational-ease"\nconfig.weights = { brnad = 3.0 }'),
        """weight of an unknown relation
  where:    [[models]] relational-ease, config, weights
  expected: one of brand
  found:    'brnad'; did you mean 'brand'?""",
    ),
    "metric name": (
        ("ndcg@10", "nDCG@10"),
        """unknown metric
  where:    study.toml, [study] metric
  expected: mrr, or hit, recall, precision, ndcg, map @ one of ks = 10, 20, 50
  found:    'nDCG@10'; did you mean 'ndcg@10'?""",
    ),
    "kind of relation": (
        ('kind = "attribute"', 'kind = "atribute"'),
        """setting does not fit
  where:    study.toml, key relations.brand.kind
  expected: one of attribute, bins, cooccurrence, link, text, texts
  found:    'atribute'; did you mean 'attribute'?""",
    ),
    "no time": (
        ('time = "day"\n', ""),
        """split needs an order in time
  where:    [protocol] split = 'last-leave-one-out'
  expected: interactions with a time column
  found:    shop without times""",
    ),
    "impossible cut": (
        ('split = "last-leave-one-out"', 'split = "temporal"\ncut = "2023-12-31"'),
        """cut is outside the data
  where:    [protocol] cut
  expected: a moment between the first and the last of 80 rows: times from 2024-03-01 to 2024-03-23 """
        "(1709251200 to 1711152000)\n  found:    2023-12-31",
    ),
    "too few users": (
        ('split = "last-leave-one-out"', 'split = "last-leave-one-out"\ncore = { user = 9 }'),
        """the filters leave no rows
  where:    [protocol]
  expected: some rows: a lower min_rating or core
  found:    filter: rows outside the core dropped (users 9, items 0 rows at least) (80)""",
    ),
    "no validation rows": (
        ('split = "last-leave-one-out"', 'split = "temporal"\ncut = "2024-03-15"'),
        """no validation rows
  where:    [protocol]
  expected: some to tune on: set valid_cut, or an earlier one
  found:    15 users, 54 training rows, 6 test rows, """
        "times from 2024-03-01 to 2024-03-18 (1709251200 to 1710720000)",
    ),
}


@pytest.mark.parametrize("mistake", CHANGES)
def test_a_mistake_in_a_study_file(mistake, answer):
    change, expected = CHANGES[mistake]
    assert answer(change) == expected


@pytest.mark.parametrize(("separator", "written"), [(";", '";"'), ("\t", r'"\t"'), ("|", '"|"'), (" ", '" "')])
def test_a_wrong_separator(answer, shop, separator, written):
    sales = shop / "data" / "sales.csv"
    sales.write_text(sales.read_text().replace(",", separator))
    line = terminal_safe(separator.join(["customer", "product", "day"]))
    assert (
        answer()
        == f"""column not found
  where:    data/sales.csv
  expected: a column 'customer'
  found:    one column '{line}'; set separator = {written} where the file is named"""
    )


def test_one_column_that_no_separator_parts(answer, shop):
    sales = shop / "data" / "sales.csv"
    sales.write_text("".join(line.split(",")[1] + "\n" for line in sales.read_text().splitlines()))
    assert (
        answer()
        == """column not found
  where:    data/sales.csv
  expected: a column 'customer'
  found:    columns product"""
    )


def test_keys_of_another_type(answer, shop):
    products = shop / "data" / "products.csv"
    products.write_text(products.read_text().replace("p0", "").replace("p1", "1"))
    assert (
        answer()
        == """empty join: no key in common
  where:    data/sales.csv, column 'product', with column 'sku' of node table 'product'
  expected: values such as 0, 1, 2 (Int64)
  found:    'p10', 'p00', 'p11' (String)"""
    )


def test_a_model_that_uses_no_relations_is_asked_for_some(answer):
    found = answer(words=("fit", "study.toml", "--model", "ease", "--arm", "brand"))
    assert found == (
        "model uses no relations\n  where:    ease, arm\n  expected: \"interactions\"\n  found:    'brand'"
    )


def test_an_extra_that_is_missing(answer, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert (
        answer(words=("tune", "study.toml"))
        == """optuna is not installed
  where:    relrank tune
  expected: pip install "relrank[tune]"
  found:    import of optuna halted; None in sys.modules"""
    )


def test_an_output_that_cannot_be_written(answer, shop):
    (shop / "taken").write_text("a file")
    assert (
        answer(words=("study", "study.toml", "--out", "taken/study"))
        == """file or folder cannot be used
  where:    HERE/taken/study
  expected: a folder above it instead of a file
  found:    not a directory"""
    )
    assert (
        answer(words=("study", "study.toml", "--out", "taken"))
        == """file or folder cannot be used
  where:    HERE/taken
  expected: a folder, or nothing of this name
  found:    file exists"""
    )


def test_a_disk_that_is_full(answer, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", "runs/shop/cells")

    monkeypatch.setattr("relrank.study.prepare.make_split", full)
    assert (
        answer()
        == """file or folder cannot be used
  where:    runs/shop/cells
  expected: room on the disk
  found:    no space left on device"""
    )


def test_a_folder_of_another_study(answer, shop):
    (shop / "study.toml").write_text(STUDY)
    with study_folder(shop / "out", read_study(shop / "study.toml")):
        (shop / "out" / "cells").mkdir()
    found = answer(('name = "shop"', 'name = "store"'), words=("study", "study.toml", "--out", "out"))
    assert (
        found
        == """folder of another study
  where:    out
  expected: that of store, or a new one: name it with --out
  found:    shop"""
    )


def test_memory_that_does_not_suffice(answer, monkeypatch):
    monkeypatch.setenv("RELRANK_MEMORY_GB", "0.0001")
    found = answer(words=("study", "study.toml"))
    assert found.startswith("no model of the study fits into memory\n  where:    [[models]]")
    assert "is left out: at 12 items it needs about 0.13 GB and 0.0001 GB are available" in found
    found = answer(words=("fit", "study.toml", "--model", "relational-ease"))
    assert found.startswith(
        "model does not fit into memory\n  where:    relational-ease on all\n  expected: at most "
    )


def test_memory_that_ends_on_the_way_is_one_sentence(answer, monkeypatch):
    def ends(*args):
        raise MemoryError("Unable to allocate 28.0 GiB for an array")

    monkeypatch.setattr("relrank.study.prepare.make_split", ends)
    assert (
        answer()
        == """out of memory
  where:    relrank audit study.toml
  expected: more memory, or less work: fewer items, a core (docs/study-file.md), a smaller model
  found:    Unable to allocate 28.0 GiB for an array"""
    )


@pytest.mark.slow
def test_a_fit_says_through_a_pipe_what_it_does(shop):
    (shop / "study.toml").write_text(STUDY.replace("trials = 1", "trials = 3"))
    done = subprocess.run(
        [sys.executable, "-m", "relrank", "fit", "study.toml", "--model", "relational-ease", "--out", "fitted"],
        cwd=shop, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "relational-ease on all: interactions: trial 1 of at most 3" in done.stdout
    assert done.stdout.splitlines()[-1] == "saved in fitted"
