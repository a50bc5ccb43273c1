"""Symbolic links: `name.rclonelink` in the bucket, the link `name` here."""

import os
import stat

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    BadLinkError,
    ExistsError,
    InvalidNameError,
    IsDirectoryError,
    KeyTooLongError,
    NotDirectoryError,
    NotFoundError,
    NotImplementedByStoreError,
    NotPermittedError,
    StoreUnavailableError,
)
from tests.unit.fs_mount import WRITE_NEW, fail, mount, mounts, paged

__all__ = ["mount", "mounts"]


def link(mount, path, target=b"target"):
    ino, name = mount.parent(path)
    made = mount.run(mount.fs.links.make(ino, name, target))
    mount.held.append(made.ino)
    return made


def readlink(mount, path):
    return mount.run(mount.fs.links.read(mount.lookup(path).ino))


def is_link(attributes):
    return stat.S_ISLNK(attributes.mode)


def kinds(mount, path=""):
    """What a listing says, name by name."""

    async def read(ino):
        fh = await mount.fs.opendir(ino)
        found = [(e.name.decode(), e.attributes.mode) async for e in mount.fs.readdir(fh, 0)]
        mount.fs.releasedir(fh)
        return found

    found = mount.run(read(mount.ino(path)))
    mount.time.now_s += 2
    assert len(dict(found)) == len(found)
    letters = {stat.S_IFLNK: "l", stat.S_IFREG: "f", stat.S_IFDIR: "d"}
    return {name: letters[stat.S_IFMT(mode)] for name, mode in found}


def rename(mount, old, new):
    for path in (old, new):
        if mount.exists(path):
            mount.lookup(path)
    (parent, name), (into, new_name) = mount.parent(old), mount.parent(new)
    mount.run(mount.fs.rename(parent, name, into, new_name, may_replace=True))


# what a bucket shows


def test_an_object_of_that_name_is_a_symbolic_link(mount):
    """Promise: The key `name.rclonelink` is the symbolic link `name` (rclone's convention); the
    object holds the target, as it was given. A listing shows it without HEAD."""
    mount.put("d/l.rclonelink", b"../else where")
    ino = mount.ino("d")
    with mount.requests(LIST=1):
        fh = mount.run(mount.fs.opendir(ino))
        assert mount.run(mount.entries(fh)) == ["l"]
        shown = mount.run(mount.fs.lookup(ino, b"l"))
    assert (shown.mode, shown.size) == (stat.S_IFLNK | 0o777, len(b"../else where"))
    assert shown.mtime_ns == int(mount.store.objects["d/l.rclonelink"].info.last_modified) * 10**9
    mount.fs.releasedir(fh)
    with mount.requests(GET=1):
        for _ in range(3):
            assert mount.run(mount.fs.links.read(shown.ino)) == b"../else where"


def test_with_symlinks_off_it_is_a_file(mounts):
    """Promise: With `symlinks=off` it is the file `name.rclonelink`, and symlink gives EPERM."""
    mount = mounts(symlinks=False)
    mount.put("l.rclonelink", b"target")
    assert mount.tree() == {"l.rclonelink": b"target"}
    with mount.requests(HEAD=1, LIST=1), pytest.raises(NotFoundError):
        mount.run(mount.fs.lookup(1, b"l"))
    mount.write_file("m.rclonelink", b"data")
    assert mount.data("m.rclonelink") == b"data"
    with pytest.raises(NotPermittedError, match="symlinks=off"):
        link(mount, "n")


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_of_several_things_with_one_name_the_first_is_shown(mount, size):
    """Promise: A directory hides a file of the same name, and a file hides a symbolic link."""
    paged(mount.store, size)
    for key in ("x", "x-1", "x.a", "x.rclonelink", "x.s", "x/y", "z.rclonelink"):
        mount.put(key, b"b")
    shown = {"x-1": "f", "x.a": "f", "x.s": "f", "z": "l"}
    for kind, key in (("d", "x/y"), ("f", "x"), ("l", "x.rclonelink")):
        assert kinds(mount) == {**shown, "x": kind}
        mount.forget_all()
        found = mount.lookup("x")
        assert (stat.S_ISDIR(found.mode), is_link(found)) == (kind == "d", kind == "l")
        mount.delete(key)
    assert kinds(mount) == shown


