"""What a change of a file moves over the network, which version it is made to, what it keeps."""

import os
from collections import Counter

import pytest

from csi_s3.errors import StaleError
from csi_s3.s3.store import Limits
from tests.unit.fs_mount import Held, mount, mounts

__all__ = ["mount", "mounts"]

APPEND = os.O_WRONLY | os.O_APPEND
LARGE = bytes(range(64))


@pytest.fixture
def spooled(mounts, tmp_path):
    """Parts of 8 bytes, of which S3 takes no fewer than 4; and a spool."""
    return mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")


def sent_bytes(store):
    """What is sent to, and read from, the store from now on, by kind of request."""
    moved = Counter()
    put, read_range, create = store.put, store.read_range, store.create_upload

    async def counting_put(key, data, **rest):
        moved["sent"] += len(data)
        return await put(key, data, **rest)

    async def counting_read(*args, **rest):
        chunk = await read_range(*args, **rest)
        moved["fetched"] += len(chunk.data)
        return chunk

    async def counting_create(*args, **rest):
        upload = await create(*args, **rest)
        part = upload.part

        async def counting_part(number, data):
            moved["sent"] += len(data)
            return await part(number, data)

        upload.part = counting_part
        return upload

    store.put, store.read_range, store.create_upload = counting_put, counting_read, counting_create
    return moved


def test_a_byte_appended_to_a_large_object_moves_no_other(spooled):
    """Promise: One byte appended to a large object: no other byte of it crosses the network."""
    mount = spooled
    mount.put("f", LARGE)
    moved = sent_bytes(mount.store)
    ino = mount.ino("f")
    with mount.requests(
        HEAD=2, CREATE_UPLOAD=1, UPLOAD_PART_COPY=1, UPLOAD_PART=1, COMPLETE_UPLOAD=1
    ):
        fh = mount.run(mount.fs.files.open(ino, APPEND))
        mount.write(fh, b"+", len(LARGE))
        mount.close_file(fh)
    assert mount.data("f") == LARGE + b"+"
    assert moved == {"sent": 1}


def test_unchanged_ranges_are_copied_and_small_neighbours_sent_again(spooled):
    """5 MiB is 4 bytes here.

    Promise: Ranges of 5 MiB and more that did not change are copied inside S3; smaller neighbours
    of changes are fetched and sent again; objects under 5 MiB are rewritten whole.
    """
    mount = spooled
    mount.put("f", LARGE)
    moved = sent_bytes(mount.store)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!", 20)
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:20] + b"!" + LARGE[21:]
    assert moved["sent"] == 4
    assert mount.store.requests["UPLOAD_PART_COPY"] == 2
    mount.put("small", b"012")
    moved.clear()
    with mount.requests(HEAD=4, LIST=1, GET=1, PUT=1):
        fh = mount.open("small", os.O_RDWR)
        mount.write(fh, b"!", 1)
        mount.close_file(fh)
    assert mount.data("small") == b"0!2"
    assert moved == {"fetched": 3, "sent": 3}


def test_a_truncation_of_a_large_object_moves_nothing(spooled):
    mount = spooled
    mount.put("f", LARGE)
    moved = sent_bytes(mount.store)
    mount.truncate("f", 33)
    assert mount.data("f") == LARGE[:33]
    assert moved == {}


@pytest.mark.parametrize("at", [0, 2, 30, 61, 63])
def test_a_change_after_a_long_append_sends_no_more_than_both(spooled, at):
    """As HDF5 writes: data behind the end, parts of which leave at once, then the beginning."""
    mount = spooled
    mount.put("f", LARGE)
    moved = sent_bytes(mount.store)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"+" * 40, len(LARGE))
    mount.settle()
    assert mount.store.requests["UPLOAD_PART"] > 0
    mount.write(fh, b"!", at)
    mount.write(fh, b"last", len(LARGE) + 40)
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:at] + b"!" + LARGE[at + 1 :] + b"+" * 40 + b"last"
    assert moved["sent"] <= 44 + 2 * 4
    assert mount.store.uploads == {}


def test_copies_of_at_most_512_mib_go_in_parallel(spooled):
    """512 MiB are 8 bytes here."""
    mount = spooled
    mount.store.limits = Limits(min_part_bytes=4, max_copy_part_bytes=8)
    mount.put("f", LARGE)
    fh = mount.open("f", APPEND)
    mount.write(fh, b"+", len(LARGE))
    held = Held(mount.store, "UPLOAD_PART_COPY")
    flushing = mount.start(mount.fs.files.flush(fh))
    mount.settle()
    assert held.waiting == 8
    held.let_go()
    mount.wait(flushing)
    mount.release(fh)
    assert mount.data("f") == LARGE + b"+"


@pytest.mark.parametrize("size", [16, 63, 64])
def test_a_truncation_after_a_long_append_drops_what_left(spooled, size):
    mount = spooled
    mount.put("f", LARGE)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"+" * 40, len(LARGE))
    mount.settle()
    mount.truncate("f", size)
    mount.write(fh, b"last" * 9, size)
    mount.close_file(fh)
    assert mount.data("f") == LARGE[:size] + b"last" * 9
    assert mount.store.uploads == {}


@pytest.mark.parametrize(("offset", "change"), [(6, b"+"), (5, b"!")])
def test_what_one_part_could_hold_is_copied_too_if_it_is_5_mib(spooled, offset, change):
    mount = spooled
    mount.put("f", b"012345")
    moved = sent_bytes(mount.store)
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, change, offset)
    mount.close_file(fh)
    assert mount.data("f") == b"012345"[:offset] + change
    assert moved == {"sent": 1}


def test_what_one_part_could_hold_can_be_changed_without_a_spool(mounts):
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    mount.put("f", b"012345")
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!", 2)
    mount.close_file(fh)
    assert mount.data("f") == b"01!345"


def test_opening_to_write_and_closing_asks_once_and_changes_nothing(mount):
    mount.put("f", b"data")
    ino = mount.ino("f")
    with mount.requests(HEAD=1):
        mount.close_file(mount.run(mount.fs.files.open(ino, os.O_RDWR)))


def test_a_change_is_made_to_the_version_that_is_in_s3_now(mount):
    """Promise: A change is made to the version that is in S3 when the file is opened for writing,
    whatever a listing said."""
    mount.put("f", b"old")
    fh = mount.run(mount.fs.opendir(1))
    mount.run(mount.entries(fh))
    mount.store.put_now("f", b"newer")
    writing = mount.open("f", APPEND)
    mount.write(writing, b"+", 5)
    mount.close_file(writing)
    assert mount.data("f") == b"newer+"
    mount.store.put_now("f", b"newest")
    mount.run(mount.fs.setattr(mount.ino("f"), size=3))
    assert mount.data("f") == b"new"
    mount.fs.releasedir(fh)


def test_opening_to_write_what_is_open_in_another_version_is_stale_so_that_it_is_looked_up_again(
    mount,
):
    mount.put("f", b"old")
    ino = mount.ino("f")
    reader = mount.open("f")
    mount.put("f", b"newer")
    for call in (mount.fs.files.open(ino, os.O_RDWR), mount.fs.setattr(ino, size=1)):
        with pytest.raises(StaleError):
            mount.run(call)
    fh = mount.open("f", os.O_RDWR)
    assert mount.read(fh) == b"newer"
    mount.release(fh)
    mount.release(reader)


def test_opening_to_write_what_somebody_removed_is_stale_so_that_it_is_made_anew(mount):
    mount.put("f", b"old")
    ino = mount.ino("f")
    mount.delete("f")
    with pytest.raises(StaleError):
        mount.run(mount.fs.files.open(ino, APPEND))


@pytest.mark.parametrize("size", [3, len(LARGE)])
def test_an_edit_keeps_metadata_and_a_rewrite_does_not(spooled, size):
    """The in-memory store has metadata only; tests/contract looks at the rest.

    Promise: An edit keeps content type, cache headers and user metadata, and tags where the policy
    allows it; a rewrite by O_TRUNC is a new object.
    """
    mount = spooled
    mount.put("f", LARGE[:size], metadata={"who": "them"})
    fh = mount.open("f", APPEND)
    mount.write(fh, b"+", size)
    mount.close_file(fh)
    assert mount.store.objects["f"].metadata == {"who": "them"}
    mount.truncate("f", size - 1)
    assert mount.store.objects["f"].metadata == {"who": "them"}
    mount.rewrite("f", b"new")
    assert mount.store.objects["f"].metadata == {}


def test_an_edit_of_a_renamed_file_keeps_its_metadata_too(spooled):
    mount = spooled
    mount.put("f", LARGE, metadata={"who": "them"})
    fh = mount.open("f", APPEND)
    mount.write(fh, b"+", len(LARGE))
    mount.rename("f", "g")
    mount.close_file(fh)
    assert mount.data("g") == LARGE + b"+"
    assert mount.store.objects["g"].metadata == {"who": "them"}
