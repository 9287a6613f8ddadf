"""What a program may hand over: keys and lists of keys of any sort, a path wherever a path goes."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from kept_runs import kept

import relrank as rr
from relrank.errors import InputError
from relrank.evaluation.evaluate import Evaluation
from relrank.graph.bundle import load_graph, save_graph
from relrank.study.result import StudyResult


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return kept(tmp_path_factory.mktemp("kept"), "item-knn")


@pytest.mark.parametrize(
    "history",
    [
        (101, 105), ["101", "105"], np.array([101, 105]), pl.Series([101, 105]), torch.tensor([101, 105]),
        (x for x in (101, 105)), [101.0, np.float64(105)], [101, "105"],
    ],
)  # fmt: skip
def test_a_history_is_any_list_of_keys(run, history):
    assert run.recommend_for(history, 3).equals(run.recommend_for([101, 105], 3))


@pytest.mark.parametrize("history", ["101", b"101", 101, None, {101, 105}, {"101": 1}])
def test_what_is_no_list_is_refused(run, history):
    """Python takes a text for the list of its letters."""
    with pytest.raises(InputError, match=r"not a list[\s\S]*history[\s\S]*such as \[51\]"):
        run.recommend_for(history, 3)


@pytest.mark.parametrize("key", ["0101", "+101", " 101", "1_01", "101.5", 101.5, float("nan"), "nan", ""])
def test_a_text_that_only_looks_like_a_key_is_none(run, key):
    with pytest.raises(InputError, match="unknown key"):
        run.recommend_for([key], 3)


@pytest.mark.parametrize("key", [True, None, ["c00"], np.bool_(True)])
def test_what_is_no_key_is_refused(run, key):
    with pytest.raises(InputError, match="not a key"):
        run.recommend(key, 3)


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", True, None])
def test_a_length_is_a_whole_number_above_0(run, k):
    for call in (lambda: run.recommend("c00", k), lambda: run.recommend_for([101], k)):
        with pytest.raises(InputError, match="not a length of a list"):
            call()


@pytest.mark.parametrize("ks", [(0,), (), 10, "10", (2.5,), (True,), None])
def test_cuts_are_whole_numbers_above_0(run, ks):
    with pytest.raises(InputError, match=r"not cutoffs|rr\.evaluate, ks"):
        rr.evaluate(run.model, run.split, ks)


def test_a_path_may_be_a_text_wherever_one_goes(run, tmp_path, study_file):
    config = rr.read_study(str(study_file))
    config = config.model_copy(update={"models": config.models[:1], "relations": {}})
    material = rr.prepare(config, str(tmp_path))
    assert rr.read_tables(config.data, str(tmp_path)).name == material.tables.name
    out = str(tmp_path / "out")
    result = rr.run_study(config, material, out)
    assert rr.save_winner(config, material, out).note["model"] == "popularity"
    assert rr.load_run(out).note["model"] == "popularity"
    assert StudyResult.load(out).card["name"] == "small"
    assert rr.write_report(result, f"{out}/page.html") == Path(out) / "page.html"
    evaluation = rr.evaluate(run.model, run.split, [np.int64(3)])
    evaluation.save(f"{out}/users.parquet")
    assert Evaluation.load(f"{out}/users.parquet").summary == evaluation.summary
    save_graph(run.graph, f"{out}/graph")
    assert load_graph(f"{out}/graph").n_items == run.graph.n_items
