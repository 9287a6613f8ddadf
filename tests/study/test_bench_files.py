"""A bench that went through files is the bench it was: same keys, same rows, same edges."""

import json
from dataclasses import fields, replace

import numpy as np

from relrank.study.config import read_study
from relrank.study.engines.split_files import pack, pack_cell, unpack, unpack_cell
from relrank.study.run import grid, prepare


def test_a_bench_is_the_same_after_its_files(study_file):
    text = study_file.read_text().replace(
        "seeds = [0, 1]", 'seeds = [0, 1]\nattribute = "driver"\nitem_groups = ["driver"]'
    )
    study_file.write_text(text.replace('split = "random', 'core = 2\nsplit = "random'))
    config = read_study(study_file)
    material = prepare(config, study_file.parent)
    again = {bench.seed: unpack(pack(bench)) for bench in material.benches}
    cells = grid(config, material)
    there = [replace(cell, bench=again[cell.bench.seed]) for cell in cells]
    assert [cell.key() for cell in there] == [cell.key() for cell in cells]
    for bench in material.benches:
        other = again[bench.seed]
        assert (other.split.protocol, other.split.notices) == (bench.split.protocol, bench.split.notices)
        for part in ("train", "valid", "test"):
            for column in fields(one := getattr(bench.split, part)):
                values, found = getattr(one, column.name), getattr(getattr(other.split, part), column.name)
                assert (values is None) == (found is None)
                same = np.asarray(values).dtype == np.asarray(found).dtype and np.array_equal(values, found)
                assert values is None or same
        assert other.split.items.keys.equals(bench.split.items.keys)
        assert other.item_groups.equals(bench.item_groups)
        assert other.user_groups is None
        assert np.array_equal(other.attributes.indices, bench.attributes.indices)
        assert other.attributes.n_cols == bench.attributes.n_cols
        assert other.split.train.user.flags.writeable  # as those that were prepared here


def test_a_cell_is_the_same_after_its_values(study_file):
    config = read_study(study_file)
    material = prepare(config, study_file.parent)
    for cell in grid(config, material):
        begun = replace(cell, after=("a", "b"), begins=({"l2": 10.0},), there=("a",), adds=True)
        for one in (cell, begun):
            there = unpack_cell(json.loads(json.dumps(pack_cell(one))), cell.bench)
            assert there.key() == one.key()
            assert there.begins == one.begins
            assert there.there == one.there
            assert there.adds == one.adds
