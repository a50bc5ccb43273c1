"""Random programs get the same answers on a mount as on a local disk, and leave the same files."""

import itertools
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.mount.command import WITHIN_S
from tests.mount.differing import EVERYTHING, FLAGS, NAMES, Side, same
from tests.mount.mounted import env, here, minio, mounted
from tests.programs.runs import objects
from tests.servers import VERSIONED

__all__ = ["env", "here", "minio", "mounted"]

pytestmark = pytest.mark.parametrize("minio", ["minio", VERSIONED], indirect=True, scope="module")

PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(
    lambda names: "/".join(("in", *names))  # so that a link to ../a stays in its example
)
FDS = st.integers(0, 3)
OFFSETS = st.sampled_from([0, 1, 5, 4095, 4096, 70_000])
DATA = st.sampled_from([b"x", b"some", b"y" * 5000])
SIZES = st.sampled_from([0, 1, 3, 4096, 10_000])
TARGETS = st.sampled_from(["a", "b/c", "../a", "nowhere", "."])
ACCESS = st.sampled_from(["r", "w", "rw"])


def op(kind, *arguments):
    return st.tuples(st.just(kind), *arguments)


OPEN = st.builds(
    lambda path, access, flags: ("open", path, access, *sorted(flags)),
    PATHS, ACCESS, st.sets(st.sampled_from(sorted(FLAGS)), max_size=3),
)  # fmt: skip
WRITE_NEW = st.builds(lambda path: ("open", path, "rw", "create"), PATHS)
OPERATIONS = st.lists(
    st.one_of(
        OPEN, WRITE_NEW, WRITE_NEW,
        op("close", FDS), op("dup", FDS), op("write", FDS, DATA), op("write", FDS, DATA),
        op("pwrite", FDS, OFFSETS, DATA), op("pread", FDS, OFFSETS, st.just(EVERYTHING)),
        op("seek_end", FDS, st.just(0)), op("ftruncate", FDS, SIZES), op("fsync", FDS),
        op("fstat", FDS), op("store_mapped", FDS, OFFSETS, DATA),
        op("stat", PATHS), op("lstat", PATHS), op("readlink", PATHS), op("ls", PATHS),
        op("read", PATHS), op("mkdir", PATHS), op("mkdir", PATHS), op("rmdir", PATHS),
        op("unlink", PATHS), op("rename", PATHS, PATHS), op("rename", PATHS, PATHS),
        op("symlink", PATHS, TARGETS), op("truncate", PATHS, SIZES),
        op("utime", PATHS, st.integers(1, 2_000_000_000)), op("chmod", PATHS),
    ),
    min_size=5,
    max_size=60,
)  # fmt: skip
NUMBERS = itertools.count()
EXAMPLES = settings.default.max_examples // 2
EXAMPLE_WITHIN_S = 20


def run(mounted, tmp_path, operations):
    name = f"like-{next(NUMBERS)}"
    here, there = Side(mounted.path / name), Side(tmp_path / name)
    for side in (here, there):
        (side.root / "in").mkdir(parents=True)
    same(here, there, operations)
    expected = {
        path: content.encode() if isinstance(content, str) else content
        for path, (_, content) in there.tree().items()
    }
    deadline = time.monotonic() + WITHIN_S  # RELEASE, which stores empty files, follows close()
    while (stored := objects(mounted.server, "data", f"{name}/")) != expected:
        assert time.monotonic() < deadline, (stored, expected, operations)


@pytest.mark.timeout(EXAMPLE_WITHIN_S * EXAMPLES)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(operations=OPERATIONS)
def test_a_random_program_gets_the_answers_of_a_local_disk(mounted, tmp_path_factory, operations):
    run(mounted, tmp_path_factory.mktemp("local"), operations)
