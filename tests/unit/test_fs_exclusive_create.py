"""O_CREAT|O_EXCL: one winner among all mounts, or as near to it as the store can come."""

import os

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    ExistsError,
    NotImplementedByStoreError,
    StaleError,
    StoreUnavailableError,
)
from csi_s3.fs.names.exclusive_create import TOKEN
from tests.unit.fs_mount import WRITE_NEW, Held, fail, mount, mounts

__all__ = ["mount", "mounts"]

EXCLUSIVE = WRITE_NEW | os.O_EXCL
LACKS = "the store does not know conditional writes"


def unknown(mount):
    """A mount that has not found out yet what its store knows."""
    mount.fs.files._exclusive_create._is_able = None
    return mount


def ignoring_conditions(store):
    """Some stores take the headers and do as if they had not seen them."""
    whole = store._check

    def check(key, **_conditions):
        whole(key, if_none_match=False, if_match=None)

    store._check = check


def refusing_conditions(store):
    whole = store._check

    def check(key, *, if_none_match, if_match):
        if if_none_match or if_match:
            raise NotImplementedByStoreError("501")
        whole(key, if_none_match=False, if_match=None)

    store._check = check


@pytest.mark.parametrize("data", [b"x", b"more than a part"])
def test_open_itself_decides_and_the_content_follows(mounts, data):
    """Promise: O_CREAT|O_EXCL: one winner among all mounts, known when open returns: the empty
    object is put with If-None-Match, the content follows with If-Match at close (2 PUTs; until then
    an empty file is visible).
    """
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f", EXCLUSIVE)
    assert mount.data("f") == b""
    assert set(mount.store.objects["f"].metadata) == {TOKEN}
    with pytest.raises(ExistsError):
        mount.create("f", EXCLUSIVE)
    mount.write(fh, data)
    mount.close_file(fh)
    assert mount.data("f") == data
    assert mount.store.objects["f"].metadata == {}


def test_it_costs_two_puts_and_one_if_nothing_is_written(mount):
    with mount.requests(PUT=1):
        mount.close_file(mount.create("lock", EXCLUSIVE))
    with mount.requests(PUT=2):
        fh = mount.create("f", EXCLUSIVE)
        mount.write(fh, b"data")
        mount.close_file(fh)


def test_directories_and_links_have_one_too_so_that_a_lost_answer_is_no_other_maker(mount):
    mount.mkdir("d")
    mount.run(mount.fs.links.make(1, b"l", b"target"))
    for key in ("d/", "l.rclonelink"):
        assert set(mount.store.objects[key].metadata) == {TOKEN}


def test_each_claim_has_a_token_of_its_own(mount):
    for name in ("f", "g"):
        mount.close_file(mount.create(name, EXCLUSIVE))
    tokens = {stored.metadata[TOKEN] for stored in mount.store.objects.values()}
    assert len(tokens) == 2


def test_the_loser_gets_an_error_at_open(mount):
    held = Held(mount.store, "PUT")
    creating = mount.start(mount.fs.files.create(1, b"f", EXCLUSIVE))
    mount.settle()
    mount.put("f", b"theirs")
    held.let_go()
    with pytest.raises(ExistsError) as caught:
        mount.wait(creating)
    assert caught.value.errno == 17
    assert mount.cat("f") == b"theirs"


@pytest.mark.parametrize("data", [b"x", b"more than a part"])
def test_a_winner_whose_file_was_replaced_concurrently_gets_an_error_at_close(mounts, data):
    mount = mounts(write_part_bytes=4)
    fh = mount.create("f", EXCLUSIVE)
    mount.write(fh, data)
    mount.put("f", b"theirs")
    with pytest.raises(StaleError, match="concurrent modification: expected ETag"):
        mount.flush(fh)
    with pytest.raises(StaleError):
        mount.release(fh)
    assert mount.data("f") == b"theirs"
    assert mount.store.uploads == {}
    assert mount.cat("f") == b"theirs"