def test_no_file_has_a_links_object_for_its_name(mount):
    """Promise: While links are shown, no file can be named `x.rclonelink`: a look-up gives ENOENT,
    and creating one EINVAL. Directories and links can have such names; `.rclonelink` itself is a
    file.
    """
    mount.put("x.rclonelink", b"target")
    with pytest.raises(NotFoundError):
        mount.lookup("x.rclonelink")
    for flags in (WRITE_NEW, WRITE_NEW | os.O_EXCL):
        with pytest.raises(InvalidNameError, match="symlinks=off"):
            mount.create("y.rclonelink", flags)
    mount.put("f", b"file")
    with pytest.raises(InvalidNameError):
        rename(mount, "f", "y.rclonelink")
    mount.put("d.rclonelink/x", b"x")
    mount.mkdir("e.rclonelink")
    link(mount, "l.rclonelink")
    mount.write_file(".rclonelink", b"data")
    mount.put("..rclonelink", b"data")
    assert kinds(mount) == {
        "x": "l", "f": "f", "d.rclonelink": "d", "e.rclonelink": "d", "l.rclonelink": "l",
        ".rclonelink": "f", "..rclonelink": "f",
    }  # fmt: skip
    assert readlink(mount, "l.rclonelink") == b"target"
    assert mount.lookup(".rclonelink").size == 4
    assert mount.cat("..rclonelink") == b"data"


@pytest.mark.parametrize("body", [b"", b"x" * 4096, b"a\0b"])
def test_an_object_that_holds_no_target_cannot_be_read_as_a_link(mount, body):
    """Promise: A symbolic link's target has 1 to 4095 bytes without NUL; reading a link whose
    object holds anything else gives EIO."""
    mount.put("l.rclonelink", body)
    with pytest.raises(BadLinkError, match=r"l\.rclonelink holds") as caught:
        readlink(mount, "l")
    assert os.strerror(caught.value.errno) == "Input/output error"
    mount.unlink("l")
    assert mount.store.objects == {}


def test_a_link_that_another_client_changed_is_read_again(mount):
    link(mount, "l", b"one")
    mount.put("l.rclonelink", b"three")
    assert readlink(mount, "l") == b"three"
    assert mount.stat("l").size == 5
    mount.delete("l.rclonelink")
    mount.put("l", b"file")
    assert mount.cat("l") == b"file"


def test_where_head_is_refused_the_list_decides_about_links_too(mount):
    mount.put("l.rclonelink", b"target")
    fail(mount.store, "HEAD", AccessDeniedError("HEAD: 403"), times=99)
    assert is_link(mount.lookup("l"))
    with pytest.raises(NotFoundError):
        mount.lookup("nothing")


def test_where_list_is_refused_a_link_is_found_by_its_name(mount):
    mount.put("l.rclonelink", b"target")
    fail(mount.store, "LIST", AccessDeniedError("LIST: 403"), times=99)
    assert is_link(mount.lookup("l"))


def test_a_link_that_s3_did_not_answer_about_is_not_missing(mount):
    mount.put("l.rclonelink", b"target")

    async def gate(operation, key):
        if operation == "HEAD" and key == "l.rclonelink":
            raise StoreUnavailableError("503")

    mount.store.gate = gate
    with pytest.raises(StoreUnavailableError):
        mount.lookup("l")


def test_a_known_file_or_directory_is_not_asked_for_as_a_link(mount):
    mount.put("f", b"x")
    mount.put("d/x", b"x")
    for name in (b"f", b"d"):
        with mount.requests(HEAD=2, LIST=1):
            found = mount.run(mount.fs.lookup(1, name))
        mount.held.append(found.ino)
        with mount.requests(HEAD=1, LIST=1):
            mount.held.append(mount.run(mount.fs.lookup(1, name)).ino)


