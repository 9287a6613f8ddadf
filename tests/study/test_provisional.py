"""Provisional results: what a study says while it runs is what the cells so far would say as a study of their own."""

import re
from io import StringIO
from types import SimpleNamespace

import polars as pl
import pytest
from rich.console import Console
from studies import open_study

from relrank.cli.live import LiveStudy
from relrank.errors import InputError
from relrank.report import write_report
from relrank.study import provisional
from relrank.study.budget import fast, refuse_smaller, thorough
from relrank.study.callbacks import NullCallback
from relrank.study.config import read_study
from relrank.study.grid import grid
from relrank.study.prepare import prepare
from relrank.study.progress import StudyProgress
from relrank.study.provisional import comparable
from relrank.study.run import run_study
from relrank.study.schedule import expected_cells
from relrank.testing import planted_study

TRAINED = '\n[[models]]\nname = "relational-lightgcn"\narms = ["interactions", "all"]\ntrain = { epochs = 1 }\n'


class Following(NullCallback):
    """Assembles every offered result."""

    def __init__(self):
        self.results, self.started, self.expected = [], [], {}

    def begin(self, expected):
        self.expected = dict(expected)

    def start(self, cell):
        self.started.append(cell)

    def provisional(self, assemble):
        self.results.append(assemble())


@pytest.fixture
def always(monkeypatch):
    monkeypatch.setattr(provisional, "SHARE", float("inf"))
    monkeypatch.setattr(provisional, "PATIENCE", 0)


def test_first_split_s_provisional_effects_are_those_of_a_study_of_that_split(study_file, tmp_path, always):
    config, material = open_study(study_file)
    following = Following()
    final = run_study(config, material, tmp_path / "both", following)
    one = study_file.read_text().replace("seeds = [0, 1]", "seeds = [0]")
    (tmp_path / "one").mkdir()
    alone = run_study(*open_study(tmp_path / "one" / "small.toml", one), tmp_path / "one" / "out")

    counts = [result.card["progress"]["cells_done"] for result in following.results]
    assert counts == sorted(counts)
    assert all(
        result.card["progress"]["cells_total"] >= n for result, n in zip(following.results, counts, strict=True)
    )
    columns = ["relation", "kind", "mean", "low", "high"]
    first_split = [result for result in following.results if result.card["seeds"] == [0]][-1]
    wanted = alone.effects.filter(pl.col("kind").is_in(["held", "drop", "alone", "placebo", "gain"]))
    assert wanted.height == 9
    assert first_split.effects.join(wanted, on=columns, how="semi", nulls_equal=True).height == 9
    # the last one has seen every cell but those after it, and says what the final result says
    last = following.results[-1]
    assert last.card["seeds"] == [0, 1]
    assert last.verdicts.select("relation", "verdict").equals(final.verdicts.select("relation", "verdict"))
    assert "progress" not in final.card


def test_before_all_arms_have_run_a_relation_is_undecided_with_what_it_adds_alone(study_file, tmp_path, always):
    following = Following()
    run_study(*open_study(study_file), tmp_path / "out", following)
    early = next(result for result in following.results if result.verdicts.height == 2)
    assert set(early.verdicts["verdict"]) == {"undecided"}
    assert early.verdicts["drop"].null_count() == early.verdicts.height
    for row in early.verdicts.iter_rows(named=True):
        alone = early.effects.row(
            by_predicate=(pl.col("relation") == row["relation"]) & (pl.col("kind") == "alone"), named=True
        )
        assert (row["alone"], row["alone_low"]) == (alone["mean"], alone["low"])
        assert "not measured yet" in row["sentence"]
    assert re.fullmatch(r"alone, driver \+\d+ % .*; nothing seen yet of noise", early.card["progress"]["so_far"])


