"""What `import relrank` promises, and what the README shows: its example is run, not trusted."""

import ast
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import polars as pl
import pytest

import relrank
from relrank.tables.synthetic import PlantedConfig, planted

README = Path(__file__).parents[1] / "README.md"
HEAVY = {"torch", "numpy", "polars", "numba", "sklearn", "scipy", "pandas", "mlflow", "sqlalchemy", "ray"}


def fresh(code: str) -> str:
    """What a fresh Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import relrank; dir(relrank)",
        "import sys; from relrank.cli.app import main; sys.argv = ['relrank', '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code",
        "import sys; from relrank.cli.app import main; sys.argv = ['relrank', '--version']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code",
        "import sys; from relrank.cli.app import main; sys.argv = ['relrank', 'study', '--help']\n"
        "try: main()\nexcept SystemExit as end: assert not end.code",
    ],
    ids=["import relrank", "relrank --help", "relrank --version", "relrank study --help"],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    said = fresh(f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))")
    modules = set(json.loads(said.splitlines()[-1]))
    assert "relrank" in modules
    assert not modules & HEAVY


def test_public_names_are_sorted_and_each_is_there():
    assert relrank.__all__ == sorted(set(relrank.__all__))
    assert {"read_study", "prepare", "run_study", "write_report", "save_winner", "load_run"} <= set(relrank.__all__)
    for name in relrank.__all__:
        value = getattr(relrank, name)
        assert getattr(value, "__name__", name) == name  # no name stands for another thing
        assert find_spec(f"relrank.{name}") is None, (
            "a room of that name would stand in its place once it is imported"
        )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = relrank.nothing


def test_the_stub_has_every_public_name():
    """Type checkers read it instead of the names that are looked up when they are used."""
    stub = ast.parse(Path(relrank.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    said = {alias.name: node.module for node in stub.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert said == relrank._PUBLIC


@pytest.mark.slow
def test_public_names_have_their_types_in_a_project_that_checks_strictly(tmp_path):
    (tmp_path / "theirs.py").write_text(
        "import relrank as rr\n"
        "reveal_type(rr.Graph)\n"
        "reveal_type(rr.compare)\n"
        'graph: rr.Graph = rr.load_run("runs/one").graph\n'
        "graph.n_items.upper()\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "theirs.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout
    assert "relrank.graph.graph.Graph" in lines[0]
    assert "relrank.evaluation.comparison.Effect" in lines[1]
    assert '"int" has no attribute "upper"' in lines[2]


def test_help_fits_on_one_screen_and_dir_has_all_names():
    said = fresh("import relrank; help(relrank)")
    assert len(said.splitlines()) <= 50
    assert all(name in said for name in relrank.__all__ if name != "__version__")
    assert fresh("import relrank; print(dir(relrank) == relrank.__all__)") == "True\n"


def test_readme_python_example_runs_in_a_fresh_process(tmp_path, monkeypatch):
    """On a planted shop, whose ``driver`` decides who buys what."""
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(example.strip().splitlines()) <= 12
    drawn = planted(PlantedConfig(users=300, items=160, groups=16))
    customers = "C-" + (1000 + drawn.interactions["user"]).cast(pl.String)
    pl.DataFrame({"customer": customers, "sku": drawn.interactions["item"]}).with_row_index("bought_at").with_columns(
        pl.from_epoch(1_700_000_000 + 3600 * pl.col("bought_at").cast(pl.Int64))
    ).write_csv(tmp_path / "purchases.csv")
    drawn.nodes["item"].frame.rename({"item_id": "sku"}).write_csv(tmp_path / "products.csv")
    monkeypatch.chdir(tmp_path)
    said = fresh(example.replace("C-1042", customers[0]))
    assert "Build Driver" in said  # the answer
    assert "Driver helps" in said  # the verdicts
    assert "item " in said  # titles
    (page,) = tmp_path.glob("runs/*/report.html")
    assert relrank.load_run(page.parent).note["protocol"].startswith("custom")
