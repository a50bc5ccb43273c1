"""rename of directories of any size: what was copied goes to a file, page by page."""

import asyncio
import itertools
import json
import tracemalloc

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    IntegrityError,
    OutOfMemoryError,
    SpoolFullError,
)
from csi_s3.fs.base.memory import MemoryKind
from csi_s3.fs.rename.copies import PARALLEL_BY_PARTS, PARALLEL_COPIES
from csi_s3.fs.rename.journal import RenameRecord
from csi_s3.fs.rename.page_file import PageFile, PageSpace
from csi_s3.fs.rename.tree_copy import TreeCopy
from csi_s3.fs.write.parallel_upload import PART_BYTES
from csi_s3.s3.store import Limits, ListPage, ObjectInfo, Undeleted
from tests.unit.fs_mount import Held, mount, mounts, paged
from tests.unit.rename_case import (
    DENIED,
    MOVED,
    NOT_UNDONE,
    TREE,
    beside,
    killed,
    refuse_the_end,
    rename_now,
    stopped_at,
    stored,
    with_tree,
)

__all__ = ["mount", "mounts"]


def journal(mount):
    return mount.fs._renames._directories._journal


def small_pages(mount, copies=2):
    """The tree's five keys take three pages."""
    journal(mount).page_copies = copies
    paged(mount.store, 2)
    return with_tree(mount)


def renames_bytes(mount):
    return mount.fs._context.memory.account(MemoryKind.RENAMES).used_bytes


def test_a_large_rename_leaves_no_file(mounts, tmp_path):
    mount = small_pages(mounts(state_dir=tmp_path / "state"))
    mount.lookup("d")
    held = Held(mount.store, "DELETE_MANY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert mount.spooled() == ["rename-1.json", "rename-1.pages"]
    assert renames_bytes(mount) > 0
    held.let_go()
    mount.wait(renaming)
    assert mount.spooled() == []
    assert renames_bytes(mount) == 0
    assert stored(mount) == beside(MOVED)


def test_what_is_known_below_follows(mounts, tmp_path):
    mount = small_pages(mounts(state_dir=tmp_path / "state"), 1)
    handles = {path: mount.open(f"d/{path}") for path in ("a", "b/x", "c-")}
    rename_now(mount)
    for (path, fh), data in zip(handles.items(), (b"1", b"2", b"3"), strict=True):
        assert mount.read(fh) == data
        assert mount.fs._handles.file(fh).inode.info.key == f"e/{path}"
        mount.release(fh)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["LIST", "COPY", "DELETE_MANY"])
@pytest.mark.parametrize("copies", [1, 2])
def test_a_crash_at_any_request_is_finished_by_the_next_worker(
    mounts, tmp_path, copies, kind, after
):
    for n in itertools.count():
        mount = small_pages(mounts(state_dir=tmp_path / f"{n}"), copies)
        renaming = stopped_at(mount, kind, n, after=after)
        if renaming.done():
            assert n >= 1
            return
        worker = killed(mount, renaming)
        journal(worker).page_copies = copies
        worker.recover()
        assert stored(worker) == beside(MOVED)
        assert worker.spooled() == []
        assert renames_bytes(worker) == 0


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("copies", [1, 2, 1000])
def test_a_crash_while_it_is_undone_is_undone_by_the_next_worker(mounts, tmp_path, copies, after):
    mount = small_pages(mounts(state_dir=tmp_path / "state"), copies)
    mount.lookup("d")
    held = Held(mount.store, "DELETE_MANY", after=after)
    stop = held._stop

    async def gate(operation, key):
        if operation == "COPY" and key == "e/c-":
            raise DENIED
        if not after:
            await stop(operation, key)

    mount.store.gate = gate
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert held.waiting
    worker = killed(mount, renaming)
    worker.put("e/a", b"written there since")
    worker.recover()
    assert stored(worker) == beside({**TREE, "e/a": b"written there since"})
    assert worker.spooled() == []


@NOT_UNDONE
@pytest.mark.warnings_expected("of 4 copies under e/ may stay after the rename of d/ was undone")
@pytest.mark.parametrize("cut", ["a byte", "a page", "all", "a bit"])
def test_of_a_damaged_page_file_only_what_is_certain_is_deleted(mounts, tmp_path, cut):
    state = tmp_path / "state"
    mount = small_pages(mounts(state_dir=state), 2)

    mount.store.gate = refuse_the_end
    with pytest.raises(AccessDeniedError):
        rename_now(mount)
    mount.store_works()
    file = state / "rename-1.pages"
    data = file.read_bytes()
    length = int.from_bytes(data[:4], "little") + 8
    flipped = bytearray(data)
    flipped[length + 12] ^= 1
    file.write_bytes(
        {"a byte": data[:-1], "a page": data[:length], "all": b"", "a bit": bytes(flipped)}[cut]
    )
    mount = mount.restarted()
    mount.recover()
    left = stored(mount)
    assert {key: left[key] for key in beside(TREE)} == beside(TREE)
    assert len([key for key in left if key.startswith("e/")]) == (4 if cut == "all" else 2)
    assert mount.spooled() == []


