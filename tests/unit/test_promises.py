"""Each promise of docs/semantics.md is quoted by a test, and no test quotes anything else.

A promise is a bullet of that page; a test quotes it in its docstring behind `Promise:`. A bullet
that ends with `*not yet*` (and what happens until then) is planned, and no test may quote it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "semantics.md"


def normal(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def bullets() -> list[str]:
    text = PAGE.read_text().partition("\n## ")[2]  # the principles above are no promises
    return [
        normal(b)
        for b in re.findall(r"^- (.*?)(?=\n- |\n\n|\n#|\Z)", text, re.DOTALL | re.MULTILINE)
    ]


def is_planned(bullet: str) -> bool:
    return re.search(r"\*not yet[^*]*\*$", bullet) is not None


def quotes() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                _, *promises = re.split(r"\bPromise:", ast.get_docstring(node) or "")
                for quote in promises:
                    yield normal(quote), f"{file.name}::{node.name}"


def test_every_promise_that_holds_is_quoted_by_a_test():
    quoted = {quote for quote, _ in quotes()}
    holding = [b for b in bullets() if not is_planned(b)]
    assert len(holding) > 40
    assert [b for b in holding if b not in quoted] == []


def test_no_test_quotes_what_the_page_does_not_promise():
    promised = {b for b in bullets() if not is_planned(b)}
    assert [f"{where}: {quote}" for quote, where in quotes() if quote not in promised] == []
