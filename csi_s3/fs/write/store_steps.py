"""What follows each answer of the store to a request that brings a file into it, as a table.

Plain code, no I/O. A file is stored by one PUT, or by the PARTS of an upload and its COMPLETE. Of a
part, an unknown outcome means no more than a refusal: the upload is given up, and what the spool
has is sent again by the next attempt. Of a COMPLETE it means that all parts are in the store: the
next attempt completes the same upload again, which may be of an earlier state of the file.
"""

from dataclasses import dataclass
from enum import Enum, auto

from csi_s3.errors import (
    IntegrityError,
    NotFoundError,
    ObjectChangedError,
    PreconditionFailedError,
    StaleError,
    VolumeError,
)
from csi_s3.s3.store import Buffer, ObjectInfo


class StoreRequest(Enum):
    PUT = auto()
    PARTS = auto()  # all that are missing, until the last has arrived
    COMPLETE = auto()


class Answer(Enum):
    STORED = auto()
    STORED_EARLIER = auto()  # an earlier state of the file is stored now
    CONFLICT = auto()  # the key holds something else than was expected
    BASE_GONE = auto()  # the version whose bytes are needed was replaced or removed
    UPLOAD_GONE = auto()
    UNKNOWN = auto()  # it may have taken effect, or will when it is made again
    CORRUPT = auto()  # it has taken effect, and not as was asked
    REFUSED = auto()


class Step(Enum):
    DONE = auto()
    COMPLETE = auto()  # the upload
    CONTINUE = auto()  # with what has changed since
    SETTLE = auto()  # go on from what a request whose answer was lost has made; if none has, FAIL
    RESEND_IF_SETTLED = auto()  # give up the upload, then as SETTLE
    RESEND_ONCE = auto()  # give up the upload and begin again; the second time, FAIL
    REMEMBER = auto()  # the request may make an object; keep the upload, raise the error
    REMEMBER_AND_FAIL = auto()
    FAIL = auto()  # give up the upload, if there is one, and raise the error


_ROWS = (
    # answer                PUT               PARTS                   COMPLETE
    (Answer.STORED, Step.DONE, Step.COMPLETE, Step.DONE),
    (Answer.STORED_EARLIER, None, None, Step.CONTINUE),
    (Answer.CONFLICT, Step.SETTLE, Step.FAIL, Step.SETTLE),
    (Answer.BASE_GONE, Step.SETTLE, Step.RESEND_IF_SETTLED, Step.RESEND_IF_SETTLED),
    (Answer.UPLOAD_GONE, Step.RESEND_ONCE, Step.RESEND_ONCE, Step.RESEND_ONCE),
    (Answer.UNKNOWN, Step.REMEMBER, Step.FAIL, Step.REMEMBER),
    (Answer.CORRUPT, Step.REMEMBER, Step.FAIL, Step.REMEMBER_AND_FAIL),
    (Answer.REFUSED, Step.FAIL, Step.FAIL, Step.FAIL),
)
STEPS = {
    (request, answer): step
    for answer, *steps in _ROWS
    for request, step in zip(StoreRequest, steps, strict=True)
    if step is not None
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request. info, error: one of them, but for PARTS. sent: by a PUT."""

    answer: Answer
    info: ObjectInfo | None = None
    error: VolumeError | None = None
    sent: Buffer | None = None


def answer_of(request: StoreRequest, error: VolumeError) -> Answer:
    """How a failure of a request is taken."""
    match error:
        case PreconditionFailedError():
            return Answer.CONFLICT
        case ObjectChangedError() | StaleError():
            return Answer.BASE_GONE
        case NotFoundError():
            return Answer.UPLOAD_GONE
        case IntegrityError():
            return Answer.CORRUPT
    is_unknown = error.retryable or (error.keeps_bytes and request is StoreRequest.COMPLETE)
    return Answer.UNKNOWN if is_unknown else Answer.REFUSED
