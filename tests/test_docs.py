"""The documentation: its examples run, nothing that can be set is undocumented, and the site is whole and offline."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import chdir
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urldefrag, urlsplit

import polars as pl
import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

import relrank as rr
from relrank.cli.app import app
from relrank.models import MODELS
from relrank.models.core.hyperparameters import Positive
from relrank.study.atlas.config import AtlasConfig, read_atlas
from relrank.study.config import StudyConfig, read_study
from relrank.tables.config import ConfigSection
from relrank.training import TrainConfig

pytest.importorskip("mkdocs", reason="needs MkDocs, which the developers' requirements name")
import pages as site_pages
import reference

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted({ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")})
TUTORIAL = DOCS / "tutorial" / "index.md"
GUIDES = sorted((DOCS / "guides").glob("*.md"))
OTHERS_COMMANDS = {"docker", "export", "make", "mlflow", "pip", "pytest", "python", "ray", "torchrun"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def blocks(page: Path, language: str) -> list[str]:
    """A page's code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's console blocks, as words; a line with && is several."""
    lines = [line for block in blocks(page, "console") for line in re.findall(r"^\$ (.+?)\s*(?: #.*)?$", block, re.M)]
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


# what can be set


@pytest.mark.parametrize("kind", [*MODELS.values(), None], ids=lambda kind: kind.name if kind else "training")
def test_every_hyper_parameter_is_documented(kind):
    keys = reference.keys_of(kind.Config if kind else TrainConfig)
    assert [key.name for key in keys if not (key.meaning and key.values)] == []
    text = reference.model_pages()[kind.name] if kind else reference.training_page()
    assert [key.name for key in keys if f"| `{key.name}` | {key.values} |" not in text] == []


def test_every_key_of_the_study_file_is_documented():
    sections = list(reference.sections(StudyConfig))
    missing = [(s.title, key.name) for s in sections for key in s.keys if not (key.meaning and key.values)]
    assert missing == []
    titles = [s.title for s in sections]
    assert len(set(titles)) == len(titles)
    assert {"[]", "[data.nodes.TYPE]", '[relations.NAME] kind = "link"', "[[models]]", "[models.arm.ARM]"} <= set(
        titles
    )
    text = reference.keys_page()
    assert all(f"| `{key.name}` | {key.values}" in text for s in sections for key in s.keys)


def test_every_key_of_the_atlas_file_is_documented():
    sections = list(reference.sections(AtlasConfig))
    assert [(s.title, key.name) for s in sections for key in s.keys if not (key.meaning and key.values)] == []
    assert [s.title for s in sections] == ["[]", "[[studies]]", "[[claims]]"]
    text = reference.atlas_keys_page()
    assert all(f"| `{key.name}` | {key.values}" in text for s in sections for key in s.keys)


@dataclass
class Base:
    """Settings that several models share."""

    l2: Positive = 3.0
    """Ridge ``λ``,
    in interactions."""
    untold: int = 1


@dataclass
class Config(Base):
    """Settings of one model."""

    l2: Positive = 5.0
    solver: Literal["a", "b"] = "b"
    """Solver | method."""
    weights: dict[str, Positive] = field(default_factory=dict)
    """Weights."""


class Inner(ConfigSection):
    """``[top.inner]``: one of many.

    Attributes:
        size: how large.
    """

    size: int | None = Field(None, ge=1, lt=9)


class Outer(ConfigSection):
    """All."""

    names: tuple[Annotated[str, Field(min_length=1)], ...]
    """Names."""
    inner: dict[str, Inner] = Field(default_factory=dict)
    """Sections."""


def test_a_table_of_keys_worked_by_hand():
    assert reference.table(reference.keys_of(Config)).splitlines()[2:] == [
        "| `l2` | number, above 0 | `5` | Ridge `λ`, in interactions. |",
        "| `untold` | whole number | `1` |  |",
        r"| `solver` | `a` · `b` | `b` | Solver \| method. |",
        "| `weights` | by name: number, above 0 |  | Weights. |",
    ]
    top, inner = reference.sections(Outer)
    assert [(key.name, key.values, key.default) for key in top.keys] == [
        ("names", "list of texts", "**required**"),
        ("inner", "by name: section", ""),
    ]
    assert (inner.title, inner.summary) == ("[inner.NAME]", "One of many.")
    assert inner.keys == (reference.Key("size", "whole number, at least 1 and below 9", "", "How large."),)


def test_a_notebook_becomes_a_page(tmp_path):
    def output(**data: str) -> dict[str, Any]:
        return {"output_type": "display_data", "data": data}

    outputs = [
        {"output_type": "stream", "text": ["said\n"]},
        output(**{"text/html": "<p>1</p>\n\n<p>2</p>", "text/plain": "both"}),
        output(**{"text/html": "<script>", "text/plain": "figure"}),
        output(**{"image/png": "iVBO\n", "text/plain": "plot"}),
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "Text."]},
        {"cell_type": "code", "source": "run()", "outputs": outputs},
    ]
    (tmp_path / "one.ipynb").write_text(json.dumps({"cells": cells}))
    assert site_pages.notebook_page(tmp_path / "one.ipynb").split("\n\n") == [
        "# Title",
        "[Download this notebook](one.ipynb){ .md-button }",
        "Text.",
        "```python\nrun()\n```",
        "```text\nsaid\n```",
        '<div class="output"><p>1</p>\n<p>2</p></div>',
        "```text\nfigure\n```",
        "![output](data:image/png;base64,iVBO)\n",
    ]


def test_links_out_of_the_docs_lead_to_pages_of_the_site():
    text = "[a](../../CHANGELOG.md#top) [b](../../studies/planted.toml) [c](../x.md) [d](https://example.org) [e](#f)"
    assert site_pages.moved("[a](notebooks/b.ipynb)", Path("docs"), Path()) == "[a](notebooks/b.md)"
    assert site_pages.moved(text, Path("docs/results"), Path("results")) == (
        "[a](../project/changelog.md#top) [b](../project/study-files.md#planted) [c](../x.md) "
        "[d](https://example.org) [e](#f)"
    )
    assert site_pages.moved("[a](docs/leaks.md#b)", Path(), Path("project")) == "[a](../leaks.md#b)"
    source = site_pages.moved("[a](../src/relrank/errors.py)", Path("docs"), Path())
    assert re.fullmatch(r"\[a\]\(https://.+/src/relrank/errors.py\)", source)


def test_every_public_name_is_in_the_api_reference():
    pages = site_pages.api_pages()
    shown = re.findall(r"^::: relrank\.(\w+)$", "\n".join(pages.values()), re.MULTILINE)
    assert sorted(shown) == [one for one in rr.__all__ if one != "__version__"]
    assert all(f"[relrank.{one}]" in pages["index"] for one in shown)


def test_the_table_of_commands_is_the_list_of_commands():
    table = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `relrank (\w+)", table, re.MULTILINE)) == set(typer.main.get_command(app).commands)


# what is shown


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=name)
def test_commands_are_commands(page):
    """A relrank command parses; of another program at least the file or target exists."""
    group = typer.main.get_command(app)
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for program, *words in commands(page):
        if program == "relrank" and words[0].startswith("--"):
            assert words[0] in {option for one in group.params for option in one.opts}
        elif program == "relrank":
            group.commands[words[0]].make_context(words[0], words[1:])
        else:
            assert program in OTHERS_COMMANDS
        if program == "make":
            assert words[0] in targets
        if program == "python" and words[0].endswith(".py"):
            assert (page.parent / words[0]).exists() or (ROOT / words[0]).exists()


def merged(base: dict[str, Any], part: dict[str, Any]) -> dict[str, Any]:
    """A study file with a fragment added, of which tables are merged."""
    inner = {key: merged(base[key], value) for key, value in part.items() if isinstance(base.get(key), dict)}
    return base | part | inner


def with_fragment(text: str) -> dict[str, Any]:
    """The tutorial's study file with a fragment of another page."""
    base, part = tomllib.loads(blocks(TUTORIAL, "toml")[0]), tomllib.loads(text)
    if {"data", "protocol"} <= part.keys():
        return part
    if part.get("data", {}).get("path", "shop") != "shop":  # other data
        del base["data"]
    if "protocol" in part:
        del base["protocol"]
    if isinstance(part.get("models"), dict):  # [models.arm.…] without the model that it belongs to
        part["models"] = [{"name": "sparse-ease"} | part["models"]]
    for relation in base["relations"].keys() & part.get("relations", {}).keys():
        del base["relations"][relation]
    return merged(base, part)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml")], ids=name)
