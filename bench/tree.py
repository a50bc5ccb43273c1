"""What `tar x` and `git clone` bring: the same small files as an archive and as a repository."""

import os
import subprocess
from pathlib import Path

from bench.cases import CREATED_BYTES, TREE

PER_DIRECTORY = 20


def make_tree(work: Path, count: int) -> None:
    """Make the repository {work}/TREE, one commit, and the archive {work}/TREE.tar."""
    root = work / TREE
    for i in range(count):
        path = root / "files" / f"{i // PER_DIRECTORY:03d}" / f"{i:05d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((f"line of file {i}\n" * CREATED_BYTES).encode()[:CREATED_BYTES])
    env = {"PATH": os.environ["PATH"], "HOME": str(work), "LC_ALL": "C"}
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    for words in (
        ("tar", "-cf", f"{root}.tar", "-C", str(work), f"{TREE}/files"),
        ("git", "-C", str(root), "init", "--quiet"),
        ("git", "-C", str(root), "add", "."),
        ("git", "-C", str(root), *who, "commit", "--quiet", "-m", "files"),
        ("git", "-C", str(root), "repack", "-adq"),
    ):
        subprocess.run(words, env=env, timeout=60, check=True)
