"""rename of directories: request counts, what is below and open, failures, crashes."""

import os

import pytest

from csi_s3.errors import (
    BusyError,
    KeyTooLongError,
    NotEmptyError,
    StaleError,
)
from csi_s3.fs.names.inode import Kind
from csi_s3.fs.rename import copies
from csi_s3.fs.rename.known_below import STEP, KnownBelow
from tests.unit.costs import counted_turns, steps_of
from tests.unit.fs_mount import REWRITE, WRITE_NEW, Held, mount, mounts, paged
from tests.unit.rename_case import MOVED, beside, rename_now, stored, with_tree

__all__ = ["mount", "mounts"]

LARGE = bytes(range(64))


@pytest.mark.parametrize(("files", "lists", "deletes"), [(0, 1, 1), (998, 1, 1), (1500, 2, 2)])
def test_what_a_directory_of_n_files_costs(mount, files, lists, deletes):
    """Promise: rename of a directory of N files costs ceil(N/1000) LISTs, N copies, HEAD and PUT of
    the marker, and ceil((N+1)/1000) batch deletes."""
    mount.put("d/")
    for n in range(files):
        mount.put(f"d/{n:04}", b"x")
    mount.lookup("d")
    with mount.requests(LIST=lists, COPY=files, HEAD=1, PUT=1, DELETE_MANY=deletes):
        mount.run(mount.fs.rename(1, b"d", 1, b"e", may_replace=True))
    assert set(stored(mount)) == {"e/", *(f"e/{n:04}" for n in range(files))}


def test_copies_go_in_parallel_and_no_more_than_64(mount):
    for n in range(100):
        mount.put(f"d/{n}")
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    assert held.waiting == copies.PARALLEL_COPIES == 64
    held.let_go()
    mount.wait(renaming)
    assert len(stored(mount)) == 100


@pytest.mark.parametrize("size", [1, 2, 1000])
def test_all_below_goes_and_nothing_beside_it(mount, size):
    """Promise: rename of a directory: all keys below and the marker are copied in parallel, then
    deleted in batches; it never gives EXDEV. Files that this mount stores below during the rename
    wait, and go to the new name.
    """
    paged(with_tree(mount).store, size)
    rename_now(mount)
    assert stored(mount) == beside(MOVED)
    assert mount.tree() == {
        "d-": b"beside", "e": None, "e/a": b"1", "e/b": None, "e/b/x": b"2", "e/b/y": None,
        "e/c-": b"3",
    }  # fmt: skip
    assert not mount.exists("d")
    with_tree(mount)
    mount.rename("e/b", "top")
    assert mount.cat("top/x") == b"2"


def test_inodes_keep_their_numbers(mount):
    with_tree(mount)
    inos = {path: mount.ino(f"d{path}") for path in ("", "/a", "/b", "/b/x")}
    rename_now(mount)
    assert {path: mount.ino(f"e{path}") for path in inos} == inos


def test_over_an_empty_directory_and_not_over_another(mount):
    with_tree(mount)
    mount.put("e/")
    mount.put("full/x")
    mount.lookup("e")
    mount.lookup("full")
    with pytest.raises(NotEmptyError):
        rename_now(mount, new="full")
    assert "d/a" in stored(mount)
    rename_now(mount)
    assert stored(mount) == {**beside(MOVED), "full/x": b""}


def test_over_a_directory_that_holds_what_is_not_stored_yet(mount):
    with_tree(mount)
    mount.mkdir("e")
    fh = mount.create("e/new")
    with pytest.raises(NotEmptyError):
        rename_now(mount)
    mount.close_file(fh)


def test_a_directory_that_s3_has_no_key_for(mounts):
    mount = mounts(dir_markers=False)
    mount.mkdir("d")
    mount.mkdir("d/sub")
    fh = mount.create("d/f")
    mount.write(fh, b"data")
    rename_now(mount)
    assert mount.tree() == {"e": None, "e/sub": None, "e/f": b"data"}
    mount.close_file(fh)
    assert stored(mount) == {"e/f": b"data"}


# what is open below


def test_what_is_open_below_goes_on_under_the_new_name(mounts, tmp_path):
    mount = with_tree(mounts(write_part_bytes=4, state_dir=tmp_path / "state"))
    mount.put("d/big", LARGE * 100_000)
    reader = mount.open("d/big")
    mount.read(reader, 0, 100)
    new, edited = mount.create("d/b/new"), mount.open("d/a", os.O_RDWR)
    truncated = mount.open("d/c-", REWRITE)
    mount.write(new, b"in parts by now")
    mount.write(edited, b"edited")
    mount.fsync(edited)
    mount.write(edited, b"!", 6)
    rename_now(mount)
    assert mount.read(reader, 64 * 90_000, 64) == LARGE
    mount.write(new, b", and on", 15)
    mount.write(truncated, b"again")
    for fh in (new, edited, truncated):
        mount.close_file(fh)
    mount.release(reader)
    assert not any(key.startswith("d/") for key in stored(mount))
    assert mount.data("e/b/new") == b"in parts by now, and on"
    assert mount.data("e/a") == b"edited!"
    assert mount.data("e/c-") == b"again"
    assert mount.store.uploads == {}
    assert mount.spooled() == []


