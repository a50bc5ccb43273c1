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


def test_uv_is_installed_by_hash_in_the_image_and_on_a_developer_s_machine() -> None:
    for path in ("Dockerfile", "scripts/setup.sh"):
        text = (ROOT / path).read_text()
        assert "--require-hashes" in text
        assert "scripts/uv.txt" in text
        assert not re.search(r"\buv==\d", text)
    [line] = [x for x in (ROOT / "scripts/uv.txt").read_text().splitlines() if "==" in x]
    assert re.fullmatch(r"uv==[0-9.]+ \\", line)
    assert (ROOT / "scripts/uv.txt").read_text().count("--hash=sha256:") > 10


def test_all_images_have_one_base_and_it_is_named_by_digest() -> None:
    images = (ROOT / "e2e/cluster/images.sh").read_text()
    base = _only(r"^BASE=(\S+)$", images)
    assert re.fullmatch(r"docker\.io/library/python:[0-9.]+-slim-[a-z]+@sha256:[0-9a-f]{64}", base)
    for text in (DOCKERFILE, (WORKLOAD / "Dockerfile").read_text()):
        assert _only(r"^ARG BASE=(\S+)$", text) == base
        stages = re.findall(r"^FROM (\S+)(?: AS (\S+))?$", text, re.MULTILINE)
        named = {name for _, name in stages if name}
        assert {source for source, _ in stages} <= {"${BASE}"} | named


def test_what_builds_is_in_the_lock_file_and_no_build_fetches_anything() -> None:
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    packages = {package["name"]: package for package in lock["package"]}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [ours] = [package for package in lock["package"] if package["name"] == "csi-s3"]
    group = {entry["name"] for entry in ours["dev-dependencies"]["build"]}
    of_pyfuse3 = {"setuptools", "setuptools-scm", "cython"}
    assert of_pyfuse3 <= group
    for requirement in project["build-system"]["requires"]:
        name, _, version = requirement.partition("==")
        assert name in group
        assert packages[name]["version"] == version
    for package in lock["package"]:
        files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        assert files or package["name"] == "csi-s3"
        assert all(file["hash"].startswith("sha256:") for file in files)
    built = [name for name, package in packages.items() if not package.get("wheels")]
    assert sorted(built) == ["csi-s3", "pyfuse3"], "its build requirements belong to the group"
    for path in ("Dockerfile", "Makefile", "scripts/setup.sh"):
        text = (ROOT / path).read_text().replace("\\\n", " ")
        builds = re.findall(r"uv\"? (?:sync|build)\b(?!.*--only-group build).*", text)
        assert builds
        assert all("--no-build-isolation" in line for line in builds), builds


def test_nothing_in_the_image_installs_or_changes_users() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "site-packages/pip*" in last
    assert "ensurepip" in last
    assert "find / -xdev -type f -perm /6000 -exec chmod a-s {} +" in last
    assert "fuse3 " not in last, "fusermount3 is a setuid program; only its library is needed"


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
