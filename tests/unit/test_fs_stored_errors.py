"""A stored error is raised many times, and holds nothing of those who got it."""

import errno
import gc
import tracemalloc
from dataclasses import fields

import pytest
from pyfuse3 import FUSEError

from csi_s3.errors import NotPermittedError, StoreUnavailableError, by_code
from csi_s3.fuse import boundary
from tests.unit.fs_mount import mount, mounts

__all__ = ["mount", "mounts"]

MIB = 1 << 20
WRITE_BYTES = 128 << 10


def traceback_length(error):
    at, n = error.__traceback__, 0
    while at is not None:
        at, n = at.tb_next, n + 1
    return n


def raised(error):
    try:
        raise error
    except type(error) as exc:
        return exc


@pytest.mark.parametrize("cls", by_code().values(), ids=lambda cls: cls.__name__)
def test_an_error_again_is_equal_and_has_no_frames(cls):
    first = raised(cls("what", "hint", public="public"))
    again = first.again()
    assert type(again) is cls
    assert again is not first
    assert all(getattr(again, f.name) == getattr(first, f.name) for f in fields(cls))
    assert again.__traceback__ is again.__cause__ is again.__context__ is None


def test_an_error_again_has_the_fields_of_its_class():
    assert NotPermittedError("no", option="allow-delete").again().option == "allow-delete"


@pytest.mark.warnings_expected("request: 503")
async def test_an_occurrence_is_logged_once_however_often_it_is_raised(caplog):
    heard = []
    boundary.error_listener.set(lambda op, error: heard.append((op, error)))
    error = StoreUnavailableError("503")

    @boundary.answered(None)
    async def request():
        raise error.again()

    for _ in range(3):
        with pytest.raises(FUSEError) as caught:
            await request()
        assert caught.value.errno == errno.EIO
    assert len(heard) == 1
    assert len([r for r in caplog.records if r.name == "csi_s3.fuse.boundary"]) == 1


async def no_parts(operation, _key):
    if operation == "UPLOAD_PART":
        raise StoreUnavailableError("503")


def lose_a_part(mount, fh):
    for at in (0, MIB):
        mount.write(fh, bytes(MIB), at)
        mount.settle()
    with pytest.raises(StoreUnavailableError):
        mount.write(fh, bytes(MIB), 2 * MIB)


@pytest.mark.parametrize("n", [100, 1000])
def test_refused_writes_leave_no_memory_behind(mounts, n):
    """Without a spool, a failed part is lost, and every later write gets its error."""
    mount = mounts(write_part_bytes=MIB)
    mount.store.gate = no_parts
    fh = mount.create("f")
    lose_a_part(mount, fh)
    lengths = set()

    def refused():
        with pytest.raises(StoreUnavailableError) as caught:
            mount.write(fh, bytes(WRITE_BYTES))
        lengths.add(traceback_length(caught.value))

    refused()
    gc.collect()
    tracemalloc.start()
    for _ in range(n):
        refused()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < WRITE_BYTES
    assert len(lengths) == 1
    with pytest.raises(StoreUnavailableError):
        mount.flush(fh)
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)


def test_a_failed_part_leaves_no_bytes_behind(mounts):
    """The failure of an upload is stored until its file is closed, without the part."""
    mount = mounts(write_part_bytes=MIB)
    mount.store.gate = no_parts
    tracemalloc.start()
    fh = mount.create("f")
    lose_a_part(mount, fh)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < MIB // 2
    with pytest.raises(StoreUnavailableError):
        mount.release(fh)
