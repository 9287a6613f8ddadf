"""What can go wrong in the speed benchmark without anybody seeing it: ratios, verdicts, who is left out and why."""

import hashlib
import json
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

from relrank import metrics
from speed import bench, environments, frame, loop, page, plots
from speed.environments import Environments, Skipped
from speed.frame import Context, Entry, Row, Target, Timed, shown, table
from speed.roofline import Roofline

BENCHMARKS = Path(frame.__file__).parents[1]
ROOFLINE = Roofline(40, 120, 30, 200, dict.fromkeys(page.LIMITS, 0.1))


def timed(seconds: list[float], peer: str = "relrank", peak: float = 100.0, **figures: object) -> Timed:
    return Timed(peer, "1.0", "ease", seconds, peak, dict(figures))


def rows() -> list[Row]:
    others = [
        (Entry("pyg", "PyG", times=20), timed([30.0, 50.0, 40.0], "pyg")),
        (Entry("coo", "COO | torch", times=12), timed([8.0], "coo")),
        (Entry("dgl", "DGL", times=5), Skipped("does not import: ImportError: libdgl.so")),
        (Entry("fast", "fast"), timed([0.5], "fast")),
    ]
    return list(table("ease", "books", timed([1.0, 1.0, 1.3]), timed([1.0, 1.0], peak=130.0), others))


def report(quick: bool = False) -> dict:
    run = {
        "date": "2026-01-02", "quick": quick, "versions": {"torch": "2.13.0"}, "roofline": frame.asdict(ROOFLINE),
        "machine": {"cpu": "Some CPU", "cores": 2, "memory_gb": 8.0},
    }  # fmt: skip
    return {"tasks": {"ease": {"about": "Solve it.", "run": run, "rows": [row.as_json() for row in rows()]}}}


def test_a_ratio_is_the_others_median_over_the_median_of_both_of_our_runs():
    ours, pyg, _, dgl, fast = rows()
    assert (ours.seconds, ours.ratio, ours.peak_mb) == (1.0, 1.0, 130.0)
    assert ours.runs == [1.0, 1.0, 1.3, 1.0, 1.0]
    assert (pyg.seconds, pyg.ratio) == (40.0, 40.0)
    assert fast.ratio == 0.5
    assert dgl.seconds is None
    assert dgl.ratio is None
    assert dgl.target is None
    assert "libdgl" in dgl.note


def test_targets_are_met_on_the_right_side_and_missed_by_a_share_of_the_limit():
    _, pyg, coo, *_ = rows()
    assert pyg.target is not None
    assert pyg.target.met
    assert pyg.target.missed_by == 0
    assert coo.target is not None
    assert not coo.target.met
    assert coo.target.missed_by == pytest.approx(1 / 3)
    over = Target("at most 1.3", 1.56, 1.3, at_least=False)
    assert not over.met
    assert over.missed_by == pytest.approx(0.2)
    assert Target("at most 1.3", 1.3, 1.3, at_least=False).met


def test_drift_between_our_runs_is_told():
    calm, *_ = rows()
    assert calm.note == ""
    drifted, *_ = table("ease", "books", timed([1.0]), timed([1.2]), [])
    assert drifted.note == "first run 1 s, last run 1.2 s"
    once, *_ = table("ease", "books", timed([1.0]), Skipped("not done"), [])
    assert once.seconds == 1.0


def test_rows_come_back_from_json():
    for row in rows():
        assert Row.of_json(json.loads(json.dumps(row.as_json()))) == row


def test_the_page_says_who_was_left_out_and_what_was_missed():
    text = page.page(report(), {"ease": "A table of powers."})
    assert "## Targets: 1 of 2 met" in text
    assert "| ease | books | at least 12 × faster than COO \\| torch | 8 | **missed by 33%**: 8 |" in text
    assert "| DGL | – | – | – | not measured: does not import: ImportError: libdgl.so |" in text
    assert "| COO \\| torch | 8 s | 8 |" in text
    assert "**What was tried.** A table of powers." in text
    assert "Some CPU, 2 cores" in text
    assert "120 GB/s" in text
    assert "rough" not in text
    assert "rough: `ease`" in page.page(report(quick=True), {})


