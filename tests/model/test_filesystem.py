"""The file system next to the plainest model of it, with other writers and faults among the rules.

A tiny alphabet on purpose: `a`, `a-`, `a/`, `a/a` collide, and that is the test.
"""

import os
from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import (
    ExistsError,
    IsDirectoryError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
    ObjectChangedError,
    SpoolFullError,
    StaleError,
    StoreUnavailableError,
    UnsupportedError,
)
from tests.model.machine import REPLACED, UNREADABLE, Driver
from tests.model.reference import Reference

NAMES = st.sampled_from(["a", "a-", "b", "a.", "é"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
ODD = st.sampled_from(["a//b", "a/./b", "../a", "a/", "a/b/", "/a", "a\0", "x" * 256])
KEYS = st.one_of(PATHS, PATHS.map(lambda p: p + "/"), ODD)
PART_BYTES = 4
DATA = st.binary(max_size=20)
REQUESTS = st.sampled_from(["HEAD", "LIST", "GET", "PUT", "DELETE", "UPLOAD_PART", "CREATE_UPLOAD",
                            "COMPLETE_UPLOAD"])  # fmt: skip


REPLACED_ERRORS = (StaleError, ObjectChangedError)


class Gone:
    data = None


@dataclass(eq=False)
class Writer:
    """A handle open for writing. is_lost: an upload request of it failed, or a call said so."""

    fh: int
    path: str
    data: bytes = b""
    is_lost: bool = False
    is_linked: bool = True
    is_stored: bool = False
    is_dirty: bool = True  # an empty file is stored at its last release
    stored: bytes = b""


class MountModel(RuleBasedStateMachine):
    """allow-delete and allow-overwrite are given here; the guards have tests of their own."""

    readers = Bundle("readers")
    writers = Bundle("writers")

    def __init__(self) -> None:
        super().__init__()
        config = TreeConfig(
            allow_delete=True, allow_overwrite=True, write_part_bytes=PART_BYTES, read_part_bytes=4
        )
        self.mount = Driver(config)
        self.model = Reference()
        self.armed = False
        self.open_writers: dict[str, Writer] = {}
        self.history: dict[str, set[bytes]] = {}

    def teardown(self) -> None:
        self.disarm()
        self.mount.close()

    # somebody else

    @rule(key=KEYS, data=DATA)
    def somebody_else_puts(self, key, data):
        self.mount.store.put_now(key, data)
        self.model.objects[key] = data
        self.mount.time.now_s += 2

    @rule(key=KEYS)
    def somebody_else_deletes(self, key):
        self.mount.store.delete_now(key)
        self.model.objects.pop(key, None)
        self.mount.time.now_s += 2

    @rule(kind=REQUESTS, lost_answer=st.booleans())
    def next_request_fails(self, kind, lost_answer):
        async def fail(operation, key):
            if operation == kind and self.armed:
                self.armed = False
                if "UPLOAD" in kind and key in self.open_writers:
                    self.open_writers[key].is_lost = True  # some later call says so
                raise StoreUnavailableError(f"{kind}: injected")

        self.disarm()
        self.armed = True
        setattr(self.mount.store, "after" if lost_answer else "gate", fail)

    def disarm(self) -> None:
        async def pass_(_operation, _key):
            pass

        self.armed = False
        self.mount.store.gate = self.mount.store.after = pass_

    def attempt(self, call, *expected):
        """Make a call; an injected fault may end it, and then the bucket tells what took effect."""
        was_armed = self.armed
        try:
            result = call()
        except StoreUnavailableError:
            assert was_armed, "a fault that nobody injected"
            self.model.objects = {k: v.data for k, v in self.mount.store.objects.items()}
            return None
        except expected as exc:
            return exc
        if was_armed and not self.armed:  # met, and made good (a release that stored again)
            self.model.objects = {k: v.data for k, v in self.mount.store.objects.items()}
        return result

    # names

    @rule(path=PATHS)
    def mkdir(self, path):
        above, _, name = path.rpartition("/")
        known = path in self.model.tree()
        ok_above = self.model.is_dir(above)

        def call():
            found = self.mount.run(self.mount.fs.mkdir(self.mount.ino(above), name.encode()))
            self.mount.held.append(found.ino)
            return "made"

        got = self.attempt(call, ExistsError, NotFoundError, NotDirectoryError)
        if got == "made":
            assert ok_above
            assert not known
            self.model.objects[f"{path}/"] = b""
        elif isinstance(got, ExistsError):
            assert known

    @rule(path=PATHS)
    def rmdir(self, path):
        above, _, name = path.rpartition("/")
        is_dir, full = self.model.is_dir(path), self.model.has_other_keys(path)

        def call():
            self.mount.ino(path)
            self.mount.run(self.mount.fs.rmdir(self.mount.ino(above), name.encode()))
            return "removed"

        got = self.attempt(call, NotFoundError, NotDirectoryError, NotEmptyError)
        if got == "removed":
            assert is_dir
            assert not full
            self.model.objects.pop(f"{path}/", None)
            self.model.removed(path)
        elif isinstance(got, NotEmptyError):
            assert full

    @rule(path=PATHS)
    def unlink(self, path):
        above, _, name = path.rpartition("/")
        tree = self.model.tree()

        def call():
            self.mount.ino(path)
            self.mount.run(self.mount.fs.unlink(self.mount.ino(above), name.encode()))
            return "removed"

        got = self.attempt(call, NotFoundError, NotDirectoryError, IsDirectoryError)
        if got == "removed":
            assert tree[path] is not None
            writer = self.open_writers.pop(path, None)
            if writer is not None:
                del self.model.writing[path]
                writer.is_linked = False
            if writer is None or writer.is_stored:
                self.model.objects.pop(path, None)
            self.model.removed(path)
        elif isinstance(got, IsDirectoryError):
            assert tree[path] is None
        elif isinstance(got, NotFoundError):
            assert path not in tree

    # files

    def open_to_write(self, path):
        """As the kernel does it: OPEN with O_TRUNC where a look-up finds the name, else CREATE."""
        above, _, name = path.rpartition("/")
        fs, flags = self.mount.fs, os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            ino = self.mount.ino(path)
        except NotFoundError:
            fh, made = self.mount.run(fs.files.create(self.mount.ino(above), name.encode(), flags))
            self.mount.held.append(made.ino)
            return fh
        return self.mount.run(fs.files.open(ino, flags))

    @precondition(lambda self: not self.armed)
    @rule(path=PATHS, data=DATA)
    def write_file(self, path, data):
        expected = (NotFoundError, NotDirectoryError, IsDirectoryError)
        if path in self.model.writing:
            return
        got = self.attempt(lambda: self.open_to_write(path), *expected)
        if isinstance(got, Exception):
            assert self.model.tree().get(path, 0) is None or not self.model.is_dir(
                path.rpartition("/")[0]
            )
            return
        files = self.mount.fs.files
        for at in range(0, len(data), 3):
            self.mount.run(files.write(got, at, data[at : at + 3]))
        self.mount.run(files.flush(got))
        self.mount.run(files.release(got))
        self.model.objects[path] = data

    @precondition(lambda self: not self.armed)
    @rule(target=writers, path=PATHS)
    def begin_writing(self, path):
        if path in self.model.writing:
            return None
        expected = (NotFoundError, NotDirectoryError, IsDirectoryError)
        got = self.attempt(lambda: self.open_to_write(path), *expected)
        if isinstance(got, Exception):
            return None
        self.model.writing[path] = b""
        self.open_writers[path] = Writer(got, path, is_stored=path in self.model.objects)
        return self.open_writers[path]

    @rule(writer=writers, data=DATA)
    def write_on(self, writer, data):
        if writer is None or writer.is_lost:
            return
        write = self.mount.fs.files.write(writer.fh, len(writer.data), data)
        got = self.of_writer(writer, write, SpoolFullError, *REPLACED_ERRORS)
        if isinstance(got, SpoolFullError):
            assert not writer.is_linked
            writer.is_lost = True
        elif isinstance(got, Exception):
            self.replaced(writer)
        elif got is not None:
            writer.data += data
            writer.is_dirty = writer.is_dirty or bool(data)
            if writer.is_linked:
                self.model.writing[writer.path] = writer.data

    @rule(writer=writers)
    def flush(self, writer):
        if writer is None or writer.is_lost:
            return
        got = self.of_writer(writer, self.mount.fs.files.flush(writer.fh), *REPLACED_ERRORS)
        if isinstance(got, Exception):
            self.replaced(writer)
        if got == "done" and writer.is_linked and writer.data and writer.is_dirty:
            self.stored(writer)

    @rule(writer=consumes(writers))
    def finish_writing(self, writer):
        if writer is None:
            return
        got = self.of_writer(writer, self.mount.fs.files.release(writer.fh), *REPLACED_ERRORS)
        if isinstance(got, Exception):
            self.replaced(writer)
        if not writer.is_linked:
            return
        del self.model.writing[writer.path], self.open_writers[writer.path]
        if writer.is_lost:
            self.model.objects = {k: v.data for k, v in self.mount.store.objects.items()}
        elif writer.is_dirty:
            self.stored(writer)

    def stored(self, writer):
        self.model.objects[writer.path] = writer.stored = writer.data
        writer.is_stored, writer.is_dirty = True, False

    def replaced(self, writer):
        """Writing on found that the stored beginning is somebody else's now, or gone."""
        assert self.mount.store.objects.get(writer.path, Gone).data != writer.stored
        writer.is_lost = True

    def of_writer(self, writer, call, *expected):
        """Only a writer that lost a request may fail, and then it stays failed."""
        was_armed = self.armed
        try:
            return self.mount.run(call) or "done"
        except StoreUnavailableError:
            assert writer.is_lost or was_armed
            writer.is_lost = True
            self.model.objects = {k: v.data for k, v in self.mount.store.objects.items()}
            return None
        except expected as exc:
            return exc

    @rule(target=readers, path=PATHS)
    def open_to_read(self, path):
        got = self.attempt(
            lambda: self.mount.run(self.mount.fs.files.open(self.mount.ino(path), os.O_RDONLY)),
            NotFoundError, NotDirectoryError, IsDirectoryError, StaleError,
        )  # fmt: skip
        if got is None or isinstance(got, Exception):
            return None
        return got, path, self.model.tree().get(path)

    @rule(reader=readers, offset=st.integers(0, 6), length=st.integers(1, 20))
    def read_is_old_or_new_bytes_or_stale_never_a_mix(self, reader, offset, length):
        if reader is None:
            return
        fh, path, old = reader
        got = self.attempt(
            lambda: self.mount.run(self.mount.fs.files.read(fh, offset, length)),
            StaleError, ObjectChangedError, UnsupportedError,
        )  # fmt: skip
        if isinstance(got, bytes):
            versions = self.history.get(path, set()) | {old}
            assert any(got == v[offset : offset + length] for v in versions if v is not None)

    @rule(reader=consumes(readers))
    def close_reader(self, reader):
        if reader is not None:
            self.mount.run(self.mount.fs.files.release(reader[0]))

    # what must hold

    @invariant()
    def bucket_and_tree_are_what_the_model_says(self):
        was_armed, self.armed = self.armed, False
        for path, data in (*self.model.objects.items(), *self.model.writing.items()):
            self.history.setdefault(path, set()).add(data)
        stored = {k: v.data for k, v in self.mount.store.objects.items()}
        assert stored == self.model.objects
        shown, expected = self.mount.tree(), self.model.tree()
        for path in [p for p, data in shown.items() if data is UNREADABLE]:
            assert len(self.model.writing[path]) > PART_BYTES
            shown[path] = self.model.writing[path]
        for path in [p for p, data in shown.items() if data is REPLACED]:
            assert self.model.objects.get(path) != self.open_writers[path].stored
            shown[path] = self.model.writing[path]
        assert shown == expected
        self.armed = was_armed


MountModel.TestCase.settings = settings(deadline=None)  # examples and steps: the profile's
TestMountModel = pytest.mark.timeout(0)(MountModel.TestCase)