def test_a_stream_without_spool_is_stored_before(mounts):
    mount = with_tree(mounts(write_part_bytes=4))
    fh = mount.create("d/new")
    mount.write(fh, b"in parts by now")
    rename_now(mount)
    mount.write(fh, b", and on", 15)
    mount.close_file(fh)
    assert mount.data("e/new") == b"in parts by now, and on"
    assert not mount.exists("d")


def test_a_stream_without_spool_that_never_pauses_is_busy(mount, monkeypatch):
    with_tree(mount)
    fh = mount.create("d/new")
    monkeypatch.setattr("csi_s3.fs.write.dirty_file.DirtyFile.must_be_stored_to_move", True)
    with pytest.raises(BusyError, match="spool-size"):
        rename_now(mount)
    mount.release(fh)


@pytest.mark.parametrize("kind", ["COPY", "DELETE_MANY"])
def test_what_is_stored_made_or_removed_below_meanwhile_waits_and_goes_to_the_new_name(
    mounts, tmp_path, kind
):
    mount = with_tree(mounts(write_part_bytes=4, state_dir=tmp_path / "state"))
    directory = mount.ino("d/b")
    dirty, stream = mount.create("d/b/dirty"), mount.create("d/b/stream")
    mount.write(dirty, b"x")
    mount.lookup("d/b/x")
    mount.lookup("d")
    held = Held(mount.store, kind)
    renaming = mount.renaming("d", "e")
    mount.settle()
    files, fs = mount.fs.files, mount.fs
    waiting = [
        mount.start(files.fsync(dirty)),
        mount.start(files.write(stream, 0, b"many parts of four bytes")),
        mount.start(files.create(directory, b"lock", WRITE_NEW | os.O_EXCL)),
        mount.start(fs.mkdir(directory, b"sub")),
        mount.start(fs.unlink(directory, b"x")),
        mount.start(fs.rename(directory, b"y", directory, b"z", may_replace=True)),
    ]
    mount.settle()
    assert not any(task.done() for task in waiting)
    held.let_go()
    mount.wait(renaming)
    _, _, (lock, made), sub, _, _ = [mount.wait(task) for task in waiting]
    mount.held += [made.ino, sub.ino]
    for fh in (dirty, stream, lock):
        mount.close_file(fh)
    assert stored(mount) == beside({
        "e/": b"", "e/a": b"1", "e/c-": b"3", "e/b/dirty": b"x", "e/b/lock": b"",
        "e/b/stream": b"many parts of four bytes", "e/b/sub/": b"", "e/b/z/": b"",
    })  # fmt: skip


def test_two_directories_one_in_the_other_take_turns(mount):
    with_tree(mount)
    inner = mount.ino("d")
    mount.lookup("d/b")
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    outer = mount.renaming("d", "e")
    mount.settle()
    within = mount.start(mount.fs.rename(inner, b"b", inner, b"B", may_replace=True))
    mount.settle()
    held.let_go()
    mount.wait(outer)
    mount.wait(within)
    assert stored(mount) == beside(
        {"e/": b"", "e/a": b"1", "e/B/x": b"2", "e/B/y/": b"", "e/c-": b"3"}
    )


def test_a_listing_under_way_loses_and_repeats_no_name(mount):
    paged(mount.store, 2)
    for name in "abcdefgh":
        mount.put(f"d/{name}", name.encode())
    directory = mount.ino("d")
    for read_before in range(9):
        fh = mount.run(mount.fs.opendir(directory))
        entries = mount.fs.readdir(fh, 0)

        async def some(entries=entries, n=read_before):
            return [await anext(entries) for _ in range(n)]

        found = mount.run(some())
        mount.run(entries.aclose())
        seen = [entry.name.decode() for entry in found]
        old, new = ("d", "e") if mount.exists("d") else ("e", "d")
        rename_now(mount, old, new)
        seen += mount.run(mount.entries(fh, found[-1].position)) if seen else mount.ls(new)
        assert seen == list("abcdefgh")
        mount.fs.releasedir(fh)


def test_a_page_under_way_is_asked_for_anew(mount):
    for name in "abc":
        mount.put(f"d/{name}")
    directory = mount.ino("d")
    fh = mount.run(mount.fs.opendir(directory))
    held = Held(mount.store, "LIST")
    listing = mount.start(mount.entries(fh))
    mount.settle()
    mount.store_works()
    rename_now(mount)
    held.let_go()
    assert mount.wait(listing) == ["a", "b", "c"]
    mount.fs.releasedir(fh)


