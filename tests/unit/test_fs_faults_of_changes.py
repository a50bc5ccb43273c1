"""Each request of edits, exclusive creates and renames fails once, or loses its answer.

As `test_fs_faults`; besides, no byte that was acknowledged is lost under every name.
"""

import itertools
import os

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    NotImplementedByStoreError,
    StoreTimeoutError,
    StoreUnavailableError,
    VolumeError,
)
from tests.unit.fs_mount import REWRITE, WRITE_NEW, mounts

__all__ = ["mounts"]

ERRORS = [
    StoreUnavailableError("503 SlowDown"),
    AccessDeniedError("403"),
    StoreTimeoutError("no answer"),
    CredentialsError("expired"),
]
LARGE = bytes(range(40))
EXCLUSIVE = WRITE_NEW | os.O_EXCL
PRECIOUS = {"d/a": b"precious a", "d/b/x": b"precious x", "old": LARGE}
KINDS = ["HEAD", "LIST", "GET", "PUT", "COPY", "DELETE", "DELETE_MANY", "CREATE_UPLOAD",
         "UPLOAD_PART", "UPLOAD_PART_COPY", "COMPLETE_UPLOAD", "ABORT_UPLOAD"]  # fmt: skip
MAY_BE_SAID = pytest.mark.warnings_expected(
    "is kept in .* for the next worker",
    "failed again: .*concurrent modification",
    "could not be removed after the rename",
    "bug in a file",
)


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

    def with_handle(self, opening, *uses):
        fh = self.step(opening)
        if fh is not None:
            for use in uses:
                self.step(lambda use=use: use(fh))
            self.step(lambda: self.mount.close_file(fh))

    def run(self):
        m = self.mount
        append, edit = os.O_WRONLY | os.O_APPEND, os.O_RDWR
        self.with_handle(lambda: m.create("lock", EXCLUSIVE))
        self.with_handle(lambda: m.create("x", EXCLUSIVE), lambda fh: m.write(fh, LARGE))
        self.with_handle(lambda: m.open("old", append), lambda fh: m.write(fh, b"+end", len(LARGE)))
        self.with_handle(
            lambda: m.open("old", edit),
            lambda fh: m.write(fh, b"!", 20),
            m.fsync,
            lambda fh: m.write(fh, b"far", 70),
            lambda fh: m.truncate("old", 60),
        )
        self.step(lambda: m.truncate("old", 30))
        self.with_handle(
            lambda: m.create("tmp"), lambda fh: m.write(fh, b"tmp"), lambda _: m.rename("tmp", "x")
        )
        self.step(lambda: m.rename("x", "y"))
        self.step(lambda: m.rename("d", "e"))
        self.with_handle(
            lambda: m.open("e/a", edit),
            lambda fh: m.write(fh, b"more", 10),
            lambda _: m.rename("e", "f"),
        )
        self.with_handle(
            lambda: m.open("old"), lambda _: m.unlink("old"), lambda fh: m.read(fh, 0, 99)
        )


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


def a_day(mounts, state_dir, fault=None, *, lost_answer=False):
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=state_dir)
    for key, data in PRECIOUS.items():
        mount.put(key, data)
    if fault is not None:
        setattr(mount.store, "after" if lost_answer else "gate", fault)
    day = Day(mount)
    day.run()
    return mount, day


def test_a_day_without_faults(mounts, tmp_path):
    mount, day = a_day(mounts, tmp_path / "state")
    assert day.seen == []
    stored = {k: v.data for k, v in mount.store.objects.items()}
    assert stored == {
        "lock": b"", "y": b"tmp", "f/a": b"precious amore", "f/b/x": b"precious x",
    }  # fmt: skip
    assert mount.spooled() == []


@MAY_BE_SAID
@pytest.mark.parametrize("lost_answer", [False, True], ids=["refused", "answer lost"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_request_fails_once_and_nothing_is_lost(mounts, tmp_path, kind, lost_answer):
    for n in itertools.count():
        error = ERRORS[n % len(ERRORS)]
        fault = Nth(kind, n // 2, error)
        state_dir = tmp_path / f"{n}"
        mount, day = a_day(mounts, state_dir, fault, lost_answer=lost_answer)
        if not fault.was_met:
            break
        mount.settle()
        mount.store_works()
        mount.time.now_s += 5
        assert mount.fs.usage().open_files == 0
        assert mount.budget.used_bytes == 0
        stored = {k: v.data for k, v in mount.store.objects.items() if not k.endswith("/")}
        shown = {k: v for k, v in mount.tree().items() if v is not None}
        assert shown == stored, (error, n)
        copies = [data for key, data in stored.items() if key.endswith("/a")]
        assert any(data.startswith(b"precious a") for data in copies), (error, n)
        assert b"precious x" in stored.values(), (error, n)
        assert not any(isinstance(e, VolumeError) and e.code == "internal" for e in day.seen)
        mount = mount.restarted()
        mount.recover()
        stored = {k: v.data for k, v in mount.store.objects.items()}
        assert b"precious x" in stored.values(), (error, n)
        mount.end()
    assert n > 0 or kind == "ABORT_UPLOAD"


@MAY_BE_SAID
@pytest.mark.warnings_expected("the store does not know conditional writes", ".*")
@pytest.mark.parametrize("kind", ["PUT", "COMPLETE_UPLOAD"])
def test_a_store_that_suddenly_knows_no_conditions_gets_the_bytes_without(mounts, tmp_path, kind):
    for n in itertools.count():
        fault = Nth(kind, n, NotImplementedByStoreError("501"))
        mount, day = a_day(mounts, tmp_path / f"{n}", fault)
        if not fault.was_met:
            break
        assert all(e.code == "s3-not-implemented" for e in day.seen)
        mount.store_works()
        mount.end()
    assert n > 1


def test_the_largest_lie_of_a_store_is_a_put_that_took_effect_and_failed(mounts):
    """What close() could not confirm is there all the same: the mount shows what is there."""
    mount = mounts()
    mount.put("f", b"old")
    fault = Nth("PUT", 0, ERRORS[0])
    mount.store.after = fault
    fh = mount.open("f", REWRITE)
    mount.write(fh, b"new")
    with pytest.raises(StoreUnavailableError):
        mount.flush(fh)
    mount.release(fh)
    assert mount.data("f") == mount.cat("f") == b"new"
