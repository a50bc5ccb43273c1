"""The chart as a release packages it."""

import subprocess

from tests.chart.rendered import ROOT, helm


def test_a_packaged_chart_takes_the_published_image_without_a_value(tmp_path):
    image = "ghcr.io/example/csi-s3"
    subprocess.run([ROOT / "scripts/chart.sh", image, tmp_path], check=True, timeout=100)
    (package,) = tmp_path.iterdir()
    chart = helm("show", "chart", str(package))
    version = next(line.split()[1] for line in chart.splitlines() if line.startswith("version:"))
    assert package.name == f"csi-s3-{version}.tgz"
    manifests = helm("template", "csi-s3", str(package), "--kube-version", "1.34.0")
    assert manifests.count(f"image: {image}:{version}") == 2
