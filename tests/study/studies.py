"""Study files of tests: read and prepared, and planted data under other protocols and names of relations."""

from pathlib import Path

from relrank.study.config import StudyConfig, read_study
from relrank.study.prepare import StudyData, prepare
from relrank.testing import planted_study


def open_study(path: Path, text: str | None = None) -> tuple[StudyConfig, StudyData]:
    """A study file's configuration and data; ``text`` is written to the file first."""
    if text is not None:
        path.write_text(text)
    config = read_study(path)
    return config, prepare(config, path.parent)


def cold_study() -> str:
    """A planted study of new items: a fifth of them has no training rows."""
    models = "".join(f'[[models]]\nname = "{name}"\n' for name in ("random", "popularity", "relational-ease"))
    text = planted_study(
        "cold",
        300,
        120,
        groups=12,
        seed=3,
        study="seeds = [0]\ntrials = 3",
        models=f'{models}arms = ["interactions", "all"]\n',
    )
    return text.replace('"random-leave-one-out"', '"cold-items"\nitem_share = 0.2\nwithout_train = "drop"')


def nested_study() -> str:
    """A planted study of three relations, "a" (driver), "b" (noise) and "c" (echo), and relational EASE."""
    text = planted_study(
        "nest",
        120,
        60,
        per_user=5,
        seed=0,
        relations=("driver", "noise", "echo"),
        study="seeds = [0, 1]\ntrials = 6",
        models='[[models]]\nname = "relational-ease"\n',
    )
    for name, column in zip("abc", ("driver", "noise", "echo"), strict=True):
        text = text.replace(f"[relations.{column}]", f"[relations.{name}]")
    return text
