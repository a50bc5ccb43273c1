"""renames that go wrong by their names: too long, too deep, into themselves, onto what is gone."""

import pytest

from csi_s3.errors import (
    ExistsError,
    InvalidNameError,
    IsDirectoryError,
    KeyTooLongError,
    NotDirectoryError,
    NotEmptyError,
)
from tests.unit.fs_mount import Held, mount, mounts, paged
from tests.unit.rename_case import MOVED, TREE, beside, rename_now, stored, with_tree

__all__ = ["mount", "mounts"]

LONG = "e" * 200


# too long


def deep_below(mount, top):
    """Make directories below whose keys are near the limit."""
    path = top
    for letter in "bcde":
        path += f"/{letter * 240}"
        mount.mkdir(path)
    return path


def test_a_file_not_yet_stored_whose_key_would_be_too_long_refuses_the_rename(mounts, tmp_path):
    """Promise: A rename after which any key below would be too long, also that of a file not stored
    yet, is ENAMETOOLONG and changes nothing."""
    mount = mounts(dir_markers=False, state_dir=tmp_path / "state")
    mount.put("d/there", b"1")
    path = deep_below(mount, "d")
    fh = mount.create(f"{path}/f")
    mount.write(fh, b"data")
    mount.lookup("d")
    with mount.requests(), pytest.raises(KeyTooLongError):
        mount.rename_now("d", LONG)
    mount.close_file(fh)
    assert stored(mount) == {"d/there": b"1", f"{path}/f": b"data"}
    assert mount.spooled() == []


def test_a_file_made_below_meanwhile_whose_key_would_be_too_long_undoes_the_rename(mounts):
    mount = mounts(dir_markers=False)
    mount.put("d/there", b"1")
    path = deep_below(mount, "d")[: -len("/" + "e" * 240)]
    above = mount.ino(path)
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    renaming = mount.renaming("d", LONG)
    mount.settle()
    made, attributes = mount.run(mount.fs.files.create(above, b"f" * 250, 1))
    mount.held.append(attributes.ino)
    held.let_go()
    with pytest.raises(KeyTooLongError):
        mount.wait(renaming)
    mount.close_file(made)
    assert set(stored(mount)) == {"d/there", f"{path}/{'f' * 250}"}


@pytest.mark.parametrize("size", [1, 1000])
def test_a_stored_key_that_would_be_too_long_leaves_everything_as_it_was(mount, size):
    keys = {"d/a": b"1", f"d/{'b' * 250}/{'c' * 250}/{'d' * 250}/{'f' * 200}": b"2", "d/z": b"3"}
    for key, data in keys.items():
        mount.put(key, data)
    paged(mount.store, size)
    with pytest.raises(KeyTooLongError):
        rename_now(mount, new=LONG)
    assert stored(mount) == keys


def test_the_deepest_path_that_a_key_can_be(mount):
    path = "/".join("a" * 511)
    mount.put(f"{path}/f", b"x")
    assert mount.cat(f"{path}/f") == b"x"
    mount.mkdir(f"{path}/d")
    rename_now(mount, "a", "b")
    assert mount.cat(f"b{path[1:]}/f") == b"x"
    mount.write_file(f"b{path[1:]}/g", b"y")
    assert mount.data(f"b{path[1:]}/g") == b"y"


# into itself


def test_a_directory_does_not_go_below_itself(mount):
    """The kernel sees to it, unless it gave up on a rename that then went on."""
    with_tree(mount)
    below = mount.ino("d/b")
    itself = mount.ino("d")
    mount.lookup("d")
    for into in (itself, below):
        with mount.requests(), pytest.raises(InvalidNameError):
            mount.run(mount.fs.rename(1, b"d", into, b"x", may_replace=True))
    assert stored(mount) == beside(TREE)


def test_two_directories_each_into_the_other(mount):
    mount.put("a/x", b"1")
    mount.put("b/y", b"2")
    a, b = mount.ino("a"), mount.ino("b")
    mount.lookup("a")
    mount.lookup("b")
    held = Held(mount.store, "COPY")
    first = mount.start(mount.fs.rename(1, b"a", b, b"a", may_replace=True))
    mount.settle()
    second = mount.start(mount.fs.rename(1, b"b", a, b"b", may_replace=True))
    mount.settle()
    held.let_go()
    mount.wait(first)
    with pytest.raises(InvalidNameError):
        mount.wait(second)
    assert mount.tree() == {"b": None, "b/a": None, "b/a/x": b"1", "b/y": b"2"}


