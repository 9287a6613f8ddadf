"""What `import relrank` promises, and what README and the docs show: their examples are run, not trusted."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

import relrank
from relrank.cli.app import app
from relrank.study.config import read_study
from relrank.testing import planted_study

ROOT = Path(__file__).parents[1]
README, DOCS = ROOT / "README.md", ROOT / "docs"
PAGES = [README, *DOCS.glob("*.md"), *(DOCS / "results").glob("*.md")]
HEAVY = {"torch", "numpy", "polars", "numba", "sklearn", "scipy", "pandas", "mlflow", "sqlalchemy", "ray"}

PLANTED = planted_study(
    "example",
    150,
    80,
    seed=0,
    models="""[[models]]
name = "popularity"
[[models]]
name = "relational-ease"
""",
)


def fresh(code: str) -> str:
    """What a fresh Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(page: Path, language: str) -> list[str]:
    """A page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


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


def test_readme_python_example_runs_in_a_fresh_process(tmp_path):
    (example,) = blocks(README, "python")
    assert len(example.strip().splitlines()) <= 15
    (tmp_path / "example.toml").write_text(PLANTED)
    for old, new in (
        ("studies/ml-100k-loo.toml", str(tmp_path / "example.toml")),
        ("runs/ml-100k-loo", str(tmp_path / "out")),
        ("recommend(196,", "recommend(7,"),
    ):
        assert example.count(old) == 1
        example = example.replace(old, new)
    said = fresh(example)
    assert "driver" in said  # the graph, the verdicts
    assert "popularity" in said  # the leaderboard
    assert "item " in said  # titles
    assert (tmp_path / "out" / "report.html").is_file()
    assert relrank.load_run(tmp_path / "out").note["protocol"].startswith("custom")


def test_study_file_of_own_tables_fits(tmp_path):
    (block,) = blocks(DOCS / "own-tables.md", "toml")
    (tmp_path / "study.toml").write_text(block)
    config = read_study(tmp_path / "study.toml")
    assert config.name == "our-shop"
    said = tomllib.loads(block)
    assert list(config.relations) == list(said["relations"])
    kinds = {"attribute", "bins", "text", "texts", "link", "cooccurrence"}
    assert {r.kind for r in config.relations.values()} == kinds


def test_commands_of_the_docs_are_commands():
    """Every `$ relrank …` line parses, and the table of commands is the list of commands."""
    known = typer.main.get_command(app).commands
    consoles = [block for page in PAGES for block in blocks(page, "console")]
    lines = [line for block in consoles for line in re.findall(r"^\$ relrank (\w.+?)\s*(?:#.*)?$", block, re.M)]
    assert len(lines) >= 15
    for line in lines:
        name, *words = shlex.split(line)
        known[name].make_context(name, words)
    table = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `relrank (\w+)", table, re.MULTILINE)) == set(known)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_docs_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing
