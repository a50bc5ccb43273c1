"""What a Dockerfile repeats of other files, because it cannot read them, is what they say."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
WORKLOAD = ROOT / "e2e/images/workload"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _only(pattern: str, text: str) -> str:
    found = set(re.findall(pattern, text, re.MULTILINE))
    assert len(found) == 1, f"{pattern} is there as {found or 'nothing'}"
    return found.pop()


@pytest.mark.parametrize("label", ["description", "licenses"])
def test_the_labels_say_what_the_project_says(label: str) -> None:
    said = {"description": PROJECT["description"], "licenses": PROJECT["license"]}
    assert _only(rf'image\.{label}="([^"]+)"', DOCKERFILE) == said[label]


def test_the_image_has_the_version_of_the_project() -> None:
    assert _only(r"^ARG VERSION=(\S+)$", DOCKERFILE) == PROJECT["version"]


def test_the_image_is_built_with_the_uv_of_the_development_environment() -> None:
    setup = (ROOT / "scripts/setup.sh").read_text()
    assert _only(r"\buv==(\S+)", DOCKERFILE) == _only(r"^UV_VERSION=(\S+)$", setup)


def test_all_images_have_one_base() -> None:
    base = r"^FROM (docker\S+)"
    images = (ROOT / "e2e/cluster/images.sh").read_text()
    assert _only(base, DOCKERFILE) == _only(base, (WORKLOAD / "Dockerfile").read_text())
    assert _only(base, DOCKERFILE) == _only(r"^BASE=(\S+)$", images)


def test_the_build_sees_what_it_copies_and_nothing_else() -> None:
    rules = (ROOT / ".dockerignore").read_text().split()
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    lines = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    copied = [name for line in lines for name in line.split()]
    assert "*" in rules
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / name).exists() for name in copied)


def test_pods_of_tests_have_the_pandas_that_the_lock_file_has() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {f"{package['name']}=={package['version']}" for package in lock["package"]}
    pinned = (WORKLOAD / "requirements.txt").read_text().split()
    [pandas] = [line for line in pinned if line.startswith("pandas==")]
    assert pandas in locked
