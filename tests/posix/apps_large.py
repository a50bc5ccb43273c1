"""A file of 6 GiB: over S3's 5 GiB for one PUT or one copy, and far over the worker's memory.

Needs disk for four such files: the store keeps three at most, and parts of a fourth.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.mount.command import names, worker
from tests.posix.place import Place, minio, place

__all__ = ["minio"]

GIB = 1 << 30
SIZE = 6 * GIB
FREE_BYTES = 26 * GIB
MEMORY_BYTES = 512 << 20  # the default of memory-target: buffers and all else stay below
WITHIN_S = 3 * 3600  # of one step, on any machine
BLOCK = 1 << 20
EDIT_AT = 3 * GIB + 5
EDITED = b"edited"
# Block n holds its number, 131,072 times, so that no two are alike.
CONTENT = f"""
import os, sys
BLOCK, BLOCKS, EDIT_AT, EDITED = {BLOCK}, {SIZE // BLOCK}, {EDIT_AT}, {EDITED!r}
def block(n):
    data = n.to_bytes(8, "little") * (BLOCK // 8)
    start = EDIT_AT - n * BLOCK
    if 0 <= start < BLOCK and "edited" in sys.argv:
        data = data[:start] + EDITED + data[start + len(EDITED):]
    return data
"""
WRITE = """
with open("file", "wb", buffering=0) as file:
    for n in range(BLOCKS):
        assert file.write(block(n)) == BLOCK
"""
APPEND = "with open('renamed', 'ab') as file: file.write(b'!')"
EDIT = "with open('renamed', 'r+b') as file: file.seek(EDIT_AT); file.write(EDITED)"
READ = """
with open(sys.argv[1], "rb", buffering=0) as file:
    for n in range(BLOCKS):
        data = b""
        while len(data) < BLOCK and (more := file.read(BLOCK - len(data))):
            data += more
        assert data == block(n), n
    assert file.read() == b"!" * ("appended" in sys.argv)
"""


def step(here: Place, what: str, *words: object) -> None:
    """Run a program, and compare the worker's highest resident memory with its bound."""
    pid = worker(here.root.parent)
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins again: proc(5)
    done = here.run(*words, within_s=WITHIN_S)
    assert done.returncode == 0, done.stdout[-3000:]
    status = Path(f"/proc/{pid}/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) << 10
    sys.stderr.write(f"{what}: the worker had {peak >> 20} MiB\n")
    assert peak < MEMORY_BYTES, f"{what}: {peak >> 20} MiB"


def python(here: Place, what: str, code: str, *arguments: str) -> None:
    step(here, what, sys.executable, "-c", CONTENT + code, *arguments)


@pytest.mark.timeout(0)  # each step has a limit
def test_6_gib_are_written_renamed_appended_to_edited_and_copied(minio):
    free = shutil.disk_usage(tempfile.gettempdir()).free
    assert free > FREE_BYTES, (
        f"{free / GIB:.1f} GiB are free in {tempfile.gettempdir()}, this needs"
        f" {FREE_BYTES / GIB:.0f}: make room, or set TMPDIR"
    )
    with place(minio, "large") as here:
        python(here, "write", WRITE)
        assert (here.root / "file").stat().st_size == SIZE
        step(here, "rename", "mv", "file", "renamed")
        assert names(here.root) == ["renamed"]
        python(here, "append", APPEND)
        python(here, "edit", EDIT)
        assert (here.root / "renamed").stat().st_size == SIZE + 1
        step(here, "cp", "cp", "renamed", "copy")
        for name in ("renamed", "copy"):
            python(here, "read", READ, name, "edited", "appended")
        step(here, "rm", "rm", "copy", "renamed")
        assert names(here.root) == []
