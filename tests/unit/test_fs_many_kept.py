"""The end of a mount with many files: what is not stored is kept, a few files at a time."""

import asyncio
import logging

import pytest

from csi_s3.errors import StaleError
from csi_s3.fs.base.few_lines import LINES
from csi_s3.fs.files.handles import CLOSED_AT_ONCE as CLOSED_HANDLES
from csi_s3.fs.files.write_back import CLOSED_AT_ONCE, PARALLEL_STORED
from tests.unit.costs import counted_turns
from tests.unit.fs_mount import WRITE_NEW, Held, mount, mounts
from tests.unit.writers_case import MIB, small

__all__ = ["mount", "mounts", "small"]

KEPT = pytest.mark.warnings_expected(
    "could not be uploaded and is kept in .* for the next worker",
    "more files could not be uploaded and are kept for the next worker",
)


def described(mount):
    """The descriptions in the spool; each has another inode once it is replaced."""
    return {path.name: path.stat().st_ino for path in mount.state_dir.glob("*.json")}


@KEPT
@pytest.mark.parametrize("n", [30, 300])
def test_what_is_not_stored_is_kept_file_by_file_before_all_ends(small, n):
    mount = small(memory_bytes=32 * MIB)
    for i in range(n):
        mount.write(mount.create(f"f{i}"), b"%d" % i)
    with counted_turns(mount.loop) as turns:
        mount.run(mount.fs.keep())
    assert turns.n >= n
    kept = described(mount)
    assert len(kept) == n
    successor = mount.succeeded()
    successor.recover()
    assert {key: successor.data(key) for key in mount.store.objects} == {
        f"f{i}": b"%d" % i for i in range(n)
    }
    mount.end()
    assert described(mount) == kept, "the end has nothing left to describe"


@KEPT
@pytest.mark.parametrize("n", [50, 500])
@pytest.mark.parametrize("is_kept_before", [False, True])
def test_the_end_takes_few_files_at_a_time_and_names_few_in_the_log(
    small, caplog, n, is_kept_before
):
    mount = small(memory_bytes=32 * MIB)
    for i in range(n):
        mount.write(mount.create(f"f{i}"), b"%d" % i)
    if is_kept_before:
        mount.run(mount.fs.keep())
    with counted_turns(mount.loop) as turns:
        mount.run(mount.fs.close())
    assert turns.n >= n // CLOSED_AT_ONCE
    assert len(described(mount)) == n
    errors = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == LINES + 1
    assert errors[-1].startswith(f"{n - LINES} more files could not be uploaded")


@pytest.mark.parametrize("n", [100, 1000])
def test_a_drain_gives_way_after_each_file_that_is_stored_already(small, n):
    mount = small()
    handles = [mount.create(f"f{i}") for i in range(n)]
    for fh in handles:
        mount.fsync(fh)
    with mount.requests():
        with counted_turns(mount.loop) as turns:
            mount.run(mount.fs.drain())
        assert turns.n >= n // PARALLEL_STORED


@pytest.mark.parametrize("n", [CLOSED_HANDLES * 2, CLOSED_HANDLES * 6])
def test_the_end_closes_few_handles_at_a_time(mount, n):
    mount.put("f", b"f")
    for _ in range(n):
        mount.open("f")
    with counted_turns(mount.loop) as turns:
        mount.run(mount.fs.close())
    assert turns.n >= n // CLOSED_HANDLES


@KEPT
def test_files_that_are_written_or_closed_while_all_ends_are_kept(small):
    mount = small(memory_bytes=32 * MIB)
    open_before = [mount.create(f"f{i}") for i in range(30 * CLOSED_AT_ONCE)]
    for fh in open_before:
        mount.write(fh, b"one")

    async def end():
        ending = mount.start(mount.fs.close())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        new, _ = await mount.fs.files.create(1, b"new", WRITE_NEW)
        await mount.fs.files.write(new, 0, b"new")
        with pytest.raises(StaleError):
            await mount.fs.files.flush(open_before[-1])
        assert not ending.done(), "it is over: the test proves nothing"
        await ending

    mount.run(end())
    assert mount.store.objects == {}
    successor = mount.succeeded()
    with counted_turns(successor.loop) as turns:
        successor.recover()
    assert turns.n >= len(open_before), "other requests go on beside it"
    assert successor.data("new") == b"new"
    assert all(successor.data(f"f{i}") == b"one" for i in range(len(open_before)))


@KEPT
def test_what_changes_after_it_was_kept_is_kept_again_at_the_end(small):
    mount = small()
    fh, renamed = mount.create("f"), mount.create("old")
    mount.write(fh, b"one")
    mount.write(renamed, b"moved")
    mount.run(mount.fs.keep())
    mount.write(fh, b"two", 3)
    mount.rename("old", "new")
    mount = mount.restarted()
    mount.recover()
    assert mount.data("f") == b"onetwo"
    assert mount.data("new") == b"moved"


@KEPT
def test_a_file_that_is_being_stored_is_kept_at_the_end_only(small):
    mount = small()
    mount.write(mount.create("f"), b"f")
    held = Held(mount.store, "PUT")
    storing = mount.start(mount.fs.drain())
    mount.settle()
    mount.run(mount.fs.keep())
    assert mount.spooled() == []
    held.let_go()
    assert mount.wait(storing) == []
    mount.run(mount.fs.keep())
    assert mount.spooled() == []
    assert mount.data("f") == b"f"