def test_every_table_has_as_many_cells_in_each_line():
    tables: list[list[str]] = [[]]
    for line in page.page(report(), {}).splitlines():
        if line.startswith("|"):
            tables[-1].append(line.replace("\\|", ""))
        elif tables[-1]:
            tables.append([])
    assert len(tables) == 3
    for lines in filter(None, tables):
        assert len({line.count("|") for line in lines}) == 1, lines


def test_notes_on_no_task_are_refused():
    with pytest.raises(ValueError, match="lightgcn_stpe"):
        page.page(report(), {"lightgcn_stpe": "lost"})


def test_sections_of_the_notes():
    assert page.sections("for writers\n## ease\none\n\ntwo\n## als\nthree\n") == {
        "ease": "one\n\ntwo",
        "als": "three",
    }


def test_bars_hold_every_ratio_to_scale_and_no_one_who_was_left_out():
    root = ElementTree.fromstring(plots.bars(rows()))
    texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"40 ×", "8 ×", "0.5 ×"} <= set(texts)
    assert "DGL" not in texts
    widths = [float(r.get("width", "")) for r in list(root.iter("{http://www.w3.org/2000/svg}rect"))[1:]]
    assert widths[0] / widths[1] == pytest.approx(np.log(40) / np.log(8), rel=0.01)
    assert widths[2] / widths[1] == pytest.approx(np.log(2) / np.log(8), rel=0.01)


def test_growth_has_a_section_of_its_own():
    one = {
        "interactions": 1_000_000, "users": 10, "items": 20, "seconds_graph": 0.5, "seconds_step": 0.1,
        "seconds_epoch_estimated": 7.0, "peak_mb": 800.0,
    }  # fmt: skip
    grown = {"machine": report()["tasks"]["ease"]["run"]["machine"], "date": "2026-01-02", "versions": {}}
    text = page.page(report(), {"growth": "Chunks."}, {**grown, "rows": [one, {**one, "interactions": 10**7}]})
    assert "| 10,000,000 | 10 × 20 | 500 ms | 100 ms | 7 s | 800 |" in text
    assert "Chunks." in text
    ElementTree.fromstring(plots.curves([one, {**one, "interactions": 10**7}]))
    ElementTree.fromstring(plots.curves([one]))


def test_only_keeps_the_rows_of_other_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TASKS", ("als", "ease"))
    for name in ("als", "ease", "als"):
        task = report()["tasks"]["ease"]
        monkeypatch.setattr(bench, "measure", lambda *_, name=name, task=task: {name: task})
        monkeypatch.setattr(sys, "argv", ["run.py", "--only", name, "--out", str(tmp_path)])
        bench.main()
    written = json.loads((tmp_path / "performance.json").read_text())
    assert list(written["tasks"]) == ["als", "ease"]
    assert {path.name for path in tmp_path.iterdir()} == {"performance.json", "performance.md", "performance.svg"}


class _Ours(Environments):
    def python(self, peer: str) -> Path | Skipped:
        return Skipped("does not install: no wheel") if peer == "gone" else Path(sys.executable)


@pytest.fixture
def context(tmp_path, monkeypatch) -> Context:
    (tmp_path / "speed" / "peers").mkdir(parents=True)
    monkeypatch.setattr(frame, "HERE", tmp_path / "speed")
    return Context(None, tmp_path, _Ours(print), ROOFLINE, budget=20)


def script(context: Context, name: str, text: str) -> None:
    (context.scratch / "speed" / "peers" / f"{name}.py").write_text(text)


def test_a_peer_gets_data_and_options_and_its_last_line_counts(context):
    script(
        context, "good",
        f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from speed.peer import run\n"
        "def ease(call):\n"
        "    print('chatter')\n"
        "    sizes = call.options['times'] + call.data['n_users']\n"
        "    call.figures['sum'] = int(call.data['train_user'].sum()) + sizes\n"
        "    call.figures['how'] = call.options['how']\n"
        "    return call.repeat(lambda: None, call.options['times'])\n"
        "run('good', 'numpy', {'ease': ease})\n",
    )  # fmt: skip
    np.savez(context.scratch / "in.npz", train_user=np.array([1, 2], np.int32), n_users=40)
    answer = context.run_peer("good", "ease", context.scratch / "in.npz", times=3, how="fast")
    assert isinstance(answer, Timed)
    assert answer.figures == {"sum": 46, "how": "fast"}
    assert len(answer.seconds) == 3
    assert 5 < answer.peak_mb < 500
    assert context.run_peer("good", "als", None) == Skipped("good has no als")


