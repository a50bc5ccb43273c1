"""The prose check of `make lint` reads what people read, and finds the words it is about."""

import subprocess
from pathlib import Path

import pytest

from tests.binaries import binary

ROOT = Path(__file__).parents[2]
WORD = "a" + "new"  # in two, or this file would not pass
PYTHON = f'''"""Module: {WORD}."""

# A comment
# says: {WORD}
def f(name):
    """Function: {WORD}."""
    raise ValueError(f"message {{name}} {WORD}")


{WORD} = f
'''
PHRASES = [
    "waits for " + "ever",
    "waits for\n" + "ever",
    "some" + "body else's key",
    "the caller is " + "told",
    "an end " + "point",
    "it has one, " + "too.",
    "works no " + "more",
    "`some" + "body else replaced` is a message",
]


def findings(tmp_path, name: str, text: str) -> list[int]:
    """Line numbers of what the check finds in a file of this name and text."""
    (tmp_path / name).write_text(text)
    words = [binary("vale"), "--config", ROOT / ".vale.ini", "--output", "line", name]
    done = subprocess.run(
        words, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False
    )
    lines = [int(line.split(":")[1]) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (1 if lines else 0, "")
    return lines


def test_comments_docstrings_and_messages_are_read_and_names_are_not(tmp_path):
    assert findings(tmp_path, "example.py", PYTHON) == [1, 4, 6, 7]


@pytest.mark.parametrize("phrase", PHRASES)
def test_a_phrase_is_found(tmp_path, phrase):
    assert len(findings(tmp_path, "example.md", f"A line.\nHere {phrase}\n")) == 1


@pytest.mark.parametrize("name", ["values.yaml", "NOTES.txt", "run.sh", "Makefile", "a.tpl"])
def test_files_of_every_kind_are_read(tmp_path, name):
    assert findings(tmp_path, name, f"# Built\n# {WORD}\n") == [2]


def test_plain_sentences_pass(tmp_path):
    text = "It is too late; no more than two endpoints are forever open.\n"
    assert findings(tmp_path, "example.md", text) == []
