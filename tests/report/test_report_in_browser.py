"""The page in Chromium: what fits where, explanations, copies and downloads, print, reloading."""

from __future__ import annotations

import csv
import io
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from handmade import crowded, empty, goodbooks, planted

from relrank.report import write_comparison, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
STUDIES = {"goodbooks": goodbooks, "planted": planted, "crowded": crowded, "empty": empty}
Visit = Callable[..., Page]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    paths = {name: write_report(make(), folder / f"{name}.html") for name, make in STUDIES.items()}
    return paths | {"two": write_comparison(goodbooks(), planted(), folder / "two.html")}


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Opens a page; at the end none may have asked for anything else or logged an error."""
    contexts, complaints, requests = [], [], []

    def go(path: Path, width: int = 1280, height: int = 800, **traits: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": height}, **traits)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith((path.as_uri(), "data:")) else requests.append(r.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None)
        page.goto(path.as_uri())
        page.wait_for_selector("body.ready")
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("blob:")] == []


def bottom(page: Page, selector: str) -> float:
    return float(page.evaluate(f"document.querySelector('{selector}').getBoundingClientRect().bottom + scrollY"))


@pytest.mark.parametrize("name", ["goodbooks", "planted"])
def test_the_decision_is_above_the_fold(visit: Visit, pages: dict[str, Path], name: str) -> None:
    page = visit(pages[name])
    for part in (".answer", ".decision", ".facts"):
        assert bottom(page, part) <= 800


@pytest.mark.parametrize("name", STUDIES)
def test_four_screens_before_the_appendix(visit: Visit, pages: dict[str, Path], name: str) -> None:
    page = visit(pages[name])
    assert page.evaluate("document.querySelector('#appendix').getBoundingClientRect().top") <= 3200


@pytest.mark.parametrize("name", [*STUDIES, "two"])
@pytest.mark.parametrize("width", [390, 800])
def test_no_page_is_wider_than_the_window(visit: Visit, pages: dict[str, Path], name: str, width: int) -> None:
    page = visit(pages[name], width=width)
    page.evaluate("document.querySelectorAll('details:not(.export)').forEach(fold => { fold.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_explanations_by_keyboard(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit(pages["goodbooks"])
    tip = page.locator("#tip")
    expect(tip).to_be_hidden()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == "Undecided":
            break
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("None of the others is shown")
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "term-undecided"
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.keyboard.press("Shift+Tab")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("within the margin")


def test_explanations_by_mouse_can_be_pointed_at(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit(pages["goodbooks"])
    page.get_by_role("button", name="Negligible").first.hover()
    tip = page.locator("#tip")
    expect(tip).to_be_visible()
    tip.hover()
    expect(tip).to_be_visible()
    page.locator(".answer").hover()
    expect(tip).to_be_hidden()


def test_explanations_by_touch_stay_inside_the_window(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit(pages["goodbooks"], width=390, height=844, has_touch=True, is_mobile=True)
    tip = page.locator("#tip")
    for term in page.locator(".facts .term").all():
        term.tap()
        expect(tip).to_be_visible()
        box = tip.bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        page.keyboard.press("Escape")  # it may lie over the next one
    page.locator(".facts .term").first.tap()
    expect(tip).to_be_visible()
    page.locator("h1").tap()
    expect(tip).to_be_hidden()


def saved(page: Page, name: str, kind: str) -> str:
    """What a button of a menu saves, as text."""
    holder = page.locator(f'[data-name="{name}"]').first
    holder.locator("summary", has_text="Export").first.click()
    with page.expect_download() as download:
        holder.get_by_role("button", name=f"Save {name} as {kind}", exact=True).click()
    page.keyboard.press("Escape")
    return Path(download.value.path()).read_text(encoding="utf-8")


def test_tables_are_saved_with_the_stored_values(visit: Visit, pages: dict[str, Path]) -> None:
    page, study = visit(pages["goodbooks"]), goodbooks()
    page.evaluate("document.querySelectorAll('details.fold').forEach(fold => { fold.open = true })")
    name = "Verdicts of relational-ease"
    stored = [row for row in study.verdicts.to_dicts() if row["model"] == "relational-ease"]
    rows = list(csv.DictReader(io.StringIO(saved(page, name, "CSV"))))
    assert list(rows[0]) == study.verdicts.columns
    assert len(rows) == len(stored) == 5
    for row, want in zip(rows, stored, strict=True):
        for column, value in want.items():
            found = row[column]
            assert (found == "") if value is None else (type(value)(found) == value), column
    lines = [line.strip("| ").split(" | ") for line in saved(page, name, "Markdown").splitlines()]
    assert lines[0] == study.verdicts.columns
    assert lines[1][lines[0].index("drop")] == "---:"
    assert float(lines[2][lines[0].index("drop")]) == pytest.approx(stored[0]["drop"], abs=5e-5)
    latex = saved(page, name, "LaTeX")
    assert latex.startswith("\\begin{tabular}{lll")
    cells = [line.removesuffix(" \\\\").split(" & ") for line in latex.splitlines() if line.endswith("\\\\")]
    assert [cell.replace("\\_", "_") for cell in cells[0]] == study.verdicts.columns
    assert [row[1].replace("\\_", "_") for row in cells[1:]] == [row["relation"] for row in stored]
    assert float(cells[1][cells[0].index("drop")]) == pytest.approx(stored[0]["drop"], abs=5e-5)


def test_awkward_texts_survive_export(visit: Visit, tmp_path: Path) -> None:
    evil = 'a "b", c|d\\e & 5 % of $x_1$ {z} #1 ~ ^'
    study = goodbooks()
    card = study.card | {"notices": [{"where": "it's", "message": evil, "count": 3}]}
    page = visit(write_report(replace(study, card=card), tmp_path / "p.html"))
    page.evaluate("document.querySelectorAll('details.fold').forEach(fold => { fold.open = true })")
    rows = list(csv.reader(io.StringIO(saved(page, "Notices", "CSV"))))
    assert rows == [["where", "message", "count"], ["it's", evil, "3"]]
    (line,) = saved(page, "Notices", "Markdown").splitlines()[2:]
    assert re.split(r"(?<!\\)\|", line)[2].strip().replace("\\|", "|").replace("\\\\", "\\") == evil
    assert (
        'a "b", c|d\\textbackslash{}e \\& 5 \\% of \\$x\\_1\\$ \\{z\\} \\#1 \\textasciitilde{} \\textasciicircum{}'
        in saved(page, "Notices", "LaTeX")
    )


def test_tables_are_copied(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit(pages["goodbooks"], permissions=["clipboard-read", "clipboard-write"])
    holder = page.locator('[data-name="Leaderboard"]')
    holder.locator("summary", has_text="Export").click()
    button = holder.get_by_role("button", name="Copy Leaderboard as CSV")
    button.click()
    expect(button).to_have_text("✓")
    rows = list(csv.DictReader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    best = next(row for row in goodbooks().leaderboard.to_dicts() if row["arm"] == "all")
    assert (rows[0]["model"], float(rows[0]["mean"])) == (best["model"], best["mean"])


SVG = "{http://www.w3.org/2000/svg}"


def test_every_kind_of_plot_is_saved(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit(pages["goodbooks"])
    page.evaluate("document.querySelectorAll('details:not(.export)').forEach(fold => { fold.open = true })")
    names = page.locator("[data-plot]").evaluate_all("plots => plots.map(plot => plot.dataset.name)")
    assert {"How much each relation adds", "The plan", "Leaderboard", "Accuracy against novelty"} <= set(names)
    picture = ET.fromstring(saved(page, "How much each relation adds", "SVG"))
    said = " ".join(text.text or "" for text in picture.iter(f"{SVG}text"))
    for words in ("has_tag", "beside the others", "+.0072", "+5 %"):
        assert words in said
    assert len(list(picture.iter(f"{SVG}circle"))) == 1 + 2 * 5
    assert not list(picture.iter(f"{SVG}foreignObject"))
    figure = page.locator('[data-name="The plan"]')
    figure.locator("summary", has_text="Export").click()
    with page.expect_download() as download:
        figure.get_by_role("button", name="Save The plan as PNG").click()
    png = Path(download.value.path()).read_bytes()
    assert png.startswith(b"\x89PNG")
    box = figure.bounding_box()
    assert box is not None
    assert int.from_bytes(png[16:20], "big") == pytest.approx(2 * (box["width"] + 32), abs=4)  # two per pixel
    assert len(png) > 10_000, "not an empty picture"


def test_a_link_opens_the_fold(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit(pages["goodbooks"])
    fold = page.locator("#audit > details")
    assert not fold.evaluate("fold => fold.open")
    page.get_by_role("link", name="Audit", exact=True).click()
    page.wait_for_function("document.querySelector('#audit > details').open")


def test_print_opens_all_folds_and_closes_them_again(visit: Visit, pages: dict[str, Path]) -> None:
    page = visit(pages["goodbooks"])
    count = "document.querySelectorAll('details[open]').length"
    before = page.evaluate(count)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not(.export):not([open])').length") == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(count) == before
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF")


@pytest.mark.parametrize("name", [*STUDIES, "two"])
def test_paper_is_wide_enough(visit: Visit, pages: dict[str, Path], name: str) -> None:
    """What is wider than the paper makes the browser print everything smaller."""
    page = visit(pages[name], width=703)  # A4 without the margins
    page.emulate_media(media="print")
    page.evaluate("document.querySelectorAll('details:not(.export)').forEach(fold => { fold.open = true })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 703
    sizes = page.evaluate(
        "[...document.querySelectorAll('p, td, th, li, dd, svg text')].filter(e => e.textContent.trim() && "
        "e.checkVisibility()).map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 8.5, "CSS pixels: 6.4 points"


def test_an_open_page_follows_a_running_study(visit: Visit, tmp_path: Path) -> None:
    study, path = goodbooks(), tmp_path / "p.html"

    def running(done: int) -> None:
        progress = {"cells_done": done, "cells_total": 44, "seconds_left": 170.0}
        write_report(replace(study, card=study.card | {"progress": progress}), path, refresh=1)

    running(12)
    page = visit(path)
    expect(page.locator(".provisional")).to_contain_text("12 of 44 cells, about 3 min left")
    page.evaluate("document.querySelector('#data > details').open = true; scrollTo(0, 1234)")
    running(13)
    expect(page.locator(".provisional")).to_contain_text("13 of 44 cells")
    page.wait_for_function("document.body.classList.contains('ready')")
    assert page.evaluate("document.querySelector('#data > details').open")
    assert page.evaluate("scrollY") == 1234
    write_report(study, path, refresh=1)
    expect(page.locator(".provisional")).to_have_count(0)
    page.wait_for_function("document.body.classList.contains('ready')")
    assert page.evaluate("document.body.dataset.refresh") is None, "a finished study does not reload"
    assert page.evaluate("scrollY") == 1234
