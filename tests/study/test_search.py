"""The Optuna search: equal trials, only validation, and a killed run with the result of an uninterrupted one."""

import shutil
import sqlite3
import tomllib
from dataclasses import dataclass, replace
from io import StringIO
from types import SimpleNamespace

import numpy as np
import optuna
import pytest
import torch
from rich.console import Console
from sqlalchemy import event
from torch import nn

from relrank.cli.live_search import LiveSearch
from relrank.errors import InputError
from relrank.models import MODELS, Trained
from relrank.models.core.base import GridParameter
from relrank.models.core.search_dimensions import Choice, Range
from relrank.study import cell_store, fit_cell, optuna_search, optuna_storage, search_space, tune_cell
from relrank.study.cell import Cell
from relrank.study.config import ModelSection, read_study
from relrank.study.grid import grid
from relrank.study.optuna_search import cells_to_search, search_study
from relrank.study.prepare import prepare
from relrank.study.run import run_study
from relrank.study.search_space import Axis
from relrank.study.tuned_config import write_tuned
from relrank.study.warm_starts import with_prerequisites

FAKE = """
[[models]]
name = "fake"
train = { epochs = 6, every = 2, device = "cpu" }
"""


@dataclass(frozen=True)
class FakeConfig:
    height: float = 0.5
    slope: float = 3.0
    kind: str = "plain"
    extra: float = 7.0
    width: int = 24