# what programs do


def test_ln_s_readlink_and_rm(mount):
    mount.mkdir("d")
    parent, name = mount.parent("d/l")
    with mount.requests(PUT=1):
        made = mount.run(mount.fs.links.make(parent, name, b"/any/where \xff"))
    mount.held.append(made.ino)
    assert (made.mode, made.size, made.mtime_ns) == (
        stat.S_IFLNK | 0o777,
        len(b"/any/where \xff"),
        int(mount.time.now_s * 10**9),
    )
    assert mount.data("d/l.rclonelink") == b"/any/where \xff"
    with mount.requests():
        assert mount.run(mount.fs.links.read(made.ino)) == b"/any/where \xff"
    assert mount.lookup("d/l").ino == made.ino
    assert kinds(mount, "d") == {"l": "l"}
    with mount.requests(DELETE=1):
        mount.run(mount.fs.unlink(parent, name))
    assert kinds(mount, "d") == {}
    assert mount.data("d/l.rclonelink") is None


def test_one_of_several_that_make_a_link_wins(mount):
    """Promise: symlink puts the object with If-None-Match: one winner among all mounts that create
    a link of that name.
    """
    mount.put("l.rclonelink", b"theirs")
    with pytest.raises(ExistsError):
        link(mount, "l", b"ours")
    assert readlink(mount, "l") == b"theirs"


def test_a_link_is_made_where_the_store_knows_no_conditions(mount):
    fail(mount.store, "PUT", NotImplementedByStoreError("501"))
    link(mount, "l", b"target")
    assert mount.data("l.rclonelink") == b"target"


def test_a_name_that_a_file_not_yet_stored_has_is_taken(mount):
    fh = mount.create("f")
    with pytest.raises(ExistsError):
        link(mount, "f")
    mount.release(fh)


def test_a_link_whose_key_would_be_too_long_is_refused_and_never_looked_for(mount):
    above = "/".join(["d" * 250] * 4)  # 1003 bytes
    mount.put(f"{above}/x", b"x")
    with pytest.raises(KeyTooLongError):
        link(mount, f"{above}/{'l' * 10}")
    with pytest.raises(NotFoundError):
        mount.lookup(f"{above}/{'l' * 10}")


def test_a_link_has_a_name_that_fits_with_the_suffix(mount):
    """Promise: The name of a symbolic link has at most 244 bytes, so that with `.rclonelink` it
    fits 255; symlink gives ENAMETOOLONG."""
    link(mount, "l" * 244)
    with pytest.raises(KeyTooLongError, match="244 at most"):
        link(mount, "l" * 245)
    mount.put(f"{'m' * 245}.rclonelink", b"target")
    assert kinds(mount) == {"l" * 244: "l"}
    mount.forget_all()
    with mount.requests(HEAD=1, LIST=1), pytest.raises(NotFoundError):
        mount.run(mount.fs.lookup(1, b"m" * 245))


def test_a_listing_cannot_undo_a_link_made_during_it(mount):
    mount.put("a", b"")
    fh = mount.run(mount.fs.opendir(1))
    link(mount, "l")
    assert sorted(mount.run(mount.entries(fh))) == ["a", "l"]
    mount.unlink("l")
    assert mount.run(mount.entries(fh)) == ["a"]
    mount.fs.releasedir(fh)


def test_touch_h_and_lchown_go_on(mount):
    made = link(mount, "l")
    assert mount.run(mount.fs.setattr(made.ino, mtime_ns=17 * 10**9)).mtime_ns == 17 * 10**9
    assert mount.stat("l").mtime_ns == 17 * 10**9


# rename


