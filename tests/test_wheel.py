"""The wheel, installed beside nothing but what it asks for: a study runs in it, and no file is missing."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import relrank

ROOT = Path(__file__).parents[1]
PACKAGE = Path(relrank.__file__).parent
BARE = Path(__file__).parent / "platforms"
EXTRAS = {
    "serve": ["fastapi", "uvicorn", "httptools", "prometheus_client"],
    "text": ["sentence_transformers"],
    "ray": ["ray"],
    "mlflow": ["mlflow", "sqlalchemy"],
    "pyg": ["torch_geometric"],
    "tune": ["optuna"],
    "plot": ["plotly"],
    "sql": ["duckdb"],
    "frames": ["pandas", "pyarrow"],
}


@dataclass(frozen=True)
class Installed:
    wheel: Path
    folder: Path  # that holds the package
    home: Path  # an empty working directory

    def python(self, *words: str, code: int = 0) -> str:
        """What Python prints that finds this package, and no other than those that it needs."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RELRANK_", "COV_", "PYTEST_"))}
        paths = os.pathsep.join(map(str, (self.folder, BARE)))
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.home,
            env={**kept, "PYTHONPATH": paths, "RELRANK_ONLY": "relrank", "COLUMNS": "110"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
            timeout=240,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    """Builds in a copy, so that no leftovers of the source tree are packed."""
    if not (ROOT / "pyproject.toml").is_file():
        pytest.skip("needs the source tree")
    pytest.importorskip("build")
    made = tmp_path_factory.mktemp("wheel")
    copy = made / "source"
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignore)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    quiet = {"capture_output": True, "text": True, "check": False}
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(made), str(copy)]
    done = subprocess.run(command, **quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = made.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    done = subprocess.run([*command, "--target", str(made / "installed"), str(wheel)], **quiet)
    assert done.returncode == 0, done.stdout + done.stderr
    home = made / "home"
    home.mkdir()
    return Installed(wheel, made / "installed", home)


def test_the_wheel_has_every_file_of_the_package(installed):
    names = {name for name in zipfile.ZipFile(installed.wheel).namelist() if name.startswith("relrank/")}
    left_out = {"__pycache__", ".egg-info"}
    expected = {
        f"relrank/{path.relative_to(PACKAGE).as_posix()}"
        for path in PACKAGE.rglob("*")
        if path.is_file() and not left_out & {*path.parts, path.suffix}
    }
    assert names == expected
    assert {"relrank/py.typed", "relrank/__init__.pyi", "relrank/report/page.html.j2"} <= names
    assert {"relrank/report/style.css", "relrank/serve/page/index.html"} <= names


def test_its_metadata_name_systems_pythons_and_addresses(installed):
    (name,) = [n for n in zipfile.ZipFile(installed.wheel).namelist() if n.endswith(".dist-info/METADATA")]
    text = zipfile.ZipFile(installed.wheel).read(name).decode()
    systems = set(re.findall(r"^Classifier: Operating System :: (.+)$", text, re.MULTILINE))
    assert systems == {"MacOS", "Microsoft :: Windows", "POSIX :: Linux"}
    assert "Project-URL: Issues, https://github.com/relrank/relrank/issues" in text
    uvloop = re.search(r"^Requires-Dist: uvloop.*$", text, re.MULTILINE).group()
    assert 'sys_platform != "win32"' in uvloop  # it has no wheels for Windows


def test_the_environment_is_bare(installed):
    modules = sorted(module for modules in EXTRAS.values() for module in modules)
    code = f"import relrank; from importlib.util import find_spec as f; print([m for m in {modules} if f(m)])"
    assert installed.python("-c", code) == "[]\n"
    assert str(installed.folder) in installed.python("-c", "import relrank; print(relrank.__file__)")


def test_a_study_runs_without_extras(installed):
    (installed.home / "shop.toml").write_text(
        'name = "shop"\n[data]\ndataset = "planted"\nplanted = { users = 300, items = 120, seed = 3 }\n'
        '[protocol]\nsplit = "random-leave-one-out"\n'
        + "".join(
            f'[relations.{r}]\nkind = "attribute"\nnode = "item"\ncolumn = "{r}"\n' for r in ("driver", "noise")
        )
        + '[study]\nseeds = [0]\ntrials = 3\n[[models]]\nname = "popularity"\n[[models]]\nname = "relational-ease"\n',
        encoding="utf-8",
    )
    out = installed.python("-m", "relrank", "study", "shop.toml")
    assert re.search(r"^ driver +helps ✓", out, re.MULTILINE), out
    page = (installed.home / "runs" / "shop" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    out = installed.python("-m", "relrank", "recommend", "runs/shop", "--user", "0")
    assert len(re.findall(r"^│ +\d+ │", out, re.MULTILINE)) == 10


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("serve runs/shop", "serve"),
        ("tune shop.toml", "tune"),
        ("study shop.toml --engine ray", "ray"),
        ("study shop.toml --track mlflow", "mlflow"),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(installed, words, extra):
    out = installed.python("-m", "relrank", *words.split(), code=2)
    assert f'pip install "relrank[{extra}]"' in out
    assert "Traceback" not in out
