"""Rules about names: directories, removal, rename."""

import hypothesis.strategies as st
from hypothesis.stateful import rule

from csi_s3.errors import (
    ExistsError,
    IsDirectoryError,
    NotDirectoryError,
    NotEmptyError,
    NotFoundError,
)
from tests.model.common import NO_PATH, PATHS, PLACES, STALE, Common, are_related


class Names(Common):
    @rule(path=PATHS)
    def mkdir(self, path):
        known = path in self.model.tree()
        ok_above = self.model.is_dir(path.rpartition("/")[0])
        got = self.attempt(lambda: self.kernel.mkdir(path), ExistsError, *NO_PATH)
        if got == "made":
            assert ok_above
            assert not known
            self.model.objects[f"{path}/"] = b""
        elif isinstance(got, ExistsError):
            assert known or self.is_unsure(path)

    @rule(path=PLACES)
    def rmdir(self, path):
        path = self.place(path)
        is_dir, full = self.model.is_dir(path), self.model.has_other_keys(path)
        got = self.attempt(lambda: self.kernel.rmdir(path), NotEmptyError, *NO_PATH)
        if got == "removed":
            assert is_dir
            assert not full
            self.model.objects.pop(f"{path}/", None)
            self.model.removed(path)
        elif isinstance(got, NotEmptyError):
            assert full

    @rule(path=PLACES)
    def unlink(self, path):
        path = self.place(path)
        tree, file = self.model.tree(), self.model.writing.get(path)
        got = self.attempt(lambda: self.kernel.unlink(path), *NO_PATH)
        if got == "removed":
            assert tree[path] is not None
            if file is None or file.is_known:
                self.model.objects.pop(path, None)
            self.let_go(file)
            self.model.removed(path)
        elif isinstance(got, IsDirectoryError):
            assert tree[path] is None
        elif isinstance(got, NotFoundError):
            assert path not in tree or self.is_unsure(path)
        if file is not None and file.is_unsure:
            self.sync(file)

    @rule(old=PLACES, new=PLACES, may_replace=st.booleans())
    def rename(self, old, new, may_replace):
        old, new = self.place(old), self.place(new)
        if are_related(old, new):
            return  # the kernel answers itself
        tree = self.model.tree()
        refusals = (ExistsError, NotEmptyError, *NO_PATH, *STALE)
        before = self.all_data()
        self.must_be_stored = [
            f for f in self.open_files if self.kernel.must_be_stored_to_move(f.handles[0])
        ]
        got = self.attempt(lambda: self.kernel.rename(old, new, may_replace=may_replace), *refusals)
        if got is None:
            self.check_none_lost(before, replaced=new)
            self.follow(old, new)
        elif got == "renamed":
            assert old in tree
            assert new not in tree or may_replace
            assert self.model.is_dir(new.rpartition("/")[0])
            self.renamed(old, new, tree)
        elif isinstance(got, ExistsError):
            assert new in tree
            assert not may_replace
        elif isinstance(got, NotEmptyError):
            assert self.model.has_other_keys(new)
        elif isinstance(got, IsDirectoryError):
            assert tree[new] is None
            assert tree[old] is not None
        elif isinstance(got, NotDirectoryError) and self.model.is_dir(old) and new in tree:
            assert tree[new] is not None or not self.model.is_dir(new.rpartition("/")[0])
        elif isinstance(got, STALE):
            file = self.model.writing.get(old)
            assert (file and self.is_stale(file)) or self.has_readers

    def renamed(self, old, new, tree):
        objects, file = self.model.objects, self.model.writing.get(old)
        if tree[old] is None:
            for below in [f for p, f in self.model.writing.items() if p.startswith(f"{old}/")]:
                self.stored_to_move(below, below.is_dirty and below in self.must_be_stored)
            for key in [k for k in objects if k.startswith(f"{old}/")]:
                objects[new + key[len(old) :]] = objects.pop(key)
        else:
            over = self.model.writing.get(new)
            is_truncated = file is not None and file.base is None and file.is_known
            must = new in tree or is_truncated or file in self.must_be_stored
            self.stored_to_move(file, file is not None and file.is_dirty and must)
            if (file is None or file.is_known) and old in objects:
                objects[new] = objects.pop(old)
            self.let_go(over)
        stale = {id(f) for f in self.open_files if self.was_stale(f, old, new)}
        self.model.moved(old, new)
        for moved in self.model.writing.values():
            at_new = moved.path == new or moved.path.startswith(f"{new}/")
            if at_new and moved.is_known and moved.base is not None and id(moved) not in stale:
                moved.base = self.kernel.etag(moved.path)

    def stored_to_move(self, file, is_stored):
        if is_stored:
            self.model.objects[file.path] = file.data
            self.stored(file)
            file.base = "the version that moves"

    def was_stale(self, file, old, new):
        """Whether the bucket had another version of a file when the file was renamed."""
        if file.path is None or file.base is None:
            return False
        return file in self.stale_before

    def check_none_lost(self, before, *, replaced):
        """However a rename failed, the bytes of every file but its target are in the bucket."""
        after = [v.data for v in self.kernel.bucket.values()]
        dirty = {f.path for f in self.open_files}
        for path, data in before.items():
            assert data in after or path in dirty or path == replaced, f"{path} is lost"

    def follow(self, old, new):
        """After a rename that failed, ask the file system which names its files have."""
        inodes = self.kernel.mount.fs._inodes
        prefix_kept = {p for p in self.model.kept if p == old or p.startswith(f"{old}/")}
        handles = self.kernel.mount.fs._handles._open
        self.model.writing = {}
        for file in self.open_files:
            inode = handles[file.handles[0]].inode
            file.path = inodes.key(inode) if inode.is_linked else None
            if file.path is not None:
                self.model.writing[file.path] = file
        for path in prefix_kept:
            self.model.kept.discard(path)
        self.model.kept = {
            inodes.key(i).rstrip("/")
            for i in inodes._by_number.values()
            if i.is_dir and i.runtime.is_pinned and i.is_linked
        }
