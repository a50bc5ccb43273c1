"""The door between kernel and file system: every request is answered, whatever happens inside."""

import asyncio
import errno
import stat

import pyfuse3
import pytest

from csi_s3.errors import (
    AccessDeniedError,
    NoSuchBucketError,
    NotFoundError,
    NotPermittedError,
    OutOfMemoryError,
    StoreUnavailableError,
    TooManyOpenFilesError,
    by_code,
)
from csi_s3.fuse import boundary
from csi_s3.fuse.boundary import answered
from csi_s3.fuse.bridge import Bridge
from csi_s3.fuse.interrupts import give_up
from csi_s3.fuse.pyfuse3_operations import Pyfuse3Operations
from tests.unit.costs import counted_turns
from tests.unit.fs_mount import fail, mount, mounts, paged

__all__ = ["mount", "mounts"]


def raising(exc, deadline_s=None):
    @answered(deadline_s)
    async def request():
        raise exc

    return request


async def errno_of(call):
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call
    return caught.value.errno


@pytest.mark.warnings_expected("request: what failed")
@pytest.mark.parametrize("cls", by_code().values(), ids=lambda cls: cls.__name__)
async def test_each_error_of_ours_is_answered_with_its_errno_and_logged_once(cls, caplog):
    caplog.set_level("DEBUG", logger="csi_s3")
    logger = "csi_s3.fuse.boundary"
    assert await errno_of(raising(cls("what failed", "what to do"))()) == cls.errno
    (line,) = [r for r in caplog.records if r.name == logger]
    assert (line.levelno, line.code, line.op) == (cls.level, cls.code, "request")
    assert line.getMessage() == "request: what failed (what to do)"


@pytest.mark.warnings_expected("release: 403")
async def test_a_failed_release_is_an_error_in_the_log_because_no_caller_hears_of_it(caplog):
    @answered(None)
    async def release():
        raise AccessDeniedError("403")

    assert await errno_of(release()) == errno.EACCES
    (line,) = [r for r in caplog.records if r.name == "csi_s3.fuse.boundary"]
    assert line.levelname == "ERROR"


@pytest.mark.warnings_expected("request: 403")
async def test_the_error_listener_gets_each_failure_once():
    errors = []
    boundary.error_listener.set(lambda op, error: errors.append((op, error)))
    error = AccessDeniedError("403")  # a lost upload fails flush and release with one and the same
    for _ in range(2):
        await errno_of(raising(error)())
    assert errors == [("request", error)]


async def test_refusals_for_want_of_an_option_do_not_fill_the_log(caplog):
    caplog.set_level("INFO", logger="csi_s3")
    for n in range(100):
        for option in ("allow-first", "allow-second"):  # the log is limited by option
            error = NotPermittedError(f"{n}", f"needs the mount option {option}", option=option)
            assert await errno_of(raising(error)()) == errno.EPERM
    assert [r.getMessage() for r in caplog.records if r.name == "csi_s3.fuse.boundary"] == [
        "request: 0 (needs the mount option allow-first)",
        "request: 0 (needs the mount option allow-second)",
    ]


@pytest.mark.warnings_expected("request: first", "request: second")
async def test_refusals_for_lack_of_memory_do_not_fill_the_log(caplog, monkeypatch):
    """Promise: ENFILE and ENOMEM go to the program that asks, and to no other; the log has one line
    for each kind in ten seconds.
    """
    monkeypatch.setattr(boundary, "_refused_at", {})
    caplog.set_level("INFO", logger="csi_s3")
    for n in range(100):
        for cls, what in ((OutOfMemoryError, "first"), (TooManyOpenFilesError, "second")):
            assert await errno_of(raising(cls(f"{what} {n}", ""))()) == cls.errno
    lines = [r.getMessage() for r in caplog.records if r.name == "csi_s3.fuse.boundary"]
    assert lines == ["request: first 0", "request: second 0"]


@pytest.mark.warnings_expected("limit of memory is reached")
async def test_a_worker_at_its_limit_of_memory_says_so_once(caplog, monkeypatch):
    monkeypatch.setattr(boundary, "_refused_at", {})
    for _ in range(100):
        assert await errno_of(raising(MemoryError())()) == errno.ENOMEM
    (line,) = [r for r in caplog.records if r.name == "csi_s3.fuse.boundary"]
    assert line.exc_info is None
    assert "request: the worker's limit of memory is reached" in line.getMessage()


@pytest.mark.warnings_expected("bug in request")
async def test_an_unforeseen_error_is_answered_with_eio_and_its_traceback_is_logged(caplog):
    assert await errno_of(raising(ZeroDivisionError("a bug"))()) == errno.EIO
    (line,) = [r for r in caplog.records if r.name == "csi_s3.fuse.boundary"]
    assert line.exc_info[0] is ZeroDivisionError


@pytest.mark.warnings_expected("no answer in 0.01 s")
async def test_a_request_that_takes_too_long_is_answered_with_etimedout():
    @answered(0.01)
    async def request():
        await asyncio.Event().wait()

    assert await errno_of(request()) == errno.ETIMEDOUT


@pytest.mark.warnings_expected("request: a call that it waited for was too late: of the kernel")
async def test_a_call_that_is_late_under_a_request_is_not_said_to_be_its_end():
    assert await errno_of(raising(TimeoutError("of the kernel"))()) == errno.ETIMEDOUT


@pytest.mark.warnings_expected("no answer in the time that was left to the mount")
@pytest.mark.parametrize("deadline_s", [None, 100])
async def test_at_the_end_of_the_session_every_request_is_answered_at_once(deadline_s):
    """A store that is silent must not keep a worker from ending: neither create nor look-up."""

    @answered(deadline_s)
    async def request():
        await asyncio.Event().wait()

    waiting = [asyncio.create_task(errno_of(request())) for _ in range(3)]
    await asyncio.sleep(0)
    give_up()
    assert [await w for w in waiting] == [errno.ETIMEDOUT] * 3


async def test_a_task_that_was_cancelled_under_a_request_is_an_answer_too():
    @answered(None)
    async def request():
        task = asyncio.create_task(asyncio.Event().wait())
        task.cancel()
        await task

    assert await errno_of(request()) == errno.EIO


async def test_a_request_that_is_shut_down_itself_is_cancelled():
    @answered(10)
    async def request():
        await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_request_that_is_ended_and_shut_down_is_cancelled():
    @answered(10)
    async def request():
        await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    give_up()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.warnings_expected("no answer in")
@pytest.mark.parametrize("deadline_s", [None, 0.01, 10])
async def test_the_task_of_an_ended_request_can_wait_again(deadline_s):
    """What ended one request does not end the next in the same task, which pyfuse3 has."""

    @answered(deadline_s)
    async def request(*, waits):
        if waits:
            give_up()
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return "answer"

    assert await errno_of(request(waits=True)) == errno.ETIMEDOUT
    assert await request(waits=False) == "answer"
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.warnings_expected("503")
@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_of_a_readdir_that_ends_in_its_middle_the_kernel_holds_no_inode(mount, bridge, end):
    for name in "abcd":
        mount.put(name)
    paged(mount.store, 2)
    fh = mount.run(bridge.opendir(1))
    asked, held = 0, []

    async def second_page(operation, _key):
        nonlocal asked
        asked += operation == "LIST"
        held.append(mount.fs.usage().inodes)
        if asked > 1 and end == "failed":
            raise StoreUnavailableError("503")
        if asked > 1:
            await asyncio.Event().wait()

    mount.store.gate = second_page

    async def reading():
        task = asyncio.create_task(bridge.readdir(fh, 2, 4096))
        done, _ = await asyncio.wait({task}, timeout=0.05)
        if not done:
            task.cancel()
            await asyncio.wait({task})
        assert (end == "cancelled") == task.cancelled()
        return task.cancelled() or task.exception()

    mount.run(reading())
    assert max(held) > 1
    mount.run(bridge.releasedir(fh))
    assert mount.fs.usage().inodes == 1


