from pathlib import Path

import pytest

SMALL = """
name = "small"
[data]
dataset = "planted"
planted = { users = 300, items = 160, per_user = 6, groups = 16, seed = 5 }
[protocol]
split = "random-leave-one-out"
[relations.driver]
kind = "attribute"
node = "item"
column = "driver"
[relations.noise]
kind = "attribute"
node = "item"
column = "noise"
[study]
trials = 8
seeds = [0, 1]
[[models]]
name = "popularity"
[[models]]
name = "ease"
[[models]]
name = "relational-ease"
"""


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A small planted study of closed forms: two relations, two split seeds."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path
