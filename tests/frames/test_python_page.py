"""The code of docs/python.md runs, from the first block to the last."""

import re
from pathlib import Path

import polars as pl
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas", reason="needs pandas")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        if number == 1:
            assert len([line for line in block.splitlines() if line]) <= 12
            block = block.replace('out="runs/shop"', 'models=["sparse-ease"], study={"trials": 2}, out="runs/shop"')
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
    said = capsys.readouterr().out
    assert 'title = "Brand"' in said
    assert "new visitor" in said
    assert (tmp_path / "runs" / "shop" / "report.html").is_file()
    assert (tmp_path / "runs" / "one-model" / "run.json").is_file()
    assert pl.read_parquet(tmp_path / "runs" / "shop" / "frames" / "product.parquet").height == 60
