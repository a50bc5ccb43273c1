"""The life of a file that is being changed, and what follows each answer of the store: tables."""

import itertools
import os

import pytest

from csi_s3 import errors
from csi_s3.errors import (
    AccessDeniedError,
    CredentialsError,
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    PreconditionFailedError,
    StaleError,
    StoreUnavailableError,
    VolumeError,
)
from csi_s3.fs.write.file_state import NEXT, FilePhase, FileState
from csi_s3.fs.write.store_steps import STEPS, Answer, Step, StoreRequest, answer_of
from tests.unit.fs_mount import fail, mounts

__all__ = ["mounts"]

DOWN = StoreUnavailableError("S3 is down")


@pytest.mark.parametrize(("before", "after"), list(itertools.product(FilePhase, FilePhase)))
def test_a_state_follows_where_the_diagram_has_an_arrow_and_nowhere_else(before, after):
    state = FileState(before)
    if after in NEXT[before]:
        assert state.then(after).phase is after
    else:
        with pytest.raises(RuntimeError, match=f"{before.value} cannot become {after.value}"):
            state.then(after)


def test_what_belongs_to_a_state_does_not_outlive_it():
    written = FileState(FilePhase.CLEAN).then(FilePhase.DIRTY, was_written=True)
    storing = written.then(FilePhase.STORING)
    assert storing.attempt is not None
    assert storing.then(FilePhase.DIRTY) == written
    assert storing.then(FilePhase.CLEAN) == FileState(FilePhase.CLEAN)
    failed = FileState(FilePhase.DIRTY).then(FilePhase.FAILED, DOWN)
    assert failed.error is DOWN
    assert failed.then(FilePhase.DIRTY) == FileState(FilePhase.DIRTY)


@pytest.mark.parametrize("phase", FilePhase)
def test_a_closed_file_goes_nowhere_and_any_file_can_be_closed(phase):
    assert FilePhase.CLOSED in NEXT[phase]
    assert NEXT[FilePhase.CLOSED] == {FilePhase.CLOSED}


@pytest.mark.parametrize(
    ("phase", "error", "is_dirty"),
    [
        (FilePhase.CLEAN, None, False),
        (FilePhase.DIRTY, None, True),
        (FilePhase.STORING, None, True),
        (FilePhase.FAILED, DOWN, True),
        (FilePhase.DISCARDED, None, False),
        (FilePhase.DISCARDED, DOWN, False),
        (FilePhase.CLOSED, None, False),
        (FilePhase.CLOSED, DOWN, True),
    ],
)
def test_a_file_is_dirty_while_the_store_should_have_more_of_it(phase, error, is_dirty):
    assert FileState(phase, error).is_dirty is is_dirty


def test_a_file_shows_its_state(mounts, tmp_path):
    mount = mounts(write_part_bytes=8, min_part_bytes=4, state_dir=tmp_path / "state")
    fh = mount.create("f", os.O_RDWR)
    file = mount.fs._handles.file(fh).inode.writer
    assert repr(file) == "<DirtyFile dirty, 0 bytes>"
    mount.write(fh, b"x" * 20)
    assert repr(file) == ("<DirtyFile dirty, 20 bytes, 4 in memory, 16 in the spool, uploading>")
    fail(mount.store, "COMPLETE_UPLOAD", DOWN)
    with pytest.raises(StoreUnavailableError):
        mount.fsync(fh)
    assert "uploading, uncertain" in repr(file)
    mount.fsync(fh)
    assert repr(file).startswith("<DirtyFile clean, 20 bytes")
    mount.unlink("f")
    assert repr(file).startswith("<DirtyFile discarded, 20 bytes")
    mount.release(fh)
    assert repr(file).startswith("<DirtyFile closed")


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_file_that_is_closed_while_it_is_stored_stays_closed(mounts, is_lost):
    """Work that the mount's end cancels may get the store's answer all the same (`aio.finish`)."""
    mount = mounts(write_part_bytes=8, min_part_bytes=4)
    fh = mount.create("f")
    file = mount.fs._handles.file(fh).inode.writer
    mount.write(fh, b"x" * 20)
    answer = mount.loop.create_future()

    async def delayed(operation, _key):
        if operation == "COMPLETE_UPLOAD":
            await answer

    mount.store.gate = delayed
    saving = mount.start(file.save())
    mount.settle()
    file.close()
    if is_lost:
        answer.set_exception(AccessDeniedError("refused"))
        with pytest.raises(AccessDeniedError, match="refused"):
            mount.wait(saving)
    else:
        answer.set_result(None)
        assert mount.wait(saving).size == 20
    assert repr(file).startswith("<DirtyFile closed")


# what follows an answer

FAILURES = [cls for cls in errors.by_code().values() if cls is not VolumeError]


@pytest.mark.parametrize("request_", StoreRequest)
@pytest.mark.parametrize("cls", FAILURES)
def test_every_failure_of_every_request_has_a_step_that_ends_or_repeats(request_, cls):
    step = STEPS[request_, answer_of(request_, cls("failed"))]
    assert step not in (Step.DONE, Step.COMPLETE, Step.CONTINUE)


@pytest.mark.parametrize(
    ("error", "answers"),
    [
        (PreconditionFailedError("412"), [Answer.CONFLICT] * 3),
        (ObjectChangedError("another version"), [Answer.BASE_GONE] * 3),
        (StaleError("gone"), [Answer.BASE_GONE] * 3),
        (NotFoundError("no upload"), [Answer.UPLOAD_GONE] * 3),
        (IntegrityError("another encryption"), [Answer.CORRUPT] * 3),
        (DOWN, [Answer.UNKNOWN] * 3),
        (CredentialsError("expired"), [Answer.REFUSED, Answer.REFUSED, Answer.UNKNOWN]),
    ],
)
def test_a_failure_is_taken_for_what_it_says_of_the_request(error, answers):
    assert [answer_of(request, error) for request in StoreRequest] == answers


def test_an_upload_whose_completion_is_uncertain_is_kept_and_remembered():
    """It is all that has the bytes that the spool had no room for."""
    assert STEPS[StoreRequest.COMPLETE, Answer.UNKNOWN] is Step.REMEMBER
    assert STEPS[StoreRequest.PARTS, Answer.UNKNOWN] is Step.FAIL


@pytest.mark.parametrize("request_", [StoreRequest.PUT, StoreRequest.COMPLETE])
@pytest.mark.parametrize("answer", [Answer.UNKNOWN, Answer.CORRUPT])
def test_what_may_have_made_an_object_is_always_remembered(request_, answer):
    assert STEPS[request_, answer] in (Step.REMEMBER, Step.REMEMBER_AND_FAIL)


def test_only_a_completion_stores_an_earlier_state():
    impossible = set(itertools.product(StoreRequest, Answer)) - STEPS.keys()
    earlier = Answer.STORED_EARLIER
    assert impossible == {(StoreRequest.PUT, earlier), (StoreRequest.PARTS, earlier)}
