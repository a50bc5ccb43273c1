"""The inode table: what holds an inode, and when it goes."""

import pytest

from csi_s3.errors import StaleError
from csi_s3.fs.names.inodes import ROOT, Inodes
from tests.unit.fs_mount import mount, mounts

__all__ = ["mount", "mounts"]


def test_an_inode_is_held_by_the_kernel_by_handles_and_by_what_is_below_it():
    inodes = Inodes("prefix/")
    above = inodes.add(ROOT, "d", is_dir=True)
    file = inodes.add(above.ino, "f", is_dir=False)
    assert inodes.key(file) == "prefix/d/f"
    inodes.remember(file)
    inodes.remember(file)
    file.handles = 1
    inodes.forget(file.ino, 2)
    assert inodes.get(file.ino) is file
    file.handles = 0
    inodes.drop_unused(file)
    assert len(inodes) == 1
    for gone in (file, above):
        with pytest.raises(StaleError):
            inodes.get(gone.ino)
    assert inodes.child(ROOT, "d") is None


def test_a_name_that_stands_for_another_inode_keeps_the_old_one_while_it_is_held():
    inodes = Inodes("")
    old = inodes.add(ROOT, "f", is_dir=False)
    inodes.remember(old)
    new = inodes.add(ROOT, "f", is_dir=False)
    assert new.ino != old.ino
    assert not old.is_linked
    assert inodes.child(ROOT, "f") is new
    inodes.forget(old.ino, 1)
    assert inodes.child(ROOT, "f") is new
    assert len(inodes) == 2


def test_numbers_are_never_used_twice():
    inodes, seen = Inodes(""), set()
    for _ in range(100):
        inode = inodes.add(ROOT, "f", is_dir=False)
        assert inode.ino not in seen
        seen.add(inode.ino)
        inodes.unlink(inode)
    assert len(inodes) == 1


def test_a_forget_too_many_is_harmless():
    inodes = Inodes("")
    inodes.forget(77, 1)
    inodes.forget(ROOT, 1000)
    assert inodes.get(ROOT).is_dir


def test_the_table_is_empty_when_the_kernel_has_forgotten_all(mount):
    for key in ("a", "d/b", "d/e/c", "d/e/f/"):
        mount.put(key, b"x")
    mount.tree()
    for path in ("a", "d/e/c"):
        mount.cat(path)
    mount.write_file("d/new", b"x")
    mount.rewrite("a", b"y")
    mount.forget_all()
    assert mount.fs.usage().inodes == 1
    assert mount.fs.usage().open_files == 0


def test_usage_counts_what_is_dirty(mount):
    fh = mount.create("f")
    mount.write(fh, b"12345")
    found = mount.fs.usage()
    assert (found.open_files, found.inodes, found.dirty_bytes) == (1, 2, 5)
    mount.fsync(fh)
    assert mount.fs.usage().dirty_bytes == 0
    mount.close_file(fh)
