"""Commands of the docs that no test here can run are those that CI runs; limits of README."""

import re
import tomllib

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


def test_the_support_table_is_what_chart_package_and_test_cluster_say():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (Kubernetes|Python[^|]*?) \| (.*) \|$", page, re.MULTILINE))
    required, tested = rows["Kubernetes"].split(" | ")
    chart = yaml.safe_load((ROOT / "charts/csi-s3/Chart.yaml").read_text("utf-8"))
    assert chart["kubeVersion"] == f">={required.split()[0]}.0-0"
    cluster = (ROOT / "e2e/cluster/README.md").read_text("utf-8")
    assert f"Upstream Kubernetes {tested.split()[0]} " in cluster
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (python,) = (row for name, row in rows.items() if name.startswith("Python"))
    assert package["requires-python"] == f">={python.split()[0]}"
