"""Each container that can grow and lives longer than one call has a bound, which a page states."""

import ast
import re
from pathlib import Path

import pytest

from tests.containers import aliases, containers

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "memory-containers.md"
ROW = re.compile(r"^\| `([\w.]+)` \| (.+) \|$", re.MULTILINE)


def found():
    """Every container of the package by its name, with its module's path and its kind."""
    paths = [p for p in sorted((ROOT / "csi_s3").rglob("*.py")) if "_pb2" not in p.name]
    trees = {path: ast.parse(path.read_text("utf-8")) for path in paths}
    names = aliases(trees.values())
    return {
        one.name: (path.relative_to(ROOT), one.kind)
        for path, tree in trees.items()
        for one in containers(path.stem, tree, names)
    }


def listed():
    return ROW.findall(PAGE.read_text("utf-8"))


def of(source, names=()):
    return [(c.name, c.kind) for c in containers("m", ast.parse(source), set(names))]


def test_each_container_that_can_grow_says_what_bounds_it():
    missing = {name: place for name, place in found().items() if name not in dict(listed())}
    lines = [
        f"{path}: {name} is a {kind}: say in docs/{PAGE.name} what bounds it"
        for name, (path, kind) in missing.items()
    ]
    assert not lines, "\n".join(lines)


def test_the_page_has_one_row_for_each_and_no_others():
    names, there = [name for name, _ in listed()], found()
    assert len(names) == len(set(names)) > 50
    lines = [f"docs/{PAGE.name}: there is no {name} now" for name in names if name not in there]
    assert not lines, "\n".join(lines)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("self._x = {}", "dict"),
        ("self._x: dict[str, int] = {}", "dict"),
        ("self._x: dict[str, list[int]] | None = None", "dict"),
        ('self._x: "deque[int]" = deque()', "deque"),
        ("self._a, self._x = 1, set()", "set"),
        ("self._x = OrderedDict[int, None]()", "OrderedDict"),
        ("self._x = [n for n in given]", "list"),
        ("self._x: MutableMapping[str, int] = other", "MutableMapping"),
        ("self._x = collections.deque()", "deque"),
        ("self._x = asyncio.Queue()", "Queue"),
        ("self._x: asyncio.Queue[int] = asyncio.Queue()", "Queue"),
        ("self._x = bytearray()", "bytearray"),
        ("self._x = WeakSet()", "WeakSet"),
        ("self._x = given", "list"),
        ("self._x = Samples()", "Samples"),
    ],
)
def test_an_attribute_that_can_grow_is_found(line, kind):
    source = f"class C:\n def __init__(self, given: list[int]):\n  {line}\n"
    assert of(source, {"Samples"}) == [("C._x", kind)]


@pytest.mark.parametrize(
    "line",
    [
        "self._x: Recent[str, int] = Recent(10)",
        "self._x: deque[int] = deque(maxlen=10)",
        "self._x: asyncio.Queue[int] = asyncio.Queue(10)",
        "self._x = asyncio.Queue(maxsize=10)",
        'self._x = {"a": self.a, "b": self.b}',
        "self._x = tuple(given)",
        "self._x: Sequence[int] = given",
        "x = {}",
    ],
)
def test_what_cannot_grow_or_ends_with_the_call_is_not_found(line):
    assert of(f"class C:\n def __init__(self, given):\n  {line}\n") == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("_seen: set[str] = set()", [("m._seen", "set")]),
        ("_TABLE = dict(a=1)", []),
        ("_TABLE: dict[str, int] = {}\ndef f():\n _TABLE['a'] = 1", [("m._TABLE", "dict")]),
        ("_table = {'a': 1}", []),
        ("_table = {'a': 1}\ndef f():\n _table.update(b=2)", [("m._table", "dict with entries")]),
        ("@cache\ndef f(): pass", [("m.f", "cache")]),
        ("@lru_cache(maxsize=None)\ndef f(): pass", [("m.f", "cache")]),
        ("@lru_cache(maxsize=9)\ndef f(): pass", []),
        ("@dataclass(slots=True)\nclass C:\n x: list[int] = field()", [("C.x", "list")]),
        ("@dataclass(frozen=True)\nclass C:\n x: list[int]", []),
        ("class C(NamedTuple):\n x: list[int]", []),
    ],
)
def test_names_of_modules_caches_and_fields_are_found_by_the_same_rules(source, expected):
    assert of(source) == expected