def test_toml_is_a_study_file_or_a_part_of_one(page):
    for text in blocks(page, "toml"):
        StudyConfig.model_validate(with_fragment(text))


def test_the_atlas_of_the_repository_is_one():
    """Its study files, relations and claims exist."""
    assert read_atlas(ROOT / "studies" / "atlas.toml").studies


def test_study_file_of_own_tables_has_every_kind_of_relation(tmp_path):
    (block,) = blocks(DOCS / "own-tables.md", "toml")
    (tmp_path / "study.toml").write_text(block)
    config = read_study(tmp_path / "study.toml")
    assert config.name == "our-shop"
    kinds = {"attribute", "bins", "text", "texts", "link", "cooccurrence"}
    assert {r.kind for r in config.relations.values()} == kinds


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """The folder of the tutorial after all its commands, and what they printed."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "study.toml").write_text(blocks(TUTORIAL, "toml")[0])
    output = ""
    with chdir(folder):
        for program, *words in commands(TUTORIAL):
            if program == "python":
                command = [sys.executable, str(TUTORIAL.parent / words[0])]
                output += subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
            else:
                result = CliRunner().invoke(app, words, env={"COLUMNS": "80"})
                assert result.exit_code == 0, result.output
                output += result.output
        shutil.copytree("shop", "our-shop")  # the name of the folder on other pages
        yield folder, output


def plain(text: str) -> str:
    """Text whose lines and last digits may differ."""
    return re.sub(r"\d+", "0", " ".join(text.split()))


def test_tutorial_comes_out_as_it_says(shop):
    folder, output = shop
    assert "8,800 purchases of 1,100 customers" in TUTORIAL.read_text(encoding="utf-8")
    assert "shop/: 1,100 customers, 300 products, 8,800 purchases" in output
    verdicts = pl.read_parquet(folder / "runs" / "shop" / "verdicts.parquet")
    (judge,) = verdicts["model"].unique()
    assert judge == "sparse-ease"
    assert dict(verdicts.select("relation", "verdict").iter_rows()) == {
        "brand": "helps",
        "collection": "interchangeable",
        "colour": "negligible",
        "price": "negligible",
    }
    shown = [plain(block) for block in blocks(TUTORIAL, "text") if block.startswith("Build")]
    assert [text for text in shown if text not in plain(output)] == []
    assert len(shown) == 1
    assert "Alpine boots 220: rank 1," in output
    assert (folder / "runs" / "shop" / "report.html").is_file()


WITH_PYTHON = {page: "\n".join(blocks(page, "python")) for page in PAGES if DOCS in page.parents}
WITH_PYTHON.pop(DOCS / "python.md", None)  # has tests of its own: tests/frames/test_python_page.py
PROGRAMS = [page for page, code in WITH_PYTHON.items() if "__main__" in code]


@pytest.mark.parametrize("page", [p for p, code in WITH_PYTHON.items() if code and p not in PROGRAMS], ids=name)
def test_python_runs(page, shop):
    """A page's blocks in one namespace, in the tutorial's folder."""
    with chdir(shop[0]):
        exec(compile(WITH_PYTHON[page], str(page), "exec"), {"__name__": "example"})


@pytest.mark.slow
@pytest.mark.parametrize("page", PROGRAMS, ids=name)
def test_python_programs_run(page, shop, tmp_path):
    """Code that starts processes, which import it."""
    (tmp_path / "example.py").write_text(WITH_PYTHON[page])
    subprocess.run([sys.executable, str(tmp_path / "example.py")], cwd=shop[0], check=True, timeout=120)


def fits_the_shop(raw: dict[str, Any], folder: Path) -> bool:
    """Whether a study file names nothing but what the shop has."""
    data = raw["data"]
    tables = [
        data.get("interactions"),
        data.get("texts"),
        *data.get("nodes", {}).values(),
        *data.get("links", {}).values(),
        *(part for table in data.get("triples", {}).values() for part in (table, table.get("items"))),
    ]
    files = [folder / "shop" / table["file"] for table in tables if table]
    encoders = [relation.get("encoder") for relation in raw["relations"].values()]
    return "dataset" not in data and all(file.exists() for file in files) and "sentence" not in encoders


@pytest.mark.parametrize("page", [page for page in GUIDES if blocks(page, "toml")], ids=lambda page: page.stem)
def test_fragments_of_guides_fit_the_tutorial_s_shop(page, shop):
    """Tables are read, relations are built and the audit finds no leak: what a study does before it fits."""
    folder, _ = shop
    for text in blocks(page, "csv"):
        (folder / "shop" / "triples.csv").write_text(text)
    studies = [with_fragment(text) for text in blocks(page, "toml")]
    for raw in (raw for raw in studies if fits_the_shop(raw, folder)):
        data = rr.prepare(StudyConfig.model_validate(raw), folder)
        assert set(raw["relations"]) <= {r.name for r in data.split_contexts[0].graph.relations.values()}


def test_views_without_a_time_are_the_leak_that_the_guide_says(shop):
    folder, _ = shop
    text = next(text for text in blocks(DOCS / "guides" / "behaviours-and-time.md", "toml") if "viewed_at" in text)
    raw = with_fragment(text.replace('time = "viewed_at"\n', ""))
    config = StudyConfig.model_validate(raw)
    with pytest.raises(rr.LeakError, match="viewed"):
        rr.run_study(config, rr.prepare(config, folder), folder / "runs" / "leaking")


def test_messages_are_those_of_the_tests_of_mistakes():
    """Word for word; a message may be shown without its last lines."""
    source = (ROOT / "tests" / "study" / "test_mistakes.py").read_text(encoding="utf-8")
    for block in blocks(DOCS / "messages.md", "text"):
        for line in block.splitlines():
            assert line.strip() in source, block


# the site


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_of_the_pages_lead_to_files(page):
    """In the repository, where generated pages are the only ones that are not there."""
    generated = {DOCS / path for path in site_pages.generated()}
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)", page.read_text(encoding="utf-8"))
    targets = {link: (page.parent / link).resolve() for link in links if "://" not in link}
    assert [link for link, target in targets.items() if not target.exists() and target not in generated] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; warnings end the build."""
    folder = tmp_path_factory.mktemp("site")
    # with --quiet, warnings are not counted either
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, where its links lead, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a":
            self.links += [values["href"]] if values.get("href") else []
        else:
            self.loads += [values[key] for key in ("src", "href", "data", "srcset") if values.get(key)]


