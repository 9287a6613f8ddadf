"""Shell completion: what a shell suggests after TAB, and how quickly."""

import os
import subprocess
import sys

import pytest

from relrank.cli import completion
from relrank.models import MODELS
from relrank.testing import planted_study

COMPLETE = "import sys; sys.argv[0] = 'relrank'; from relrank.cli.app import app; app()"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with two study files, a study and a fitted model."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("runs/shop/study.json", "runs/fitted/run.json", "runs/notes/a.txt", ".hidden/study.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).touch()
    (folder / "studies").mkdir()
    listed = '[[models]]\nname = "ease"\n[[models]]\nname = "best"\nmodel = "sparse-ease"\n'
    (folder / "studies" / "shop.toml").write_text(planted_study("shop", relations=("driver", "noise"), models=listed))
    (folder / "plain.toml").write_text(planted_study("plain"))
    (folder / "atlas.toml").write_text('title = "a"\n[[studies]]\nfile = "plain.toml"\n[[studies]]\nfile = "none"\n')
    return folder


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("relrank stu", ["study"]),
        ("relrank study ", ["atlas.toml", "plain.toml", "studies/shop.toml"]),
        ("relrank atlas a", ["atlas.toml"]),
        ("relrank atlas atlas.toml --only ", ["plain"]),
        ("relrank study studies/s", ["studies/shop.toml"]),
        ("relrank serve ru", ["runs/fitted", "runs/shop"]),
        ("relrank compare runs/fitted runs/s", ["runs/shop"]),
        ("relrank report x", []),
        ("relrank fetch g", ["goodbooks-10k", "gowalla"]),
        ("relrank fit studies/shop.toml --model ", ["ease", "best"]),
        ("relrank fit plain.toml --model gatv", ["gatv2"]),
        ("relrank fit missing.toml --model gatv", ["gatv2"]),
        ("relrank fit studies/shop.toml --arm ", ["all", "interactions", "driver", "noise"]),
        ("relrank fit studies/shop.toml --arm driver,", ["driver,noise"]),
        ("relrank tune studies/shop.toml --models ease,", ["ease,best"]),
        ("relrank --vers", ["--version"]),
    ],
)
def test_suggestions(home, typed, suggested):
    words = typed.split()
    asked = {"COMP_WORDS": typed, "COMP_CWORD": str(len(words) - (not typed.endswith(" ")))}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETE],
        cwd=home,
        env={**os.environ, **asked, "_RELRANK_COMPLETE": "complete_bash"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == suggested


def test_all_models_are_known_without_importing_them():
    assert completion._all_models() == list(MODELS)