def test_a_peer_that_fails_hangs_or_is_not_there_is_skipped_with_its_reason(context):
    script(context, "bad", "import sys\nprint('half')\nraise ImportError('libdgl.so')\n")
    script(context, "slow", "import time\ntime.sleep(60)\n")
    assert context.run_peer("bad", "ease", None) == Skipped("ImportError: libdgl.so")
    context.budget = 0.5
    assert context.run_peer("slow", "ease", None) == Skipped("not done within 0 s")
    assert context.run_peer("gone", "ease", None) == Skipped("does not install: no wheel")
    assert context.run_peer("bad", "ease", Skipped("no data")) == Skipped("no data")
    skipped = list(context.compare("ease", "books", None, [Entry("bad", "bad")]))
    assert [(row.who, row.seconds) for row in skipped] == [("relrank", None)]


def test_an_environment_that_does_not_import_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    monkeypatch.setattr(environments, "IMPORTS", {"implicit": "no_such_module_here"})
    python = tmp_path / "implicit" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    wanted = (environments.HERE / "requirements" / "implicit.txt").read_bytes() + environments.TORCH.encode()
    (tmp_path / "implicit" / ".ready").write_text(hashlib.sha256(wanted).hexdigest())
    found = Environments(print).python("implicit_als")
    assert found == Skipped("does not import: ModuleNotFoundError: No module named 'no_such_module_here'")


@pytest.mark.parametrize("name", sorted(path.stem for path in (BENCHMARKS / "speed" / "requirements").iterdir()))
def test_every_list_pins_what_it_names_and_takes_one_torch(name):
    lines = (BENCHMARKS / "speed" / "requirements" / f"{name}.txt").read_text().split()
    assert name in environments.IMPORTS
    assert all("==" in line for line in lines)
    assert {line for line in lines if line.startswith("torch==")} <= {environments.TORCH}


def test_ndcg_of_the_peers_is_the_one_of_the_house():
    rng = np.random.default_rng(0)
    n_users, n_items, k = 30, 40, 5
    known, truth = rng.random((n_users, n_items)) < 0.2, rng.random((n_users, n_items)) < 0.1
    truth &= ~known
    truth[3] = False
    users, items = (torch.from_numpy(rng.normal(size=(n, 4)).astype(np.float32)) for n in (n_users, n_items))
    data = dict(zip(("train_user", "train_item"), np.nonzero(known), strict=True))
    data |= dict(zip(("test_user", "test_item"), np.nonzero(truth), strict=True))
    scores = np.where(known, -np.inf, (users @ items.T).numpy())
    asked = np.flatnonzero(truth.any(1))
    ranks = [[(scores[u] > scores[u, i]).sum() for i in np.flatnonzero(truth[u])] for u in asked]
    indptr = np.cumsum([0, *map(len, ranks)])
    expected = metrics.ndcg(np.concatenate(ranks).astype(float), indptr, k).mean()
    assert loop.ndcg(users, items, data, k, block=7) == pytest.approx(expected)


def test_draws_go_through_every_pair_once_an_epoch():
    n = loop.BATCH + 5
    draws = loop.Draws({"train_user": np.arange(n), "train_item": np.arange(n)[::-1], "n_users": n, "n_items": n})
    first, second = draws.next(), draws.next()
    assert len(first[0]) == loop.BATCH
    assert torch.equal(torch.cat([first[0], second[0]]).sort().values, torch.arange(n))
    assert torch.equal(first[0] + first[1], torch.full((loop.BATCH,), n - 1))
    assert len(draws.next()[0]) == loop.BATCH


def test_times_are_shown_with_three_digits():
    assert [shown(s) for s in (2.5e-5, 0.01234, 3.14159, 1234.5)] == ["25 µs", "12.3 ms", "3.14 s", "1,234 s"]
