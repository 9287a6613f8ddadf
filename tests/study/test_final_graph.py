"""Side data with times: settings are chosen on what was known before the validation rows, and tested on what was
known before the test rows. Otherwise a fresh click would be known at validation, and never at test."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from studies import open_study

from relrank.models import MODELS
from relrank.study import memory_limits
from relrank.study.arms import INTERACTIONS
from relrank.study.cell import Cell
from relrank.study.engines.engine import SequentialEngine
from relrank.study.engines.process_engine import ProcessEngine
from relrank.study.engines.split_files import pack, unpack
from relrank.study.grid import grid
from relrank.study.memory_limits import estimate_of, graph_bytes
from relrank.study.run import run_study
from relrank.study.winner import save_winner

TEXT = """name = "clicks"
[data]
path = "."
user = "user"
item = "item"
[data.interactions]
file = "orders.csv"
user = "user"
item = "item"
time = "time"
[data.links.clicked]
file = "clicks.csv"
source = "user"
source_column = "user"
target = "item"
target_column = "item"
time = "time"
[protocol]
split = "last-leave-one-out"
[relations.clicks]
kind = "link"
table = "clicked"
duplicates = "first"
[[models]]
name = "relational-ease"
[study]
trials = 30
"""
DAY = 86_400


@pytest.fixture
def shop(tmp_path):
    """200 users order 6 of 80 items at random, a day apart, each an hour after a click on it and on another one."""
    rng = np.random.default_rng(2)
    orders, clicks = [], []
    for user in range(200):
        start = 1_600_000_000 + int(rng.integers(30 * DAY))
        for n, item in enumerate(rng.choice(80, 6, replace=False)):
            time = start + n * DAY
            orders.append((user, int(item), time))
            clicks += [(user, int(item), time - 3600), (user, int(rng.integers(80)), time - 1800)]
    for name, rows in (("orders", orders), ("clicks", clicks)):
        frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
        frame.unique(["user", "item"], keep="first", maintain_order=True).write_csv(tmp_path / f"{name}.csv")
    (tmp_path / "study.toml").write_text(TEXT)
    return tmp_path


def edges(graph, name):
    relation = graph.interactions if name == "interactions" else graph.relations[name]
    users, items = graph.nodes["user"].keys, graph.nodes["item"].keys
    return set(zip(users.gather(relation.src), items.gather(relation.dst), strict=True))


def rows(path, keep):
    return {(user, item) for user, item, time in pl.read_csv(path).iter_rows() if keep(user, time)}


def test_each_graph_ends_before_what_it_has_to_predict(shop):
    _, material = open_study(shop / "study.toml")
    (context,) = material.split_contexts
    last = dict(pl.read_csv(shop / "orders.csv").group_by("user").agg(pl.col("time").max()).iter_rows())
    for graph, end in ((context.graph, DAY), (context.final_graph, 0)):
        assert edges(graph, "clicks") == rows(shop / "clicks.csv", lambda user, time: time < last[user] - end)  # noqa: B023
        assert edges(graph, "interactions") == rows(shop / "orders.csv", lambda user, time: time < last[user] - end)  # noqa: B023
    assert context.graph_at_test is context.final_graph


def test_a_date_is_the_end_of_its_day(shop):
    """Returns, dated by the day of the order that they follow, are not earlier than it."""
    orders = pl.read_csv(shop / "orders.csv")
    orders.with_columns(pl.from_epoch("time").dt.date().alias("time")).write_csv(shop / "clicks.csv")
    _, material = open_study(shop / "study.toml")
    (context,) = material.split_contexts
    for graph, split in ((context.graph, context.split), (context.final_graph, context.final)):
        for rows in (split.valid, split.test):
            held = set(zip(split.users.at(rows.user), split.items.at(rows.item), strict=True))
            assert not held & edges(graph, "clicks")


def test_figures_are_not_paired_with_those_of_studies_without_times(shop):
    _, timed = open_study(shop / "study.toml")
    text = TEXT.replace('target_column = "item"\ntime = "time"', 'target_column = "item"')
    _, plain = open_study(shop / "study.toml", text)
    (with_time,), (without,) = timed.split_contexts, plain.split_contexts
    assert with_time.split.fingerprint == without.split.fingerprint
    assert with_time.final.fingerprint != without.final.fingerprint
    assert with_time.final.fingerprint == with_time.final_graph.fingerprint


def test_the_audit_looks_at_the_graph_of_the_test(shop):
    """Without the cut at the time, test rows would be edges; with it the audit counts earlier ones as a warning."""
    _, material = open_study(shop / "study.toml")
    (finding,) = [f for f in material.findings if f.check == "test rows in clicks"]
    assert finding.level == "warning"
    assert finding.count == 200  # each order follows a click on its item


def test_in_time_the_final_fit_ends_at_the_cut_of_the_test_rows(shop):
    valid_cut, cut = 1_600_000_000 + 17 * DAY, 1_600_000_000 + 19 * DAY
    text = TEXT.replace('"last-leave-one-out"', f'"temporal"\nvalid_cut = {valid_cut}\ncut = {cut}')
    _, material = open_study(shop / "study.toml", text)
    (context,) = material.split_contexts
    users = set(context.graph.nodes["user"].keys)
    items = set(context.graph.nodes["item"].keys)
    for graph, end in ((context.graph, valid_cut), (context.final_graph, cut)):
        found = rows(shop / "clicks.csv", lambda user, time: time < end)  # noqa: B023
        assert edges(graph, "clicks") == {(user, item) for user, item in found if user in users and item in items}


def test_clicks_before_an_order_help(shop):
    """Fitted for the test without the clicks that came after the validation rows, they would seem to do harm."""
    config, material = open_study(shop / "study.toml")
    result = run_study(config, material, shop / "out")
    alone = result.effects.row(by_predicate=pl.col("kind") == "alone", named=True)
    assert alone["low"] > 0.2
    (verdict,) = result.verdicts["verdict"]
    assert verdict == "helps"
    assert any("validation rows given back to training" in notice["message"] for notice in result.card["notices"])

    winner = save_winner(config, material, shop / "out")
    assert len(winner.split.valid) == 0
    # the run that is served was fitted on all that was known before the test rows
    (context,) = material.split_contexts
    assert len(winner.split.train) == len(context.split.train) + len(context.split.valid)
    assert edges(winner.graph, "clicks") == edges(context.final_graph, "clicks")


def test_engines_pass_it_on(shop):
    config, material = open_study(shop / "study.toml")
    (context,) = material.split_contexts
    again = unpack(pack(context))
    assert edges(again.final_graph, "clicks") == edges(context.final_graph, "clicks")
    keys = [cell.key() for cell in grid(config, material)]
    passed_on = [cell.key() for cell in grid(config, type(material)(material.tables, (again,), ()))]
    assert keys == passed_on


def test_without_times_there_is_one_graph(shop):
    text = TEXT.replace('target_column = "item"\ntime = "time"', 'target_column = "item"')
    (shop / "study.toml").write_text(text)
    _, material = open_study(shop / "study.toml")
    (context,) = material.split_contexts
    assert context.final_graph is None
    assert not context.refit


def test_memory_counts_both_graphs(shop):
    config, material = open_study(shop / "study.toml")
    (context,) = material.split_contexts
    files = pack(context)
    for graph, folder in ((context.graph, "graph/"), (context.final_graph, "final_graph/")):
        measured = sum(len(content) for name, content in files.items() if name.startswith(folder))
        assert graph.nbytes == pytest.approx(measured, rel=0.1)
    assert graph_bytes(context) == context.graph.nbytes + context.final_graph.nbytes > 2 * context.graph.nbytes
    one = replace(context, final_graph=None)
    assert graph_bytes(one) == context.graph.nbytes
    # the final fit, on the larger graph, is the largest
    (section,) = config.models
    for name in ("item-knn", "rp3beta", "mf"):
        model = section.model_copy(update={"name": name, "trials": 1})
        cells = [Cell(model, INTERACTIONS, each, config.study) for each in (context, one)]
        kind, extra = MODELS[name], (cells[0].initial_config()[1].batch,) if name == "mf" else ()
        final = kind.estimate(cells[0].arm_graph(context.final_graph), kind.Config(), *extra)
        assert estimate_of(cells[0]).bytes == final.bytes >= estimate_of(cells[1]).bytes


def test_processes_have_less_memory_left_by_both_graphs(shop, monkeypatch):
    config, material = open_study(shop / "study.toml")
    (context,) = material.split_contexts
    limits = []

    def stop(cells, available):
        limits.append(available)
        raise KeyboardInterrupt

    monkeypatch.setattr(memory_limits, "exceeding_memory", stop)
    monkeypatch.setenv(memory_limits.VARIABLE, "1")
    for engine in (SequentialEngine(), ProcessEngine(2)):
        with pytest.raises(KeyboardInterrupt):
            run_study(config, material, shop / "out", engine=engine)
    assert limits == [memory_limits.GB, memory_limits.GB // 2 - graph_bytes(context)]
