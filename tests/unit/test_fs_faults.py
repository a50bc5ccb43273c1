"""Every request of a day's work fails once, before it took effect or with its answer lost.

The caller gets the error; afterwards the mount shows what the bucket holds, and nothing has leaked.
"""

import itertools

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    NoSuchBucketError,
    StoreTimeoutError,
    StoreUnavailableError,
    VolumeError,
)
from tests.unit.fs_mount import REWRITE, mounts

__all__ = ["mounts"]

ERRORS = [
    StoreUnavailableError("503 SlowDown"),
    StoreTimeoutError("no answer"),
    AccessDeniedError("403"),
    CredentialsError("expired"),
    NoSuchBucketError("404"),
]
SMALL, LARGE = b"abc", b"more than one part of four bytes"


class Day:
    """One request after the other; an error ends its step only. seen: what was raised."""

    def __init__(self, mount):
        self.mount, self.seen = mount, []

    def step(self, call):
        try:
            return call()
        except VolumeError as exc:
            self.seen.append(exc)
            return None

    def run(self):
        m = self.mount
        self.step(lambda: m.mkdir("d"))
        for path, data in (("d/small", SMALL), ("large", LARGE)):
            fh = self.step(lambda path=path: m.create(path))
            if fh is not None:
                self.step(lambda fh=fh, data=data: m.write(fh, data))
                self.step(lambda fh=fh: m.close_file(fh))
        m.time.now_s += 2
        self.step(m.ls)
        self.step(lambda: m.stat("old"))
        self.step(lambda: m.cat("old"))
        self.step(lambda: m.cat("large"))
        fh = self.step(lambda: m.open("old", REWRITE))
        if fh is not None:
            self.step(lambda: m.write(fh, LARGE))
            self.step(lambda: m.fsync(fh))
            self.step(lambda: m.write(fh, SMALL, len(LARGE)))
            self.step(lambda: m.close_file(fh))
        self.step(lambda: m.run(m.fs.setattr(m.ino("large"), size=0)))
        self.step(lambda: m.unlink("d/small"))
        self.step(lambda: m.rmdir("d"))


class Nth:
    """Fails the nth request of a kind."""

    def __init__(self, kind, n, error):
        self.kind, self.left, self.error, self.was_met = kind, n, error, False

    async def __call__(self, operation, _key):
        if operation == self.kind:
            if self.left == 0:
                self.was_met = True
                self.left -= 1
                raise self.error
            self.left -= 1


def a_day(mounts, fault=None, *, lost_answer=False):
    mount = mounts(write_part_bytes=4)
    mount.put("old", b"old content")
    if fault is not None:
        setattr(mount.store, "after" if lost_answer else "gate", fault)
    day = Day(mount)
    day.run()
    return mount, day


def test_a_day_without_faults(mounts):
    mount, day = a_day(mounts)
    assert day.seen == []
    assert {k: v.data for k, v in mount.store.objects.items()} == {
        "large": b"",
        "old": LARGE + SMALL,
    }
    assert mount.tree() == {"large": b"", "old": LARGE + SMALL}


KINDS = ["HEAD", "LIST", "GET", "PUT", "DELETE", "CREATE_UPLOAD", "UPLOAD_PART",
         "UPLOAD_PART_COPY", "COMPLETE_UPLOAD"]  # fmt: skip


@pytest.mark.parametrize("lost_answer", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_request_fails_once_and_then_the_mount_shows_what_the_bucket_holds(
    mounts, kind, lost_answer
):
    for n in itertools.count():
        fault = Nth(kind, n, ERRORS[n % len(ERRORS)])
        mount, _ = a_day(mounts, fault, lost_answer=lost_answer)
        if not fault.was_met:
            break
        mount.settle()
        mount.time.now_s += 5
        assert mount.fs.usage().open_files == 0
        assert mount.budget.used_bytes == 0
        stored = {k: v.data for k, v in mount.store.objects.items() if not k.endswith("/")}
        shown = {k: v for k, v in mount.tree().items() if v is not None}
        assert shown == stored
        unknown = kind == "CREATE_UPLOAD" and lost_answer  # the upload's id is unknown
        assert len(mount.store.uploads) <= unknown
        assert mount.data("old") in (b"old content", LARGE, LARGE + SMALL, None)
        assert mount.data("old") is not None
    assert n > 0


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.code)
def test_a_store_that_refuses_everything_is_an_error_everywhere_and_loses_nothing(mounts, error):
    mount = mounts(write_part_bytes=4)
    mount.put("old", b"old content")
    ino = mount.ino("old")

    async def refuse(_operation, _key):
        raise error

    mount.store.gate = refuse
    calls = [
        lambda: mount.lookup("old"),
        lambda: mount.run(mount.fs.getattr(ino)),
        lambda: mount.run(mount.fs.files.open(ino, 0)),
        mount.ls,
        lambda: mount.mkdir("d"),
        lambda: mount.run(mount.fs.unlink(1, b"old")),
        lambda: mount.run(mount.fs.setattr(ino, size=0)),
        lambda: mount.close_file(mount.create("new")),
    ]
    for call in calls:
        with pytest.raises(type(error)) as caught:
            call()
        assert caught.value.errno == error.errno
    assert mount.data("old") == b"old content"
    mount.store.gate = Nth("none", 0, error)
    assert mount.tree() == {"old": b"old content"}
