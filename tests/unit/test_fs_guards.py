"""allow-delete and allow-overwrite: what is refused without them, what is exempt, what is said."""

import os
import re

import pytest

from csi_s3.errors import NotFoundError, NotPermittedError
from tests.unit.fs_mount import REWRITE, WRITE_NEW, mounts

__all__ = ["mounts"]


def guarded(mounts, **options):
    mount = mounts(**{"allow_delete": False, "allow_overwrite": False, **options})
    mount.put("f", b"there")
    mount.put("d/")
    return mount


def refused(option, key):
    return pytest.raises(
        NotPermittedError, match=f"{re.escape(key)}.*needs the mount option {option}"
    )


def test_without_allow_delete_nothing_is_removed(mounts):
    """Promise: Without `allow-delete`, unlink and rmdir give EPERM."""
    mount = guarded(mounts, allow_overwrite=True)
    with refused("allow-delete", "f"):
        mount.unlink("f")
    with refused("allow-delete", "d/"):
        mount.rmdir("d")
    assert set(mount.store.objects) == {"f", "d/"}
    assert mount.store.requests["DELETE"] == 0


@pytest.mark.parametrize(
    "flags",
    [REWRITE, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_APPEND],
)
def test_without_allow_overwrite_no_object_is_opened_for_a_change(mounts, flags):
    """Promise: Without `allow-overwrite`, changing an existing object gives EPERM: O_TRUNC, open
    for writing, append, truncate."""
    mount = guarded(mounts, allow_delete=True)
    with refused("allow-overwrite", "f"):
        mount.open("f", flags)
    assert mount.data("f") == b"there"


@pytest.mark.parametrize("size", [0, 1, 100])
def test_without_allow_overwrite_no_object_is_truncated(mounts, size):
    mount = guarded(mounts, allow_delete=True)
    with refused("allow-overwrite", "f"):
        mount.run(mount.fs.setattr(mount.ino("f"), size=size))
    assert mount.data("f") == b"there"


def test_truncation_to_the_size_it_has_changes_nothing_and_is_allowed(mounts):
    mount = guarded(mounts)
    with mount.requests(HEAD=2, LIST=2):
        mount.run(mount.fs.setattr(mount.ino("f"), size=5))


def test_the_answer_names_the_missing_option(mounts):
    """Promise: What is refused for want of an option is a log line that names the option."""
    mount = guarded(mounts)
    with pytest.raises(NotPermittedError) as caught:
        mount.unlink("f")
    assert "f" in caught.value.what
    assert caught.value.hint == "needs the mount option allow-delete"


def test_a_file_created_here_may_be_changed_and_removed_while_its_creator_has_it_open(mounts):
    """Promise: Exempt from both guards: a file created through this mount, while the handle that
    created it is open."""
    mount = guarded(mounts)
    fh = mount.create("new")
    mount.write(fh, b"one")
    mount.fsync(fh)
    mount.run(mount.fs.setattr(mount.ino("new"), size=0))
    again = mount.open("new", REWRITE)
    mount.write(again, b"two")
    mount.close_file(again)
    assert mount.data("new") == b"two"
    mount.unlink("new")
    assert mount.data("new") is None
    mount.release(fh)


def test_the_exemption_ends_with_the_handle_that_created_it(mounts):
    mount = guarded(mounts)
    fh = mount.create("new")
    reader = mount.open("new")
    mount.close_file(fh)
    with refused("allow-overwrite", "new"):
        mount.open("new", REWRITE)
    with refused("allow-delete", "new"):
        mount.unlink("new")
    mount.release(reader)


def test_a_directory_made_here_may_be_removed(mounts):
    """Promise: Exempt from `allow-delete`: an empty directory that was made through this mount."""
    mount = guarded(mounts)
    mount.mkdir("own")
    mount.rmdir("own")
    assert mount.data("own/") is None
    with pytest.raises(NotFoundError):
        mount.lookup("own")


def test_a_directory_made_here_stays_ours_when_the_kernel_forgets_it(mounts):
    mount = guarded(mounts)
    mount.mkdir("own")
    mount.forget_all()
    mount.rmdir("own")
    assert mount.data("own/") is None


def test_a_directory_that_others_removed_and_made_again_is_not_ours(mounts):
    mount = guarded(mounts)
    mount.mkdir("own")
    mount.delete("own/")
    with pytest.raises(NotFoundError):
        mount.lookup("own")
    mount.put("own/")
    with refused("allow-delete", "own/"):
        mount.rmdir("own")


def test_a_new_file_needs_no_option(mounts):
    mount = guarded(mounts)
    mount.write_file("new", b"data")
    mount.write_file("d/new", b"data")
    assert (mount.data("new"), mount.data("d/new")) == (b"data", b"data")


def test_opening_with_o_creat_what_is_there_is_an_open_of_what_is_there(mounts):
    """The kernel looks up first; CREATE comes for a name that was not found."""
    mount = guarded(mounts)
    fh = mount.create("new")
    with pytest.raises(NotPermittedError):
        mount.open("f", WRITE_NEW)
    mount.release(fh)
