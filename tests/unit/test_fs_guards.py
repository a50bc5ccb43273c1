"""allow-delete and allow-overwrite: what is refused without them, what is exempt, what is said."""

import os
import re

import pytest

from csi_s3.config.mount_command import parse_command
from csi_s3.config.volume_context import parse_volume
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
    with mount.requests(HEAD=3, LIST=1):
        mount.run(mount.fs.setattr(mount.ino("f"), size=5))


def test_the_answer_names_the_missing_option(mounts):
    """Promise: An operation that is refused because an option is missing is a log line that names
    the option.
    """
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
    """Promise: Exempt from `allow-delete`: an empty directory that was created through this
    mount.
    """
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


def csi_volume(*options, group=""):
    context = {"bucketName": "bucket"}
    return parse_volume(context, list(options), volume_mount_group=group).config


def test_the_owner_of_a_csi_volume_that_says_nothing_is_root():
    """Promise: CSI volume without uid, gid and fsGroup: uid 0, gid 0, directories 0755, files
    0644."""
    tree = csi_volume().tree
    assert (tree.uid, tree.gid, tree.dir_mode, tree.file_mode) == (0, 0, 0o755, 0o644)


def test_the_group_of_a_csi_volume_is_the_pods_fs_group():
    """Promise: CSI volume with fsGroup: gid is the fsGroup, directories 0770, files 0660, where the
    volume does not say otherwise."""
    tree = csi_volume(group="2000").tree
    assert (tree.uid, tree.gid, tree.dir_mode, tree.file_mode) == (0, 2000, 0o770, 0o660)
    tree = csi_volume("gid=7", "dir-mode=0755", group="2000").tree
    assert (tree.gid, tree.dir_mode, tree.file_mode) == (7, 0o755, 0o660)


def test_a_csi_volume_can_be_reached_by_everybody():
    """Promise: All users can access a CSI volume, whether or not `allow-other` is given."""
    assert csi_volume().allow_other
    assert csi_volume("allow-other").allow_other


def test_a_mount_of_the_command_line_belongs_to_its_caller():
    """Promise: Command line: uid and gid are the caller's, and no other user can access the mount
    without `allow-other` or `allow-root`.
    """
    config = parse_command(["bucket", "/mnt"], uid=12, gid=34).config
    assert (config.tree.uid, config.tree.gid) == (12, 34)
    assert not config.allow_other
    assert not config.allow_root
