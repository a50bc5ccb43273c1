"""The GitHub workflows: nothing runs that a tag's owner could replace, and no job may do too much.

Their syntax is checked by actionlint in `make lint`.
"""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.y*ml"))
USES = re.compile(r"^ *(?:- )?uses: (?P<what>\S+)(?P<comment>.*)$", re.MULTILINE)
PINNED = re.compile(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}")
VERSION = re.compile(r" # v\d+\.\d+\.\d+")


def unpinned(text: str) -> list[str]:
    """What a workflow uses that is neither its own repository's nor pinned, with its version."""
    return [
        use.group().strip()
        for use in USES.finditer(text)
        if not use["what"].startswith("./")
        and not (PINNED.fullmatch(use["what"]) and VERSION.fullmatch(use["comment"]))
    ]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_its_commit_with_the_version_beside_it(path):
    assert USES.search(path.read_text())
    assert unpinned(path.read_text()) == []


@pytest.mark.parametrize(
    "use",
    [
        "uses: actions/checkout@v6",
        "uses: actions/checkout@de0fac2e4500dabe0009e67214ff5f5447ce83dd",
        "uses: actions/checkout@de0fac2 # v6.0.2",
        "- uses: actions/checkout@main # v6.0.2",
    ],
)
def test_an_action_that_is_not_pinned_is_found(use):
    assert len(unpinned(f"    steps:\n      {use}\n")) == 1


def test_an_action_has_one_commit_in_all_workflows():
    used = {use["what"] for path in WORKFLOWS for use in USES.finditer(path.read_text())}
    names = [what.partition("@")[0] for what in used]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_permissions_and_each_job_names_its_own(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"]
        assert "timeout-minutes" in job or "uses" in job
        for step in job.get("steps", []):
            if step.get("uses", "").startswith("actions/checkout@"):
                assert step["with"]["persist-credentials"] is False


def test_a_pull_request_runs_every_suite():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    runs = [entry["run"] for entry in workflow["jobs"]["check"]["strategy"]["matrix"]["include"]]
    suites = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert set(re.findall(r"tests/(\w+)", " ".join(runs))) == suites
    assert {"make lint", "make smoke"} < set(runs)


def version_of(tag: str) -> subprocess.CompletedProcess[str]:
    words = [ROOT / "scripts/version.sh", tag]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)


def test_a_release_tag_names_the_version_of_the_package_and_the_chart():
    version = yaml.safe_load((ROOT / "charts/csi-s3/Chart.yaml").read_text())["version"]
    assert version_of(f"v{version}").stdout == f"{version}\n"
    other = version_of(f"v{version}1")
    assert (other.returncode, other.stdout) == (1, "")
    assert "pyproject.toml" in other.stderr
