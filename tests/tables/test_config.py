from pathlib import Path

import pytest

from relrank.errors import InputError
from relrank.tables.config import resolve


def test_paths_start_at_the_file_and_variables_where_the_program_runs(tmp_path, monkeypatch):
    """RELRANK_DATA=data means ./data, wherever the study file lies."""
    monkeypatch.setenv("SOMEWHERE", "data")
    assert resolve("tables", tmp_path, "x") == tmp_path / "tables"
    assert resolve("${SOMEWHERE}/books", tmp_path, "x") == Path("data/books")
    monkeypatch.setenv("SOMEWHERE", str(tmp_path))
    assert resolve("${SOMEWHERE}/books", Path("elsewhere"), "x") == tmp_path / "books"
    with pytest.raises(InputError, match="NOWHERE"):
        resolve("${NOWHERE}/books", tmp_path, "x")
