"""What a notebook shows: escaped HTML without resources, progress that ends, figures of the stored values."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from shop_frames import COLUMNS, SMALL, shop

import relrank as rr
from relrank.errors import InputError
from relrank.frames import figures, progress, views
from relrank.frames.progress import DisplayedProgress, progress_html, study_progress
from relrank.io import html
from relrank.study.cell import Cell
from relrank.study.number_format import duration
from relrank.study.progress import TimeLeft
from relrank.study.result import StudyResult

PURCHASES, PRODUCTS = shop()
BAD = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> rr.Study:
    relations = {"driver": SMALL["relations"]["driver"] | {"title": BAD}}
    settings = {**COLUMNS, **SMALL, "relations": relations, "nodes": {"product": PRODUCTS}}
    one = rr.Study(PURCHASES, **settings, title=BAD, out=tmp_path_factory.mktemp("display") / "shop")
    one.run(quiet=True)
    return one


def with_plan(result: StudyResult) -> StudyResult:
    """The result with a plan of two steps, of which the first is worth building."""
    step = {"relation": "driver", "alternatives": [], "rows": 40, "seconds": 0.1, "share": 0.9}
    numbers = {"adds": 0.05, "adds_low": 0.03, "adds_high": 0.07, "total": 0.05, "left": 0.0}
    numbers |= {"total_low": 0.03, "total_high": 0.07}
    second = numbers | {"adds": 0.001, "adds_low": -0.01, "adds_high": 0.012, "total": 0.051}
    steps = [step | numbers, step | second | {"relation": "echo"}]
    plan = {"model": "sparse-ease", "base": 0.2, "margin": 0.002, "build": 1, "enough": 1, "ends": "", "steps": steps}
    return replace(result, card={**result.card, "plan": plan})


def test_pages_are_escaped_and_need_nothing_from_elsewhere(done):
    shown = [done, done.result, with_plan(done.result), done.graph, done.winner, rr.Estimator("ease")]
    for one in shown:
        page = one._repr_html_()
        assert "<script" not in page, type(one)
        for outside in ("http:", "https:", "<style", "src=", "url("):
            assert outside not in page.replace("srcdoc=", ""), (type(one), outside)
    assert html.escaped(BAD) in done._repr_html_()
    assert html.escaped(BAD) in done.result._repr_html_()
    page = views.framed(f'<p title="x">{BAD}</p>', 300)
    assert 'srcdoc="&lt;p title=&quot;x&quot;&gt;&lt;script&gt;' in page
    assert "allow-same-origin" not in page


def test_texts_are_short(done):
    for one in (done, done.result, done.graph, done.winner, rr.Estimator("ease")):
        assert len(repr(one).splitlines()) <= 14, repr(one)
    assert "driver, sparse-ease: " in repr(done.result)
    assert "so far" in with_plan(done.result)._repr_html_()


def test_a_plan_is_a_table_with_one_row_per_step(done):
    table = views.plan(with_plan(done.result))
    assert table["relation"].to_list() == ["driver", "echo"]
    assert table["build"].to_list() == [True, False]
    assert table["title"].to_list() == [BAD, None]
    assert table["total"].to_list() == [0.05, 0.051]
    assert views.plan(replace(done.result, card={**done.result.card, "plan": None})).height == 0


def test_the_forest_plot_draws_verdicts_intervals_and_the_margin(done):
    pytest.importorskip("plotly", reason='needs the extra "plot"')
    figure = done.plot_effects()
    held, alone, placebo = figure.data
    row = done.result.verdicts.row(0, named=True)
    for trace, kind in ((held, "held"), (alone, "alone"), (placebo, "placebo")):
        assert list(trace.x) == [row[kind]]
        if row[kind] is not None:
            assert trace.error_x.array[0] == pytest.approx(row[f"{kind}_high"] - row[kind])
            assert trace.error_x.arrayminus[0] == pytest.approx(row[kind] - row[f"{kind}_low"])
    band = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (band.x0, band.x1) == (-row["margin"], row["margin"])
    assert BAD not in held.y[0]
    assert row["verdict"] in held.y[0]
    page = figure.to_html(include_plotlyjs=True)
    assert '<script src="http' not in page
    with pytest.raises(InputError, match="did you mean 'sparse-ease'"):
        done.plot_effects("sparse-eas")


def test_plan_and_leaderboard_are_figures_of_the_tables(done):
    pytest.importorskip("plotly", reason='needs the extra "plot"')
    (line,) = figures.plan(with_plan(done.result)).data
    assert list(line.y) == pytest.approx([0.2, 0.25, 0.251])
    assert line.marker.color[1] == figures.COLOURS["helps"]
    assert line.marker.color[0] == line.marker.color[2] != line.marker.color[1]
    shown = {(name, x) for trace in done.plot_leaderboard().data for name, x in zip(trace.y, trace.x, strict=True)}
    rows = done.leaderboard.filter(~pl.col("arm").str.ends_with("rewired"))
    assert sorted(x for _, x in shown) == sorted(rows["mean"].to_list())
    assert len(done.plot_leaderboard(most=1).data) == 1
    with pytest.raises(InputError, match="without a plan"):
        figures.plan(replace(done.result, card={**done.result.card, "plan": None}))


def test_without_plotly_a_plot_names_the_extra(done, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.delitem(sys.modules, "plotly.graph_objects", raising=False)
    with pytest.raises(InputError, match=r'pip install "relrank\[plot\]"'):
        done.plot_leaderboard()


class Shown(progress.Display):
    """Keeps what is shown."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def show(self, text: str, share: float | None = None, details: Any = (), last: bool = False) -> None:
        self.lines.append(f"{text}{'.' if last else ''}")


