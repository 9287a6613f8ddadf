"""Reference pages in Markdown, written from the configuration classes that relrank itself reads.

A description is the docstring under a field, or its line under "Attributes:" in the docstring of its class.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import date, datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from griffe import Docstring, DocstringSectionAttributes
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

REQUIRED = "**required**"
WORDS = {
    Any: "value",
    bool: "`true` · `false`",
    date: "date",
    datetime: "date",
    float: "number",
    int: "whole number",
    str: "text",
}
"""Plain types in words."""


@dataclass(frozen=True)
class Key:
    """A key of the study file, or a hyper-parameter.

    Attributes:
        name: of the key.
        values: what it may be, in words.
        default: as it is written in a study file, or ``REQUIRED``; empty if there is none.
        meaning: the description.
    """

    name: str
    values: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Section:
    """A section of the study file.

    Attributes:
        title: as it is written, such as ``[data.nodes.TYPE]``.
        kind: the class that reads it.
        summary: first paragraph of the class's docstring.
        keys: in the order of the class.
    """

    title: str
    kind: type
    summary: str
    keys: tuple[Key, ...]


def descriptions(kind: type) -> dict[str, str]:
    """The description of every field of a class, inherited ones included, on one line each."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if base in (object, BaseModel):
            continue
        for part in Docstring(inspect.cleandoc(base.__dict__.get("__doc__") or "")).parse("google"):
            if isinstance(part, DocstringSectionAttributes):
                found |= {one.name: one.description[:1].upper() + one.description[1:] for one in part.value}
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[ast.unparse(field.target)] = str(text.value.value)
    return {name: one_line(text) for name, text in found.items()}


def keys_of(kind: type) -> tuple[Key, ...]:
    """All keys of a section or hyper-parameters of a model."""
    hints, meaning = get_type_hints(kind, include_extras=True), descriptions(kind)
    if issubclass(kind, BaseModel):
        # pydantic moves the outermost constraints of a hint into the field
        defaults = {name: field.get_default(call_default_factory=True) for name, field in kind.model_fields.items()}
        limits = {name: field.metadata for name, field in kind.model_fields.items()}
    else:
        defaults = {f.name: _default(f) for f in fields(kind)}  # type: ignore[arg-type]
        limits = {name: [] for name in defaults}
    return tuple(
        Key(name, values_of(hints[name], limits[name]), _written(default), meaning.get(name, ""))
        for name, default in defaults.items()
    )


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def values_of(hint: Any, limits: Any = ()) -> str:
    """What a type hint admits, in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return values_of(parts[0], [*parts[1:], *limits])
    if origin in (Union, UnionType):
        words = [values_of(part, limits) for part in parts if part is not NoneType]
        return " or ".join(dict.fromkeys(words))
    if origin is Literal:
        return " · ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        if parts[-1] is Ellipsis:
            return f"list of {_plural(values_of(parts[0]))}"
        return f"{len(parts)} {_plural(values_of(parts[0]))}"
    if origin is dict:
        return f"by name: {values_of(parts[1])}"
    if isinstance(hint, type) and (issubclass(hint, BaseModel) or is_dataclass(hint)):
        return "section"
    bounds = " and ".join(filter(None, map(_bound, limits)))
    return f"{WORDS[hint]}, {bounds}" if bounds else WORDS[hint]


def _plural(words: str) -> str:
    head, comma, rest = words.partition(",")
    return words if "`" in head else f"{head}s{comma}{rest}"


def _bound(limit: Any) -> str:
    """A constraint in words: of ``Bounds``, or of pydantic's."""
    names = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    found = [f"{word} {_number(getattr(limit, name))}" for name, word in names.items() if hasattr(limit, name)]
    return " and ".join(found) or (str(limit) if type(limit).__name__ == "Bounds" else "")


def _number(value: float) -> str:
    return "2³¹" if value == 2**31 else f"{value:g}"


def _written(value: Any) -> str:
    """A default as a study file would contain it."""
    if value in (MISSING, PydanticUndefined):
        return REQUIRED
    if value is None or isinstance(value, BaseModel) or (isinstance(value, (str, dict, tuple)) and not value):
        return ""
    if isinstance(value, tuple) and isinstance(value[0], BaseModel):
        return ", ".join(f"`{section.name}`" for section in value)
    if isinstance(value, tuple) and all(isinstance(one, str) for one in value):
        return "the words that pandas reads as missing" if len(value) > 5 else ", ".join(f"`{one}`" for one in value)
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, (list, tuple)):
        return f"`{list(value)}`"
    if isinstance(value, dict):
        return ", ".join(f"`{key}`" for key in value)
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def sections(kind: type, path: str = "", brackets: str = "[]") -> Iterator[Section]:
    """A section of the study file and all sections inside it."""
    title = f"{brackets[0]}{path}{brackets[-1]}" if len(brackets) == 2 else f"[[{path}]]"
    summary = one_line(inspect.getdoc(kind) or "").partition(" Attributes:")[0]
    summary = re.sub(r"^`\[[^`]*`: ", "", summary)
    keys = keys_of(kind)
    tag = next((key.values.strip("`") for key in keys if key.name == "kind" and key.values.count("`") == 2), None)
    if tag:  # the key that selects this section
        keys = tuple(key for key in keys if key.name != "kind")
    title += f' kind = "{tag}"' if tag else ""
    yield Section(title, kind, summary[:1].upper() + summary[1:], keys)
    for name, hint in get_type_hints(kind, include_extras=True).items():
        for inner in _inside(hint):
            yield from sections(inner, *_place(f"{path}.{name}".lstrip("."), name, hint))


