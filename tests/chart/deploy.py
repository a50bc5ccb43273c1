"""deploy/csi-s3.yaml: the chart with its defaults, for those who do not use helm.

`python -m tests.chart.deploy` writes it; a test compares.
"""

import re
import sys

from tests.chart.rendered import ROOT, template

PAGE = ROOT / "deploy" / "csi-s3.yaml"
HEAD = """\
# Made from charts/csi-s3 by `python -m tests.chart.deploy`; a test compares.
#   kubectl apply -f deploy/csi-s3.yaml
# deploy/kustomization.yaml is the place for changes of your own.
"""


def manifests() -> str:
    """What says that helm manages an object goes: here nobody does."""
    text = template(args=["--skip-tests"])
    helms = re.compile(
        r"^ *(app\.kubernetes\.io/managed-by|helm\.sh/chart):.*\n|^# Source:.*\n", re.MULTILINE
    )
    return HEAD + helms.sub("", text)


if __name__ == "__main__":
    PAGE.write_text(manifests(), encoding="utf-8")
    sys.stdout.write(f"wrote {PAGE}\n")
