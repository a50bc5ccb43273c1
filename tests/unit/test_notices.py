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
from csi_s3.mounter.notices import QUEUED, UPLOADS_EVERY_S, Notices, final_error


class Recorder:
    def __init__(self):
        self.now, self.sent = 5.0, []
        self.notices = Notices("m", self._send, clock=lambda: self.now)

    async def _send(self, notice):
        self.sent.append(notice)

    async def after(self, *failures):
        """What these failures have sent: reason and message."""
        self.sent = []
        task = asyncio.create_task(self.notices.run())
        for op, error in failures:
            self.notices.take(op, error)
        await self.notices.flush()
        task.cancel()
        return [(notice.reason, notice.error.what) for notice in self.sent]


@pytest.fixture
def recorder():
    return Recorder()


def missing(option, what="rm"):
    return NotPermittedError(what, f"needs the mount option {option}", option=option)


async def test_each_missing_option_has_one_notice(recorder):
    failures = [("unlink", missing("allow-delete", f"unlink of {n}")) for n in range(100)]
    failures.append(("open", missing("allow-overwrite", "open")))
    assert await recorder.after(*failures) == [
        (Reason.MISSING_OPTION, "unlink of 0"),
        (Reason.MISSING_OPTION, "open"),
    ]


async def test_a_notice_about_a_file_does_not_name_it(recorder):
    failures = [
        ("release", StaleError("a.csv: replaced concurrently", "compare")),
        ("read", IntegrityError("GET 'b.csv': the store's checksum is 1, ours 2")),
    ]
    await recorder.after(*failures)
    assert [error.public for _, error in failures] == ["", ""]  # they belong to others
    for notice in recorder.sent:
        assert ".csv" in notice.error.what
        assert ".csv" not in str(notice.error.as_public())
    assert str(recorder.sent[0].error.as_public()) == "a file could not be stored (compare)"
    last = final_error([StaleError("c.csv: replaced"), StaleError("d.csv: replaced")])
    assert last.as_public().what == "a file could not be stored"
    assert final_error([]) is None


async def test_a_notice_has_the_store_s_message_without_names(recorder):
    refused = AccessDeniedError("PUT s3://b/x: no", public="PUT s3://b/…: no")
    await recorder.after(("release", refused))
    [notice] = recorder.sent
    assert notice.error.as_public().what == "PUT s3://b/…: no"


async def test_what_no_option_would_allow_has_no_notice(recorder):
    assert await recorder.after(("link", NotPermittedError("hard link", "copy the file"))) == []


async def test_failed_uploads_without_a_caller_have_one_notice_a_minute(recorder):
    first, second = StoreUnavailableError("503 on a"), StoreUnavailableError("503 on b")
    assert await recorder.after(("release", first), ("release", second)) == [
        (Reason.UPLOAD_FAILED, "503 on a")
    ]
    recorder.now += UPLOADS_EVERY_S
    assert await recorder.after(("release", second)) == [(Reason.UPLOAD_FAILED, "503 on b")]


async def test_an_error_that_a_program_gets_has_no_notice(recorder):
    assert (
        await recorder.after(("flush", AccessDeniedError("403")), ("read", AccessDeniedError("4")))
        == []
    )


async def test_wrong_bytes_have_a_notice_whatever_the_operation(recorder):
    assert await recorder.after(("flush", IntegrityError("not encrypted"))) == [
        (Reason.INTEGRITY, "not encrypted")
    ]


def test_a_notice_arrives_as_it_was():
    notice = Notice(
        mount_id="a" * 32, reason=Reason.UPLOAD_FAILED, error=AccessDeniedError("a", "b")
    )
    found = Notice.from_json(notice.to_json())
    assert (found.mount_id, found.reason) == ("a" * 32, Reason.UPLOAD_FAILED)
    assert (type(found.error), str(found.error)) == (AccessDeniedError, "a (b)")


@pytest.mark.parametrize("n", [QUEUED, 10 * QUEUED])
async def test_a_keeper_that_does_not_read_costs_no_more_than_the_first_notices(recorder, n):
    for number in range(n):
        recorder.now += UPLOADS_EVERY_S
        recorder.notices.take("release", StoreUnavailableError(f"{number}"))
    assert len(await recorder.after()) == QUEUED
    assert recorder.sent[-1].error.what == f"{QUEUED - 1}"
