"""What a repository has around its code: workflows, hooks, templates, citation, container."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import relrank

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.github-issue-forms": [GITHUB / "ISSUE_TEMPLATE" / f"{name}.yml" for name in ("bug", "feature")],
    "vendor.github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}


def tool(name: str, *words: object) -> subprocess.CompletedProcess[str]:
    path = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    return subprocess.run([path, *map(str, words)], capture_output=True, text=True, check=False, cwd=ROOT)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_fit_their_schema(schema):
    assert SCHEMAS[schema]
    done = tool("check-jsonschema", "--builtin-schema", schema, "--default-filetype", "yaml", *SCHEMAS[schema])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_schema_finds_a_mistake(tmp_path):
    text = (GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8")
    (tmp_path / "ci.yml").write_text(text.replace("runs-on:", "run-on:", 1), encoding="utf-8")
    assert tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", tmp_path / "ci.yml").returncode


def test_workflows_are_audited():
    """Actions pinned by hash, least permissions, no credentials kept, no templates in scripts."""
    done = tool("zizmor", "--offline", "--pedantic", "--no-progress", GITHUB, ROOT / ".pre-commit-config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_action_has_one_hash_everywhere():
    uses = [re.findall(r"uses: (\S+)@(\w+) # (v[\d.]+)$", f.read_text(encoding="utf-8"), re.M) for f in WORKFLOWS]
    assert all(uses)
    versions = {(action, commit, version) for found in uses for action, commit, version in found}
    assert len({action for action, *_ in versions}) == len(versions)


def test_python_and_systems_are_the_same_everywhere():
    text = (GITHUB / "workflows" / "ci.yml").read_text(encoding="utf-8")
    pythons = {c.rpartition(" ")[2] for c in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", c)}
    full = max(re.findall(r"python: \[(.*)\]", text), key=len)
    assert set(re.findall(r"3\.\d+", full)) == pythons
    assert min(pythons) == PROJECT["requires-python"].removeprefix(">=")
    assert set(re.findall(r"os: \[(.*)\]", text)) == {"ubuntu-latest, macos-latest, windows-latest"}
    extras = re.search(r'extras: \["", "\[(.*)\]"\]', text)
    assert set(extras.group(1).split(",")) == PROJECT["optional-dependencies"].keys()


def test_hooks_use_the_pinned_ruff():
    pinned = re.search(r"^ruff==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M).group(1)
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {pinned}


def test_the_container_serves_as_another_user_than_root():
    """It cannot be built here; this reads what is in it."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    steps = [line.split(None, 1) for line in text.splitlines() if line and not line.startswith("#")]
    last = steps[max(n for n, (step, _) in enumerate(steps) if step == "FROM") :]
    by_name = dict(last)
    assert by_name["FROM"].endswith("-slim")
    assert by_name["USER"] == "relrank"
    assert "/health" in by_name["HEALTHCHECK"]
    assert by_name["ENTRYPOINT"].startswith('["relrank", "serve", "--host", "0.0.0.0"')
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for source in [
        word for step, rest in steps if step == "COPY" and "--from" not in rest for word in rest.split()[:-1]
    ]:
        assert f"!{source}" in ignored
        assert (ROOT / source).exists()


def test_the_citation_names_no_version_that_ages():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert "name: The relrank developers" in text
    assert PROJECT["license"] in text
    assert "version:" not in text.replace("cff-version:", "")
    assert relrank.__version__ == PROJECT["version"]