def test_closed_forms_run_before_trained_models(study_file, tmp_path):
    config, material = open_study(study_file, study_file.read_text() + TRAINED)
    following = Following()
    run_study(config, material, tmp_path / "out", following)
    models = [cell.model.name for cell in following.started]
    trained = [at for at, name in enumerate(models) if name == "relational-lightgcn"]
    assert trained == list(range(trained[0], trained[0] + 4))
    # after them, only the arms that the results ask for
    assert {cell.arm.name for cell in following.started[trained[-1] + 1 :]} == {
        "interactions + driver, driver rewired"
    }
    assert following.expected["relational-lightgcn"] == 4


def path_study(arms=""):
    return planted_study(
        "path",
        300,
        160,
        per_user=6,
        seed=0,
        relations=("driver", "echo", "noise", "fame"),
        study="seeds = [0]\ntrials = 12",
        models=f'[[models]]\nname = "relational-ease"\n{arms}',
    )


def test_a_model_without_the_arms_of_a_path_expects_none_of_it(tmp_path):
    text = path_study('arms = ["interactions", "all"]\n')
    assert expected_cells(*open_study(tmp_path / "path.toml", text)) == {"relational-ease": 2}


def test_expected_cells_include_those_of_the_path(tmp_path):
    config, material = open_study(tmp_path / "path.toml", path_study())
    following = Following()
    run_study(config, material, tmp_path / "out", following)
    expected, n = sum(following.expected.values()), len(following.started)
    assert n > len(grid(config, material))
    assert n <= expected <= 1.3 * n


def finished(*cells):
    return [
        (SimpleNamespace(name=arm, relations=()), SimpleNamespace(model=model, seed=seed))
        for model, arm, seed in cells
    ]


def test_only_arms_over_the_same_splits_are_compared():
    first = {("ease", "interactions"), ("m", "interactions"), ("m", "alone")}

    def says(*cells):
        n_seeds, kept = comparable(finished(*cells), (5, 6), first)
        return n_seeds, [(result.model, arm.name, result.seed) for arm, result in kept]

    a, b, c = ("ease", "interactions"), ("m", "interactions"), ("m", "alone")
    # one split, and the second begun: the second is not used until all have it
    assert says((*a, 5), (*b, 5)) == (1, [(*a, 5), (*b, 5)])
    assert says((*a, 5), (*b, 5), (*c, 5), (*a, 6)) == (1, [(*a, 5), (*b, 5), (*c, 5)])
    both = [(*one, seed) for one in (a, b, c) for seed in (5, 6)]
    assert says(*both) == (2, both)
    # a later arm with one of two splits waits for the other; one that ran on the second split first, too
    assert says(*both, ("m", "all", 5)) == (2, both)
    assert says((*a, 5), (*b, 6)) == (1, [(*a, 5)])


def test_a_file_gets_a_line_whenever_more_is_known(study_file, tmp_path, always):
    config, material = open_study(study_file)
    out = StringIO()
    with LiveStudy(Console(file=out, width=200)) as live:
        run_study(config, material, tmp_path / "out", live)
    lines = [line for line in out.getvalue().splitlines() if line.startswith("provisional, ")]
    assert any("alone, driver +" in line for line in lines)
    assert "helps" in lines[-1] or "Build driver" in lines[-1]


def test_a_watched_page_is_provisional_and_reloads_itself_until_the_end(study_file, tmp_path, always):
    config, material = open_study(study_file)
    page, out = tmp_path / "report.html", StringIO()
    with LiveStudy(Console(file=out, width=200), page=page) as live:
        result = run_study(config, material, tmp_path / "out", live)
    text = page.read_text(encoding="utf-8")
    assert "verdicts may change" in text
    assert "This page reloads every 5 s" in text
    assert out.getvalue().count(f"watch    {page.as_uri()}") == 1
    text = write_report(result, page).read_text(encoding="utf-8")
    assert "verdicts may change" not in text
    assert "This page reloads" not in text


def test_the_first_one_waits_for_all_relations_of_the_first_split(study_file, tmp_path, monkeypatch):
    monkeypatch.setattr(provisional, "SHARE", float("inf"))
    monkeypatch.setattr(provisional, "PATIENCE", float("inf"))
    following = Following()
    run_study(*open_study(study_file), tmp_path / "out", following)
    n_arms = 2 + 6  # two baselines; interactions, all, 2 alone (as all without the other), 2 shuffled
    assert following.results[0].card["progress"]["cells_done"] == n_arms
    assert set(following.results[0].verdicts["relation"]) == {"driver", "noise"}


