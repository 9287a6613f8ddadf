"""What can go wrong in the speed benchmark without anybody seeing it: ratios, verdicts, who is left out and why."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from relrank.evaluation import metrics
from speed import bench, environments, frame, growth, loop, page, plots, processes, record
from speed.environments import Environments, Skipped
from speed.frame import Context, Entry, Row, Target, Timed, completed, shown, table, void_where_unlike
from speed.roofline import Roofline
from speed.tasks import lightgcn_epoch, lightgcn_step, ranking, relational_ease, startup

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
    assert "## Targets: 1 of 4 met, 2 not measured" in text
    assert "| COO \\| torch | at least 12 × faster than COO \\| torch | 8 | **missed by 33%** |" in text
    assert "| ease | books | DGL | at least 5 × faster than DGL | – | **not measured** |" in text
    assert "| DGL | – | – | – | not measured: does not import: ImportError: libdgl.so; at least 5 × faster" in text
    assert "at least 12 × faster than COO \\| torch: **missed by 33%**: 8 |" in text
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
    many = {**one, "interactions": 100_000_000, "peak_mb": 9_140.0}
    text = page.page(report(), {}, {**grown, "rows": [one, many]})
    assert "| growth | 100,000,000 interactions, peak memory in GB | relrank | at most 20 GB | 9.58 | met |" in text
    text = page.page(report(), {}, {**grown, "rows": [one, {**many, "peak_mb": 20_000.0}]})
    assert "| at most 20 GB | 21 | **missed by 5%** |" in text


def test_only_keeps_the_rows_of_other_tasks(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "TASKS", ("als", "ease"))
    for name in ("als", "ease", "als"):
        task = report()["tasks"]["ease"]
        monkeypatch.setattr(bench, "measure", lambda *_, name=name, task=task: iter([(name, task)]))
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
    promised = list(context.compare("ease", "books", None, [Entry("bad", "bad", times=3)]))[1:]
    assert [(row.who, row.seconds, row.target) for row in promised] == [
        ("bad", None, Target("at least 3 × faster than bad", None, 3))
    ]


def test_a_peer_that_is_killed_says_by_what_and_one_that_says_much_comes_to_its_end(context):
    script(context, "killed", "import os, signal\nprint('words', flush=True)\nos.kill(os.getpid(), signal.SIGKILL)\n")
    script(context, "loud", "import sys\nsys.stderr.write('x' * 200_000 + '\\n')\nsys.exit('enough')\n")
    assert context.run_peer("killed", "ease", None) == Skipped("ended by signal 9")
    assert context.run_peer("loud", "ease", None) == Skipped("enough")
    loud = [sys.executable, "-c", "import sys; sys.stderr.write('x' * 200_000); print(1)"]
    assert startup.seconds(loud, context.scratch, first_line=True, longest=20) < 20
    with pytest.raises(RuntimeError, match="ended by signal 9"):
        startup.seconds(
            [sys.executable, "-c", "import time; time.sleep(60)"], context.scratch, first_line=False, longest=0.2
        )


WORKER = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "open('child', 'w').write(str(child.pid))\n"
)


def gone(pid: int) -> bool:
    """Whether a process has ended, or does within a second or two; one that nobody waited for is a zombie."""
    for _ in range(100):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("how", ["ends", "hangs", "is interrupted"])
def test_workers_of_a_peer_end_with_it(tmp_path, monkeypatch, how):
    text = WORKER + ("" if how == "ends" else "child.wait()\n")
    if how == "is interrupted":
        wait = subprocess.Popen.wait

        def interrupted(process, timeout=None):
            if timeout is not None:
                while not ((tmp_path / "child").is_file() and (tmp_path / "child").read_text()):
                    time.sleep(0.01)
                raise KeyboardInterrupt
            return wait(process)

        monkeypatch.setattr(subprocess.Popen, "wait", interrupted)
    command = [sys.executable, "-c", text]
    if how == "ends":
        assert processes.run(command, 20, tmp_path).status == 0
    else:
        with pytest.raises(subprocess.TimeoutExpired if how == "hangs" else KeyboardInterrupt):
            processes.run(command, 1, tmp_path)
    child = int((tmp_path / "child").read_text())
    ended = gone(child)
    if not ended:
        os.kill(child, signal.SIGKILL)
    assert ended


def test_a_void_row_keeps_its_promise_as_not_measured():
    ours, pyg, *_ = rows()
    ours, pyg = frame.replace(ours, figures={"loss": 1.0}), frame.replace(pyg, figures={"loss": 2.0})
    _, void = void_where_unlike([ours, pyg], "loss", 1e-4)
    assert void.ratio is None
    assert void.target == Target("at least 20 × faster than PyG", None, 20)
    assert not void.target.met
    assert void.as_json()["target"]["found"] is None
    assert Row.of_json(json.loads(json.dumps(void.as_json()))) == void


def test_promises_that_no_row_holds_are_listed():
    ours, pyg, *_ = rows()
    wanted = Target("at most 2 s", None, 2.0, at_least=False)
    lost = Row("ease", "books", "nobody", None, note="not measured", target=wanted)
    promised = [frame.replace(ours, target=wanted), frame.replace(pyg, seconds=None), lost]
    found = completed([ours, pyg], promised)
    assert found == [frame.replace(ours, target=wanted), pyg, lost]


FAILING = SimpleNamespace(__doc__="What.", rows=lambda _: (_ for _ in ()).throw(ValueError("no\nluck")))


def failing(monkeypatch, **tasks) -> None:
    monkeypatch.setattr(bench, "TASKS", tuple(tasks))
    monkeypatch.setattr(bench.roofline, "measure", lambda: ROOFLINE)
    monkeypatch.setattr(bench, "import_module", lambda name: tasks[name.rpartition(".")[2]])
    monkeypatch.setattr(bench, "Environments", _Ours)


@pytest.mark.parametrize("module", [lightgcn_step, ranking, relational_ease, startup])
def test_a_task_that_fails_is_a_row_and_its_targets_are_not_measured(module, monkeypatch, context):
    fails = SimpleNamespace(__doc__="What.", promised=module.promised, rows=FAILING.rows)
    failing(monkeypatch, fails=fails)
    about, found = bench.rows_of("fails", context)
    assert about == "What."
    assert found[0].note == "the task failed: ValueError: no"
    promised = list(module.promised(False))
    assert found[1:] == promised
    assert promised
    assert all(row.target and row.target.found is None for row in promised)


def test_tasks_without_an_answer_of_relrank_list_every_target(context, monkeypatch):
    monkeypatch.setattr(Context, "run_peer", lambda *_, **__: Skipped("broken"))
    monkeypatch.setattr(Context, "input", lambda *_: Skipped("no data"))
    for name, module, targets in (("lightgcn_step", lightgcn_step, 7), ("ranking", ranking, 1),
                                  ("relational_ease", relational_ease, 3)):  # fmt: skip
        _, found = bench.rows_of(name, context)
        assert sum(row.target is not None for row in found) == targets
        assert {(row.who, row.target) for row in module.promised(False)} <= {(row.who, row.target) for row in found}


def test_figures_are_written_after_each_task_and_one_that_fails_costs_no_other(tmp_path, monkeypatch):
    seen = {}

    def second(_):
        seen.update(json.loads((tmp_path / "performance.json").read_text())["tasks"])
        yield from rows()
        raise ValueError("half")

    good = SimpleNamespace(__doc__="Good.", rows=lambda _: rows())
    failing(monkeypatch, als=good, ease=SimpleNamespace(__doc__="Bad.", rows=second), neighbours=good)
    monkeypatch.setattr(sys, "argv", ["run.py", "--only", "als", "ease", "neighbours", "--out", str(tmp_path)])
    bench.main()
    assert list(seen) == ["als"]
    tasks = json.loads((tmp_path / "performance.json").read_text())["tasks"]
    assert list(tasks) == ["als", "ease", "neighbours"]
    assert [row["note"] for row in tasks["ease"]["rows"]][-1] == "the task failed: ValueError: half"
    assert len(tasks["ease"]["rows"]) == 1 + len(rows())
    assert all(task["run"].keys() >= {"commit", "date", "machine", "versions", "roofline"} for task in tasks.values())
    assert "the task failed: ValueError: half" in (tmp_path / "performance.md").read_text()


def git(root: Path, *words: str) -> str:
    names = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    return subprocess.run(["git", "-C", str(root), *names, *words], check=True, capture_output=True, text=True).stdout


def test_a_commit_is_dirty_where_the_code_differs(tmp_path):
    (tmp_path / "src").mkdir()
    assert record.commit(tmp_path / "src") == ""
    git(tmp_path, "init", "-q")
    (tmp_path / "src" / "a.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    head = git(tmp_path, "rev-parse", "--short", "HEAD").strip()
    (tmp_path / "notes.md").write_text("elsewhere")
    assert record.commit(tmp_path) == head
    (tmp_path / "src" / "a.py").write_text("2")
    assert record.commit(tmp_path) == f"{head} dirty"


def test_the_page_names_the_commit_of_each_task_the_peers_alone_and_what_was_not_run():
    both = report()
    other = report()["tasks"]["ease"]
    other["run"] = {**other["run"], "commit": "abc1234 dirty"}
    ours = Row("startup", "an import", "import relrank.models", 1.0, 1.0, version="0.1.0")
    both["tasks"]["startup"] = {**other, "rows": [ours.as_json()]}
    text = page.page(both, {})
    assert "- 2026-01-02: Some CPU, 2 cores, 8 GB, torch 2.13.0. Of `ease`." in text
    assert "- 2026-01-02, commit abc1234 dirty: Some CPU, 2 cores, 8 GB, torch 2.13.0. Of `startup`." in text
    peers = next(line for line in text.splitlines() if line.startswith("- Peers:"))
    assert "relrank" not in peers
    assert "PyG 1.0" in peers
    assert "- Not run: `als`, `lightgcn_epoch`," in text


def test_sizes_that_are_not_run_again_keep_their_record(tmp_path):
    file = tmp_path / "growth.json"
    file.write_text(json.dumps({"date": "old", "machine": {}, "versions": {}, "rows": [
        {"interactions": 10, "x": 1}, {"interactions": 30, "x": 1}]}))  # fmt: skip
    new = {"interactions": 10, "x": 2, "run": {"date": "new"}}
    assert growth.merged(file, [new])["rows"] == [
        new, {"interactions": 30, "x": 1, "run": {"date": "old", "machine": {}, "versions": {}}},
    ]  # fmt: skip
    assert growth.merged(tmp_path / "none", [new])["rows"] == [new]


def products(seconds: list[float], products: float, torch: float) -> Timed:
    return timed(seconds, step=seconds[0], products=products, torch_products=torch, gathered_bytes=10**9)


def test_targets_are_of_both_of_our_runs(context, monkeypatch):
    answers = iter([products([2.0], 1.0, 3.0), products([4.0], 3.0, 3.0)])
    monkeypatch.setattr(Context, "run_peer", lambda *_, **__: next(answers))
    monkeypatch.setattr(Context, "input", lambda *_: None)
    monkeypatch.setattr(lightgcn_step, "asked", lambda _: (1, {"gowalla": []}))
    step, own, torchs = lightgcn_step.rows(context)
    assert (step.seconds, own.seconds, torchs.seconds) == (3.0, 2.0, 3.0)
    assert step.target.found == 1.5
    assert own.target.found == 1.5
    assert own.ratio == pytest.approx(1 / step.target.found)
    assert frame.of_both({"a": 1, "b": "x", "c": None, "d": 2}, {"a": 2, "b": "x", "c": 3, "d": 2}) == {
        "a": 1.5, "b": "x", "c": None, "d": 2,
    }  # fmt: skip


def test_a_rate_is_of_both_of_our_runs(context, monkeypatch):
    figures = {"users": 6, "items": 5, "dim": 4, "ndcg@20": 0.1, "recall@20": 0.1, "sample ndcg@20": 0.1,
               "blocks ndcg@20": 0.1, "blocks recall@20": 0.1}  # fmt: skip
    first, last = (timed([s], **figures, evaluate_s=s, ranks_s=s / 2, blocks_s=2 * s) for s in (1.0, 2.0))
    answers = iter([first, *([Skipped("not there")] * 4), last])
    monkeypatch.setattr(Context, "run_peer", lambda *_, **__: next(answers))
    monkeypatch.setattr(Context, "input", lambda *_: None)
    ours, blocks, *_ = ranking.rows(context)
    assert (ours.seconds, ours.target.found) == (1.5, 4.0)
    assert ours.note.startswith("4 users/s; ranks alone 8")
    assert (blocks.seconds, blocks.ratio) == (3.0, 2.0)


def test_everybody_may_train_as_long_as_relrank_tuned_took_within_bounds():
    def own(at: float | None) -> Timed:
        return timed([50.0, 45.0], reached={"0.150": 1.0, "0.155": at})

    assert [lightgcn_epoch.allowed(own(at)) for at in (20.0, 80.0, 500.0, None)] == [60.0, 80.0, 120.0, 95.0]
    assert lightgcn_epoch.allowed(Skipped("no data")) == 60.0
    peer = timed([40.0], "pyg", **{"ndcg@20": 0.156, "reached": {"0.155": 40.0}})
    row = lightgcn_epoch.until("t", "d", 0.155, Entry("pyg", "PyG"), peer, (10.0, 20.0))
    assert row.ratio == 4.0
    assert row.note.endswith("; 2 × relrank, published loss")


def test_an_import_is_held_against_that_of_our_models(context, monkeypatch):
    took = {"import relrank.models": 2.0, "import relrank": 0.1, "import implicit.als": 3.0}
    failing_one = startup.IMPORTS["cornac"]

    def seconds(command, folder, *, first_line):
        if command[-1] == failing_one:
            raise RuntimeError("broken")
        return took.get(command[-1], 1.0)

    monkeypatch.setattr(startup, "seconds", seconds)
    found = {row.who: row for row in startup.rows(context)}
    assert found["import relrank.models"].ratio == 1.0
    assert (found["import relrank"].seconds, found["import relrank"].ratio) == (0.1, None)
    assert found["import implicit.als"].ratio == 1.5
    assert (found[failing_one].seconds, found[failing_one].note) == (None, "broken")
    assert found["relrank --help"].target.found == 1.0


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
    higher = np.concatenate(ranks).astype(int)
    expected = metrics.ndcg(metrics.tie_groups(higher, np.ones_like(higher), indptr), k).mean()
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