def test_a_renamed_link_is_copied_and_deleted(mount):
    link(mount, "l", b"target")
    with mount.requests(COPY=1, DELETE=1):
        mount.run(mount.fs.rename(1, b"l", 1, b"m", may_replace=True))
    assert {k: v.data for k, v in mount.store.objects.items()} == {"m.rclonelink": b"target"}
    assert kinds(mount) == {"m": "l"}
    assert readlink(mount, "m") == b"target"


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize(
    ("old", "new"), [("link", "other"), ("link", "file"), ("file", "link"), ("empty", "link")]
)
def test_rename_between_links_and_files_leaves_one_thing_of_the_name(mount, old, new, is_listed):
    """Promise: rename of a symbolic link, or over one, works as for a file; if a link replaces a
    file, or a file a link, the replaced object is deleted.
    """
    link(mount, "link", b"1")
    link(mount, "other", b"2")
    mount.write_file("file", b"3")
    mount.write_file("empty", b"")
    key = {"link": "link.rclonelink", "other": "other.rclonelink"}
    data = mount.data(key.get(old, old))
    if is_listed:
        assert kinds(mount)[new] == ("l" if new in key else "f")
    rename(mount, old, new)
    left = {"link": "l", "other": "l", "file": "f", "empty": "f"}
    left[new] = left.pop(old)
    assert kinds(mount) == left
    mount.forget_all()
    assert kinds(mount) == left
    suffix = ".rclonelink" if old in key else ""
    assert mount.data(f"{new}{suffix}") == data
    assert len(mount.store.objects) == 3


def test_a_file_being_written_may_replace_a_link(mount):
    link(mount, "l")
    fh = mount.create("f")
    mount.write(fh, b"data")
    rename(mount, "f", "l")
    mount.close_file(fh)
    assert {k: v.data for k, v in mount.store.objects.items()} == {"l": b"data"}


def test_a_rename_that_cannot_remove_the_others_object_changes_nothing(mount):
    link(mount, "l", b"target")
    mount.write_file("f", b"data")
    for old, new in (("f", "l"), ("l", "f")):
        fail(mount.store, "DELETE", StoreUnavailableError("503"))
        with pytest.raises(StoreUnavailableError):
            rename(mount, old, new)
        assert kinds(mount) == {"f": "f", "l": "l"}
    assert set(mount.store.objects) == {"f", "l.rclonelink"}


def test_a_link_and_a_directory_do_not_replace_each_other(mount):
    link(mount, "l")
    mount.mkdir("d")
    with pytest.raises(IsDirectoryError):
        rename(mount, "l", "d")
    with pytest.raises(NotDirectoryError):
        rename(mount, "d", "l")


def test_a_renamed_directory_takes_its_links_along(mount):
    mount.mkdir("d")
    link(mount, "d/l", b"target")
    rename(mount, "d", "e")
    assert kinds(mount, "e") == {"l": "l"}
    assert readlink(mount, "e/l") == b"target"
    assert set(mount.store.objects) == {"e/", "e/l.rclonelink"}


def test_rm_r_over_links(mount):
    mount.mkdir("d")
    for n in range(3):
        link(mount, f"d/{n}")
    for name in mount.ls("d"):
        mount.unlink(f"d/{name}")
    mount.rmdir("d")
    assert mount.store.objects == {}


def test_the_guards_hold_for_links(mounts):
    mount = mounts(allow_delete=False, allow_overwrite=False)
    link(mount, "l")
    with pytest.raises(NotPermittedError, match="allow-delete"):
        mount.unlink("l")
    with pytest.raises(NotPermittedError, match="allow-delete"):
        rename(mount, "l", "m")


def test_a_name_too_long_for_the_suffix_on_some_stores_is_no_link(mount):
    """MinIO answers 400 where a key's component is over 255 bytes."""
    name, head = "x" * 255, mount.store.head

    async def refusing(key):
        if any(len(part) > 255 for part in key.split("/")):
            raise InvalidNameError(f"{key}: XMinioInvalidObjectName")
        return await head(key)

    mount.store.head = refusing
    with pytest.raises(NotFoundError):
        mount.lookup(name)
    mount.write_file(name, b"data")
    assert mount.cat(name) == b"data"
