"""A bench that went through files is the bench it was: same keys, same rows, same edges."""

import json
from dataclasses import fields, replace

import numpy as np
from studies import open_study

from relrank.study.engines.split_files import pack, pack_cell, unpack, unpack_cell
from relrank.study.grid import grid


def test_a_bench_is_the_same_after_its_files(study_file):
    text = study_file.read_text().replace(
        "seeds = [0, 1]", 'seeds = [0, 1]\nattribute = "driver"\nitem_groups = ["driver"]'
    )
    config, material = open_study(study_file, text.replace('split = "random', 'core = 2\nsplit = "random'))
    again = {split_context.seed: unpack(pack(split_context)) for split_context in material.split_contexts}
    cells = grid(config, material)
    there = [replace(cell, split_context=again[cell.split_context.seed]) for cell in cells]
    assert [cell.key() for cell in there] == [cell.key() for cell in cells]
    for split_context in material.split_contexts:
        other = again[split_context.seed]
        assert (other.split.protocol, other.split.notices) == (
            split_context.split.protocol,
            split_context.split.notices,
        )
        for part in ("train", "valid", "test"):
            for column in fields(one := getattr(split_context.split, part)):
                values, found = getattr(one, column.name), getattr(getattr(other.split, part), column.name)
                assert (values is None) == (found is None)
                same = np.asarray(values).dtype == np.asarray(found).dtype and np.array_equal(values, found)
                assert values is None or same
        assert other.split.items.keys.equals(split_context.split.items.keys)
        assert other.item_groups.equals(split_context.item_groups)
        assert other.user_groups is None
        assert np.array_equal(other.attributes.indices, split_context.attributes.indices)
        assert other.attributes.n_cols == split_context.attributes.n_cols
        assert other.split.train.user.flags.writeable  # as those that were prepared here


def test_a_cell_is_the_same_after_its_values(study_file):
    config, material = open_study(study_file)
    for cell in grid(config, material):
        with_warm_start = replace(
            cell,
            prerequisites=("a", "b"),
            warm_starts=({"l2": 10.0},),
            warm_started_from=("a",),
            tunes_new_weights_only=True,
        )
        for one in (cell, with_warm_start):
            there = unpack_cell(json.loads(json.dumps(pack_cell(one))), cell.split_context)
            assert there.key() == one.key()
            assert there.warm_starts == one.warm_starts
            assert there.warm_started_from == one.warm_started_from
            assert there.tunes_new_weights_only == one.tunes_new_weights_only
