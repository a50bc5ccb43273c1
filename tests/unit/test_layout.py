"""Names of modules, classes and packages are unique, and the modules that docs name exist."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    path
    for path in sorted((ROOT / "csi_s3").rglob("*.py"))
    if "_pb2" not in path.name and path.name not in {"__init__.py", "__main__.py"}
]
PACKAGES = sorted(path for path in (ROOT / "csi_s3").rglob("__init__.py"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def repeated(names):
    return [name for name, count in Counter(names).items() if count > 1]


def defined(tree):
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            yield ast.unparse(node.target)


def test_no_two_modules_have_one_name():
    assert len(MODULES) > 100
    packages = {path.parent.name for path in PACKAGES}
    assert repeated([path.stem for path in MODULES] + sorted(packages)) == []


def test_no_two_classes_have_one_name():
    names = [name for path in MODULES for name in defined(ast.parse(path.read_text("utf-8")))]
    assert len(names) > 150
    assert repeated(names) == []


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.parent.relative_to(ROOT)))
def test_a_package_begins_with_a_description(path):
    description = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    assert len(description.split()) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_that_a_page_names_exist(page):
    text = page.read_text("utf-8")
    packages = "|".join(
        path.parent.name for path in PACKAGES if path.parent.parent.name == "csi_s3"
    )
    paths = re.findall(rf"`(?:csi_s3/)?((?:{packages})/[\w/]+\.py)`", text)
    assert [path for path in paths if not (ROOT / "csi_s3" / path).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_modules_that_a_page_names_by_import_exist(page):
    dotted = re.findall(r"\bcsi_s3((?:\.[a-z]\w*)+)", page.read_text("utf-8"))
    places = [ROOT / "csi_s3" / name[1:].replace(".", "/") for name in dotted]
    assert [p for p in places if not (p.is_dir() or p.with_suffix(".py").exists())] == []
