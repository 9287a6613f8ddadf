"""The hash by which a stored result belongs to a study file."""

import numpy as np

from relrank.study.config import StudyConfig, config_hash, read_study
from relrank.testing import planted_study


def hash_of(tmp_path, text):
    (tmp_path / "s.toml").write_text(text)
    return config_hash(read_study(tmp_path / "s.toml"))


def test_every_setting_counts_but_remarks_and_defaults(tmp_path):
    text = planted_study(relations=("driver",))
    before = hash_of(tmp_path, text)
    assert hash_of(tmp_path, "# a remark\n" + text) == before
    assert hash_of(tmp_path, text.replace("trials = 2", "trials = 2\nmargin = 0.01")) == before  # the default
    changed = [
        text.replace("trials = 2", "trials = 3"),
        text.replace("trials = 2", "trials = 2\nmargin = 0.02"),
        text.replace("seeds = [0]", "seeds = [1]"),
        text.replace('column = "driver"', 'column = "echo"'),
        text + '[[models]]\nname = "sparse-ease"\n',
    ]
    assert len({before, *(hash_of(tmp_path, one) for one in changed)}) == len(changed) + 1


def test_settings_from_python_may_be_of_any_type(tmp_path):
    (tmp_path / "s.toml").write_text(planted_study())
    raw = read_study(tmp_path / "s.toml").model_dump()
    model = {"name": "ease", "config": {"l2": np.float32(3)}}
    assert config_hash(StudyConfig.model_validate(raw | {"models": [model]}))
