"""Commands of the docs that no test here can run are those that CI runs; limits of README."""

import yaml

from tests.readme import ROOT, blocks


def test_ci_creates_the_kind_cluster_as_the_docs_do():
    kind, *_ = blocks("docs/install.md", "## Local test cluster with a demo store")
    workflow = yaml.safe_load((ROOT / ".github/workflows/e2e-kind.yml").read_text())
    runs = [step.get("run", "") for step in workflow["jobs"]["e2e"]["steps"]]
    assert "kind create cluster" in kind
    assert [run for run in runs if kind in run], f"no step runs the docs'\n{kind}"


def test_the_quick_start_is_short():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page.partition("\n## Quick start\n")[2].partition("\n## ")[0]
    assert 30 < len(section.splitlines()) < 60


def test_readme_names_the_commands_of_a_fresh_clone():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in ("`make demo`", "`make test`") if name not in page] == []