def test_a_record_of_the_version_before_page_files_is_undone(mounts, tmp_path):
    mount = with_tree(mounts(state_dir=tmp_path / "state"))
    made = mount.run(mount.store.put("e/a", b"1"))
    record = {
        "old": "d/",
        "new": "e/",
        "phase": "undoing",
        "began": 1000.0,
        "newest": 0.0,
        "made": [["e/a", made.etag], ["e/b/x", '"another"']],
    }
    (tmp_path / "state").mkdir(exist_ok=True)
    (tmp_path / "state" / "rename-1.json").write_text(json.dumps(record))
    mount.put("e/b/x", b"of another client")
    mount.recover()
    assert stored(mount) == beside({**TREE, "e/b/x": b"of another client"})
    assert mount.spooled() == []


def test_a_small_rename_is_written_as_versions_before_page_files_read_it(mounts, tmp_path):
    mount = with_tree(mounts(state_dir=tmp_path / "state"))
    mount.lookup("d")
    held = Held(mount.store, "DELETE_MANY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert "in_file" not in json.loads((tmp_path / "state" / "rename-1.json").read_text())
    held.let_go()
    mount.wait(renaming)


def test_pages_without_a_record_are_removed(mounts, tmp_path):
    (tmp_path / "rename-3.pages").write_bytes(b"x")
    mount = mounts(state_dir=tmp_path)
    mount.recover()
    assert mount.spooled() == []


def test_a_disk_that_is_full_ends_the_rename_before_anything_is_deleted(mounts, tmp_path):
    """Promise: A rename of a directory takes the same memory for any number of keys. What it has
    copied is noted on the node's disk, some 50 bytes for each key; where there is no room for that,
    it is ENOSPC, and is undone.
    """
    mount = small_pages(mounts(state_dir=tmp_path / "state", spool_bytes=150), 2)
    with pytest.raises(SpoolFullError, match="spool-size is 150"):
        rename_now(mount)
    assert stored(mount) == beside(TREE)
    assert mount.spooled() == []
    assert mount.tree()["d/b/x"] == b"2"


def test_pages_that_cannot_be_read_again_end_the_rename_before_anything_is_deleted(
    mounts, tmp_path
):
    mount = small_pages(mounts(state_dir=tmp_path / "state"), 1)
    mount.lookup("d/b/x")
    mount.lookup("d")

    async def damage(operation, _key):
        if operation == "COPY" and mount.store.requests["COPY"] == 3:
            with (tmp_path / "state" / "rename-1.pages").open("r+b") as file:
                file.write(b"\xff")

    mount.store.after = damage
    with pytest.raises(IntegrityError, match="cannot be read"):
        rename_now(mount)
    assert stored(mount) == {**beside(TREE), **MOVED}
    mount.store_works()
    mount = mount.restarted()
    mount.recover()
    assert stored(mount) == beside(MOVED)


@pytest.mark.parametrize("n", [10, 100])
def test_parts_of_large_copies_are_counted_and_few_objects_have_any_at_a_time(mounts, n):
    mount = mounts()
    mount.store.limits = Limits(min_part_bytes=4, max_put_bytes=10, max_copy_part_bytes=8)
    for at in range(n):
        mount.put(f"d/{at}", bytes(20))
    account = mount.fs._context.memory.account(MemoryKind.RENAMES)
    mount.lookup("d")
    held = Held(mount.store, "COMPLETE_UPLOAD")
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert held.waiting == PARALLEL_BY_PARTS
    parts_bytes = 3 * PARALLEL_BY_PARTS * PART_BYTES
    assert parts_bytes < account.used_bytes < parts_bytes + min(n, PARALLEL_COPIES + 1) * 500
    held.let_go()
    mount.wait(renaming)
    assert account.used_bytes == 0
    assert len(stored(mount)) == n


def test_without_a_state_directory_pages_stay_in_memory_up_to_a_limit(mounts):
    """Promise: ENOMEM: a rename of a directory, where there is no memory for what it copies; the
    copies are removed again.
    """
    mount = small_pages(mounts(), 2)
    account = mount.fs._context.memory.account(MemoryKind.RENAMES)
    mount.lookup("d")
    held = Held(mount.store, "DELETE_MANY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert 200 < account.used_bytes < 1000
    held.let_go()
    mount.wait(renaming)
    assert account.used_bytes == 0
    account.limit_bytes = 700
    with pytest.raises(OutOfMemoryError, match="for renames are in use"):
        rename_now(mount, "e", "d")
    assert stored(mount) == beside(MOVED)


# bounds


class Bucket:
    """n objects under d/ that are made up as they are asked for, and what became of them."""

    def __init__(self, n, *, refuses_deletes=False):
        self.n, self.refuses_deletes = n, refuses_deletes
        self.copied = self.deleted = 0

    def info(self, i, directory="d"):
        key = f"{directory}/some-directory/of-many/object-{i:09}.parquet"
        etag = f'"{i * 7919 * 10**20:032x}"'
        return ObjectInfo(key=key, size=1, etag=etag, last_modified=1000.0)

    def on(self, mount):
        store = mount.store
        store.list_page, store.copy, store.delete_many = self.list_page, self.copy, self.delete_many
        return mount

    async def list_page(self, prefix, *, max_keys=1000, token=None, **_rest):
        await asyncio.sleep(0)
        if prefix != "d/":
            return ListPage(objects=(), prefixes=(), next_token=None)
        start = int(token or 0)
        end = min(start + min(max_keys, 100), self.n)
        objects = [self.info(i) for i in range(start, end)]
        return ListPage(objects=objects, prefixes=(), next_token=str(end) if end < self.n else None)

    async def copy(self, source, key, **_rest):
        await asyncio.sleep(0)
        self.copied += 1
        if self.copied == self.n and self.refuses_deletes:
            raise DENIED
        return self.info(int(source.key[-17:-8]), key.partition("/")[0])

    async def delete_many(self, objects):
        remain = Undeleted()
        rest = iter(objects)
        while batch := list(itertools.islice(rest, 1000)):
            await asyncio.sleep(0)
            self.deleted += len(batch)
            if self.refuses_deletes:
                for key, _ in batch:
                    remain.add(key, AccessDeniedError("AccessDenied: no"))
        return remain


def peak_of(mount, n, error=None):
    """The most that a rename of n keys holds, by tracemalloc and by its account."""
    account = mount.fs._context.memory.account(MemoryKind.RENAMES)
    counted = 0
    whole = account.add

    def add(n):
        nonlocal counted
        whole(n)
        counted = max(counted, account.used_bytes)

    account.add = add
    tracemalloc.start()
    try:
        task = mount.start(mount.fs.rename(1, b"d", 1, b"e", may_replace=True))
        if error is None:
            mount.run(task)
        else:
            with pytest.raises(error):
                mount.run(task)
        return tracemalloc.get_traced_memory()[1], counted
    finally:
        tracemalloc.stop()


@pytest.mark.warnings_expected("copies under e/ could not be removed")
@pytest.mark.parametrize("refuses", [False, True])
def test_memory_does_not_grow_with_the_number_of_keys(mounts, tmp_path, refuses):
    """Nor where the last copy is refused, the copies cannot be deleted, and each says so."""
    peaks = []
    for n in (1_000, 10_000):
        mount = mounts(state_dir=tmp_path / f"{n}")
        journal(mount).page_copies = 100
        mount.put("d/x")
        mount.lookup("d/x")
        bucket = Bucket(n, refuses_deletes=refuses)
        peaks.append(peak_of(bucket.on(mount), n, AccessDeniedError if refuses else None))
        assert bucket.deleted == (n - 1 if refuses else n)
        if refuses:
            (tmp_path / f"{n}" / "rename-1.json").unlink()
            file = tmp_path / f"{n}" / "rename-1.pages"
            assert 15 * n < file.stat().st_size < 60 * n
            file.unlink()
    (small, counted), (large, counted_of_large) = peaks
    assert large < small * 1.25 + 100_000
    assert counted_of_large < 1.1 * counted < 120_000


def test_what_is_counted_is_what_is_held(mount):
    """Of a page that is not packed yet, and of packed pages in memory."""
    account = mount.fs._context.memory.account(MemoryKind.RENAMES)
    for page_copies, n in ((10_000, 3_000), (100, 3_000)):
        tracemalloc.start()
        copied = TreeCopy(account, None, page_copies=page_copies)
        bucket = Bucket(n)
        for i in range(n):
            copied.add(bucket.info(i), bucket.info(i, "e"))
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        assert 0.75 * held < account.used_bytes < 1.25 * held
        copied.close()
        assert account.used_bytes == 0


def test_a_page_file_takes_up_again_where_a_full_disk_has_cut_it(tmp_path):
    space = PageSpace(limit_bytes=100)
    file = PageFile(tmp_path / "rename-1.pages", space)
    file.append(b"a" * 50)
    with pytest.raises(SpoolFullError):
        file.append(b"b" * 50)
    with file.path.open("ab") as cut:
        cut.write(b"\x10\0\0\0part of a page")
    file.append(b"c" * 20)
    assert [page[:1] for page in file] == [b"a", b"c"]
    file.remove()
    assert (space.used_bytes, list(file)) == (0, [])


def test_two_renames_that_cannot_be_written_down_share_no_file(mounts, tmp_path):
    mount = mounts(state_dir=tmp_path / "state")
    record = RenameRecord(old="d/", new="e/", phase="copying", began=1.0)
    first, second = journal(mount).begin(record), journal(mount).begin(record)
    for entry in (first, second):
        entry.end()
    third = journal(mount).begin(record)
    assert len({entry._file.path for entry in (first, second, third)}) == 3
    third.end()
