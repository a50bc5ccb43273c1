"""The pages in docs/ against the code that they are generated from or describe."""

import errno
import os
import re
import tomllib
from pathlib import Path

import pytest

from csi_s3.errors import by_code
from csi_s3.obs.metrics import catalog as metrics
from scripts import reference_docs

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("0*.md"))]
# Messages of other programs: the kernel, fusermount3, umount, aiohttp, Kubernetes.
FOREIGN = {
    *map(os.strerror, errno.errorcode),
    "failed to open /dev/fuse: Permission denied",
    "target is busy",
    "Cannot connect to host",
    "MountVolume.SetUp failed for volume",
    "pod has unbound immediate PersistentVolumeClaims",
    "not found in the list of registered CSI drivers",
    "exceed max volume count",
    "timed out waiting for external-attacher",
    'volume mode "Ephemeral" not supported by driver',
    "ContainerCreating",
    "Terminating",
    "ErrImagePull",
    "ImagePullBackOff",
    "csi.readOnly",  # what people write
}


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("errors.md", reference_docs.errors_markdown),
        ("metrics.md", reference_docs.metrics_markdown),
    ],
)
def test_a_generated_page_matches_its_source(name, made):
    assert (DOCS / name).read_text(encoding="utf-8") == made(), (
        "run: python scripts/reference_docs.py"
    )


def test_every_error_code_and_every_metric_has_a_row_with_a_description():
    rows = re.findall(
        r"^\| .*`([a-z0-9-]+)` \|.*\| (\S.*) \|$", reference_docs.errors_markdown(), re.MULTILINE
    )
    assert {code for code, _ in rows} == set(by_code())
    for metric in metrics.ALL:
        assert f"| `{metric.name}` |" in reference_docs.metrics_markdown()


def test_the_headings_of_troubleshooting_are_messages_in_the_code():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "csi_s3").rglob("*.py")]
    helpers = ROOT / "charts" / "csi-s3" / "templates" / "_helpers.tpl"
    sources.append(helpers.read_text(encoding="utf-8"))
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(sources))  # literals over several lines
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    texts = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^### (.*)$", page, re.MULTILINE)))
    assert len(texts) > 50
    assert [text for text in texts if text not in FOREIGN and text not in code] == []


def test_error_codes_in_troubleshooting_exist():
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    codes = {
        c for found in re.findall(r"\[([a-z0-9, -]+)\](?!\()", page) for c in found.split(", ")
    }
    assert codes - set(by_code()) == {"timeout"}


def test_the_table_of_layers_is_the_contract_of_import_linter():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    whole, inside_fs = (
        c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    )
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## Layers")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \| ", table, re.MULTILINE)
    assert [re.findall(r"`(\w+)`", row) for row in rows] == [
        re.findall(r"csi_s3\.(\w+)", layer) for layer in whole
    ]
    sentence = table.partition("Inside `fs` imports run one way: ")[2].partition(".")[0]
    assert re.findall(r"`(\w+)`", sentence) == inside_fs


def test_the_list_of_modules_names_every_module_and_no_other():
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    lines = page.partition("## Modules")[2].partition("csi_s3/\n")[2]
    lines = lines.partition("\nproto/")[0].splitlines()
    named, package = set(), ""
    for line in lines:
        if start := re.match(r"  ([\w/]+)/ ", line):
            package = start[1]
        outside = re.sub(r"\([^)]*\)", "", line)
        named |= {f"{package}/{name}" for name in re.findall(r"\w+\.py", outside)}
    there = {
        str(path.parent.relative_to(ROOT / "csi_s3")).replace(".", "") + f"/{path.name}"
        for path in (ROOT / "csi_s3").rglob("*.py")
        if path.name != "__init__.py" and "_pb2" not in path.name
    }
    assert named == there


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_pages_have_a_target(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []
