"""What operations on names cost inside `csi_s3.fs`, in calls: no machine changes these.

A limit is a tenth above what was counted when it was set. Raise one only where the operation does
more than before, and say so in the commit.
"""

from pathlib import Path

import pytest

import csi_s3.fs
from tests.unit.costs import counted_calls
from tests.unit.fs_mount import mount, mounts

__all__ = ["mount", "mounts"]

N = 20
FILES = {str(path) for path in Path(csi_s3.fs.__file__).parent.rglob("*.py")}


def mkdir(mount, above, n):
    made = mount.run(mount.fs.mkdir(above, b"d%d" % n))
    mount.held.append(made.ino)


def rmdir(mount, above, n):
    mount.run(mount.fs.rmdir(above, b"d%d" % n))


def symlink(mount, above, n):
    made = mount.run(mount.fs.links.make(above, b"l%d" % n, b"target"))
    mount.held.append(made.ino)


def unlink(mount, above, n):
    mount.run(mount.fs.unlink(above, b"l%d" % n))


def lookup(mount, above, n):
    found = mount.run(mount.fs.lookup(above, b"f%d" % n))
    mount.held.append(found.ino)


def enter(mount, above, n):
    found = mount.run(mount.fs.lookup(above, b"small%d" % n))
    mount.held.append(found.ino)


def find(mount, above, n):
    """Open a small directory, read it to its end, and close it."""
    mount.run(mount.names(mount.fs._inodes.child(above, f"small{n}").ino))


@pytest.mark.parametrize(
    ("steps", "most"),
    [
        ({"mkdir": mkdir}, 168),
        ({"mkdir": mkdir, "rmdir": rmdir}, 130),
        ({"symlink": symlink}, 130),
        ({"symlink": symlink, "unlink": unlink}, 134),
        ({"lookup": lookup}, 110),
        ({"listing": lambda mount, *_: mount.ls("a/b"), "lookup": lookup}, 33),
        ({"enter": enter, "find": find}, 380),
    ],
    ids=["mkdir", "rmdir", "symlink", "unlink", "lookup in S3", "lookup in a listing", "find"],
)
def test_an_operation_makes_no_more_calls_than_before(mount, steps, most):
    for n in range(N):
        mount.put(f"a/b/f{n}", b"x")
        for name in "xyz":
            mount.put(f"a/b/small{n}/{name}", b"x")
    above = mount.ino("a/b")
    *before, last = steps.values()
    for step in before:
        for n in range(N):
            step(mount, above, n)
    with counted_calls(FILES) as calls:
        for n in range(N):
            last(mount, above, n)
    assert calls.n <= most * N