def some_cells(done: rr.Study) -> list[Cell]:
    from relrank.study.grid import grid

    return grid(done.config, done.data)


def test_progress_counts_cells_and_time_and_ends_with_a_sentence(done):
    now, display, cells = [0.0], Shown(), some_cells(done)
    callback = DisplayedProgress(display, clock=lambda: now[0])
    later = 5  # cells that results decide on
    expected = {name: sum(c.model.name == name for c in cells) for name in ("popularity", "sparse-ease")}
    callback.begin(expected | {"sparse-ease": expected["sparse-ease"] + later})
    assert callback.total == len(cells) + later
    callback.plan(cells, 1)
    assert callback.total == len(cells) + later
    assert callback.time_left is None
    for at, cell in enumerate(cells[:3]):
        result = SimpleNamespace(model=cell.model.name, seconds=1e6)
        if at:  # the first was finished earlier
            callback.start(cell)
            callback.on_status(cell, "fitting")
            now[0] += 10.0
        callback.done(cell, result, at > 0)
    left = len(cells) - 3 + later
    assert callback.time_left == TimeLeft(pytest.approx(10.0 * left), False)
    assert display.lines[-1] == f"3 of {len(cells) + later} cells, about {duration(10.0 * left)} left"
    callback.skipped(cells[3:4], "too large")
    assert callback.total == len(cells) + later - 1
    callback.end(False)
    assert display.lines[-1] == (
        f"3 cells, 1 of them from an earlier run of {len(cells) + later - 1}; run again to go on, 20 s."
    )


def test_progress_ends_also_after_an_interrupt(monkeypatch):
    shown = Shown()
    monkeypatch.setattr(progress, "Display", lambda quiet: shown)
    with pytest.raises(KeyboardInterrupt), study_progress(quiet=False):
        raise KeyboardInterrupt
    assert shown.lines[-1].endswith("run again to go on, 0 s.")
    with study_progress(quiet=False):
        pass
    assert shown.lines[-1] == "0 cells, 0 s."


def test_a_bar_is_escaped_and_goes_at_the_end():
    page = progress_html("1 of 2", 0.5, [BAD])
    assert '<progress value="0.5000"' in page
    assert "<script" not in page
    assert "<progress" not in progress_html("2 cells", None)
    assert progress.bar(0.5, 4) == "[##--]"


def test_outside_a_notebook_progress_goes_to_standard_error(done, capsys):
    again = rr.Study(
        PURCHASES, **COLUMNS, **SMALL, nodes={"product": PRODUCTS}, name=done.config.name, out=done.folder
    )
    again.run()
    said = capsys.readouterr()
    assert said.out == ""
    assert "cells, " in said.err.splitlines()[-2] or "cells, " in said.err
    again.run(quiet=True)
    assert capsys.readouterr().err == ""