@pytest.fixture
def bridge(mount):
    return Bridge(mount.fs)


def test_a_look_up_that_finds_nothing_is_remembered_as_long_as_the_option_says(mount, bridge):
    assert mount.run(errno_of(bridge.lookup(1, b"f"))) == errno.ENOENT
    entry = mount.run(Bridge(mount.fs, negative_ttl_s=7).lookup(1, b"f"))
    assert (entry.ino, entry.ttl_s) == (0, 7)


def test_mknod_makes_an_empty_object(mount, bridge):
    made = mount.run(bridge.mknod(1, b"f", stat.S_IFREG | 0o644))
    assert mount.data("f") == b""
    mount.fs.forget(made.ino, 1)
    assert mount.fs.usage().inodes == 1


@pytest.mark.warnings_expected("403")
def test_mknod_that_fails_leaves_no_inode(mount, bridge):
    fail(mount.store, "PUT", AccessDeniedError("403"))
    request = bridge.mknod(1, b"f", stat.S_IFREG | 0o644)
    assert mount.run(errno_of(request)) == errno.EACCES
    assert mount.fs.usage().inodes == 1
    with pytest.raises(NotFoundError):
        mount.lookup("f")


@pytest.mark.warnings_expected("503")
def test_an_error_while_a_directory_is_read_is_answered(mount, bridge):
    mount.put("f")
    fh = mount.run(bridge.opendir(1))
    fail(mount.store, "LIST", StoreUnavailableError("503"))
    behind_the_dots = 2
    assert mount.run(errno_of(bridge.readdir(fh, behind_the_dots, 4096))) == errno.EIO
    mount.run(bridge.releasedir(fh))


@pytest.mark.warnings_expected("NoSuchBucket")
def test_a_bucket_that_is_gone_is_no_empty_directory(mount, bridge):
    """Promise: EIO: the bucket no longer exists. (With ENOENT, a C library would take the failed
    listing for a complete one.)
    """
    fh = mount.run(bridge.opendir(1))
    fail(mount.store, "LIST", NoSuchBucketError("LIST: NoSuchBucket"), times=9)
    behind_the_dots = 2
    assert mount.run(errno_of(bridge.readdir(fh, behind_the_dots, 4096))) == errno.EIO
    assert mount.run(errno_of(bridge.lookup(1, b"f"))) == errno.EIO
    mount.run(bridge.releasedir(fh))


def test_a_symbolic_link_is_made_and_read(mount, bridge):
    made = mount.run(bridge.symlink(1, b"l", b"target"))
    assert stat.S_ISLNK(made.mode)
    assert mount.run(bridge.readlink(made.ino)) == b"target"
    assert mount.data("l.rclonelink") == b"target"
    mount.fs.forget(made.ino, 1)


def test_every_request_of_the_kernel_passes_through_the_door():
    """forget has no answer; what pyfuse3 calls either is a door, or calls the bridge's."""
    assert bare(Bridge) == {"forget"}
    assert bare(Pyfuse3Operations) == {"readlink", "rename"}


def bare(cls):
    functions = {n: f for n, f in vars(cls).items() if asyncio.iscoroutinefunction(f)}
    assert functions
    return {n for n, f in functions.items() if not hasattr(f, "__wrapped__") and n[0] != "_"}


@pytest.mark.parametrize("requests", [1, 10])
def test_a_forget_of_many_inodes_lets_other_requests_in_between(mount, requests):
    """In proportion, and what is forgotten is the same."""
    mount.put("a")
    made = mount.lookup("a")
    many = 10_000 * requests
    for _ in range(many):
        mount.fs.remember(made.ino)

    with counted_turns(mount.loop) as turns:
        mount.run(Bridge(mount.fs).forget([(made.ino, 1)] * many))
    assert turns.n in range(9 * requests, 13 * requests)
    assert mount.fs.usage().inodes == 2  # the first look-up's
    mount.fs.forget(made.ino, 1)
    mount.held.remove(made.ino)
    assert mount.fs.usage().inodes == 1
