import io
import json
import logging
import os
import sys
from datetime import UTC, datetime

import pytest

from csi_s3.obs import logs

ENDINGS = ["a\nb", "a\rb", "a\x1b[31mb", "a\x00b", "a\x9bb", "a\u2028b", "a\u202eb", "a\udc80b"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def root_as_before():
    root, ours = logging.getLogger(), logging.getLogger("csi_s3")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


@pytest.fixture
def log():
    return logging.getLogger("csi_s3.s3.bucket")


def fail(text: str) -> None:
    raise OSError(text)


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_fields(log):
    stream = io.StringIO()
    logs.configure("worker", stream=stream)
    log.info("put %s", "k", extra={"volume": "v1", "op": "put", "code": "ok", "bytes": 7})
    (line,) = lines(stream)
    assert abs((datetime.fromisoformat(line.pop("ts")) - datetime.now(UTC)).total_seconds()) < 60
    assert line == {
        "level": "INFO",
        "program": "worker",
        "pid": os.getpid(),
        "logger": "csi_s3.s3.bucket",
        "message": "put k",
        "volume": "v1",
        "op": "put",
        "code": "ok",
        "bytes": 7,
    }


@pytest.mark.parametrize("text", ENDINGS)
@pytest.mark.parametrize("stream_type", [io.StringIO, Terminal])
def test_no_message_makes_a_second_line_or_drives_a_terminal(log, text, stream_type):
    stream = stream_type()
    logs.configure("worker", stream=stream)
    log.info("key %s", text, extra={"target": text})
    out = stream.getvalue()
    assert out.endswith("\n")
    assert all(c == "\n" or c.isprintable() for c in out)
    assert len(out.splitlines()) == 1
    if stream_type is io.StringIO:
        assert lines(stream)[0]["message"] == f"key {text}"


@pytest.mark.warnings_expected("it broke")
def test_a_traceback_is_a_field_of_its_line(log):
    stream = io.StringIO()
    logs.configure("worker", stream=stream)
    try:
        fail("first\nsecond")
    except OSError:
        log.exception("it broke")
    (line,) = lines(stream)
    assert line["message"] == "it broke"
    assert line["traceback"].startswith("Traceback (most recent call last)")
    assert line["traceback"].endswith("OSError: first\nsecond")


@pytest.mark.warnings_expected("it broke")
def test_a_terminal_gets_text_for_people(log):
    stream = Terminal()
    logs.configure("mount", stream=stream)
    try:
        fail("no\x1b[2J")
    except OSError:
        log.exception("it broke", extra={"volume": "v 1"})
    first, *rest = stream.getvalue().splitlines()
    assert first[8:] == " ERROR   mount: it broke  volume=v 1"
    assert all(line.startswith("    ") for line in rest)
    assert rest[-1] == "    OSError: no\\x1b[2J"


def test_a_field_cannot_pose_as_what_the_line_itself_says(log):
    stream = io.StringIO()
    logs.configure("worker", stream=stream)
    log.info("m", extra={"level": "CRITICAL", "program": "kubelet", "ts": "never"})
    (line,) = lines(stream)
    assert (line["level"], line["program"]) == ("INFO", "worker")
    assert line["ts"] != "never"


def test_a_value_that_is_no_json_is_shown_as_text(log):
    class Secret:
        def __repr__(self) -> str:
            return "***"

    stream = io.StringIO()
    logs.configure("worker", stream=stream)
    log.info("m", extra={"key": Secret(), "path": sys.path.__class__})
    assert lines(stream)[0]["key"] == "***"


def test_bound_fields_are_in_every_further_line_and_a_records_own_win(log):
    stream = io.StringIO()
    logs.configure("worker", stream=stream)
    logs.bind({"volume": "v1", "mount": "m1"})
    log.info("a")
    log.info("b", extra={"volume": "v2"})
    assert [(x["volume"], x["mount"]) for x in lines(stream)] == [("v1", "m1"), ("v2", "m1")]


@pytest.mark.parametrize(("debug", "levels"), [(False, ["info"]), (True, ["debug", "info"])])
def test_debug_is_for_csi_s3_only_and_libraries_log_from_warning(log, debug, levels):
    stream = io.StringIO()
    logs.configure("node", debug=debug, stream=stream)
    log.debug("debug")
    log.info("info")
    logging.getLogger("botocore").info("theirs")
    logging.getLogger("botocore").warning("their warning")
    assert [x["message"] for x in lines(stream)] == [*levels, "their warning"]


def test_configuring_again_replaces_the_first(log):
    first, second = io.StringIO(), io.StringIO()
    logs.configure("zygote", stream=first)
    logs.bind({"volume": "v1"})
    logs.configure("worker", stream=second)
    log.info("m")
    assert first.getvalue() == ""
    assert lines(second)[0]["program"] == "worker"
    assert "volume" not in lines(second)[0]


def test_a_forked_child_logs_whole_lines_under_its_own_name(log, tmp_path):
    path = tmp_path / "log"
    with path.open("w", buffering=1) as stream:
        logs.configure("zygote", stream=stream)
        log.info("before")
        pid = os.fork()
        if pid == 0:
            logs.configure("worker", stream=stream)
            log.info("child")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        log.info("after")
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(x["program"], x["message"]) for x in found] == [
        ("zygote", "before"),
        ("worker", "child"),
        ("zygote", "after"),
    ]
    assert found[1]["pid"] == pid