def test_nothing_is_assembled_for_who_does_not_ask(study_file, tmp_path, monkeypatch):
    monkeypatch.setattr(provisional.ProvisionalResults, "_timed", lambda *_: pytest.fail("assembled"))
    run_study(*open_study(study_file), tmp_path / "out")


def test_a_fast_study_is_the_cheap_part_of_the_whole_one(study_file, tmp_path):
    config, material = open_study(study_file, study_file.read_text() + TRAINED)
    small, left_out = fast(config)
    assert small.study.seeds == (0,)
    assert "relational-lightgcn" not in [m.name for m in small.models]
    assert "1 of 2 splits, relational-lightgcn" in left_out.message
    whole = {cell.key() for cell in grid(config, material)}
    assert {cell.key() for cell in grid(small, prepare(small, tmp_path))} < whole
    # a study with nothing to leave out stays; a trained judge stays if no closed form judges
    assert fast(small) == (small, None)
    only = study_file.read_text().replace('name = "relational-ease"', 'name = "mf"')
    study_file.write_text(only)
    assert "relational-lightgcn" in [m.name for m in fast(read_study(study_file))[0].models]


def test_an_unknown_model_is_left_for_its_own_message(study_file):
    study_file.write_text(study_file.read_text().replace('name = "relational-ease"', 'name = "no-such-model"'))
    small, _ = fast(read_study(study_file))
    with pytest.raises(InputError, match="unknown model"):
        grid(small, prepare(small, study_file.parent))


def test_a_fast_study_does_not_replace_a_larger_one(finished):
    path, _ = finished
    config = read_study(path)
    refuse_smaller(config, path.parent / "out")
    with pytest.raises(InputError, match=r"(?s)would replace the result of a larger one.*2 splits"):
        refuse_smaller(fast(config)[0], path.parent / "out")
    refuse_smaller(fast(config)[0], path.parent / "nothing")


def test_nothing_is_offered_while_only_later_splits_have_results(study_file, monkeypatch):
    config, material = open_study(study_file)
    monkeypatch.setattr(provisional, "PATIENCE", 0)
    following = Following()
    results = provisional.ProvisionalResults(
        config, material, lambda *_: pytest.fail("assembled"), following, StudyProgress()
    )
    cells = grid(config, material)
    results.plan(cells, 0)
    later = next(c for c in cells if c.model.name == "relational-ease" and c.arm.name == "all")
    results.done(later, SimpleNamespace(model="relational-ease", seed=1), True)
    results.offer()
    assert following.results == []


def test_a_page_whose_study_fails_reloads_no_more(study_file, tmp_path, always):
    config, material = open_study(study_file)
    page = tmp_path / "report.html"

    class Failing(LiveStudy):
        def done(self, cell, result, fresh):
            super().done(cell, result, fresh)
            if self._provisional is not None:
                raise KeyboardInterrupt

    live = Failing(Console(file=StringIO()), page=page)
    with pytest.raises(KeyboardInterrupt), live:
        run_study(config, material, tmp_path / "out", live)
    text = page.read_text(encoding="utf-8")
    assert "verdicts may change" in text
    assert "This page reloads" not in text


def test_a_thorough_study_has_further_seeds(study_file):
    config = read_study(study_file)
    assert thorough(config).study.seeds == tuple(range(10))
    text = study_file.read_text()
    study_file.write_text(text.replace('"random-leave-one-out"', '"temporal"\nvalid_cut = 1\ncut = 2') + TRAINED)
    assert thorough(read_study(study_file)).study.seeds == tuple(range(5))
    study_file.write_text(text.replace('"random-leave-one-out"', '"temporal"\nvalid_cut = 1\ncut = 2'))
    with pytest.raises(InputError, match="further seeds would repeat"):
        thorough(read_study(study_file))
