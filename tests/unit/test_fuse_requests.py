"""Requests without an answer: their names, the oldest, and the line in the log when some hang."""

import logging

import pytest

from csi_s3.fuse import requests as module
from csi_s3.fuse.protocol import RESEND, Opcode
from csi_s3.fuse.requests import KernelRequest, RequestsInFlight


@pytest.fixture
def now(monkeypatch):
    """A clock that stands still until it is set."""
    at = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: at[0])
    return at


def in_flight(now, *requests):
    """Requests as (operation, number, age in seconds)."""
    found = RequestsInFlight()
    for opcode, unique, age_s in requests:
        request = KernelRequest(opcode, unique, 7)
        request.began_s = now[0] - age_s
        found.add(request)
    return found


def test_a_request_that_is_sent_again_is_told_from_a_new_one(now):
    new, again = KernelRequest(Opcode.WRITE, 12, 7), KernelRequest(Opcode.WRITE, 12 | RESEND, 7)
    assert (new.is_resent, again.is_resent) == (False, True)
    assert new.name == again.name == "WRITE 12"
    now[0] += 65
    assert repr(again) == "WRITE 12 of inode 7, sent again, 65 s"


def test_an_operation_of_a_newer_kernel_has_its_number():
    assert KernelRequest(99, 12, 7).name == "opcode 99 12"


@pytest.mark.parametrize("n", [5, 500])
def test_the_ten_oldest_are_shown_of_any_number(now, n):
    requests = in_flight(now, *((Opcode.LOOKUP, i, i) for i in range(n)))
    assert len(requests) == n
    assert [r.unique for r in requests.oldest()] == list(range(n))[::-1][:10]


@pytest.mark.warnings_expected("requests of programs wait")
def test_a_request_that_hangs_is_logged_with_the_others(now, caplog):
    requests = in_flight(now, (Opcode.LOOKUP, 4, 61), (Opcode.FLUSH, 2, 900), (Opcode.READ, 6, 1))
    requests.check()
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.getMessage() == (
        "3 requests of programs wait for an answer; the oldest: FLUSH 2 of inode 7, 900 s; "
        "LOOKUP 4 of inode 7, 61 s; READ 6 of inode 7, 1 s"
    )


def test_uploads_and_young_requests_are_not_logged(now, caplog):
    requests = in_flight(now, (Opcode.LOOKUP, 4, 59), (Opcode.FLUSH, 2, 900))
    requests.check()
    assert caplog.records == []


@pytest.mark.parametrize(("key", "shown"), [("d/f", " (d/f)"), ("", "")])
def test_the_keys_of_files_are_logged_where_they_are_known(now, caplog, key, shown):
    caplog.set_level("INFO", logger="csi_s3")
    requests = RequestsInFlight(lambda ino: key if ino == 7 else "other")
    requests.add(KernelRequest(Opcode.READ, 4, 7))
    requests.log(logging.INFO)
    assert caplog.messages == [
        f"1 requests of programs wait for an answer; the oldest: READ 4 of inode 7{shown}, 0 s"
    ]


def test_a_request_ends_once(now):
    requests = in_flight(now, (Opcode.LOOKUP, 4, 1))
    request = requests.get(4)
    for _ in range(2):
        requests.end(request)
    assert len(requests) == 0
    assert requests.get(4) is None
