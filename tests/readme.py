"""The commands of README.md and docs/ as a reader copies them: blocks indented by four spaces."""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]


def blocks(page: str, heading: str) -> list[str]:
    """The blocks of a page below a heading, to the next heading of any level, in order.

    Raises:
        ValueError: there is no such heading, or nothing to run below it.

    """
    text = (ROOT / page).read_text(encoding="utf-8")
    parts = re.split(r"^(#+ .*)$", text, flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    commands = re.findall(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", sections.get(heading, ""))
    if not commands:
        raise ValueError(f"{page} has no block below {heading!r}; it has {', '.join(sections)}")
    return [dedent(block) for block in commands]


def put_in(block: str, names: dict[str, str]) -> str:
    """The block with what a reader replaces (BUCKET, …) replaced; each must be there.

    Raises:
        ValueError: one is not.

    """
    for name, value in names.items():
        if name not in block:
            raise ValueError(f"the block has no {name}:\n{block}")
        block = block.replace(name, value)
    return block


def script(*pasted: str) -> str:
    """A script for `bash -e` that ends at a failure, also of a list of commands with &&."""
    return "".join(f"{block}[ $? = 0 ]\n" for block in pasted)
