"""README's commands as a reader copies them: the blocks that are indented by four spaces."""

import re
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).parents[1]


def blocks(heading: str) -> list[str]:
    """The blocks below the heading, to the next one of any level, in order.

    Raises:
        ValueError: there is no such heading, or nothing to run below it.

    """
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^(#+ .*)$", page, flags=re.MULTILINE)
    below = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = re.findall(r"(?<=\n\n)(?: {4}.*\n|\n(?= {4}))+", below.get(heading, ""))
    if not found:
        raise ValueError(f"README has no block below {heading!r}; it has {', '.join(below)}")
    return [dedent(block) for block in found]


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
