"""The text of a study file is TOML with the same content, whatever the names are."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from relrank.discovery.study_file import study_file

NAMES = st.text(min_size=1, max_size=12)
VALUES = NAMES | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-1e9, 1e9) | st.lists(NAMES, max_size=3)


@given(st.dictionaries(NAMES, st.dictionaries(NAMES, VALUES, min_size=1, max_size=3), max_size=3), NAMES)
def test_every_name_and_value_comes_back(config, comment):
    config = {key: {k: v for k, v in section.items() if k != "file"} for key, section in config.items()}
    comments = {f"{key}.{inner}": comment for key, section in config.items() for inner in section}
    text = study_file(config, comments | dict.fromkeys(config, comment), [comment], {}, {})
    assert tomllib.loads(text) == {key: section for key, section in config.items() if section}


def test_files_and_how_they_are_read_replace_names_of_tables():
    config = {"name": "x", "data": {"user": "u", "interactions": {"file": "sales", "user": "u"}}}
    text = study_file(
        config,
        {"data.user": "who buys"},
        ["left out: sales.n: empty"],
        {"sales": "sales.csv"},
        {"sales": {"separator": ";"}},
    )
    assert tomllib.loads(text)["data"]["interactions"] == {"file": "sales.csv", "separator": ";", "user": "u"}
    assert 'user = "u"  # who buys' in text
    assert text.endswith("# Left out:\n# - left out: sales.n: empty\n")