@pytest.mark.parametrize("kind", ["HEAD", "GET"])
def test_a_question_under_way_is_asked_again_under_the_new_name(mount, kind):
    with_tree(mount)
    ino, directory = mount.ino("d/a"), mount.ino("d")
    held = Held(mount.store, kind)
    if kind == "HEAD":
        asking = mount.start(mount.fs.lookup(directory, b"c-"))
    else:
        asking = mount.start(mount.fs.files.open(ino, os.O_RDONLY))
    mount.settle()
    mount.store_works()
    rename_now(mount)
    held.let_go()
    if kind == "HEAD":
        mount.held.append(mount.wait(asking).ino)
    else:
        try:
            fh = mount.wait(asking)
        except StaleError:  # the kernel looks the name up again
            fh = mount.open("e/a")
        assert mount.read(fh) == b"1"
        mount.release(fh)


# others


def test_what_others_change_while_it_is_copied(mount):
    with_tree(mount)
    mount.cat("d/a")
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    mount.put("d/a", b"theirs")
    mount.delete("d/c-")
    held.let_go()
    mount.wait(renaming)
    expected = {**MOVED, "e/a": b"theirs"}
    del expected["e/c-"]
    assert stored(mount) == beside(expected)
    assert mount.cat("e/a") == b"theirs"
    assert not mount.exists("e/c-")


def test_what_is_open_in_a_version_that_others_replaced_is_stale(mount):
    with_tree(mount)
    reader, writer = mount.open("d/b/x"), mount.open("d/a", os.O_RDWR)
    mount.write(writer, b"ours")
    mount.store.put_now("d/b/x", b"theirs")
    mount.store.put_now("d/a", b"theirs")
    rename_now(mount)
    assert mount.read(reader) == b"2"  # it came with open
    mount.release(reader)
    with pytest.raises(StaleError):
        mount.close_file(writer)
    assert mount.data("e/a") == mount.data("e/b/x") == b"theirs"
    assert mount.cat("e/b/x") == b"theirs"


def test_pages_of_a_version_that_others_replaced_are_dropped(mount):
    with_tree(mount)
    mount.cat("d/a")
    ino = mount.ino("d/a")
    mount.store.put_now("d/a", b"theirs")
    rename_now(mount)
    assert mount.cat("e/a") == b"theirs"
    assert mount.kernel.dropped == [ino]


@pytest.mark.parametrize("n", [30, 300])
def test_a_rename_is_one_short_step_however_many_directories_below_are_open_and_listed(mount, n):
    """100,000 may be, and each has another key from then on."""
    for at in range(n):
        mount.put(f"top/{at}/file")
    reading = [mount.run(mount.fs.opendir(mount.ino(f"top/{at}"))) for at in range(n)]
    for fh in reading:
        assert mount.run(mount.entries(fh)) == ["file"]
    mount.lookup("top")
    tree, inodes = mount.fs._tree, mount.fs._inodes
    top, root = inodes.get(mount.ino("top")), inodes.get(1)
    assert steps_of(lambda: tree.move(top, root, "new")) < 200
    tree.move(top, root, "top")  # the objects are still there
    for fh in reading:
        mount.fs.releasedir(fh)


def test_an_open_directory_is_listed_again_once_one_above_it_has_another_name(mount):
    mount.put("d/b/x", b"1")
    reading = mount.run(mount.fs.opendir(mount.ino("d/b")))
    assert mount.run(mount.entries(reading)) == ["x"]
    with mount.requests(LIST=0):
        assert mount.run(mount.entries(reading, 1)) == []
    rename_now(mount)
    with mount.requests(LIST=1):
        mount.run(mount.entries(reading, 1))
    mount.fs.releasedir(reading)


def test_what_was_listed_answers_nothing_once_a_directory_has_an_old_name_again(mount):
    """The key is the same, the version is not."""
    mount.put("d/b/x", b"1")
    reading = mount.run(mount.fs.opendir(mount.ino("d/b")))
    assert mount.run(mount.entries(reading)) == ["x"]
    listed = mount.fs._inodes.get(mount.ino("d/b")).runtime.directory
    assert listed.from_listing("x", 0.0)[0] is not None
    rename_now(mount)
    assert listed.from_listing("x", 0.0)[0] is None
    rename_now(mount, "e", "d")
    assert listed.from_listing("x", 0.0)[0] is None
    mount.fs.releasedir(reading)