@pytest.fixture(scope="module")
def built(site) -> dict[Path, Page]:
    """All pages of the site."""
    return {file: Page(file.read_text(encoding="utf-8")) for file in site.rglob("*.html")}


def test_links_and_anchors_of_the_site_are_there(built):
    assert len(built) > 100
    broken = []
    for file, page in built.items():
        for link in page.links if file.name != "404.html" else ():  # whose links begin with the site's address
            path, anchor = urldefrag(link)
            target = (file.parent / unquote(path)).resolve() if path else file
            target = target / "index.html" if target.is_dir() else target
            known = built[target].anchors if target in built else {unquote(anchor)}
            if not urlsplit(path).scheme and not (target.exists() and (not anchor or unquote(anchor) in known)):
                broken.append((file.name, link))
    assert broken == []


def test_site_loads_nothing_from_elsewhere(site, built):
    loads = {address for page in built.values() for address in page.loads}
    assert {"../assets/site.css", "../assets/iframe-worker.js"} <= loads
    assert [a for a in loads if urlsplit(a).scheme not in ("", "data") or a.startswith("//")] == []
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"@import[^;]*|url\(\s*[\"']?(?:https?:)?//[^)]*", styles) == []


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_search_works_in_a_page_that_was_opened_as_a_file(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    requests, complaints = [], []
    with playwright.sync_playwright() as engine:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto((site / "tutorial" / "index.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.click("label.md-header__button[for=__search]")
        page.locator(".md-search__input").press_sequentially("half_life")
        found = page.locator(".md-search-result__item a").first
        found.wait_for(timeout=30_000)
        assert "study" in (found.get_attribute("href") or "")
        browser.close()
    assert [address for address in requests if not address.startswith(("file:", "data:"))] == []
    assert complaints == []
