"""Repeated purchases are in the history, from the file to the lists of a saved model."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from shops import SHOP

from relrank.evaluation.evaluate import evaluate, with_validation_history
from relrank.graph.histories import Sequences
from relrank.runs.batch import BatchRecommender
from relrank.runs.fitted_run import FittedRun, load_run
from relrank.serve.explanations import explain_item
from relrank.serve.served_model import ServedModel
from relrank.study.config import read_study
from relrank.study.engines.split_files import pack, unpack
from relrank.study.fit_run import fit_run
from relrank.study.grid import grid
from relrank.study.prepare import StudyData, prepare

STUDY = f"""{SHOP}time = "time"
duplicates = "keep"
[protocol]
name = "shop-split"
split = "last-leave-one-out"
[study]
seeds = [0]
[[models]]
name = "markov"
config = {{ window = 3, decay = 0.5 }}
[[models]]
name = "sasrec"
config = {{ dim = 8, window = 4 }}
train = {{ epochs = 2 }}
"""
ORDER = (0, 1, 0, 2, 1, 3, 0, 3, 4, 2, 5, 1, 6)
BOUGHT = {f"c{c}": [f"p{(5 * c + k * (1 + c % 4)) % 17}" for k in ORDER] for c in range(12)}
"""Products by customer, oldest first."""


def new(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))


def before(items: list[str], *out: str) -> list[str]:
    """What was bought before anything that is held out, as often as it was."""
    return items[: min(items.index(item) for item in out)] if out else items


@pytest.fixture
def material(tmp_path: Path) -> StudyData:
    rows = [(c, item, 100 + 20 * int(c[1:]) + k) for c, items in BOUGHT.items() for k, item in enumerate(items)]
    frame = pl.DataFrame(rows, schema=["customer", "product", "time"], orient="row")
    frame.sample(fraction=1.0, shuffle=True, seed=0).write_csv(tmp_path / "sales.csv")
    (tmp_path / "shop.toml").write_text(STUDY)
    return prepare(read_study(tmp_path / "shop.toml"), tmp_path)


def fitted(material: StudyData, folder: Path, number: int) -> FittedRun:
    cell = grid(read_study(folder / "shop.toml"), material)[number]
    run = fit_run([cell], material.tables, folder / "run", lambda _: None)
    assert load_run(folder / "run").split.events.item.tolist() == run.split.events.item.tolist()
    return load_run(folder / "run")


def test_a_history_is_what_was_bought_before_the_held_out(material: StudyData) -> None:
    split_context = material.split_contexts[0]
    split, again = split_context.split, unpack(pack(split_context))
    there = {c: before(items, *new(items)[-2:]) for c, items in BOUGHT.items()}
    assert any(len(items) > len(set(items)) for items in there.values())
    for one in (split_context, again):
        histories = Sequences.from_graph(one.graph).tensors()
        assert {
            c: split.items.at(h.numpy()).to_list() for c, h in zip(split.users.keys, histories, strict=True)
        } == there
        assert one.split.repeats is not None
        assert one.split.repeats.time.tolist() == split.repeats.time.tolist()


@pytest.mark.parametrize("number", [0, 1], ids=["markov", "sasrec"])
def test_lists_and_figures_are_those_of_the_whole_history(material: StudyData, tmp_path: Path, number: int) -> None:
    """For the test it goes on with the validation row, for a list with the test row, too."""
    run = fitted(material, tmp_path, number)
    split = run.split
    lists = BatchRecommender(run)
    differs = 0
    for row, customer in enumerate(split.users.keys):
        items = BOUGHT[customer]
        valid, test = new(items)[-2:]
        known = before(items, valid, test)
        heard = split.items.find(pl.Series([*known, valid, test])).astype(np.int64)
        assert run.full_history(row).tolist() == heard.tolist()
        best = run.recommend(customer, 5)
        assert best.equals(run.recommend_for([*known, valid, test], 5))
        assert lists.top(np.array([row]), 5)[0].items[0].tolist() == [*split.items.find(best["item"]), -1, -1, -1][:5]
        differs += not best.equals(run.recommend_for([*new(known), valid, test], 5))
        scores = with_validation_history(run.model, split, "test").score(torch.tensor([row]))
        folded = run.model.fold_in([torch.from_numpy(heard[:-1])])
        assert np.allclose(scores, folded, atol=1e-5)
    assert differs
    assert 0 < evaluate(run.model, split, (3,)).summary["mrr"] < 1


def test_a_visit_goes_on_from_the_whole_history(material: StudyData, tmp_path: Path) -> None:
    """Where test rows are anywhere in a history, too; what explains such a list reads the same."""
    (tmp_path / "shop.toml").write_text(STUDY.replace("last-leave-one-out", "random-leave-one-out"))
    run = fitted(prepare(read_study(tmp_path / "shop.toml"), tmp_path), tmp_path, 0)
    served, differs, reasons = ServedModel("run", run), 0, 0
    for row, history in enumerate(Sequences.from_graph(run.graph).tensors()):
        visit = history[:1]  # which was bought before
        both = torch.cat([history, visit])
        scores = run.model.fold_in([both])[0].numpy()
        page = served.ranked_list(row, visit.numpy(), 0, 1)
        assert np.allclose(page.scores, scores[page.items], atol=1e-6)
        once = torch.cat([torch.tensor(new(history.tolist())), visit])
        differs += not np.allclose(scores, run.model.fold_in([once])[0].numpy())
        item = int(page.items[0])
        for reason in explain_item(served, item, row, visit.numpy(), 5)["reasons"]:
            left = both[both != served.catalogue.item_rows[str(reason["via"]["item"])]]
            assert reason["score_after_removal"] == pytest.approx(float(run.model.fold_in([left])[0, item]), abs=1e-6)
            reasons += 1
    assert differs
    assert reasons