@pytest.mark.parametrize("error", [AccessDeniedError("403"), StoreUnavailableError("503")])
def test_a_claim_that_fails_made_no_file(mount, error):
    fail(mount.store, "PUT", error)
    with pytest.raises(type(error)):
        mount.create("f", EXCLUSIVE)
    assert mount.fs.usage().open_files == 0
    assert not mount.exists("f")
    mount.close_file(mount.create("f", EXCLUSIVE))


def test_a_claim_whose_answer_was_lost_is_an_empty_file_of_another_client(mount):
    """The real store settles lost answers by the token; what is left is one it gave up on."""
    fail(mount.store, "PUT", StoreUnavailableError("503"), after=True)
    with pytest.raises(StoreUnavailableError):
        mount.create("f", EXCLUSIVE)
    assert mount.cat("f") == b""


@pytest.mark.warnings_expected(f"{LACKS}.*If-None-Match")
def test_a_store_that_ignores_conditions_is_found_out_by_the_first_claim(mount, caplog):
    """Promise: Whether a store other than AWS supports conditional writes is determined on the
    first object created with O_EXCL: the same PUT, repeated, must fail.

    Promise: O_CREAT|O_EXCL if the store does not support conditional writes: one winner per mount,
    logged once.
    """
    ignoring_conditions(unknown(mount).store)
    with mount.requests(PUT=3):
        fh = mount.create("f", EXCLUSIVE)
        with pytest.raises(ExistsError):
            mount.create("f", EXCLUSIVE)
        mount.write(fh, b"data")
        mount.close_file(fh)
    with mount.requests(PUT=1):
        fh = mount.create("g", EXCLUSIVE)
        mount.write(fh, b"data")
        mount.close_file(fh)
    assert mount.data("f") == mount.data("g") == b"data"
    assert len([r for r in caplog.records if LACKS in r.getMessage()]) == 1


@pytest.mark.warnings_expected(f"{LACKS}.*501")
@pytest.mark.parametrize("data", [b"", b"x", b"more than a part"])
def test_a_store_that_refuses_conditions_gets_them_without(mounts, tmp_path, data, caplog):
    mount = unknown(mounts(write_part_bytes=4, state_dir=tmp_path / "state"))
    refusing_conditions(mount.store)
    for name in ("f", "g"):
        fh = mount.create(name, EXCLUSIVE)
        with pytest.raises(ExistsError):
            mount.create(name, EXCLUSIVE)
        mount.write(fh, data)
        mount.close_file(fh)
        assert mount.data(name) == data
        mount.truncate(name, 30)
        assert mount.data(name) == data + bytes(30 - len(data))
    assert len([r for r in caplog.records if LACKS in r.getMessage()]) == 1


@pytest.mark.warnings_expected(f"{LACKS}.*501")
def test_a_store_that_was_said_to_know_conditions_and_does_not(mount):
    refusing_conditions(mount.store)
    for name in ("f", "g"):
        mount.close_file(mount.create(name, EXCLUSIVE))
        assert mount.data(name) == b""


def test_a_store_that_compares_is_asked_twice_only_once(mount):
    unknown(mount)
    with mount.requests(PUT=2):
        mount.close_file(mount.create("f", EXCLUSIVE))
    with mount.requests(PUT=1):
        mount.close_file(mount.create("g", EXCLUSIVE))


def test_claims_that_come_while_the_first_finds_out_wait_for_it(mount):
    unknown(mount)
    held = Held(mount.store, "PUT")
    creating = [mount.start(mount.fs.files.create(1, n, EXCLUSIVE)) for n in (b"f", b"g", b"h")]
    mount.settle()
    assert held.waiting == 1
    held.let_go()
    for task in creating:
        fh, made = mount.wait(task)
        mount.held.append(made.ino)
        mount.close_file(fh)
    assert mount.store.requests["PUT"] == 4


@pytest.mark.parametrize("made", ["f", "f/x", "f/"])
def test_a_name_that_is_there_is_found_by_the_look_up_before(mount, made):
    mount.put(made)
    assert mount.exists("f")


def test_an_exclusive_file_that_is_removed_unwritten_is_gone(mount):
    fh = mount.create("f", EXCLUSIVE)
    mount.unlink("f")
    assert mount.store.objects == {}
    mount.write(fh, b"more")
    mount.close_file(fh)
    assert mount.store.objects == {}
