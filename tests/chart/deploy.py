"""deploy/csi-s3.yaml: the chart with its defaults, to install without Helm.

`python -m tests.chart.deploy` writes it; a test compares.
"""

import re
import sys

from tests.chart.rendered import ROOT, template

PAGE = ROOT / "deploy" / "csi-s3.yaml"
HEAD = """\
# Generated from charts/csi-s3 by `python -m tests.chart.deploy`; a test compares them.
#   kubectl apply -f deploy/csi-s3.yaml
# Kubernetes 1.30 and later; before, render the chart, which leaves out the right to patch nodes.
# To change these manifests, see deploy/kustomization.yaml.
"""


def manifests() -> str:
    """The rendered chart without the labels that say that Helm manages an object."""
    text = template(args=["--skip-tests"])
    helms = re.compile(
        r"^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart):.*\n|^# Source:.*\n", re.MULTILINE
    )
    return HEAD + helms.sub("", text)


if __name__ == "__main__":
    PAGE.write_text(manifests(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