def _inside(hint: Any) -> list[type]:
    """The sections in a type hint."""
    if isinstance(hint, type):
        return [hint] if issubclass(hint, BaseModel) or is_dataclass(hint) else []
    return list(dict.fromkeys(kind for part in get_args(hint) for kind in _inside(part)))


def _place(path: str, name: str, hint: Any) -> tuple[str, str]:
    """Path and brackets of a section inside another."""
    if get_origin(hint) is dict:
        return f"{path}.{ {'nodes': 'TYPE', 'arm': 'ARM'}.get(name, 'NAME') }", "[]"
    return (path, "[[]]") if get_origin(hint) is tuple else (path, "[]")


def one_line(text: str) -> str:
    """Text of a docstring as Markdown on one line: roles of reStructuredText become code."""
    return " ".join(text.split()).replace("``", "`")


def table(keys: tuple[Key, ...], first: str = "key") -> str:
    """A Markdown table of keys."""
    rows = [f"| {first} | values | default | meaning |", "|---|---|---|---|"]
    for key in keys:
        cells = (f"`{key.name}`", key.values, key.default, key.meaning)
        rows.append("| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(rows)


def keys_page() -> str:
    """Every key of the study file."""
    from relrank.study.config import StudyConfig

    return _keys_of_file(StudyConfig, "study file", "[the study file](../study-file.md)")


def atlas_keys_page() -> str:
    """Every key of an atlas file."""
    from relrank.study.atlas.config import AtlasConfig

    return _keys_of_file(AtlasConfig, "atlas file", "[relrank atlas](../commands.md#many-data-sets-an-atlas)")


def _keys_of_file(kind: type, file: str, explanation: str) -> str:
    parts = [
        f"# Every key of the {file}",
        "This page is generated from the classes that read the file, so it lists exactly what relrank accepts. How "
        f"the keys work together is explained in {explanation}. Keys without a default are "
        "optional unless marked as required.",
    ]
    for section in sections(kind, ""):
        title = "Top of the file" if section.title == "[]" else f"`{section.title}`"
        parts += [f"## {title}", section.summary.replace("<", "&lt;"), table(section.keys)]
    return "\n\n".join(parts) + "\n"


def training_page() -> str:
    """Settings of the training loop."""
    from relrank.training import TrainConfig

    return (
        "\n\n".join(
            [
                "# Training settings",
                "Models with gradients share one training loop. Its settings go under `train` of a model in the "
                "study file, and its defaults are these. The optimiser is Adam (Kingma & Ba 2015).",
                '```toml\n[[models]]\nname = "relational-lightgcn"\ntrain = { epochs = 30, lr = 0.01 }\n```',
                table(keys_of(TrainConfig), "setting"),
            ]
        )
        + "\n"
    )


def model_pages() -> dict[str, str]:
    """One page of hyper-parameters per model, by the model's name."""
    from relrank.models import MODELS

    return {name: _model_page(name, kind) for name, kind in MODELS.items()}


def _model_page(name: str, kind: Any) -> str:
    from relrank.models import Trained

    source = inspect.getdoc(inspect.getmodule(kind)) or ""
    keys = keys_of(kind.Config)
    trained = issubclass(kind, Trained)
    facts = [
        "trained with gradients ([training settings](training.md))" if trained else "closed form: nothing is trained",
        "reads relations" if kind.relational else "reads the interactions only",
    ]
    example = next((key for key in keys if key.default.strip("`").replace(".", "").isdigit()), None)
    setting = f"\nconfig = {{ {example.name} = {example.default.strip('`')} }}" if example else ""
    return (
        "\n\n".join(
            [
                f"# `{name}`",
                f"*{'; '.join(facts)}.*",
                "## Source and formula",
                source.replace("``", "`"),
                "## Hyper-parameters",
                table(keys, "hyper-parameter") if keys else "None.",
                _searched(kind, trained),
                "## In a study file",
                f'```toml\n[[models]]\nname = "{name}"{setting}\n```',
                "A hyper-parameter that the file sets is fixed and not searched. "
                "[What each model is](../../models.md) · [all keys of the study file](../study-keys.md)",
            ]
        )
        + "\n"
    )


def _searched(kind: Any, trained: bool) -> str:
    """Which hyper-parameters are searched on a graph with relations."""
    from relrank.testing import planted_graph

    space = kind.space(planted_graph())
    names = dict.fromkeys(f"`{p.name.partition('.')[0] if p.name.startswith('weights.') else p.name}`" for p in space)
    if not names:
        return "Nothing is searched."
    if trained:
        return f"`relrank study` takes the values of the file; `relrank tune` searches {', '.join(names)}."
    return f"Searched on validation, for every arm: {', '.join(names)}."


def model_index() -> str:
    """The list of the pages above."""
    from relrank.models import MODELS

    rows = ["| model | hyper-parameters |", "|---|---|"]
    for name, kind in MODELS.items():
        names = ", ".join(f"`{field.name}`" for field in fields(kind.Config))
        rows.append(f"| [`{name}`]({name}.md) | {names or 'none'} |")
    return (
        "\n\n".join(
            [
                "# Hyper-parameters",
                "Every hyper-parameter of every model with its values, default and meaning, generated from the "
                "dataclass at the top of the model's file. A weight or penalty is given in the unit that its "
                "description names; shares are numbers between 0 and 1. Each page begins with the paper and the "
                "formula.",
                "Models that are trained with gradients also have [training settings](training.md). What each model "
                "is, and which ones read relations: [models](../../models.md).",
                "\n".join(rows),
            ]
        )
        + "\n"
    )
