"""Which failures become Events, and how often."""

import asyncio

import pytest

from csi_s3.errors import (
    AccessDeniedError,
    IntegrityError,
    NotPermittedError,
    StaleError,
    StoreUnavailableError,
)
from csi_s3.link.report import Notice, Reason
from csi_s3.mounter.notices import UPLOADS_EVERY_S, Notices, last_words


class Told:
    def __init__(self):
        self.now, self.notices = 5.0, []
        self.of = Notices("m", self._send, clock=lambda: self.now)

    async def _send(self, notice):
        self.notices.append(notice)

    async def hear(self, *failures):
        task = asyncio.create_task(self.of.run())
        for op, error in failures:
            self.of.take(op, error)
        await self.of.all_told()
        task.cancel()
        found, self.notices = [(n.reason, n.error.what) for n in self.notices], []
        return found


@pytest.fixture
def told():
    return Told()


def missing(option, what="rm"):
    return NotPermittedError(what, f"needs the mount option {option}", option=option)


async def test_a_missing_option_is_told_once_for_each(told):
    failures = [("unlink", missing("allow-delete", f"unlink of {n}")) for n in range(100)]
    failures.append(("open", missing("allow-overwrite", "open")))
    assert await told.hear(*failures) == [
        (Reason.MISSING_OPTION, "unlink of 0"),
        (Reason.MISSING_OPTION, "open"),
    ]


async def test_what_is_told_of_a_file_does_not_name_it(told):
    failures = [
        ("release", StaleError('a.csv: somebody else replaced "1"', "compare")),
        ("read", IntegrityError("GET 'b.csv': the store's checksum is 1, ours 2")),
    ]
    await told.hear(*failures)
    for _, error in failures:
        assert ".csv" in error.what
        assert ".csv" not in str(error.as_public())
    assert str(failures[0][1].as_public()) == "a file could not be stored (compare)"
    last = last_words([StaleError("c.csv: replaced"), StaleError("d.csv: replaced")])
    assert last.as_public().what == "a file could not be stored"
    assert last_words([]) is None


async def test_what_s3_says_of_an_upload_is_told(told):
    refused = AccessDeniedError("PUT s3://b/x: no", public="PUT s3://b/…: no")
    await told.hear(("release", refused))
    assert refused.as_public().what == "PUT s3://b/…: no"


async def test_what_no_option_would_allow_is_not_told(told):
    assert await told.hear(("link", NotPermittedError("hard link", "copy the file"))) == []


async def test_an_upload_that_fails_when_nobody_hears_of_it_is_told_once_a_minute(told):
    first, second = StoreUnavailableError("503 on a"), StoreUnavailableError("503 on b")
    assert await told.hear(("release", first), ("release", second)) == [
        (Reason.UPLOAD_FAILED, "503 on a")
    ]
    told.now += UPLOADS_EVERY_S
    assert await told.hear(("release", second)) == [(Reason.UPLOAD_FAILED, "503 on b")]


async def test_what_a_program_hears_of_is_not_told(told):
    assert (
        await told.hear(("flush", AccessDeniedError("403")), ("read", AccessDeniedError("4"))) == []
    )


async def test_bytes_that_are_not_what_was_sent_are_told_whatever_the_operation(told):
    assert await told.hear(("flush", IntegrityError("not encrypted"))) == [
        (Reason.INTEGRITY, "not encrypted")
    ]


def test_a_notice_arrives_as_it_was():
    notice = Notice(mount_id="m", reason=Reason.UPLOAD_FAILED, error=AccessDeniedError("a", "b"))
    found = Notice.from_json(notice.to_json())
    assert (found.mount_id, found.reason) == ("m", Reason.UPLOAD_FAILED)
    assert (type(found.error), str(found.error)) == (AccessDeniedError, "a (b)")