class Fake(Trained):
    """A model whose metric is written in its configuration."""

    name = "fake"
    Config = FakeConfig
    relational = True
    epochs_trained = 0

    def __init__(self, graph, config=None):
        super().__init__(graph, config)
        if self.config.height > 0.9:
            raise InputError("too high", where="fake", expected="0.9 at most", found=str(self.config.height))
        self.seen = nn.Parameter(torch.zeros(1))

    @classmethod
    def space(cls, graph):
        return (
            Range("height", 0.0, 1.0),
            Choice("kind", ("round", "square")),
            Range("extra", 1.0, 5.0, when=("kind", ("round",))),
            Range("width", 16, 64, step=8),
            Range("train.lr", 1e-3, 1e-1, log=True),
        )

    def init_weights(self, seed):
        with torch.no_grad():
            self.seen.zero_()

    def prepare(self, users, positives, seed):
        return torch.zeros(1)

    def loss(self, *batch):
        Fake.epochs_trained += 1  # all edges are one batch
        return self.seen.sum() * 0

    def refresh(self):
        """Called before each validation and when a state is loaded."""

    def score(self, users):
        raise NotImplementedError

    fold_in = score


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Learning and pruning start early; the database does not wait for the disk."""
    monkeypatch.setattr(optuna_storage, "RANDOM_TRIALS", 4)
    monkeypatch.setattr(optuna_storage, "PRUNER_STARTUP_TRIALS", 3)
    opened = optuna_storage.open_storage

    def unsafe(optuna, path):
        storage = opened(optuna, path)
        event.listen(storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=OFF"))
        storage.engine.dispose()
        return storage

    monkeypatch.setattr(optuna_storage, "open_storage", unsafe)


@pytest.fixture
def fake(monkeypatch):
    """Adds the model Fake, whose metric is set by its configuration."""
    monkeypatch.setitem(MODELS, "fake", Fake)
    Fake.epochs_trained = 0
    real = tune_cell.mean_metric

    def metric(model, split, name="ndcg@10", part="valid"):
        assert part == "valid"
        return model.config.height if isinstance(model, Fake) else real(model, split, name, part)

    monkeypatch.setattr(tune_cell, "mean_metric", metric)
    monkeypatch.setattr(fit_cell, "mean_metric", metric)
    monkeypatch.setattr(optuna_search, "mean_metric", metric)


class Stop:
    """Presses Ctrl-C when the n-th trial is over, or in the middle of a trial."""

    def __init__(self, after=10**9, at="nothing"):
        self.after, self.at, self.tried_now = after, at, []

    def plan(self, planned, trials, finished):
        self.finished = sum(finished.values())

    def start(self, cell):
        pass

    def on_status(self, message):
        if message.startswith(self.at):
            raise KeyboardInterrupt

    def trial_done(self, attempt):
        self.tried_now.append(attempt)
        if len(self.tried_now) == self.after:
            raise KeyboardInterrupt

    def done(self, found):
        pass


class Told(Stop):
    """Keeps what a search with a limit says, and the trials of every plan."""

    def __init__(self):
        super().__init__()
        self.plans, self.said = [], []

    def plan(self, planned, trials, finished):
        self.plans.append((trials, sum(finished.values())))

    def fitted(self, *figures):
        self.said.append(figures)


def opened(path, text=""):
    """The study with its material on the first seed."""
    path.write_text(path.read_text() + text)
    config = read_study(path)
    one = config.study.model_copy(update={"seeds": config.study.seeds[:1]})
    return config, prepare(config.model_copy(update={"study": one}), path.parent)


def told(searches):
    """What was tried and how it ended, without the seconds."""
    return [
        (s.cell.model.name, s.cell.arm.name, [(t.number, t.state, t.values, t.metric) for t in s.trials])
        for s in searches
    ]


def test_trial_0_is_the_defaults_and_every_arm_has_as_many_trials(study_file, tmp_path, fake):
    config, material = opened(study_file, FAKE)
    found = search_study(config, material, tmp_path / "out", trials=3)
    arms = [(s.cell.model.name, s.cell.arm.name) for s in found]
    assert arms == [
        ("ease", "interactions"), ("relational-ease", "interactions"), ("relational-ease", "all"),
        ("fake", "interactions"), ("fake", "all"),
    ]  # fmt: skip
    assert [len(s.trials) for s in found] == [3] * 5
    first = {(s.cell.model.name, s.cell.arm.name): s.trials[0] for s in found}
    assert first["ease", "interactions"].values == {"l2": 200.0}
    weights = {"weights.driver": 30.0, "weights.noise": 30.0}
    assert first["relational-ease", "all"].values == {**weights, "l2": 300.0}
    assert first["fake", "all"].values == {"height": 0.5, "kind": "plain", "width": 24, "train.lr": 0.01}
    # the metric of trial 0 is that of the model as it comes
    cell = next(s.cell for s in found if s.cell.model.name == "ease")
    model = MODELS["ease"](cell.arm.graph(cell.split_context.graph, 0)).solve()
    assert first["ease", "interactions"].metric == tune_cell.mean_metric(model, cell.split_context.split, "ndcg@10")
    # ladders that start elsewhere than at the default are tried from their start too: a weight has to be earned
    second = next(s for s in found if s.cell.model.name == "relational-ease" and s.cell.arm.relations).trials[1]
    assert second.values == {"weights.driver": 0.0, "weights.noise": 0.0, "l2": 200.0}


@pytest.mark.parametrize(("seconds", "most", "trials"), [(85, 30, 4), (85, 2, 2), (3, 30, 1)])
def test_a_limit_of_time_is_the_same_number_of_trials_for_each(
    study_file, tmp_path, fake, monkeypatch, seconds, most, trials
):
    """Every trial takes ten seconds of a clock that moves when it is read, so a trial of two arms takes twenty."""
    ticks = iter(range(0, 10**6, 10))
    monkeypatch.setattr(optuna_search, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    config, material = opened(study_file, FAKE)
    callback, out = Told(), tmp_path / "out"
    found = search_study(config, material, out, most, ["fake"], callback=callback, seconds=seconds)
    assert [len(s.trials) for s in found] == [trials, trials]
    assert callback.said == [(trials, 20, seconds)]
    assert callback.plans == [(1, 0), (trials, 2)]
    again = Told()
    assert told(search_study(config, material, out, most, ["fake"], callback=again, seconds=seconds)) == told(found)
    assert again.plans == [(1, 2), (trials, 2 * trials)]
    assert not again.tried_now
    short = search_study(config, material, out, most, ["fake"], seconds=1)
    assert told(short) == told(found), "no trial that exists is left out"
    whole = search_study(config, material, tmp_path / "whole", trials, ["fake"])
    assert told(whole) == told(found), "the limit says how many, and nothing else"


@pytest.mark.parametrize("name", MODELS)
def test_every_models_space_holds_its_defaults(name, study_file):
    """A name that its configuration does not have, or a default that cannot be tried, would show here."""
    config, material = opened(study_file)
    arm = cells_to_search(config, material)[-1].arm
    cell = Cell(ModelSection(name=name), arm, material.split_contexts[0], config.study)
    start, train = cell.initial_config()
    axes = search_space.axes_of(cell, arm.graph(cell.split_context.graph, 0))
    study = optuna.create_study(direction="maximize")
    study.enqueue_trial(search_space.start_points(axes)[0])
    values = search_space.suggest_values(study.ask(), axes, start, train)
    assert search_space.applied(start, train, values, name) == (
        search_space.applied(start, train, {n: start.weight for n in values if n.startswith("weights.")}, name)
    )
    free = [search_space.suggest_values(study.ask(), axes, start, train) for _ in range(10)]
    assert not axes or any(other != values for other in free)
    for other in free:
        changed = search_space.applied(start, train, other, name)
        assert all(search_space.default_of(*changed, n) == pytest.approx(v) for n, v in other.items())


def test_search_finds_the_planted_relation_and_the_tuned_study_runs(study_file, tmp_path):
    config, material = opened(study_file)
    found = search_study(config, material, tmp_path / "runs" / "out", trials=10)
    best = {(s.cell.model.name, s.cell.arm.name): s.best for s in found}
    all_of = best["relational-ease", "all"]
    assert all_of.metric > 1.1 * best["relational-ease", "interactions"].metric
    assert all_of.values["weights.driver"] > all_of.values["weights.noise"]

    path = write_tuned(config, found, study_file.parent, tmp_path / "runs" / "out" / "tuned.toml", "10 trials")
    tuned = read_study(path)
    assert tuned.name == "small-tuned"
    assert tuned.study == config.study
    everything = prepare(tuned, path.parent)
    assert everything.split_contexts[0].split.fingerprint == material.split_contexts[0].split.fingerprint
    result = run_study(tuned, everything, tmp_path / "tuned")
    assert result.tuning.is_empty()  # all is held
    for cell in with_prerequisites(grid(tuned, everything)):
        if cell.model.name != "popularity":
            values = best[cell.model.name, cell.arm.name].values
            loaded = cell_store.load_cell(tmp_path / "tuned" / "cells" / cell.key())
            for name, value in values.items():
                field, _, entry = name.partition(".")
                assert (loaded.chosen[field][entry] if entry else loaded.chosen[field]) == value
            if cell.split_context.seed == 0:  # what was searched is what is fitted
                assert loaded.valid_metric == best[cell.model.name, cell.arm.name].metric


@pytest.mark.slow
def test_selection_never_looks_at_the_test_rows(study_file, tmp_path):
    """Other test rows, the same choice; other validation rows, another metric."""
    config, material = opened(study_file)
    split_context, rng = material.split_contexts[0], np.random.default_rng(4)

    seen = np.zeros(split_context.split.shape, bool)
    for rows in (split_context.split.train, split_context.split.valid, split_context.split.test):
        seen[rows.user, rows.item] = True

    def other(part):
        rows = getattr(split_context.split, part)
        items = np.array([rng.choice(np.flatnonzero(~seen[u])) for u in rows.user], rows.item.dtype)
        changed = replace(split_context.split, fingerprint=f"other {part}", **{part: replace(rows, item=items)})
        return replace(material, split_contexts=(replace(split_context, split=changed),))

    plain = search_study(config, material, tmp_path / "a", trials=6)
    assert told(search_study(config, other("test"), tmp_path / "b", trials=6)) == told(plain)
    assert told(search_study(config, other("valid"), tmp_path / "c", trials=6)) != told(plain)


def test_bad_curves_are_pruned_and_never_chosen(study_file, tmp_path, fake):
    config, material = opened(study_file, FAKE)
    found = search_study(config, material, tmp_path / "out", trials=12, models=["fake"])
    assert [s.cell.arm.name for s in found] == ["interactions", "all"]
    for s in found:
        heights = [t.values["height"] for t in s.trials if t.state == "complete"]
        assert len(s.trials) == 12
        assert s.count("pruned") >= 2
        assert s.best.metric == max(heights)
        assert [t.state for t in s.trials if t.state != "failed"][: optuna_storage.PRUNER_STARTUP_TRIALS].count(
            "pruned"
        ) == 0
        for t in s.trials:
            before = [u.metric for u in s.trials[: t.number] if u.state == "complete"]
            if t.state == "pruned":
                assert t.values["height"] < np.median(before)
                assert t.metric is None
    # a third of the epochs is granted to everybody: a pruned trial of 6 epochs costs 2
    ends = [t.state for s in found for t in s.trials]
    assert Fake.epochs_trained == 6 * ends.count("complete") + 2 * ends.count("pruned")


def test_a_failed_configuration_counts_and_is_told(study_file, tmp_path, fake):
    config, material = opened(study_file, FAKE)
    s = search_study(config, material, tmp_path / "out", trials=12, models=["fake"])[0]
    failed = [t for t in s.trials if t.state == "failed"]
    assert failed
    assert {t.values["height"] > 0.9 for t in failed} == {True}
    assert all("too high" in t.error and t.metric is None for t in failed)
    assert len(s.trials) == 12
    assert s.best.values["height"] <= 0.9


@pytest.mark.parametrize(
    "stop",
    [
        *(pytest.param(stop, marks=pytest.mark.slow) for stop in ({"after": 2}, {"after": 11}, {"at": "trial 7 of"})),
        {"at": "trial 4: epoch 4"},
    ],
)
def test_a_killed_search_ends_where_an_unbroken_one_does(study_file, tmp_path, fake, stop):
    config, material = opened(study_file, FAKE)

    def run(out, trials=9, **stop):
        callback = Stop(**stop)
        return told(search_study(config, material, tmp_path / out, trials, ["fake"], callback=callback)), callback

    whole, _ = run("whole")
    trained, Fake.epochs_trained, killed = Fake.epochs_trained, 0, Stop(**stop)
    with pytest.raises(KeyboardInterrupt):
        search_study(config, material, tmp_path / "killed", 9, ["fake"], callback=killed)
    again, rest = run("killed")
    assert again == whole
    assert rest.finished == len(killed.tried_now)
    assert len(killed.tried_now) + len(rest.tried_now) == 2 * 9
    assert Fake.epochs_trained == trained  # an unfinished trial goes on at its last checkpoint
    assert not (tmp_path / "killed" / "tuning.checkpoints").exists()

    # a third run has nothing to do, one with more trials adds to these
    idle, callback = run("killed")
    assert idle == whole
    assert not callback.tried_now
    more, callback = run("killed", trials=10)
    assert len(callback.tried_now) == 2
    assert [trials[:9] for _, _, trials in more] == [trials for _, _, trials in whole]


@pytest.mark.slow
def test_changed_data_or_settings_begin_a_search_of_their_own(study_file, tmp_path):
    text = study_file.read_text()
    for old, new, with_warm_start in (
        ("", "", 4),
        ("[study]\n", "[study]\nmargin = 0.02\n", 0),
        ("seed = 5", "seed = 4", 4),
        ('split = "random', 'core = 4\nsplit = "random', 4),
        ('column = "noise"', 'column = "fame"', 2),  # interactions alone do not know the relation
        ('name = "relational-ease"', 'name = "relational-ease"\nconfig = { l2 = 50 }', 2),  # what is left are weights
    ):
        study_file.write_text(text.replace(old, new))
        config, material = opened(study_file)
        callback = Stop()
        search_study(config, material, tmp_path / "out", 2, ["relational-ease"], callback=callback)
        assert len(callback.tried_now) == with_warm_start, new


def test_models_found_earlier_stay_in_the_result(study_file, tmp_path, fake):
    config, material = opened(study_file, FAKE)
    out = tmp_path / "out"
    search_study(config, material, out, trials=3, models=["ease"])
    both = search_study(config, material, out, trials=3, models=["fake"])
    assert {s.cell.model.name for s in both} == {"ease", "fake"}
    deeper = search_study(config, material, out, trials=4, models=["fake"])
    assert {s.cell.model.name for s in deeper} == {"fake"}  # three trials of ease are no match for four
    raw = tomllib.loads(write_tuned(config, both, study_file.parent, out / "tuned.toml", "").read_text())
    by_name = {m["name"]: m for m in raw["models"]}
    assert "arm" not in by_name["relational-ease"]
    assert by_name["fake"]["arms"] == ["interactions", "all"]
    chosen = next(s for s in both if s.cell.arm.name == "all").best.values
    section = by_name["fake"]["arm"]["all"]
    assert section["train"] == {"lr": chosen["train.lr"]}
    assert section["config"] == {k: v for k, v in chosen.items() if k != "train.lr"}


def test_a_dimension_that_does_not_matter_is_not_tried(study_file, tmp_path, fake):
    config, material = opened(study_file, FAKE.replace("[[models]]\n", '[[models]]\narms = ["all"]\n'))
    s = search_study(config, material, tmp_path / "out", trials=12, models=["fake"])[0]
    assert {t.values["kind"] for t in s.trials} == {"plain", "round", "square"}
    assert all(("extra" in t.values) == (t.values["kind"] == "round") for t in s.trials)
    # the default 7 lies above the range and belongs to it nevertheless
    assert all(1 <= t.values["extra"] <= 7 for t in s.trials if "extra" in t.values)
    assert all(t.values["width"] in range(16, 65, 8) for t in s.trials)
    assert all(1e-3 <= t.values["train.lr"] <= 1e-1 for t in s.trials)


def test_what_the_study_file_sets_is_not_searched(study_file, tmp_path, fake):
    held = FAKE.replace("epochs = 6", "lr = 0.5, epochs = 6") + 'config = { kind = "round" }\n'
    config, material = opened(study_file, held)
    for s in search_study(config, material, tmp_path / "out", trials=4, models=["fake"]):
        assert all(set(t.values) == {"height", "extra", "width"} for t in s.trials)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[models.arm."all without x".config]\nwidth = 3', "no such arm"),
        ("[models.arm.all.train]\nepochs = 3", "its own training budget"),
        ("[models.arm.all.config]\nwidht = 3", "unknown hyper-parameter"),
    ],
)
def test_an_arms_own_section_is_checked(study_file, fake, text, message):
    config, material = opened(study_file, FAKE + text)
    with pytest.raises(InputError, match=message):
        grid(config, material)


def test_an_arms_own_section_comes_on_top_of_the_models(study_file, fake):
    text = (
        FAKE + "config = { width = 40, height = 0.25 }\n[models.arm.all]\nconfig = { width = 48 }\ntrain = { lr = 1 }"
    )
    config, material = opened(study_file, text)
    of_arm = {c.arm.name: c for c in grid(config, material) if c.model.name == "fake"}
    assert len({c.key() for c in of_arm.values()}) == len(of_arm)
    for arm, width, lr in (("interactions", 40, 0.01), ("all", 48, 1.0), ("all, driver rewired", 48, 1.0)):
        settings, train = of_arm[arm].initial_config()
        assert (settings.width, settings.height, train.lr, train.epochs) == (width, 0.25, lr, 6)
    closed = '\n[[models]]\nname = "gf-cf"\n[models.arm.all.config]\nrank = 16'
    with pytest.raises(InputError, match="no such arm"):
        grid(*opened(study_file, closed))


def test_weights_of_an_arm_are_merged_with_the_models(study_file):
    text = "config = { weights = { driver = 3 } }\n[models.arm.all.config]\nweights = { noise = 10 }"
    config, material = opened(study_file, text)
    cell = next(c for c in grid(config, material) if (c.model.name, c.arm.name) == ("relational-ease", "all"))
    assert cell.initial_config()[0].weights == {"driver": 3, "noise": 10}
    assert cell.is_fixed("weights.driver")
    assert cell.is_fixed("weights.noise")
    assert not cell.is_fixed("l2")


def test_refusals(study_file, tmp_path):
    config, material = opened(study_file)
    for models in (["popularity"], ["ease", "nothing"]):
        with pytest.raises(InputError, match="nothing to search"):
            search_study(config, material, tmp_path / "out", trials=2, models=models)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "tuning.db").write_text("a text, and long enough to be none of SQLite's files\n" * 50)
    with pytest.raises(InputError, match="not a database of trials"):
        search_study(config, material, tmp_path / "other", trials=2)


def test_a_damaged_database_is_one_error_or_changes_nothing(study_file, tmp_path, fake):
    config, material = opened(study_file, FAKE)
    whole = told(search_study(config, material, tmp_path / "whole", 4, ["fake"]))
    content = (tmp_path / "whole" / "tuning.db").read_bytes()
    used = [n for n, byte in enumerate(content) if byte]
    rng, refused = np.random.default_rng(3), []
    for number in range(16):
        out = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", out)
        damaged = bytearray(content)
        for place in rng.choice(used, 4):
            damaged[place] ^= 1 << int(rng.integers(8))
        (out / "tuning.db").write_bytes(damaged if number % 4 else content[: int(rng.integers(len(content)))])
        try:
            found = told(search_study(config, material, out, 4, ["fake"]))
        except InputError as error:
            refused.append(error.what)
        else:
            assert found == whole, number
    assert set(refused) == {"not a database of trials"}
    assert len(refused) > 2


def test_a_full_disk_is_not_called_a_damaged_database(tmp_path):
    for error, what in (
        (sqlite3.OperationalError("database or disk is full"), "trials cannot be written"),
        (sqlite3.DatabaseError("file is not a database"), "not a database of trials"),
    ):
        with pytest.raises(InputError, match=what), optuna_storage.storage_errors(tmp_path / "tuning.db"):
            raise error


@pytest.mark.parametrize(
    ("axis", "text"),
    [
        (
            Axis(GridParameter("l2", (1.0, 2.0), 1.0), 2.0),
            "_Axis(of=Knob(name='l2', ladder=(1.0, 2.0), start=1.0, group=None, strides=True), default=2.0)",
        ),
        (
            Axis(Range("alpha", 0.1, 0.9), 0.5),
            "_Axis(of=Range(name='alpha', low=0.1, high=0.9, log=False, step=None, when=None), default=0.5)",
        ),
        (
            Axis(Choice("loss", ("a", "b")), "a"),
            "_Axis(of=Choice(name='loss', values=('a', 'b'), when=None), default='a')",
        ),
    ],
)
def test_stored_searches_are_found_by_the_text_of_format_2(axis, text):
    """The text is hashed into the name of a stored search: another one would hide its trials."""
    assert axis.identity == text


@pytest.mark.parametrize(
    ("trials", "round_seconds", "seconds", "said"),
    [
        (4, 20, 85, "one trial of every model and arm took 20 s; 4 of each, about 80 s in all, are within 85 s\n"),
        (
            5,
            20,
            85,
            "one trial of every model and arm took 20 s; the 5 of each that exist are more than fit into 85 s\n",
        ),
        (1, 20, 3, "one trial of every model and arm took 20 s, more than 3 s: no further ones\n"),
    ],
)
def test_what_fits_into_the_time_is_said(trials, round_seconds, seconds, said):
    text = StringIO()
    LiveSearch(Console(file=text, width=200)).fitted(trials, round_seconds, seconds)
    assert text.getvalue() == said
