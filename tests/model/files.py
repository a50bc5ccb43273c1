"""Rules about files: several handles write, truncate, read and close them."""

import os
from functools import partial

import hypothesis.strategies as st
from hypothesis.stateful import precondition, rule

from csi_s3.errors import ExistsError, NoDataError, SpoolFullError
from csi_s3.fs.files.open_files import FALLOCATE_MODES
from tests.model.common import DATA, NO_PATH, PICK, PLACES, STALE, WAYS, Common
from tests.model.reference import File


class Files(Common):
    @rule(path=PLACES, flags=WAYS)
    def open_to_write(self, path, flags):
        path = self.place(path)
        if self.model.is_dir(path) and not self.kernel.is_armed and flags & os.O_EXCL:
            return
        tree, file = self.model.tree(), self.model.writing.get(path)
        if path in tree and flags & os.O_EXCL:
            return  # the kernel answers itself
        got = self.attempt(
            lambda: self.kernel.open(path, os.O_RDWR | flags), ExistsError, *NO_PATH, *STALE
        )
        if got is None:
            self.check_no_handle_is_left()
            return
        if isinstance(got, STALE):
            assert self.has_readers
            return
        if isinstance(got, Exception):
            is_there = tree.get(path) is not None
            ok_above = self.model.is_dir(path.rpartition("/")[0])
            assert not is_there or not ok_above or self.is_unsure(path)
            return
        if file is None:
            file = self.new_file(path, tree, flags)
        elif flags & os.O_TRUNC:
            file.data, file.is_dirty, file.was_written = b"", True, False
        file.handles.append(got)

    def new_file(self, path, tree, flags):
        is_there = path in tree
        file = File(path, tree[path] if is_there and not flags & os.O_TRUNC else b"")
        file.is_known = is_there
        if flags & os.O_EXCL:
            self.model.objects[path] = b""
            file.base, file.is_known = self.kernel.etag(path), True
        elif is_there and not flags & os.O_TRUNC:
            file.base = self.kernel.etag(path)
        file.is_dirty = file.base is None
        self.open_files.append(file)
        self.model.writing[path] = file
        return file

    def check_no_handle_is_left(self):
        """A handle that the kernel does not know would never be released."""
        open_now = self.kernel.mount.fs._handles._open.items()
        writable = {fh for fh, handle in open_now if getattr(handle, "is_writable", False)}
        assert writable == {fh for file in self.open_files for fh in file.handles}

    @precondition(lambda self: self.open_files)
    @rule(pick=PICK, offset=st.integers(0, 24), data=DATA, is_append=st.booleans())
    def write(self, pick, offset, data, is_append):
        fh, file = self.picked(pick)
        at = len(file.data) if is_append else offset
        call = self.kernel.append if is_append else partial(self.kernel.write, offset=at)
        got = self.of_file(file, lambda: call(fh, data=data))
        if got is not None and not isinstance(got, Exception):
            file.write(at, data)

    @precondition(lambda self: self.open_files)
    @rule(
        pick=PICK,
        mode=st.sampled_from(FALLOCATE_MODES),
        offset=st.integers(0, 24),
        length=st.integers(1, 24),
    )
    def fallocate(self, pick, mode, offset, length):
        fh, file = self.picked(pick)
        got = self.of_file(file, lambda: self.kernel.fallocate(fh, mode, offset, length))
        if got == "done":
            file.fallocate(mode, offset, length)

    @precondition(lambda self: self.open_files)
    @rule(pick=PICK, offset=st.integers(0, 24))
    def seek(self, pick, offset):
        """What is left out as a hole is zeros; data and holes meet at what was found."""
        fh, file = self.picked(pick)
        calls = [partial(self.kernel.lseek, fh, offset, w) for w in (os.SEEK_DATA, os.SEEK_HOLE)]
        data, hole = [self.attempt(call, NoDataError, *STALE) for call in calls]
        if file.is_unsure or isinstance(data, STALE) or isinstance(hole, STALE):
            return
        size = len(file.data)
        assert isinstance(hole, NoDataError) == (offset >= size)
        if isinstance(data, NoDataError):
            assert not any(file.data[offset:])
            assert offset >= size or hole == offset
        else:
            assert not any(file.data[offset:data])
            assert offset <= data < size
            assert hole == offset if data > offset else offset < hole <= size

    @rule()
    def sync_all(self):
        """Each that can be stored is, whatever becomes of the others."""
        dirty = [f for f in self.open_files if f.is_dirty and f.path is not None]
        stale = [f for f in dirty if self.is_stale(f)]
        unsure = any(f.is_unsure for f in self.open_files)
        got = self.attempt(self.kernel.syncfs, *STALE, ExistsError)
        if got is None or unsure:
            for file in self.open_files:
                file.is_unsure = True
            self.model.objects = {k: v.data for k, v in self.kernel.bucket.items()}
            return
        assert isinstance(got, Exception) == bool(stale)
        for file in dirty:
            if file not in stale:
                self.model.objects[file.path] = file.data
                self.stored(file)

    @precondition(lambda self: not self.kernel.is_armed)
    @rule(
        path=PLACES,
        look=st.sampled_from(["stat", "list"]),
        new=DATA,
        use=st.sampled_from(["read", "map", "append", "edit", "truncate"]),
        size=st.integers(0, 24),
    )
    def use_a_file_that_was_changed_elsewhere_since_it_was_looked_at(
        self, path, look, new, use, size
    ):
        """At once, while the kernel's attributes of the file are those from before."""
        path = self.place(path)
        if self.model.tree().get(path) is None or path in self.model.writing:
            return
        self.kernel.look(path, look)
        self.kernel.mount.store.put_now(path, new)
        self.model.objects[path] = new
        if use == "truncate":
            got = self.attempt(lambda: self.kernel.truncate(path, size), *STALE)
            if got == "done":
                self.model.objects[path] = new[:size].ljust(size, b"\0")
            return
        flags = os.O_RDONLY if use in ("read", "map") else os.O_RDWR
        fh = self.attempt(lambda: self.kernel.open(path, flags), *STALE)
        assert isinstance(fh, int), "the kernel tried twice, without a change in between"
        if use == "read":
            assert self.kernel.read(fh, 0, 30) == new
        elif use == "map":
            assert self.kernel.read_mapped(fh, 0, 30) == new
        elif use == "append":
            self.kernel.append(fh, b"mine")
            self.model.objects[path] = new + b"mine"
        else:
            self.kernel.write(fh, len(new) // 2, b"mine")
            at = len(new) // 2
            self.model.objects[path] = new[:at] + b"mine" + new[at + 4 :]
        self.kernel.release(fh)

    @rule()
    def the_kernel_forgets_what_is_not_open(self):
        self.kernel.mount.forget_all()

    @rule(path=PLACES, size=st.integers(0, 24))
    def truncate(self, path, size):
        path = self.place(path)
        tree, file = self.model.tree(), self.model.writing.get(path)
        refusals = (*NO_PATH, *STALE, SpoolFullError)
        got = self.attempt(lambda: self.kernel.truncate(path, size), *refusals)
        if got is None or isinstance(got, Exception):
            assert not isinstance(got, STALE) or self.has_readers
            assert not isinstance(got, SpoolFullError) or self.lacks_source(file)
            return
        if file is not None:
            file.truncate(size)
        else:
            self.model.objects[path] = tree[path][:size].ljust(size, b"\0")

    @precondition(lambda self: self.open_files)
    @rule(pick=PICK, call=st.sampled_from(["fsync", "flush"]))
    def store(self, pick, call):
        fh, file = self.picked(pick)
        stores = file.is_dirty and (call == "fsync" or file.was_written)
        self._stores(file, stores=stores, call=lambda: getattr(self.kernel, call)(fh))

    @precondition(lambda self: self.open_files)
    @rule(pick=PICK)
    def release(self, pick):
        fh, file = self.picked(pick)
        is_last = len(file.handles) == 1
        self._stores(file, stores=is_last and file.is_dirty, call=lambda: self.kernel.release(fh))
        file.handles.remove(fh)
        if is_last:
            self.open_files.remove(file)
            if file.path is not None:
                self.model.writing.pop(file.path, None)
            if file.is_unsure:
                self.model.objects = {k: v.data for k, v in self.kernel.bucket.items()}

    def _stores(self, file, *, stores, call):
        """ESTALE if another client replaced or removed the version that is changed."""
        stores = stores and file.path is not None
        stale = stores and self.is_stale(file)
        got = self.of_file(file, call)
        if got is None or file.is_unsure:
            return
        assert isinstance(got, Exception) == stale
        if stores and not stale:
            self.model.objects[file.path] = file.data
            self.stored(file)

    def of_file(self, file, call):
        """A call of an open file; it may fail only after a fault, or a change by another client."""
        stale = self.is_stale(file)
        got = self.attempt(call, *STALE, SpoolFullError)
        if isinstance(got, STALE):
            assert stale or file.is_unsure or file.path is None
        elif isinstance(got, SpoolFullError):
            assert self.lacks_source(file) or file.is_unsure
        if file.is_unsure:
            self.sync(file)
        return got

    @precondition(lambda self: self.open_files)
    @rule(pick=PICK, offset=st.integers(0, 24), length=st.integers(1, 30))
    def read_own_writes(self, pick, offset, length):
        fh, file = self.picked(pick)
        stale = self.is_stale(file)
        got = self.attempt(lambda: self.kernel.read(fh, offset, length), *STALE)
        if isinstance(got, bytes) and not file.is_unsure:
            assert got == file.data[offset : offset + length]
        elif isinstance(got, STALE):
            assert stale or file.is_unsure or self.lacks_source(file)

    @precondition(lambda self: self.open_files)
    @rule(
        pick=PICK,
        path=PLACES,
        offset=st.integers(0, 24),
        at=st.one_of(st.none(), st.integers(0, 24)),
        length=st.integers(1, 30),
    )
    def copy_range(self, pick, path, offset, at, length):
        """at: None: to the end of the file."""
        fh, file = self.picked(pick)
        path = self.place(path)
        at, data = len(file.data) if at is None else at, self.model.tree().get(path)
        source = self.model.writing.get(path)
        if data is None or self.is_unsure(path) or file.is_unsure:
            return
        if source is file and abs(offset - at) < min(length, len(data) - offset):
            return  # the kernel answers itself
        reader = self.attempt(lambda: self.kernel.open(path, os.O_RDONLY), *NO_PATH, *STALE)
        if not isinstance(reader, int):
            return
        etag = self.kernel.etag(path)
        got = self.attempt(
            lambda: self.kernel.copy_range(reader, offset, fh, at, length), *STALE, SpoolFullError
        )
        self.attempt(lambda: self.kernel.release(reader), *STALE)
        if isinstance(got, int):
            assert 0 < got <= length or offset >= len(data)
            file.write(at, data[offset : offset + got])
            file.sources[path] = etag
        elif got is not None and not file.is_unsure:
            files = [file] if source is None else [file, source]
            assert any(self.is_stale(f) or self.lacks_source(f) for f in files)
        if file.is_unsure:
            self.sync(file)

    @rule(path=PLACES)
    def open_to_read(self, path):
        path = self.place(path)
        got = self.attempt(lambda: self.kernel.open(path, os.O_RDONLY), *NO_PATH, *STALE)
        if isinstance(got, int):
            self.readers.append(got)

    @precondition(lambda self: self.readers)
    @rule(pick=PICK, offset=st.integers(0, 6), length=st.integers(1, 20))
    def read_is_old_or_new_bytes_or_stale_never_a_mix(self, pick, offset, length):
        fh = self.readers[pick % len(self.readers)]
        got = self.attempt(lambda: self.kernel.read(fh, offset, length), *STALE)
        if isinstance(got, bytes):
            assert any(got == version[offset : offset + length] for version in self.ever)

    @precondition(lambda self: self.readers)
    @rule(pick=PICK)
    def close_reader(self, pick):
        fh = self.readers.pop(pick % len(self.readers))
        self.attempt(lambda: self.kernel.release(fh), *STALE)
