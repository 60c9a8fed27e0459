"""What a release says of itself in several places is the same, and can be read."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_version_is_the_same_wherever_it_stands() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    web = json.loads((ROOT / "dmgan_runtime" / "web" / "package.json").read_text())
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert {citation["version"], web["version"], newest[1]} == {PROJECT["version"]}


def test_the_citation_names_paper_and_software() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["cff-version"], citation["title"], citation["license"]) == ("1.2.0", "dmgan", PROJECT["license"])
    authors = [author["family-names"] for author in citation["preferred-citation"]["authors"]]
    assert authors == ["Zhu", "Pan", "Chen", "Yang"]


def test_only_the_job_that_publishes_may_ask_for_a_token_and_it_publishes_what_was_checked() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "publish.yml").read_text())
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert (workflow["permissions"], publish["permissions"]) == ({"contents": "read"}, {"id-token": "write"})
    assert "permissions" not in build
    assert publish["needs"] == "build"
    (command,) = [step["run"] for step in build["steps"] if step.get("run", "").startswith("make")]
    assert "\nrelease-check:" in (ROOT / "Makefile").read_text()
    assert command.split()[:2] == ["make", "release-check"]
    steps = [*build["steps"], *publish["steps"]]
    artifacts = [step["with"]["name"] for step in steps if "-artifact@" in step.get("uses", "")]
    assert artifacts == ["dist", "dist"]


@pytest.mark.parametrize("name", ["bug", "proposal"])
def test_an_issue_form_has_what_github_asks_of_it(name: str) -> None:
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml").read_text())
    assert form["name"]
    assert form["description"]
    identifiers = [field["id"] for field in form["body"]]
    assert len(identifiers) == len(set(identifiers)) > 0
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_check_of_a_release_is_a_script_that_bash_reads() -> None:
    subprocess.run(["bash", "-n", str(ROOT / ".ci" / "release-check")], check=True, timeout=10)
