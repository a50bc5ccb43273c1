"""README's commands that no test here can run are those that CI runs."""

import yaml

from tests.readme import ROOT, blocks


def test_ci_makes_kinds_cluster_as_readme_does():
    kind, *_ = blocks("### On kind, or on a cluster made on this machine, with a demo store")
    workflow = yaml.safe_load((ROOT / ".github/workflows/e2e-kind.yml").read_text())
    runs = [step.get("run", "") for step in workflow["jobs"]["e2e"]["steps"]]
    assert "kind create cluster" in kind
    assert [run for run in runs if kind in run], f"no step runs README's\n{kind}"
