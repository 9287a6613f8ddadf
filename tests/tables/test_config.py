from pathlib import Path

import pytest

from relrank.errors import InputError
from relrank.graph.construction.text_cache import cache_folder
from relrank.tables.config import ConfigSection, load_toml, resolve
from relrank.tables.fetch import fetch


def test_paths_start_at_the_file_and_variables_where_the_program_runs(tmp_path, monkeypatch):
    """RELRANK_DATA=data means ./data, wherever the study file lies."""
    monkeypatch.setenv("SOMEWHERE", "data")
    assert resolve("tables", tmp_path, "x") == tmp_path / "tables"
    assert resolve("${SOMEWHERE}/books", tmp_path, "x") == Path("data/books")
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert resolve("${SOMEWHERE}/books", Path("elsewhere"), "x") == tmp_path / "books"
    with pytest.raises(InputError, match="NOWHERE"):
        resolve("${NOWHERE}/books", tmp_path, "x")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a = " + "9" * 5000, "not readable as TOML"),  # more digits than Python reads
        ("a = 0x" + "f" * 5000, "number is too large"),  # read, but more digits than Python prints
        ("[b]\na = [1, -9223372036854775809]", "number is too large"),
        ("a = " + "[" * 3000 + "]" * 3000, "not readable as TOML"),
        ("[" + ".".join(["a"] * 3000) + "]", "nested too deeply"),
        ("a = " + "{b = " * 3000 + "1" + "}" * 3000, "not readable as TOML"),
    ],
)
def test_numbers_and_brackets_without_end_are_one_error(tmp_path, text, what):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(InputError, match=what) as error:
        load_toml(tmp_path / "x.toml", ConfigSection)
    assert len(str(error.value)) < 2_000


def test_the_home_of_nobody_is_one_error(tmp_path, monkeypatch):
    monkeypatch.setenv("RELRANK_CACHE", "~nobody-here/x")
    for call in (
        lambda: resolve("~nobody-here/x", tmp_path, "[data] path"),
        lambda: fetch("ml-100k", Path("~nobody-here/x"), lambda *_: None),
        cache_folder,
    ):
        with pytest.raises(InputError, match="unknown user"):
            call()