def test_there_and_back_at_once(mount):
    with_tree(mount)
    mount.lookup("d")
    held = Held(mount.store, "COPY")
    there = mount.renaming("d", "e")
    mount.settle()
    held.let_go()
    mount.wait(there)
    rename_now(mount, "e", "d")
    assert stored(mount) == beside(TREE)


# onto what is there, or is not any more


def test_onto_a_directory_that_others_emptied(mount):
    """A look-up says that it is gone, so nothing is in the way; who is in it may stay there."""
    for name, may_replace in (("d", True), ("d", False), ("f", True), ("f", False)):
        with_tree(mount)
        mount.put("f", b"file")
        mount.put("e/x", b"1")
        held = mount.ino("e")
        mount.delete("e/x")
        assert not mount.exists("e")
        mount.lookup(name)
        mount.run(mount.fs.rename(1, name.encode(), 1, b"e", may_replace=may_replace))
        assert mount.ino("e") != held
        assert mount.cat("e/a" if name == "d" else "e") == (b"1" if name == "d" else b"file")
        mount.forget_all()
        mount.store.objects.clear()
        mount.time.now_s += 5


def test_onto_a_directory_that_was_emptied_here(mount):
    with_tree(mount)
    mount.put("e/x", b"1")
    mount.unlink("e/x")
    mount.put("f", b"file")
    with pytest.raises(IsDirectoryError):
        mount.rename("f", "e")
    with pytest.raises(ExistsError):
        mount.rename("d", "e", may_replace=False)
    mount.rename("d", "e")
    assert stored(mount) == beside({**MOVED, "f": b"file"})


def test_noreplace_of_a_directory_refuses_any_kind(mount):
    with_tree(mount)
    mount.put("file", b"1")
    mount.put("dir/x", b"1")
    mount.put("link.rclonelink", b"to")
    for name in ("file", "dir", "link"):
        with pytest.raises(ExistsError):
            mount.rename("d", name, may_replace=False)
        with pytest.raises(NotEmptyError if name == "dir" else NotDirectoryError):
            mount.rename("d", name)
    mount.rename("d", "e", may_replace=False)
    assert set(MOVED) <= set(stored(mount))


def test_an_object_hidden_by_the_directory_is_shown_when_it_has_gone(mount):
    for key, data in (("x", b"hidden"), ("x/y", b"1"), ("f", b"2")):
        mount.put(key, data)
    rename_now(mount, "x", "z")
    assert mount.tree() == {"f": b"2", "x": b"hidden", "z": None, "z/y": b"1"}
    with pytest.raises(NotDirectoryError):
        mount.rename("z", "x")
    mount.rename("f", "x")
    assert mount.tree() == {"x": b"2", "z": None, "z/y": b"1"}


def test_a_directory_may_be_named_as_a_links_object(mount):
    with_tree(mount)
    mount.put("d/l.rclonelink", b"to")
    rename_now(mount, new="e.rclonelink")
    assert mount.tree()["e.rclonelink/a"] == b"1"
    link = mount.run(mount.fs.links.read(mount.ino("e.rclonelink/l")))
    assert link == b"to"
    with pytest.raises(InvalidNameError):
        mount.rename("e.rclonelink/a", "a.rclonelink")


def test_below_a_prefix_nothing_beside_it_is_touched(mounts):
    mount = mounts(prefix="p/")
    for key in ("p/d/a", "d/a", "p/d-", "pd/a"):
        mount.put(key, key.encode())
    rename_now(mount)
    assert stored(mount) == {"p/e/a": b"p/d/a", "d/a": b"d/a", "p/d-": b"p/d-", "pd/a": b"pd/a"}


# links


def test_a_link_that_is_read_while_its_directory_is_renamed(mount):
    mount.put("d/l.rclonelink", b"to")
    link = mount.ino("d/l")
    held = Held(mount.store, "GET")
    reading = mount.start(mount.fs.links.read(link))
    mount.settle()
    mount.store_works()
    rename_now(mount)
    held.let_go()
    assert mount.wait(reading) == b"to"


def test_a_link_made_in_a_directory_that_is_being_renamed_goes_to_its_new_name(mount):
    with_tree(mount)
    directory = mount.ino("d/b")
    mount.lookup("d")
    held = Held(mount.store, "DELETE_MANY")
    renaming = mount.renaming("d", "e")
    mount.settle()
    making = mount.start(mount.fs.links.make(directory, b"l", b"to"))
    mount.settle()
    assert not making.done()
    held.let_go()
    mount.wait(renaming)
    mount.held.append(mount.wait(making).ino)
    assert stored(mount) == beside({**MOVED, "e/b/l.rclonelink": b"to"})