def test_a_page_that_came_just_before_a_rename_is_not_read_after_it(mount):
    """Between the answer and the reader's turn, a step of the rename may come."""
    mount.put("d/b/x", b"1")
    mount.put("e/b/y", b"2")
    inodes, tree = mount.fs._inodes, mount.fs._tree
    directory = inodes.get(mount.ino("d"))
    fh = mount.run(mount.fs.opendir(mount.ino("d/b")))
    listing = mount.fs._handles.directory(fh).reader.listing
    store = listing._store

    def stored(page):
        store(page)
        listing._store = store
        tree.move(directory, inodes.get(1), "e")  # in the step in which the page came

    listing._store = stored
    assert mount.run(mount.entries(fh)) == ["y"]
    mount.fs.releasedir(fh)


def known(mount, n):
    """So many directories, each in the one before up to 100 of them, that the kernel holds."""
    inodes, top = mount.fs._inodes, mount.fs._inodes.get(mount.ino("top"))
    made, above = [], top
    for at in range(n):
        above = top if at % 100 == 0 else above
        above = inodes.add(above.ino, f"d{at}", Kind.DIRECTORY)
        inodes.remember(above)
        made.append(above)
    return made


@pytest.mark.parametrize("n", [4 * STEP, 12 * STEP])
def test_a_rename_above_very_many_known_names_leaves_others_their_turns(mount, n):
    mount.put("top/f")
    made = known(mount, n)
    mount.lookup("top")
    before = mount.fs._inodes.key(made[-1])
    with counted_turns(mount.loop) as turns:
        mount.rename_now("top", "longer")
    assert turns.n >= 2 * n // STEP, "to check keys, and to look for files"
    assert mount.fs._inodes.key(made[-1]) == before.replace("top/", "longer/", 1)
    for inode in reversed(made):
        mount.fs.forget(inode.ino, 1)


def test_a_rename_costs_the_same_however_many_names_are_known_beside_it(mount):
    mount.put("top/f")
    mount.put("d/")
    mount.put("e/")
    steps, made = {}, []
    for n in (300, 3000):
        made += known(mount, n - len(made))
        for name in ("d", "e"):
            mount.lookup(name)
        mount.rename_now("d", "x")  # the first costs more
        mount.rename_now("x", "d")
        steps[n] = steps_of(lambda: mount.rename_now("e", "y"))
        mount.rename_now("y", "e")
        assert len(mount.fs._inodes) >= n
    assert steps[3000] < 1.1 * steps[300]
    for inode in reversed(made):
        mount.fs.forget(inode.ino, 1)


def written_below(mount, directory, n):
    """So many files that are being changed, in a directory."""
    return [mount.create(f"{directory}/{at}") for at in range(n)]


def test_a_rename_does_not_look_at_files_that_are_written_beside_it(mount):
    mount.put("top/f")
    mount.put("d/g")
    steps, fhs = {}, written_below(mount, "d", 2)
    for n in (30, 300):
        fhs += written_below(mount, "top", n)
        mount.lookup("d")
        mount.rename_now("d", "x")  # the first costs more
        steps[n] = steps_of(lambda: mount.rename_now("x", "d"))
        for fh in fhs[2:]:
            mount.close_file(fh)
        del fhs[2:]
    assert steps[300] < 1.1 * steps[30]
    for fh in fhs:
        mount.close_file(fh)
    assert mount.exists("d/0")


@pytest.mark.parametrize("n", [STEP, 3 * STEP])
def test_a_rename_above_very_many_written_files_finds_them_with_turns_for_others(mount, n):
    mount.put("d/sub/f")
    directory = mount.fs._inodes.get(mount.ino("d"))
    fhs = written_below(mount, "d/sub", n)
    below = KnownBelow(directory, tree=mount.fs._tree, write_back=mount.fs._write_back)
    with counted_turns(mount.loop) as turns:
        found = mount.run(below.find_written(lambda _: True))
    assert len(found) == n
    assert turns.n >= n // STEP
    for fh in fhs:
        mount.release(fh)


def test_the_deepest_of_very_many_known_names_has_to_fit(mount):
    mount.put("top/f")
    made = known(mount, 3 * STEP)
    inner = mount.fs._inodes.add(made[99].ino, "z" * 200, Kind.DIRECTORY)
    inode = mount.fs._inodes.add(inner.ino, "x" * 255, Kind.FILE)
    mount.fs._inodes.remember(inode)
    mount.lookup("top")
    fits = "y" * (1024 - len(mount.fs._inodes.key(inode)) + len("top"))
    with pytest.raises(KeyTooLongError):
        mount.rename_now("top", fits + "y")
    assert set(mount.store.objects) == {"top/f"}
    mount.rename_now("top", fits)
    assert len(mount.fs._inodes.key(inode)) == 1024
    for held in (inode, *reversed(made)):
        mount.fs.forget(held.ino, 1)
