from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from studies import nested_study, open_study

from relrank.graph.relation import Relation
from relrank.io.manifest import write_manifest
from relrank.models import MODELS
from relrank.study import arms as arm_of
from relrank.study.arms import arms
from relrank.study.callbacks import NullCallback
from relrank.study.cell import Cell, key_of_identity
from relrank.study.config import ModelSection
from relrank.study.engines.engine import SequentialEngine
from relrank.study.grid import grid
from relrank.study.prepare import prepare
from relrank.study.run import run_study
from relrank.study.tune_cell import grid_parameters_of, tune_and_fit
from relrank.study.warm_starts import load_warm_start, with_prerequisites
from relrank.tables.synthetic import PlantedConfig

RELATIONS = ("a", "b", "c")
LARGER = PlantedConfig(users=200, items=260, per_user=6, groups=6, seed=0)


@pytest.fixture
def study(tmp_path):
    return open_study(tmp_path / "nest.toml", nested_study())


def cells_of(study, section, wanted=None):
    config, material = study
    wanted = arms(RELATIONS) if wanted is None else wanted
    return [
        Cell(section, arm, split_context, config.study) for split_context in material.split_contexts for arm in wanted
    ]


def by_name(cells):
    names = {(cell.arm.name, cell.split_context.seed): cell for cell in cells}
    keys = {cell.key(): place for place, cell in names.items()}
    return {place: [keys[key] for key in cell.prerequisites] for place, cell in names.items()}


def test_what_begins_after_what(study):
    prerequisites = by_name(with_prerequisites(cells_of(study, ModelSection(name="relational-ease"))))
    for seed in (0, 1):
        singles = [f"interactions + {r}" for r in RELATIONS]
        assert prerequisites["interactions", seed] == []
        assert prerequisites["all", seed] == [("interactions", seed), *((single, seed) for single in singles)]
        for relation in RELATIONS:
            assert prerequisites[f"interactions + {relation}", seed] == [("interactions", seed)]
            assert prerequisites[f"all without {relation}", seed] == [("all", seed)]
            assert prerequisites[f"all, {relation} rewired", seed] == [("all", seed)]


def test_pairs_begin_after_their_halves(study):
    section = ModelSection(name="relational-ease")
    wide = section.model_copy(update={"config": {"weights": {}}})
    config, _ = study
    config = config.model_copy(update={"relations": dict(config.relations) | {"d": config.relations["a"]}})
    four = prepare(config, Path("."))
    names = ("a", "b", "c", "d")
    planned = with_prerequisites(cells_of((config, four), wide, arms(names)))
    keys = {cell.key(): cell.arm.name for cell in planned}
    [pair, _] = with_prerequisites(cells_of((config, four), wide, [arm_of.with_relations(["c", "b"])]), planned)
    assert [keys[key] for key in pair.prerequisites] == ["interactions + b", "interactions + c", "interactions"]


def test_each_stands_behind_those_it_begins_after_whatever_the_order(study):
    cells = cells_of(study, ModelSection(name="relational-ease"))
    for order in (cells, cells[::-1]):
        seen = set()
        for cell in with_prerequisites(order):
            assert set(cell.prerequisites) <= seen
            seen.add(cell.key())


def test_further_cells_begin_after_earlier_ones(study):
    section = ModelSection(name="relational-ease")
    planned = with_prerequisites(cells_of(study, section))
    extra = cells_of(study, section, [arm_of.alone_rewired("a")])
    keys = {cell.key(): (cell.arm.name, cell.split_context.seed) for cell in planned}
    assert [[keys[key] for key in cell.prerequisites] for cell in with_prerequisites(extra, planned)] == [
        [("interactions + a", seed)] for seed in (0, 1)
    ]
    assert [cell.prerequisites for cell in with_prerequisites(extra)] == [(), ()], "nothing there to begin after"


def test_what_is_not_searched_begins_after_nothing(study):
    for section in (ModelSection(name="relational-ease", trials=1), ModelSection(name="mf")):
        cells = cells_of(study, section)
        linked = with_prerequisites(cells)
        assert all(cell.prerequisites == () for cell in linked)
        assert {cell.key() for cell in linked} == {cell.key() for cell in cells}


def test_the_key_holds_what_a_search_began_after(study):
    """Otherwise a study with other settings before it would take the result of another search for its own."""
    section = ModelSection(name="relational-ease")
    [one, *_] = [c for c in with_prerequisites(cells_of(study, section)) if c.arm.name == "all"]
    wanted = [arm_of.INTERACTIONS, arm_of.all_of(RELATIONS)]
    [other, *_] = [c for c in with_prerequisites(cells_of(study, section, wanted)) if c.arm.name == "all"]
    assert one.key() != other.key()


def test_beginnings_are_the_first_cell_and_the_best(study, tmp_path):
    config, material = study
    cell = Cell(
        ModelSection(name="relational-ease"), arm_of.all_of(RELATIONS), material.split_contexts[0], config.study
    )

    keys = {name: key_of_identity({"name": name}) for name in ("first", "low", "best", "gone")}

    def write(name, valid, l2, weights):
        folder = tmp_path / keys[name]
        folder.mkdir()
        chosen = f'"chosen": {{"l2": {l2}, "weights": {weights}}}'
        (folder / "cell.json").write_text(f'{{"identity": {{"name": "{name}"}}, "valid": {valid}, {chosen}}}')
        write_manifest(folder)

    write("first", 0.2, 500.0, "{}")
    write("low", 0.1, 200.0, '{"b": 3.0}')
    write("best", 0.3, 200.0, '{"a": 30.0, "b": 0.123}')

    def warm_starts(*prerequisites):
        known = tuple(keys[name] for name in prerequisites)
        return load_warm_start(
            Cell(cell.model, cell.arm, cell.split_context, cell.study, known), tmp_path
        ).warm_starts

    assert warm_starts() == ()
    assert warm_starts("gone") == ()
    assert warm_starts("first") == warm_starts("first", "low") == ({"l2": 500.0},)
    # a weight off the ladder is none to begin with
    assert warm_starts("first", "gone", "best") == ({"l2": 500.0}, {"l2": 200.0, "weights.a": 30.0})
    assert warm_starts("best", "first") == ({"l2": 200.0, "weights.a": 30.0},)


