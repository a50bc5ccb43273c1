"""The inode table: what holds an inode, and when it goes."""

import ast
import gc
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest

from csi_s3.config.volume import TreeConfig
from csi_s3.errors import StaleError
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.files.handles import Handles
from csi_s3.fs.listings.directory import Directory
from csi_s3.fs.names.attributes import attributes
from csi_s3.fs.names.eviction import Room
from csi_s3.fs.names.inode import (
    FIRST_NUMBERS,
    ROOT,
    FileHandle,
    Inode,
    InodeNumbers,
    Kind,
    Runtime,
)
from csi_s3.fs.names.inodes import Inodes
from csi_s3.s3.store import ObjectInfo, Version
from tests.unit.costs import steps_of
from tests.unit.fs_mount import mount, mounts

__all__ = ["mount", "mounts"]


def table(prefix: str = "", numbers: InodeNumbers = FIRST_NUMBERS) -> Inodes:
    return Inodes(prefix, numbers, account=Memory(0, 1 << 40).account(MemoryKind.INODES))


def test_an_inode_is_held_by_the_kernel_by_handles_and_by_what_is_below_it():
    inodes, handles = table("prefix/"), Handles(Memory(0, 1 << 30))
    above = inodes.add(ROOT, "d", Kind.DIRECTORY)
    file = inodes.add(above.ino, "f", Kind.FILE)
    assert inodes.key(file) == "prefix/d/f"
    inodes.remember(file)
    inodes.remember(file)
    fh = handles.add(FileHandle(file))
    inodes.forget(file.ino, 2)
    assert inodes.get(file.ino) is file
    handles.remove(fh)
    inodes.drop_unused(file)
    assert len(inodes) == 1
    for gone in (file, above):
        with pytest.raises(StaleError):
            inodes.get(gone.ino)
    assert inodes.child(ROOT, "d") is None


def test_a_name_that_stands_for_another_inode_keeps_the_old_one_while_it_is_held():
    inodes = table()
    old = inodes.add(ROOT, "f", Kind.FILE)
    inodes.remember(old)
    new = inodes.add(ROOT, "f", Kind.FILE)
    assert new.ino != old.ino
    assert not old.is_linked
    assert inodes.child(ROOT, "f") is new
    inodes.forget(old.ino, 1)
    assert inodes.child(ROOT, "f") is new
    assert len(inodes) == 2


def test_numbers_are_never_used_twice():
    inodes, seen = table(), set()
    for _ in range(100):
        inode = inodes.add(ROOT, "f", Kind.FILE)
        assert inode.ino not in seen
        seen.add(inode.ino)
        inodes.unlink(inode)
    assert len(inodes) == 1


def test_a_successor_counts_on_in_a_generation_of_its_own():
    inodes = table("", InodeNumbers(first=1000, generation=3))
    inode = inodes.add(ROOT, "f", Kind.FILE)
    assert (inode.ino, inodes.add(ROOT, "g", Kind.FILE).ino) == (1000, 1001)
    shown = attributes(inode, TreeConfig(), mounted_ns=0)
    assert (shown.ino, shown.generation) == (1000, 3)


def test_what_was_added_since_a_number_is_found_whatever_has_gone():
    inodes = table()
    first = inodes.add(ROOT, "a", Kind.DIRECTORY)
    number = inodes.next_number
    added = [inodes.add(first.ino, f"{n}", Kind.FILE) for n in range(100)]
    for inode in added:
        inodes.remember(inode)
    inodes.forget(added.pop(50).ino, 1)
    inodes.remember(first)
    inodes.compact()
    assert inodes.added_since(number) == added[::-1]
    assert inodes.added_since(inodes.next_number) == []


def test_versions_are_compared_by_what_they_are_and_not_by_what_answers_say():
    first = ObjectInfo(key="a", size=1, etag='"e"', last_modified=0.0)
    same = ObjectInfo(key="b", size=1, etag='"e"', last_modified=7.0, storage_class="GLACIER")
    assert first.version == same.version
    assert first.version != Version('"f"', size=1)
    assert first.version != Version('"e"', metadata_digest="chmod")


def grow(inodes: Inodes, n: int, what: str) -> None:
    """What a `find` has seen, or what a program has read and written, or links, or directories."""
    changes = Memory(0, 1 << 40).account(MemoryKind.CHANGES)
    handles, above = Handles(Memory(0, 1 << 40)), ROOT
    listed: set[Directory[Inode]] = set()
    for i in range(n):
        name = f"name-of-a-file-{i:08d}"
        if what.startswith("directories"):
            inode = inodes.add(above, name, Kind.DIRECTORY)
            if what == "directories with a file":
                inode.known_names(changes, listed)
                file = inodes.add(inode.ino, name, Kind.FILE, info=info(f"d/{name}/{name}", i))
                inodes.remember(file)
            elif what == "directories that were listed":
                inode.known_names(changes, listed)
        elif what == "links":
            inode = inodes.add(ROOT, name, Kind.LINK, info=info(f"d/{name}.rclonelink", i))
            inode.set_target(b"x" * (i % 4000) + b"%d" % i)
        else:
            key = f"d/{name}" if what != "long keys" else f"d/{'x' * 900}{i:08}"
            name = name if what != "long keys" else f"{'x' * 200}{i:08}"
            inode = inodes.add(ROOT, name, Kind.FILE, info=info(key, i), question=i)
            inode.note_size()
            inode.set_fresh(i + 0.5)
        inodes.remember(inode)
        if what == "used files":
            handles.remove(handles.add(FileHandle(inode)))
            inode.replace_version(info(key, i), at=10**9 + i)
            inode.set_times(mtime_ns=10**18 + i)
            inodes.drop_unused(inode)


def info(key: str, i: int) -> ObjectInfo:
    return ObjectInfo(key=key, size=10**6 + i, etag=f'"{i:032x}"', last_modified=float(i))


WHAT = (
    "files",
    "used files",
    "long keys",
    "links",
    "directories",
    "directories that were listed",
    "directories with a file",
)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("n", [3_000, 30_000])
def test_the_memory_that_is_counted_is_what_the_table_takes(n, what):
    inodes = table("d/")
    before = inodes.account.used_bytes
    gc.collect()
    tracemalloc.start()
    grow(inodes, n, what)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = inodes.account.used_bytes - before
    assert 0.75 * used < counted < 1.25 * used
    for ino in list(inodes._by_number):
        inodes.forget(ino, 1)
    assert inodes.account.used_bytes == before


def test_the_runtime_half_goes_when_nothing_is_in_it():
    inodes, handles = table(), Handles(Memory(0, 1 << 30))
    file = inodes.add(ROOT, "f", Kind.FILE)
    idle = file.runtime
    fh = handles.add(FileHandle(file))
    assert (file.handles, handles.file(fh).inode) == (1, file)
    assert file.runtime is not idle
    handles.remove(fh)
    assert file.runtime is idle
    assert (idle.handles, idle.children) == (0, 0)


def test_no_module_writes_a_field_of_an_inode_but_its_own_and_the_table():
    fields = {*Inode.__slots__, *Runtime.__slots__}
    for path in Path("csi_s3/fs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Assign | ast.AugAssign):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in (t for whole in targets for t in ast.walk(whole)):
                if isinstance(target, ast.Attribute) and isinstance(target.ctx, ast.Store):
                    owner = ast.unparse(target.value)
                    is_inodes = owner not in {"self", "handle"} and target.attr in fields
                    assert not is_inodes or path.stem in {"inode", "inodes"}, (path, owner)


def test_a_forget_too_many_is_harmless():
    inodes = table()
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


@pytest.mark.parametrize("n", [10, 100])
def test_what_is_dirty_is_counted_and_not_searched_for(mount, n):
    fhs = [mount.create(f"{at}") for at in range(n)]
    for fh in fhs:
        mount.write(fh, b"12345")
    assert steps_of(mount.fs.usage) < 60
    assert mount.fs.usage().dirty_bytes == 5 * n
    mount.fsync(fhs[0])
    mount.truncate("1", 2)
    mount.unlink("2")
    assert mount.fs.usage().dirty_bytes == 5 * (n - 3) + 2
    for fh in fhs:
        mount.release(fh)
    assert mount.fs.usage().dirty_bytes == 0


def test_a_local_name_holds_all_directories_above_it_at_any_depth(mount):
    tree = mount.fs._tree
    deep = [tree.inodes.get(ROOT)]
    for n in range(3000):
        deep.append(tree.inodes.add(deep[-1].ino, f"d{n}", Kind.DIRECTORY))
    file = tree.inodes.add(deep[-1].ino, "f", Kind.FILE)
    tree.local_names.add(deep[-1], file)
    assert all(tree.directory(a).local == {b.name: b} for a, b in pairwise(deep))
    deep[1000].pin()
    tree.local_names.drop(deep[-1], "f")
    assert [bool(tree.directory(d).local) for d in deep] == [True] * 1000 + [False] * 2001


def test_memory_is_reserved_where_s3_is_asked_and_not_where_a_listing_answers(mount, monkeypatch):
    for n in range(3):
        mount.put(f"d/{n}")
    entered, enter = [], Room.__enter__
    monkeypatch.setattr(Room, "__enter__", lambda room: entered.append(room) or enter(room))
    directory = mount.lookup("d")
    mount.run(mount.names(directory.ino))
    while (ino := mount.held.pop()) != directory.ino:
        mount.fs.forget(ino, 1)
    mount.held.append(directory.ino)
    del entered[:]
    with mount.requests():
        for n in range(3):
            mount.held.append(mount.run(mount.fs.lookup(directory.ino, str(n).encode())).ino)
    assert entered == []
    mount.forget_all()
    mount.time.now_s += 10
    mount.lookup("d/1")
    assert len(entered) >= 1


def test_directories_that_were_read_and_forgotten_leave_no_cycles(mount):
    def read(path):
        mount.ls(path)
        mount.forget_all()
        mount.settle()

    for n in range(10):
        mount.put(f"{n}/file")
    read("0")
    gc.collect()
    gc.disable()
    try:
        for n in range(1, 10):
            read(f"{n}")
        assert gc.collect() == 0
    finally:
        gc.enable()
