"""What a study shows while several of its cells run at once."""

from io import StringIO
from types import SimpleNamespace

from rich.console import Console

from relrank.cli.live import LiveStudy
from relrank.study.arms import Arm


def cell(arm: str, *relations: str):
    return SimpleNamespace(
        model=SimpleNamespace(name="ease"), arm=Arm(arm, relations), split_context=SimpleNamespace(seed=0),
        study=SimpleNamespace(metric="mrr"),
    )  # fmt: skip


def result(score: float):
    return SimpleNamespace(model="ease", evaluation=SimpleNamespace(summary={"mrr": score}))


def test_cells_that_run_at_once_each_have_a_line():
    out = StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    one, other = cell("all [b]"), cell("interactions")
    with LiveStudy(console) as live:
        live.plan([one, other], 0)
        live.start(one)
        live.start(other)
        live._shown = 0.0
        live.on_status(one, "epoch 3 of [9]")
        shown = out.getvalue().split("ease · all [b] · seed 0  epoch 3 of [9]")[-1]
        assert "ease · interactions · seed 0" in shown
        assert "2 cells at once" in shown
        live.worker_lost(other, "node died [x]")
        assert "interactions · seed 0 restarts, its worker was lost: node died [x]" in out.getvalue()
        live.start(other)
        live.done(one, result(0.25), True)
        shown = out.getvalue().split("restarts")[-1]
        assert "0.2500" in shown
        assert "ease · interactions · seed 0" in shown
        assert "at once" not in shown.split("0.2500")[-1]


def test_on_a_file_cells_that_overlap_have_a_line_each_with_their_own_time(monkeypatch):
    out, now = StringIO(), [100.0]
    one, other = cell("all"), cell("interactions")
    with LiveStudy(Console(file=out, width=100)) as live:
        monkeypatch.setattr(live._progress, "_clock", lambda: now[0])
        live.plan([one, other], 0)
        live.start(one)
        now[0] += 2
        live.start(other)
        now[0] += 3
        live.done(other, result(0.5), True)
        live.done(one, result(0.25), True)
    assert out.getvalue().splitlines() == [
        "[1/2] ease · interactions · seed 0: mrr 0.5000, 3.0 s",
        "[2/2] ease · all · seed 0: mrr 0.2500, 5.0 s",
    ]


def test_arms_are_shown_with_titles():
    out = StringIO()
    one = cell("interactions + tags", "tags")
    with LiveStudy(
        Console(file=out, width=100, force_terminal=True, color_system=None), {"tags": "Labels [x]"}
    ) as live:
        live.plan([one], 0)
        live.start(one)
        live.done(one, result(0.25), True)
    shown = out.getvalue()
    assert "ease · interactions + Labels [x] · seed 0" in shown
    assert shown.count("interactions + Labels [x]") > 1, "in the table, too"
    assert "tags" not in shown