def test_a_first_search_has_to_beat_the_models_other_starts(study, tmp_path):
    """From few neighbours, steps of one knob do not lead to many with more penalty."""
    config, material = study
    [split_context, _] = material.split_contexts
    section = ModelSection(name="sparse-ease", trials=60)
    cell = Cell(section, arm_of.INTERACTIONS, split_context, config.study)
    assert MODELS["sparse-ease"].starts(split_context.graph) == (), "60 items have no 200 neighbours"
    larger = config.model_copy(update={"data": config.data.model_copy(update={"planted": LARGER})})
    split_context = prepare(larger, tmp_path).split_contexts[0]
    [start] = MODELS["sparse-ease"].starts(split_context.graph)
    found = tune_and_fit(replace(cell, split_context=split_context), tmp_path, lambda _: None, {})
    tried = [t for t in found.trials if start.items() <= t.values.items()]
    assert tried
    assert found.valid_metric >= max(t.metric for t in tried) - 1e-6
    # a search that begins elsewhere is told where
    with_warm_start = replace(cell, split_context=split_context, prerequisites=("x",), warm_starts=({"l2": 50.0},))
    assert not [
        t
        for t in tune_and_fit(with_warm_start, tmp_path, lambda _: None, {}).trials
        if start.items() <= t.values.items()
    ]


def unread_bench(split_context):
    """The same with users in the place of items in relation b."""
    graph = split_context.graph
    users = np.arange(graph.n_users)
    b = Relation.of("b", "user", graph.relation("b").target, users, users % 3)
    return replace(split_context, graph=replace(graph, relations={**graph.relations, "b": b}))


def test_a_cell_is_run_again_once_what_it_should_have_begun_after_is_there(study, tmp_path):
    """It was skipped for lack of memory in the first run; cells that ran without it run again."""
    config, material = study
    first = dict(config.study.model_dump(), seeds=(0,))
    config = config.model_copy(update={"study": type(config.study)(**first)})
    material = replace(material, split_contexts=material.split_contexts[:1])
    planned = with_prerequisites(grid(config, material))
    names = {cell.key(): cell.arm.name for cell in planned}

    class Forgetful(SequentialEngine):
        """Runs out of memory in "all"."""

        def run(self, cells, folder, callback):
            for key, result in super().run(
                {k: c for k, c in cells.items() if names.get(k) != "all"}, folder, callback
            ):
                yield key, result
            for key in cells:
                if names.get(key) == "all":
                    yield key, None

    class Told(NullCallback):
        def __init__(self):
            self.fresh = set()

        def done(self, cell, result, fresh):
            if fresh:
                self.fresh.add(cell.arm.name)

    run_study(config, material, tmp_path, Told(), Forgetful())
    again = Told()
    run_study(config, material, tmp_path, again)
    dropped = {cell.arm.name for cell in planned if [names[key] for key in cell.prerequisites] == ["all"]}
    assert len(dropped) == 6
    assert again.fresh == dropped | {"all"}
    third = Told()
    run_study(config, material, tmp_path, third)
    assert third.fresh == set()


def test_what_is_searched_again_beside_a_relation(study):
    """All, in single steps; where links are shuffled, that relation's weight."""
    config, material = study
    section, split_context = ModelSection(name="sparse-ease"), material.split_contexts[0]

    def moved(arm, *warm_starts):
        cell = Cell(section, arm, split_context, config.study, warm_starts=warm_starts)
        return {knob.name for knob in grid_parameters_of(cell, cell.graph)}

    found = {"l2": 5.0, "neighbours": 20}
    own = {"l2", "neighbours", "item_power", "user_power", "shrinkage"}
    weights = {f"weights.{name}" for name in RELATIONS}
    assert moved(arm_of.INTERACTIONS) == own
    assert moved(arm_of.alone("a")) == own | {"weights.a"}, "nothing was found before"
    assert moved(arm_of.alone("a"), found) == own | {"weights.a"}
    assert moved(arm_of.all_without(RELATIONS, "b"), found) == own | {"weights.a", "weights.c"}
    assert moved(arm_of.all_of(RELATIONS), found) == own | weights
    shuffled = arm_of.rewired(RELATIONS, "b")
    assert moved(shuffled, found | {"weights.b": 3.0}) == {"weights.b"}
    assert moved(shuffled, found | {"weights.b": 0.0}) == set()
    # item-kNN does not read users' relations: shuffled, they leave the arm what it was
    unread = Cell(
        ModelSection(name="relational-item-knn"),
        shuffled,
        unread_bench(split_context),
        config.study,
        warm_starts=(found,),
    )
    assert {k.name for k in grid_parameters_of(unread, unread.graph)} == {
        "neighbours",
        "shrinkage",
        "weights.a",
        "weights.c",
    }
    held = ModelSection(name="sparse-ease", config={"weights": {"b": 3.0}})
    cell = Cell(held, shuffled, split_context, config.study, warm_starts=(found,))
    assert grid_parameters_of(cell, cell.graph) == [], "a held weight is not searched"
