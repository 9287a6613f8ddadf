"""What MkDocs does beyond its configuration: generated pages, and links to the pages of files that are no pages."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import reference
from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
OUTSIDE = {"CHANGELOG.md": "project/changelog.md", "CONTRIBUTING.md": "project/contributing.md"}
"""Pages that live above docs/, and where the site has them."""
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"]["Homepage"]
STUDIES = "project/study-files.md"
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)((?:#[^)\s]*)?\))")


def on_config(config: Any) -> Any:
    """Replace a folder in the navigation by its pages, the index first."""
    config.nav = _expanded(config.nav)
    return config


def _expanded(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_expanded(one) for one in entry]
    if isinstance(entry, dict):
        return {title: _expanded(inner) for title, inner in entry.items()}
    if not entry.endswith("/"):
        return entry
    pages = {path for path in generated() if path.startswith(entry)}
    pages |= {path.relative_to(DOCS).as_posix() for path in (DOCS / entry).glob("*.md")}
    return sorted(pages, key=lambda path: (not path.endswith(("README.md", "index.md")), path))


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are generated."""
    for uri, text in generated().items():
        files.append(File.generated(config, uri, content=text))
    return files


@cache
def generated() -> dict[str, str]:
    """Markdown of the pages that are no files of docs/, by path."""
    pages = {
        "reference/study-keys.md": reference.keys_page(),
        "reference/atlas-keys.md": reference.atlas_keys_page(),
        "reference/models/index.md": reference.model_index(),
        "reference/models/training.md": reference.training_page(),
        STUDIES: _study_files(),
    }
    pages |= {f"reference/models/{name}.md": text for name, text in reference.model_pages().items()}
    pages |= {f"reference/api/{name}.md": text for name, text in api_pages().items()}
    pages |= {f"notebooks/{path.stem}.md": notebook_page(path) for path in sorted(DOCS.glob("notebooks/*.ipynb"))}
    for source, target in OUTSIDE.items():
        pages[target] = moved((ROOT / source).read_text("utf-8"), Path(), Path(target).parent)
    return pages


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to files above docs/ to the site's pages of them."""
    if page.file.generated_by is not None:
        return markdown
    place = Path("docs") / Path(page.file.src_uri).parent
    return moved(markdown, place, place.relative_to("docs"))


def moved(markdown: str, place: Path, onsite: Path) -> str:
    """Markdown whose relative links, of a page in folder ``place`` of the repository, work in folder ``onsite``.

    Links to files above docs/ and to notebooks lead to the pages that the site has of them, else to the repository.
    """

    def link(match: re.Match[str]) -> str:
        target = (ROOT / place / match.group(1)).resolve()
        if not target.is_relative_to(ROOT):
            return match.group(0)
        inside = target.relative_to(ROOT)
        anchor = match.group(2)
        if inside.suffix == ".ipynb":  # the page of the notebook
            return match.group(1).removesuffix(".ipynb") + ".md" + anchor
        if inside.is_relative_to("docs"):
            if place.is_relative_to("docs"):
                return match.group(0)
            new = inside.relative_to("docs").as_posix()
        elif inside.parts[0] == "studies":
            new, anchor = STUDIES, f"#{inside.stem})" if inside.suffix else ")"
        elif inside.as_posix() in OUTSIDE:
            new = OUTSIDE[inside.as_posix()]
        else:
            return f"{REPOSITORY}/blob/main/{inside.as_posix()}{match.group(2)}"
        return "../" * len(onsite.parts) + new + anchor

    return LINK.sub(link, markdown)


def _study_files() -> str:
    """All study files of the repository on one page."""
    parts = [
        "# Study files of this repository",
        "The studies behind the [results](../results/README.md). `${RELRANK_DATA}` is the folder into which `relrank "
        "fetch` puts public data sets.",
    ]
    for file in sorted((ROOT / "studies").glob("*.toml")):
        text = file.read_text("utf-8")
        title = tomllib.loads(text).get("title", "")
        parts += [f"## {file.stem} {{ #{file.stem} }}", title, f"```toml\n{text}```"]
    return "\n\n".join(parts) + "\n"


def notebook_page(path: Path) -> str:
    """A notebook as a page: texts and code, and the outputs that are stored in it."""
    parts = [f"[Download this notebook]({path.name}){{ .md-button }}"]
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code" and source:
            parts += [f"```python\n{source}\n```", *filter(None, map(_output, cell["outputs"]))]
    if parts[1].startswith("# "):  # the button goes below the heading
        heading, _, rest = parts[1].partition("\n")
        parts[:2] = [heading, parts[0], rest.strip()]
    return "\n\n".join(parts) + "\n"


def _output(output: dict[str, Any]) -> str:
    """An output of a cell, in the richest form that needs no script."""
    forms = output.get("data", {"text/plain": output.get("text", "")})
    data = {form: "".join(text) for form, text in forms.items()}
    html = data.get("text/html") or data.get("image/svg+xml")
    if html and "<script" not in html:  # a blank line would end the block of HTML
        return '<div class="output">' + re.sub(r"\n\s*\n", "\n", html) + "</div>"
    if "image/png" in data:
        return f"![output](data:image/png;base64,{data['image/png'].strip()})"
    text = data.get("text/plain", "").rstrip()
    return f"```text\n{text}\n```" if text else ""


def api_groups() -> dict[str, list[str]]:
    """Public names by the groups of the package's docstring; names that it does not mention come last."""
    import relrank

    groups: dict[str, list[str]] = {}
    for line in (relrank.__doc__ or "").splitlines():
        if found := re.match(r"([A-Z][\w ]*): +(.+)", line):
            words = re.findall(r"\b\w+\b", found.group(2))
            groups[found.group(1)] = [word for word in words if word in relrank.__all__]
    said = {name for names in groups.values() for name in names} | {"__version__"}
    rest = [name for name in relrank.__all__ if name not in said]
    return groups | ({"More": rest} if rest else {})


def api_pages() -> dict[str, str]:
    """API reference: an overview, and a page per group of public names."""
    groups = api_groups()
    rows = ["| group | names |", "|---|---|"]
    pages = {}
    for group, names in groups.items():
        file = group.lower().replace(" ", "-")
        rows.append(f"| [{group}]({file}.md) | " + ", ".join(f"[`{n}`][relrank.{n}]" for n in names) + " |")
        pages[file] = f"# {group}\n\n" + "\n\n".join(f"::: relrank.{name}" for name in names) + "\n"
    text = [
        "# Python API",
        "`import relrank as rr` gives the names below; they are the stable ones. Everything else may change between "
        "versions. Importing the package loads neither torch nor polars: names are looked up when they are used.",
        "\n".join(rows),
    ]
    return {"index": "\n\n".join(text) + "\n", **pages}
