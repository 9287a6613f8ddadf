"""Every argument of every public function, with values of wrong types: one clear error, never a raw one."""

import datetime
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
import pytest
from shop_frames import COLUMNS, SMALL, shop

import relrank as rr
from relrank.arguments import Bounds, Seed, checked, plain
from relrank.errors import InputError

PURCHASES, PRODUCTS = shop()
SETTINGS: dict[str, Any] = {**COLUMNS, **SMALL, "nodes": {"product": PRODUCTS}}
WRONG = {
    "object": object(), "bytes": b"x", "complex": 1j, "type": int, "set": {1}, "nested": [[None]], "table": PRODUCTS,
    "array": np.arange(3), "date": datetime.date(2024, 1, 1), "number by number": {1: 2}, "nan": float("nan"),
    "negative": -1, "no path": "\0",
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    study = rr.Study(PURCHASES, **SETTINGS, out=tmp_path_factory.mktemp("wrong") / "shop")
    study.run(quiet=True)
    return study


@pytest.fixture(scope="module")
def estimator():
    return rr.Estimator("item-knn").fit(PURCHASES, user="customer", item="sku")


def calls(study: rr.Study, estimator: rr.Estimator) -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """Public functions by name, and right arguments for them."""
    config, data, winner, folder = study.config, study.data, study.winner, study.folder
    context, graph = data.split_contexts[0], winner.graph
    table = pl.DataFrame({"user": [1, 2, 3], "m": [0.1, 0.2, 0.3]})
    frames = {"user": "customer", "item": "sku"}
    explained = {"model": winner.model, "graph": graph, "item": 0}
    return {
        "Study": (rr.Study, {"interactions": PURCHASES, **SETTINGS}),
        "Study.run": (study.run, {}),
        "Study.audit": (study.audit, {}),
        "Study.recommend": (study.recommend, {"user": "C-1"}),
        "Study.report": (study.report, {}),
        "Study.save": (study.save, {"folder": "x"}),
        "Study.plot_effects": (study.plot_effects, {}),
        "Study.plot_leaderboard": (study.plot_leaderboard, {}),
        "Nodes": (rr.Nodes, {"frame": PRODUCTS}),
        "Links": (rr.Links, {"frame": PRODUCTS, "source_column": "sku", "target_column": "driver"}),
        "Texts": (rr.Texts, {"frame": PRODUCTS}),
        "Estimator": (rr.Estimator, {}),
        "Estimator.fit": (rr.Estimator("item-knn").fit, {"interactions": PURCHASES, **frames}),
        "Estimator.recommend": (estimator.recommend, {"users": "C-1"}),
        "Estimator.similar": (estimator.similar, {"items": 1}),
        "Estimator.save": (estimator.save, {"folder": "x"}),
        "FittedRun.recommend": (winner.recommend, {"user": "C-1"}),
        "FittedRun.recommend_for": (winner.recommend_for, {"history": [1]}),
        "FittedRun.history": (winner.history, {"user": "C-1"}),
        "Graph.relation": (graph.relation, {"name": "driver"}),
        "Graph.relations_of": (graph.relations_of, {"node_type": "product"}),
        "Graph.rewired": (graph.rewired, {"name": "driver", "seed": 0}),
        "Graph.history": (graph.history, {"user": 0}),
        "StudyResult.load": (rr.StudyResult.load, {"folder": "x"}),
        "StudyResult.save": (study.result.save, {"folder": "x"}),
        "Evaluation.load": (rr.Evaluation.load, {"path": "x"}),
        "audit": (rr.audit, {"tables": data.tables, "split": context.split}),
        "build_graph": (
            rr.build_graph, {"tables": data.tables, "split": context.split, "relations": config.relations},
        ),
        "compare": (rr.compare, {"a": table, "b": table, "metric": "m"}),
        "evaluate": (rr.evaluate, {"model": winner.model, "split": context.split}),
        "explain": (rr.explain, {**explained, "user": 0}),
        "explain, history": (rr.explain, {**explained, "history": [1]}),
        "load_run": (rr.load_run, {"folder": "x"}),
        "make_split": (rr.make_split, {"tables": data.tables, "protocol": config.protocol, "seed": 0}),
        "prepare": (rr.prepare, {"config": config, "base": folder}),
        "read_study": (rr.read_study, {"path": "x"}),
        "read_tables": (rr.read_tables, {"config": config.data, "base": folder}),
        "run_study": (rr.run_study, {"config": config, "material": data, "out": folder}),
        "save_winner": (rr.save_winner, {"config": config, "material": data, "out": folder}),
        "write_report": (rr.write_report, {"result": study.result, "path": "x"}),
        "fit": (rr.fit, {"model": winner.model, "config": rr.TrainConfig(), "validate": float, "seed": 0}),
    }  # fmt: skip


def test_every_argument_with_values_of_wrong_types(done, estimator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # "negative" and others may be names of files
    raw, checks = [], 0
    for name, (function, right) in calls(done, estimator).items():
        for argument, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is not parameter.VAR_KEYWORD:
                for kind, value in WRONG.items():
                    checks += 1
                    try:
                        function(**{**right, argument: value})
                    except InputError:
                        continue
                    except Exception as error:
                        raw.append(f"{name}, {argument}={kind}: {error!r}")
    assert not raw, "\n".join(raw)
    assert checks > 1500


def test_every_public_function_is_tried(done, estimator):
    tried = {name.partition(",")[0].partition(".")[0] for name in calls(done, estimator)}
    functions = {name for name in rr.__all__ if inspect.isfunction(getattr(rr, name))}
    assert functions <= tried


@pytest.mark.parametrize(
    ("settings", "where", "expected", "found"),
    [
        ({"relations": [{"kind": "link"}]}, "relations", "a mapping from names or None", "[{'kind': 'link'}]"),
        ({"models": 7}, "models", "a text or a mapping", "7"),
        ({"models": ["ease", 7]}, "models[1]", "a text or a mapping from names", "7"),
        ({"na_values": "NA"}, "na_values", "a list (a text each) or None", "'NA'"),
        ({"user": 3}, "user", "a text", "3"),
        ({"nodes": {7: PRODUCTS}}, "nodes, a name", "a text", "7"),
        ({"time": PRODUCTS}, "time", "a text or None", "DataFrame"),
        ({"name": "my shop"}, "key name", "letters, digits", "my shop"),
    ],
)
def test_the_message_names_argument_expected_and_found(settings, where, expected, found):
    with pytest.raises(InputError) as error:
        rr.Study(PURCHASES, **{**SETTINGS, **settings})
    assert error.value.where.startswith(f"rr.Study, {where}")
    assert expected in error.value.expected
    assert found in error.value.found


def test_one_model_needs_no_list(tmp_path):
    for models in ("ease", {"name": "ease"}, ["ease"], (m for m in ["ease"])):
        study = rr.Study(PURCHASES, **{**SETTINGS, "models": models}, out=tmp_path / "one")
        assert [model.name for model in study.config.models] == ["ease"]


def test_keys_of_numpy_are_keys(done, estimator):
    for users in (np.str_("C-1"), np.array("C-1"), ["C-1"], np.array(["C-1"])):
        assert estimator.recommend(users, k=np.int64(3)).equals(estimator.recommend("C-1", k=3))
    for items in (np.int64(7), np.int32(7), np.array(7), "7", [7]):
        assert estimator.similar(items, k=3).equals(estimator.similar(7, k=3))
    assert done.recommend(np.str_("C-1")).equals(done.recommend("C-1"))
    for wrong in (None, object(), datetime.date(2024, 1, 1), [None], [["x", None]]):
        with pytest.raises(InputError):
            estimator.recommend(wrong)


def test_settings_of_numpy_are_those_of_python(tmp_path):
    one = rr.Estimator("mf", dim=np.int64(4), seed=np.int64(3), train={"epochs": np.int64(1), "lr": np.float32(0.5)})
    run = one.fit(PURCHASES, user=np.str_("customer"), item="sku").run_
    assert (run.note["seed"], run.note["config"]["dim"]) == (3, 4)
    assert rr.load_run(one.save(tmp_path / "mf")).note["config"]["dim"] == 4


def test_folders_with_spaces_and_dots_give_the_study_a_name(tmp_path):
    for folder, name in (("my shop (2)", "my-shop-2-"), (".shop", "shop"), ("…", "-")):
        study = rr.Study(PURCHASES, **SETTINGS, out=tmp_path / folder)
        assert (study.config.name, study.folder) == (name, tmp_path / folder)
    renamed = PURCHASES.rename({"customer": "customer id"})
    assert rr.Study(renamed, **{**SETTINGS, "user": "customer id"}).config.name == "customer-id-product"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path, done):
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    for call in (
        lambda: rr.Study(PURCHASES, **SETTINGS, out=file),
        lambda: done.save(file),
        lambda: rr.run_study(done.config, done.data, file),
        lambda: done.report(file / "report.html"),
        lambda: rr.load_run(file),
    ):
        with pytest.raises(InputError, match="file") as error:
            call()
        assert str(file) in error.value.where + error.value.found
    assert file.read_text() == "mine"


def test_two_studies_in_one_folder_are_never_mixed(tmp_path):
    first = rr.Study(PURCHASES, **SETTINGS, out=tmp_path / "shop")
    first.run(quiet=True)
    mine = first.verdicts
    second = rr.Study(PURCHASES.with_columns(pl.col("bought_at").reverse()), **SETTINGS, out=tmp_path / "shop")
    second.run(quiet=True)
    assert first.verdicts.equals(mine), "in memory it stays what it was"
    page = (tmp_path / "shop" / "report.html").read_bytes()
    with pytest.raises(InputError, match="folder has the files of another study"):
        first.report()
    assert (tmp_path / "shop" / "report.html").read_bytes() == page
    assert first.report(tmp_path / "elsewhere.html").is_file()
    first.run(quiet=True)  # writes its own frames again
    assert first.verdicts.equals(mine)
    stored = pl.read_parquet(tmp_path / "shop" / "frames" / "interactions.parquet")
    assert stored.equals(PURCHASES)
    assert rr.StudyResult.load(tmp_path / "shop").verdicts.equals(mine)
    with pytest.raises(InputError, match="another study"):
        second.report()


def test_a_study_that_runs_keeps_its_frames(tmp_path, monkeypatch):
    from threading import Thread

    from relrank.frames import study as module

    first = rr.Study(PURCHASES, **SETTINGS, out=tmp_path / "shop")
    second = rr.Study(PURCHASES.head(300), **SETTINGS, out=tmp_path / "shop")
    errors, run_study = [], module.run_study

    def interrupted(*args):
        def attempt():
            try:
                _ = second.data
            except InputError as error:
                errors.append(error.what)

        thread = Thread(target=attempt)
        thread.start()
        thread.join()
        return run_study(*args)

    monkeypatch.setattr(module, "run_study", interrupted)
    first.run(quiet=True)
    assert errors == ["folder is in use"]
    assert pl.read_parquet(tmp_path / "shop" / "frames" / "interactions.parquet").height == PURCHASES.height


@pytest.mark.parametrize(
    ("hint", "right", "wrong"),
    [
        (str, ["a", np.str_("a")], [1, None, b"a"]),
        (int, [1, np.int64(1)], [1.0, True, "1", np.bool_(True)]),
        (float, [1, 1.5, np.float32(1)], [True, "1", float("nan")]),
        (bool, [True, np.bool_(False)], [1, 0, "x", None]),
        (Seed, [0, np.uint8(3)], [-1, 2**63]),
        (Annotated[float, Bounds(0, 1)], [0, 1], [1.1, -0.1]),
        (int | None, [None, 1], ["x", 1.5]),
        (Literal["a", "b"], ["a"], ["c", None, np.arange(2), ["a"]]),
        (Path | str, ["x", Path("x"), np.str_("x")], ["\0", 1, b"x", None]),
        (Mapping[str, int], [{"a": 1}, {}], [{1: 1}, {"a": "b"}, [("a", 1)]]),
        (Sequence[int], [[1], (), np.arange(2), pl.Series([1])], ["12", {1: 2}, {1}, ["a"], np.array(1), iter([1])]),
        (Iterable[str], [["a"], {"a"}, iter(["a"])], ["a", 1, [1]]),
        (tuple[str, int], [("a", 1)], [("a", "b"), (1, 1)]),
        (Callable[[], None], [len, print], [1, "len"]),
        (pl.DataFrame, [pl.DataFrame()], [{"a": [1]}, None]),
        (Any, [object(), None], []),
    ],
)
def test_hints_and_what_fits_them(hint, right, wrong):
    for value in right:
        fitting = plain(value, hint, "here")
        assert not isinstance(fitting, np.generic)
    for value in wrong:
        with pytest.raises(InputError) as error:
            plain(value, hint, "here")
        assert error.value.where.startswith("here")


def test_checked_functions_keep_names_and_python_s_own_errors():
    @checked("f")
    def f(a: int, *more: str, b: "Missing" = None, **rest: int):  # noqa: F821
        return a, more, b, rest

    assert f(np.int64(1), "x", b=object, c="unchecked")[:2] == (1, ("x",))
    assert inspect.signature(f).parameters.keys() == {"a", "more", "b", "rest"}
    with pytest.raises(InputError, match=r"f, more\[1\]"):
        f(1, "x", 2)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'a'"):
        f()
