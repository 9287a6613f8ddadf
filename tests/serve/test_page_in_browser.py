"""The page in Chromium, with a real server, on a run whose lists are known."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from library import library
from shelf import AUTHORS, FITTED, HOSTILE, MOST, TITLES, WRITTEN, chosen, shelf, titles

from relrank.models.closed_form.item_knn import ItemKNN
from relrank.models.closed_form.relational_ease import RelationalEASE, RelationalEASEConfig
from relrank.runs.fitted_run import FittedRun

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra serve")
playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
from playwright.sync_api import Browser, Locator, Page, expect  # noqa: E402

from relrank.serve.app import PAGE, make_app  # noqa: E402
from relrank.serve.service import Service  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def fitted() -> FittedRun:
    return shelf()


@contextmanager
def serving(app: Any) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture(scope="module")
def service(fitted: FittedRun) -> Service:
    knn = replace(
        fitted, model=ItemKNN(fitted.graph).solve(), note=fitted.note | {"model": "item-knn", "arm": "interactions"}
    )
    return Service({"shelf": fitted, "neighbours": knn})


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with serving(make_app(service)) as at:
        yield at


Visit = Callable[..., Page]


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """Opens the page; at the end no page may have contacted another server or logged an error."""
    contexts, complaints, strangers = [], [], []

    def go(
        state: str = "", width: int = 1280, at: str = address, script: str = "", may_fail: bool = False, **traits: Any
    ) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 844}, **traits)
        context.set_default_timeout(60_000)  # milliseconds, as for assertions
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda r: None if r.url.startswith((at, "data:")) else strangers.append(r.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        if not may_fail:  # Chromium logs every response of 400 and above
            page.on(
                "console", lambda line: complaints.append(line.text) if line.type in ("error", "warning") else None
            )
        if script:
            page.add_init_script(script)
        page.goto(at + state)
        page.wait_for_selector("body.ready")
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []
    assert strangers == []


def names(page: Page, column: int = 0) -> Locator:
    return page.locator(".column").nth(column).locator(".name")


def shown(page: Page, column: int = 0) -> list[str]:
    return names(page, column).all_text_contents()


def expect_hash(page: Page, wanted: str) -> None:
    expect(page).to_have_url(page.url.split("#")[0] + wanted)


def pick(page: Page, text: str) -> None:
    """With the keyboard only: type, arrow down, Enter.

    The text is one event: of single keys, slow ones, each would start a search that takes the selection away again.
    """
    field = page.get_by_role("combobox", name="What they chose, by title")
    field.focus()
    page.keyboard.insert_text(text)
    expect(page.locator("#titles [role=option]").first).to_contain_text(text, ignore_case=True)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")


def test_it_opens_with_an_example_that_one_click_clears(visit: Visit, fitted: FittedRun) -> None:
    page = visit()
    example = Service({"shelf": fitted}).runs()["runs"][0]["example"]["items"]
    ids = [item["item"] for item in example]
    expect(names(page)).to_have_text(titles(fitted, ids))
    expect(page.locator("#history li > span")).to_have_text([item["title"] for item in example])
    expect(page.locator("#example")).to_have_text("An example: 4 books that one user chose.")
    expect(page.locator(".column h2")).to_have_text("Books for this history an example")
    expect_hash(page, "#run=shelf" + "".join(f"&item={item}" for item in ids))
    page.get_by_role("button", name="Clear the example").click()
    expect(page.locator(".nothing")).to_contain_text("Search for a book")
    expect(page.locator("#example")).to_be_hidden()
    expect(page.locator("#title")).to_be_focused()
    expect_hash(page, "#run=shelf")
    page.reload()
    expect(page.locator(".nothing")).to_contain_text("Search for a book")
    page.get_by_role("button", name="Show an example").click()
    expect(names(page)).to_have_text(titles(fitted, ids))
    page.locator("#history button").first.click()
    expect(names(page)).to_have_text(titles(fitted, ids[1:]))
    expect(page.locator("#example")).to_be_hidden()
    expect(page.get_by_role("button", name="Remove all")).to_be_visible()


def test_a_catalogue_without_titles_and_attributes_opens_too(visit: Visit) -> None:
    run = library()
    bare = replace(run, titles=run.titles.with_columns(title=pl.lit(None, pl.String)), graph=run.graph.only())
    model = ItemKNN(bare.graph).solve()
    service = Service({"bare": replace(bare, model=model)})
    with serving(make_app(service)) as at:
        page = visit(at=at)
        example = service.runs()["runs"][0]["example"]["items"]
        expect(page.locator("#history li > span")).to_have_text([str(item["item"]) for item in example])
        expect(names(page)).to_have_count(10)
        expect(page.locator(".traits")).to_have_count(0)


def test_attributes_stand_beside_titles(visit: Visit, fitted: FittedRun) -> None:
    page = visit("#item=1")
    wanted = [
        f"written by {AUTHORS[WRITTEN[at]]}stands on {'ab'[at % 2]}" for at in map(TITLES.index, titles(fitted, [1]))
    ]
    expect(page.locator(".row .traits")).to_have_text(wanted)
    page.locator("#title").click()
    page.keyboard.type("quiet")
    expect(page.locator("#titles [role=option]")).to_have_text(["A Quiet Riverwritten by Cystands on b"])


def test_history_typed_by_keyboard_gives_the_models_own_list(visit: Visit, fitted: FittedRun) -> None:
    page = visit("#run=shelf")
    expect(page.locator(".nothing")).to_contain_text("Search for a book")
    pick(page, "north st")
    expect(names(page)).to_have_text(titles(fitted, [1]))
    pick(page, "long ro")
    expect(names(page)).to_have_text(titles(fitted, [1, 5]))
    expect(page.locator("#history li > span")).to_have_text(["North Star", "The Long Road"])
    expect_hash(page, "#run=shelf&item=1&item=5")
    expect(page.locator(".place")).to_have_text([str(n) for n in range(1, 11)])
    assert titles(fitted, [1]) != titles(fitted, [1, 5]) != titles(fitted, [5])


def test_type_ahead_tells_what_is_chosen_and_escape_closes(visit: Visit) -> None:
    page = visit("#run=shelf")
    field = page.locator("#title")
    field.focus()
    page.keyboard.insert_text("north")
    options = page.locator("#titles [role=option]")
    expect(options).to_have_count(2)
    expect(field).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(field).to_have_attribute("aria-activedescendant", "titles-1")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowDown")  # round again
    expect(field).to_have_attribute("aria-activedescendant", "titles-0")
    page.keyboard.press("Escape")
    expect(field).to_have_attribute("aria-expanded", "false")
    expect(page.locator("#titles")).to_be_hidden()
    expect(field).to_have_value("north")
    page.keyboard.press("Escape")
    expect(field).to_have_value("")
    page.keyboard.insert_text("zzz")
    expect(page.locator("#titles")).to_have_text("Nothing found")


def test_chip_is_removed_by_keyboard_and_focus_stays(visit: Visit, fitted: FittedRun) -> None:
    page = visit("#item=1&item=5&item=9")
    expect(page.locator("#history li")).to_have_count(3)
    expect(page.locator("#history li > span").nth(2)).to_have_text("Winter Maps")
    page.locator("#title").focus()
    page.keyboard.press("Backspace")  # in an empty field: to the last chip
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("button", name="Remove The Long Road")).to_be_focused()
    page.keyboard.press("Enter")
    expect(names(page)).to_have_text(titles(fitted, [1, 9]))
    expect(page.get_by_role("button", name="Remove Winter Maps")).to_be_focused()
    page.keyboard.press("Delete")
    page.keyboard.press("Delete")
    expect(page.locator(".nothing")).to_be_visible()
    expect(page.locator("#title")).to_be_focused()


def test_slider_moves_the_list_to_that_of_a_model_solved_anew(visit: Visit, fitted: FittedRun) -> None:
    before, after = titles(fitted, [1]), titles(shelf({"written_by": MOST}), [1])
    assert before.index("North Wind") > 1  # nobody chose it with North Star
    assert after[0] == "North Wind"  # but it has the same author
    page = visit("#item=1")
    expect(names(page)).to_have_text(before)
    slider = page.get_by_role("slider", name="written_by")
    expect(slider).to_have_attribute("aria-valuetext", "× 1, 0.5 pseudo-users, as fitted")
    expect(page.locator("#unit")).to_contain_text(
        "× 1 is the fitted weight, × 2 twice that; the unit is pseudo-users."
    )
    slider.focus()
    page.keyboard.press("End")
    expect(names(page)).to_have_text(after)
    expect(slider).to_have_attribute("aria-valuetext", "× 32, 16 pseudo-users")
    expect(page.locator(".slider output").first).to_have_text("× 32, 16 pseudo-users")
    expect_hash(page, "#run=shelf&item=1&weight=written_by%3A16")
    marks = dict(zip(shown(page), page.locator(".marks").all_text_contents(), strict=True))
    for place, title in enumerate(after):
        by = before.index(title) - place if title in before else None
        said = "▲ " if by is None or by > 0 else "▼ " if by < 0 else "= "
        assert marks[title].startswith(said), (title, marks[title])
        if by:
            assert marks[title] == f"{said}{abs(by)} place{'s' if abs(by) > 1 else ''} {'up' if by > 0 else 'down'}"
    expect(page.locator("#moved")).to_contain_text("Against the fitted weights: ")
    page.get_by_role("button", name="Reset to × 1, as fitted").click()
    expect(names(page)).to_have_text(before)
    expect(page.locator(".marks")).to_have_text([""] * len(before))
    expect(slider).to_have_attribute("aria-valuetext", "× 1, 0.5 pseudo-users, as fitted")
    expect_hash(page, "#run=shelf&item=1")


HELD = """
const real = window.fetch; window.now = 0; window.most = 0; window.asked = []; window.refreshes = 0;
const gate = new Promise((open) => (window.open_gate = open));
window.fetch = async (at, how) => {
  if (!how?.body?.includes('"weights"')) {  // each refresh asks for the fitted list once
    window.refreshes += String(at).endsWith("/recommend");
    return real(at, how);
  }
  window.most = Math.max(window.most, ++window.now); window.asked.push(JSON.parse(how.body).weights);
  await gate;
  return real(at, how).finally(() => (window.now -= 1));
};
"""


def test_a_model_that_solves_slowly_is_asked_once_at_a_time(visit: Visit) -> None:
    page = visit("#item=1", script=HELD)
    expect(names(page)).to_have_count(10)
    page.get_by_role("slider", name="written_by").focus()
    for n, key in enumerate(("ArrowRight", "ArrowRight", "End"), 2):
        page.keyboard.press(key)
        page.wait_for_function("n => window.refreshes === n", arg=n)  # the page has debounced this key alone
        expect(page.locator("#moved")).to_contain_text("Computing")
        expect(page.locator(".column")).to_have_attribute("aria-busy", "true")
    assert page.evaluate("window.asked") == [{"written_by": 0.707}]
    page.evaluate("window.open_gate()")
    expect(names(page)).to_have_text(titles(shelf({"written_by": MOST}), [1]))
    expect(page.locator(".column")).to_have_attribute("aria-busy", "false")
    assert page.evaluate("window.asked") == [
        {"written_by": 0.707},
        {"written_by": MOST},
    ]  # the positions between are not announced
    assert page.evaluate("window.most") == 1


def test_reasons_open_by_keyboard_and_say_what_the_model_says(visit: Visit) -> None:
    page = visit("#item=1&item=9")
    expect(names(page)).to_have_count(10)
    row = page.locator(".row").filter(has_text="North Wind")
    why, reasons = row.locator(".why"), row.locator(".reason")

    def check(weights: dict[str, float] | None) -> list[int]:
        question = {"history": [1, 9], "item": 3, "weights": weights}
        answer = page.request.post(page.url.split("#")[0] + "explain", data=question).json()
        assert "written_by" in {reason["relation"] for reason in answer["reasons"]}
        expect(reasons).to_have_count(len(answer["reasons"]))
        expect(reasons.locator(".ranks b:first-child")).to_have_text([f"{answer['rank']:g}"] * reasons.count())
        for at, reason in enumerate(answer["reasons"]):
            one = reasons.nth(at)
            assert one.locator(".sentence").text_content() == reason["sentence"]
            assert one.locator(".via").text_content() == reason["via"]["title"]
            assert one.locator(".step").first.text_content() == f"→ {reason['relation']}"
            assert one.locator(".ranks b").nth(1).text_content() == f"{reason['rank_after_removal']:g}"
            assert one.locator(".chip").text_content() == ("exact" if reason["exact"] else "by deletion")
        return [reason["rank_after_removal"] for reason in answer["reasons"]]

    expect(why).to_have_attribute("aria-expanded", "false")
    why.focus()
    page.keyboard.press("Enter")
    expect(why).to_have_attribute("aria-expanded", "true")
    assert min(check(None)) > 5
    slider = page.get_by_role("slider", name="written_by")
    slider.focus()
    page.keyboard.press("End")
    expect(names(page).first).to_have_text("North Wind")
    check({"written_by": MOST})  # the row stays open, with reasons under the new weights
    row.get_by_role("button", name="Only items with Ada").click()
    expect(names(page)).to_have_text(["North Wind"])
    expect(page.locator("#with li > span")).to_have_text("written_by: Ada")
    why.focus()
    page.keyboard.press("Enter")
    expect(reasons.first).to_be_hidden()


def test_titles_are_text_wherever_they_stand(visit: Visit) -> None:
    page = visit("#item=1")
    expect(names(page).filter(has_text="<img")).to_have_text(HOSTILE)
    page.get_by_role("button", name=f"Why {HOSTILE}").click()
    page.get_by_role("button", name=f"Add {HOSTILE}").click()
    expect(page.locator("#history li > span").nth(1)).to_have_text(HOSTILE)
    expect(names(page).filter(has_text="<img")).to_have_count(0)  # the new list is there: nothing moves the focus now
    page.locator("#title").focus()
    page.keyboard.insert_text("bold")
    expect(page.locator("#titles")).to_have_text("Nothing found")  # it is in the history already
    page.locator("#history button").nth(1).click()
    page.locator("#title").fill("onerror")
    expect(page.locator("#titles [role=option]")).to_have_text(f"{HOSTILE}written by Benstands on b")
    page.goto(page.url.split("#")[0] + "#with=" + "written_by:%3Cimg src=y onerror=window.broken=2%3E")
    expect(page.locator("#with li > span")).to_have_text("written_by: <img src=y onerror=window.broken=2>")
    assert page.locator("img, b:not(.reason b)").count() == 0
    assert page.evaluate("window.broken") is None


def test_filters_leave_what_they_say(visit: Visit, fitted: FittedRun) -> None:
    page = visit("#item=1")
    page.locator("#relation").select_option("written_by")
    page.locator("#value").fill("Ben")
    page.keyboard.press("Enter")
    of_ben = [title for title in titles(fitted, [1], 14) if WRITTEN[TITLES.index(title)] == AUTHORS.index("Ben")]
    expect(names(page)).to_have_text(of_ben)
    field = page.locator("#value")
    field.click()
    expect(page.locator("#values [role=option]")).to_have_text(["Ben (6)", "Cy (6)", "Ada (2)"])
    field.fill("a")
    expect(page.locator("#values [role=option]")).to_have_text(["Ada (2)"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".nothing")).to_be_visible()  # nobody writes as two
    page.locator("#with button").last.press("Delete")
    expect(names(page)).to_have_text(of_ben)
    page.locator("#with button").press("Delete")
    expect(names(page)).to_have_text(titles(fitted, [1]))
    page.locator("#value").fill("Ada")
    page.locator("#value").press("Enter")
    expect(names(page)).to_have_text(["North Wind"])
    page.locator("#exclude").uncheck()
    expect(names(page)).to_have_count(2)


def test_more_goes_on_where_the_list_ended(visit: Visit, fitted: FittedRun) -> None:
    page = visit("#item=1")
    page.get_by_role("button", name="More").click()
    expect(names(page)).to_have_text(titles(fitted, [1], 14))
    expect(page.locator(".place")).to_have_text([str(n) for n in range(1, 14)])
    expect(page.get_by_role("button", name="More")).to_have_count(0)
    expect(page.locator(".column > .note")).to_have_text("13 of 13 books")


def test_two_runs_stand_side_by_side_and_mark_what_they_share(
    visit: Visit, fitted: FittedRun, service: Service
) -> None:
    page = visit("#item=1&item=5")
    page.locator("#compare-with").select_option("neighbours")
    lists = [titles(fitted, [1, 5]), titles(service.served("neighbours").run, [1, 5])]
    for column, wanted in enumerate(lists):
        expect(names(page, column)).to_have_text(wanted)
        other = lists[1 - column]
        marks = page.locator(".column").nth(column).locator(".marks")
        expect(marks).to_have_text(
            [f"in both, there at {other.index(t) + 1}" if t in other else "only here" for t in wanted]
        )
    expect(page.locator(".column h2")).to_have_text(["shelf ", "neighbours "])
    boxes = [page.locator(".column").nth(column).bounding_box() for column in (0, 1)]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    expect(page.locator("#weights")).to_be_visible()
    page.locator("#run").select_option("neighbours")  # its weights are fixed
    expect(page.locator("#weights")).to_be_hidden()
    expect(names(page)).to_have_text(lists[1])


def test_a_known_user_is_found_and_becomes_a_history(visit: Visit, fitted: FittedRun) -> None:
    page = visit()
    page.get_by_label("A known user").check()
    page.get_by_role("button", name="100", exact=True).click()
    expect(names(page)).to_have_text(fitted.recommend(100)["title"].to_list())
    field = page.get_by_role("combobox", name="User")
    field.fill("11")
    expect(page.locator("#users [role=option]")).to_have_count(8)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(names(page)).to_have_text(fitted.recommend(111)["title"].to_list())
    expect_hash(page, "#run=shelf&user=111")
    expect(page.locator("#chose summary")).to_have_text("What they chose (3)")
    page.locator("#chose summary").click()
    page.get_by_role("button", name="Edit as a history").click()
    expect(page.locator("#history li > span")).to_have_text([TITLES[item] for user, item in chosen() if user == 11])
    page.go_back()
    expect(field).to_have_value("111")


def test_awkward_ids_find_their_way(visit: Visit) -> None:
    run = library()
    with serving(make_app(Service({"library / 1": run}))) as at:
        page = visit("#user=a%2Fb+c%3F", at=at)
        expect(page.locator(".row")).to_have_count(10)
        best = run.recommend("a/b c?")
        wanted = [title or str(item) for title, item in best.select("title", "item").rows()]
        expect(names(page)).to_have_text(wanted)
        expect(page.locator("h2").first).to_have_text("Books for user a/b c? ")
        expect(page.locator("#chose summary")).to_have_text("What they chose (8)")
        page.locator(".why").first.click()
        expect(page.locator(".reasons").first.locator(".note").first).to_contain_text("Place 1 of all")
        page.locator("#relation").select_option("has_genre")
        for value in ("poems: old", "x/y"):
            page.locator("#value").fill(value)
            page.locator("#value").press("Enter")
            expect(page.locator("#with li > span").last).to_have_text(f"has_genre: {value}")
        expect(page.locator(".nothing")).to_have_text("Nothing is left with this filter.")
        page.reload()
        expect(page.locator("#with li > span")).to_have_text(["has_genre: poems: old", "has_genre: x/y"])


def test_an_unknown_user_is_named_with_what_was_expected(visit: Visit) -> None:
    page = visit("#user=nobody", may_fail=True)
    box = page.get_by_role("alert")
    expect(box).to_contain_text("unknown user")
    expect(box).to_contain_text("Expected")
    expect(box).to_contain_text("one of 35 users")
    expect(box).to_contain_text("'nobody'")
    page.locator("#user").fill("100")
    page.keyboard.press("Enter")
    expect(names(page)).to_have_count(10)
    expect(box).to_have_count(0)


def test_a_server_that_does_not_answer_is_said_and_asked_again(visit: Visit) -> None:
    page = visit("#item=1", may_fail=True)
    expect(names(page)).to_have_count(10)
    page.route("**/recommend", lambda route: route.abort())
    page.locator("#exclude").uncheck()
    expect(page.get_by_role("alert")).to_contain_text("no answer from the server")
    page.unroute("**/recommend")
    page.get_by_role("button", name="Try again").click()
    expect(names(page)).to_have_count(10)


def test_an_address_brings_back_everything(visit: Visit) -> None:
    state = "#run=shelf&item=1&item=5&with=stands_on%3Aa&weight=written_by%3A16&compare_with=neighbours&seen=shown"
    page = visit(state)
    wanted = [t for t in titles_with_seen(shelf({"written_by": MOST}), [1, 5]) if TITLES.index(t) % 2 == 0]
    expect(names(page)).to_have_text(wanted)
    expect(page.locator("#history li > span")).to_have_text(["North Star", "The Long Road"])
    expect(page.locator("#with li > span")).to_have_text(["stands_on: a"])
    slider = page.get_by_role("slider", name="written_by")
    expect(slider).to_have_attribute("aria-valuetext", "× 32, 16 pseudo-users")
    expect(page.locator("#compare-with")).to_have_value("neighbours")
    expect(page.locator("#exclude")).not_to_be_checked()
    expect_hash(page, state)


def titles_with_seen(run: FittedRun, history: list[int]) -> list[str]:
    scores = run.model.fold_in([torch.tensor([item - 1 for item in history])])[0].numpy()
    return [TITLES[row] for row in np.argsort(-scores, kind="stable")]


def test_a_token_is_asked_for_once_and_kept_for_the_tab(visit: Visit, service: Service) -> None:
    with serving(make_app(service, token="open sesame")) as at:
        page = visit(
            "#item=1",
            at=at,
            script="addEventListener('load', () => document.body.classList.add('ready'))",
            may_fail=True,
        )
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#token-note")).to_contain_text("not accepted")
        field.fill("open sesame")
        page.keyboard.press("Enter")
        expect(names(page)).to_have_count(10)
        page.reload()
        expect(names(page)).to_have_count(10)
        expect(page.locator("#token")).to_be_hidden()
        assert "sesame" not in page.url


CONTRAST = """() => {
  const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
  const linear = (v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const light = (rgb) => { const [r, g, b] = rgb.map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = numbers(getComputedStyle(node).backgroundColor);
      if ((color[3] ?? 1) > .5) return color;
    }
    return [255, 255, 255];
  };
  const bad = [], left_out = ".hidden, [disabled], script, style, noscript, option, .skip";
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement, text = walk.currentNode.data.trim();
    if (!text || !node.checkVisibility() || node.closest(left_out)) continue;
    const both = [light(numbers(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    const ratio = (both[0] + .05) / (both[1] + .05);
    if (ratio < 4.5) bad.push([node.className || node.tagName, text.slice(0, 30), ratio.toFixed(2)]);
  }
  return bad;
}"""
STICK_OUT = """() => [...document.querySelectorAll("main *:not(.hidden)")]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.outerHTML.slice(0, 90))"""
SMALL = """() => [...document.querySelectorAll("button, select, input:not([type=radio]):not([type=checkbox])")]
  .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 24)
  .map((e) => e.outerHTML.slice(0, 90))"""
NAMELESS = """() => [...document.querySelectorAll("input, select, button")]
  .filter((e) => e.checkVisibility() && !(e.labels?.length || e.textContent.trim() || e.ariaLabel))
  .map((e) => e.outerHTML.slice(0, 90))"""
RING = """() => {
  const focused = document.activeElement;
  const shown = focused.matches("[type=radio]") ? focused.nextElementSibling : focused;
  const style = getComputedStyle(shown);
  return [focused.outerHTML.slice(0, 90), style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2];
}"""
GLIDES = """
const real = Element.prototype.animate; window.glides = 0;
Element.prototype.animate = function (...given) { window.glides += 1; return real.apply(this, given); };
"""


def open_everything(page: Page) -> None:
    expect(page.locator("[aria-busy=true]")).to_have_count(0)
    for panel in page.locator("details.panel:visible").all():
        if panel.get_attribute("open") is None:
            panel.locator("summary").first.click()
    page.locator(".why").first.click()
    expect(page.locator(".reason").first).to_be_visible()
    page.wait_for_load_state("networkidle")


def check_fit(page: Page, width: int) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(STICK_OUT) == []
    assert page.evaluate(SMALL) == []  # WCAG 2.5.8: targets of 24 pixels at least


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_nothing_sticks_out_sideways(visit: Visit, width: int) -> None:
    page = visit("#item=1&item=4&weight=written_by%3A16&compare_with=neighbours&with=stands_on%3Aa", width=width)
    expect(names(page).first).to_be_visible()
    open_everything(page)
    check_fit(page, width)


LONG = "linked_with_the_person_or_the_organisation_that_is_named_first_on_its_cover"


def long_names(run: FittedRun) -> FittedRun:
    """The same run with titles and values without a blank, and long names of a relation and of columns."""
    graph = replace(run.graph, relations={LONG: replace(run.graph.relations["written_by"], name=LONG)})
    attributes = {f"column:{letter * 70}": [letter * 39 + str(i % 3) for i in range(14)] for letter in "qvw"}
    return replace(
        run,
        graph=graph,
        model=RelationalEASE(graph, RelationalEASEConfig(l2=5.0, weights={LONG: FITTED})).solve(),
        titles=run.titles.with_columns(title=pl.Series([f"{i:x>80}" for i in range(14)])),
        item_attributes=pl.DataFrame(attributes | {f"relation:{LONG}": [[AUTHORS[of] * 12] for of in WRITTEN]}),
    )


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_long_titles_attributes_and_names_of_relations_do_not_either(
    visit: Visit, fitted: FittedRun, width: int
) -> None:
    with serving(make_app(Service({"a-name-of-a-study-that-says-everything-about-it": long_names(fitted)}))) as at:
        page = visit(at=at, width=width)
        expect(names(page)).to_have_count(10)
        expect(page.locator(".row").first.locator(".trait")).to_have_count(4)
        open_everything(page)
        check_fit(page, width)
        page.locator("#title").fill("x")
        expect(page.locator("#titles [role=option]")).to_have_count(8)
        check_fit(page, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_at_least_wcag_aa(visit: Visit, scheme: str) -> None:
    page = visit(
        "#item=1&item=4&weight=written_by%3A16&compare_with=neighbours", color_scheme=scheme, reduced_motion="reduce"
    )
    expect(names(page).first).to_be_visible()
    expect(page.locator(".chip.up").first).to_be_visible()
    open_everything(page)
    assert page.evaluate(CONTRAST) == []
    page.locator("#title").fill("the")
    expect(page.locator("#titles [role=option]").first).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#titles [aria-selected=true]")).to_have_count(1)
    assert page.evaluate(CONTRAST) == []
    assert (page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)") == (
        scheme == "light"
    )


def test_motion_is_left_out_where_it_is_not_wanted(visit: Visit) -> None:
    for wanted, moves in (("no-preference", True), ("reduce", False)):
        page = visit("#item=1", reduced_motion=wanted, script=GLIDES)
        expect(names(page)).to_have_count(10)
        page.get_by_role("slider", name="written_by").focus()
        page.keyboard.press("End")
        expect(names(page).first).to_have_text("North Wind")
        assert (page.evaluate("window.glides") > 0) == moves


def test_every_control_has_a_name_and_shows_its_focus(visit: Visit) -> None:
    page = visit("#item=1&compare_with=neighbours")
    for column in range(2):  # once all is drawn, no control comes or goes
        expect(names(page, column)).to_have_count(10)
    page.wait_for_load_state("networkidle")
    assert page.evaluate(NAMELESS) == []
    stops = []
    while not (stops and stops[-1][0].startswith("<body")):  # after the last control
        page.keyboard.press("Tab")
        stops.append(tuple(page.evaluate(RING)))
        assert len(stops) < 200
    assert [control for control, ringed in stops[:-1] if not ringed] == []
    assert len(stops) > 2 * 2 * 10  # each row of both columns has two


def operation(page: Page, name: str) -> Locator:
    box = page.locator(f"#{name}")
    box.locator("summary").first.click()
    expect(box.locator("form")).to_be_visible()
    return box


def test_every_operation_of_the_api_can_be_tried(visit: Visit, address: str) -> None:
    page = visit("docs")
    described = page.request.get(address + "openapi.json").json()["paths"]
    wanted = [f"{method.upper()} {path}" for path, methods in described.items() for method in methods]
    shown = page.locator(".operation > summary")
    expect(shown).to_have_text([re.compile("^" + re.escape(name) + r"\s") for name in wanted])
    for box in page.locator(".operation").all():
        box.locator("summary").first.click()
        box.get_by_role("button", name="Send").click()
        expect(box.locator(".answer .chip")).to_have_text("200 OK")  # with the examples that are filled in


def test_a_request_is_changed_sent_and_given_as_curl(visit: Visit, address: str, service: Service) -> None:
    page = visit("docs", may_fail=True)
    box = operation(page, "get-recommend-user")
    box.get_by_label("user").fill("a/b c'?")
    expect(box.locator("pre").first).to_have_text(f"curl '{address}recommend/a%2Fb%20c'\\''%3F'")
    box.get_by_role("button", name="Send").click()
    expect(box.locator(".answer .chip")).to_have_text("404 Not Found")
    expect(box.locator(".answer pre")).to_contain_text('"message": "unknown user"')
    box.get_by_label("user").fill("100")
    box.get_by_label("k", exact=True).fill("3")
    box.get_by_label("exclude_seen").select_option("false")
    box.get_by_label("with", exact=True).fill("written_by:Ben\nstands_on:b")
    asked = "k=3&exclude_seen=false&with=written_by%3ABen&with=stands_on%3Ab"
    expect(box.locator("pre").first).to_have_text(f"curl '{address}recommend/100?{asked}'")
    box.get_by_role("button", name="Send").click()
    wanted = service.recommend(
        user=100, k=3, exclude_seen=False, filters=[("written_by", "Ben"), ("stands_on", "b")]
    )["items"]
    for item in wanted:
        expect(box.locator(".answer pre")).to_contain_text(json.dumps(item["title"]))
    box = operation(page, "post-recommend")
    box.get_by_label("Example").select_option("Only some items")
    body = box.get_by_label("Body, as JSON")
    expect(body).to_have_value(re.compile('"relation": "stands_on"'))
    body.fill('{"history": [1], "k": 2}')
    lines = [f"curl -X POST '{address}recommend' \\", "-H 'Content-Type: application/json' \\"]
    expect(box.locator("pre").first).to_have_text(" ".join([*lines, '-d \'{"history": [1], "k": 2}\'']))
    box.get_by_role("button", name="Send").click()
    expect(box.locator(".answer .chip")).to_have_text("200 OK")
    expect(box.locator(".answer pre")).to_contain_text('"k": 2')
    body.fill("{")
    box.get_by_role("button", name="Send").click()
    expect(box.locator(".answer .chip")).to_have_text("400 Bad Request")
    box.get_by_text("Fields of the body").click()
    expect(box.locator(".fields").first.locator("td code")).to_contain_text(["history", "user"])
    expect(box.locator(".fields").first).to_contain_text("Ids of items, oldest first")


def test_the_api_page_asks_for_the_token(visit: Visit, service: Service) -> None:
    with serving(make_app(service, token="open sesame")) as at:
        ready = "addEventListener('load', () => document.body.classList.add('ready'))"
        page = visit("docs", at=at, script=ready, may_fail=True)
        page.get_by_label("Token", exact=True).fill("open sesame")
        page.keyboard.press("Enter")
        box = operation(page, "get-users")
        box.get_by_role("button", name="Send").click()
        expect(box.locator(".answer .chip")).to_have_text("200 OK")
        expect(box.locator("pre").first).to_contain_text('-H "Authorization: Bearer $TOKEN"')
        expect(page.locator("body")).not_to_contain_text("sesame")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_api_page_fits_and_has_contrast(visit: Visit, width: int, scheme: str) -> None:
    page = visit("docs", width=width, color_scheme=scheme)
    for name in ("get-explain-user-item", "post-recommend"):
        box = operation(page, name)
        box.get_by_role("button", name="Send").click()
        expect(box.locator(".answer .chip")).to_have_text("200 OK")
        for more in box.locator(".fields > summary").all():
            more.click()
    check_fit(page, width)
    assert page.evaluate(CONTRAST) == []
    assert page.evaluate(NAMELESS) == []


def test_a_strict_policy_is_enough() -> None:
    """No inline scripts or styles, no external resources, and no text becomes markup."""
    for page in ("index.html", "docs.html"):
        text = (PAGE / page).read_text()
        assert "Content-Security-Policy" in text
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|javascript:", text)
    for file in PAGE.iterdir():
        source = file.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", source
        ), file.name
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", source), file.name
