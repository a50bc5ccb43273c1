"""No test replaces a constant of a module: deadlines, sizes and numbers are passed in.

A replaced constant tests what no caller can have, and ties the test to the module's inside.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def replaced(source: str) -> set[str]:
    """The constants that `setattr`, of a monkeypatch or the builtin, or an assignment replaces."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else None
            name = function.id if isinstance(function, ast.Name) else name
            if name in {"setattr", "setitem"}:
                words = [a.value for a in node.args if isinstance(a, ast.Constant)]
                names |= {w.rpartition(".")[2] for w in words[:1] if isinstance(w, str)}
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.attr for target in targets if isinstance(target, ast.Attribute)}
    return {name for name in names if name.isupper()}


def test_no_test_replaces_a_constant():
    found = {}
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "e2e").rglob("*.py")]:
        if names := replaced(path.read_text(encoding="utf-8")):
            found[str(path.relative_to(ROOT))] = names
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        'monkeypatch.setattr(module, "WITHIN_S", 0.1)',
        'monkeypatch.setattr("csi_s3.module.WITHIN_S", 0.1)',
        'setattr(module, "WITHIN_S", 0.1)',
        "module.WITHIN_S = 0.1",
    ],
)
def test_a_replaced_constant_is_found(line):
    assert replaced(line) == {"WITHIN_S"}


def test_what_is_no_constant_may_be_replaced():
    assert replaced('monkeypatch.setattr(module, "ask", fake)\nstore.gate = stop\nA = 1') == set()
