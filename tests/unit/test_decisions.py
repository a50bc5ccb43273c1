"""The records of docs/decisions: their form, their status, and whether what they name exists.

Names in a superseded record are history and not checked.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
STATUS = re.compile(
    r"^# \d+\. .+\n\nStatus: (accepted|(?:partly )?superseded by \[[^]]+\]\([^)]+\))[.,;: \n]"
)
MODULES = [path for path in (ROOT / "csi_s3").rglob("*.py") if "_pb2" not in path.name]


def is_superseded(record: str) -> bool:
    return "\nStatus: superseded" in record


def classes_in(module: str) -> set[str]:
    return {
        node.name
        for path in MODULES
        if path.stem == module
        for node in ast.parse(path.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    }


def exists(name: str) -> bool:
    if "/" in name:
        return (ROOT / name).exists() or (ROOT / "csi_s3" / name).exists()
    return any(path.name == name for path in MODULES)


def test_records_are_numbered_without_gaps_and_have_their_four_parts():
    assert [page.name[:5] for page in RECORDS] == [f"{n:04}-" for n in range(1, len(RECORDS) + 1)]
    for page in RECORDS:
        assert re.findall(r"^## (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE) == [
            "Context",
            "Choice",
            "Rejected",
            "How we would know it was wrong",
        ], page.name


@pytest.mark.parametrize("page", RECORDS, ids=lambda path: path.name[:4])
def test_a_record_begins_with_its_number_and_its_status(page):
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"# {int(page.name[:4])}. ")
    assert STATUS.match(text), text[:200]


@pytest.mark.parametrize("page", RECORDS, ids=lambda path: path.name[:4])
def test_what_a_record_in_force_names_exists(page):
    text = page.read_text(encoding="utf-8")
    spans = [] if is_superseded(text) else re.findall(r"`([^`\n]+)`", text)
    paths = [s for s in spans if re.fullmatch(r"[\w/]+\.py|tests(/\w+)+|docs(/[\w-]+)+\.md", s)]
    dotted = [s for s in spans if re.fullmatch(r"[a-z]\w*\.[A-Z]\w*", s)]
    known = {path.stem for path in MODULES}
    wrong = [
        f"{module}.{name}"
        for module, name in (span.split(".") for span in dotted)
        if module in known and name not in classes_in(module)
    ]
    assert [path for path in paths if not exists(path)] + wrong == []
