"""What crosses the link arrives as it was, also between versions."""

import json
import math
import os

import pytest

from csi_s3.config.volume import BucketConfig, TreeConfig, VolumeConfig
from csi_s3.errors import InternalError, VolumeError, by_code
from csi_s3.link.channel import MAX_MESSAGE_BYTES
from csi_s3.link.json_values import MAX_TEXT_BYTES
from csi_s3.link.report import Report, State, Usage
from csi_s3.link.spec import VERSION, MountSpec

SPEC = MountSpec(
    mount_id="0123456789abcdef" * 2,
    volume_handle="s3-csi-driver-volume",
    state_dir="/state",
    credentials_dir="/identity",
    volume=VolumeConfig(
        bucket=BucketConfig(bucket="b", prefix="données/", region="eu-west-1"),
        tree=TreeConfig(uid=12574, allow_delete=True, metadata_ttl_s=math.inf),
        read_only=True,
    ),
)


def over_the_link(data):
    return json.loads(json.dumps(data))


def test_a_spec_arrives_as_it_was_with_its_version():
    data = over_the_link(SPEC.to_json())
    assert data["version"] == VERSION
    assert MountSpec.from_json(data) == SPEC


def test_fields_of_a_newer_peer_are_dropped_and_missing_ones_have_their_default():
    data = over_the_link(SPEC.to_json())
    data["new"] = data["volume"]["new"] = data["volume"]["tree"]["new"] = 1
    data["volume"]["bucket"]["new"] = {"deep": True}
    del data["volume"]["allow_root"], data["volume"]["tree"]["dir_markers"]
    del data["state_dir"], data["credentials_dir"]
    found = MountSpec.from_json(data)
    assert found.state_dir == found.credentials_dir == ""
    assert found.volume == SPEC.volume


@pytest.mark.parametrize("missing", ["mount_id", "volume_handle", "volume"])
def test_a_spec_without_what_it_must_have_is_refused(missing):
    data = over_the_link(SPEC.to_json())
    del data[missing]
    with pytest.raises(ValueError, match=f"has no {missing}"):
        MountSpec.from_json(data)


@pytest.mark.parametrize("cls", by_code().values(), ids=lambda c: c.__name__)
def test_every_error_arrives_as_its_own_class(cls):
    report = Report(
        mount_id="a" * 32,
        state=State.FAILED,
        error=cls("bucket b: no", "do this", public="no"),
        usage=Usage(open_files=1, inodes=2, dirty_bytes=3),
    )
    found = Report.from_json(over_the_link(report.to_json()))
    assert type(found.error) is cls
    assert (found.error.what, found.error.hint) == ("bucket b: no", "do this")
    assert str(found.error.as_public()) == "no (do this)"
    assert (found.mount_id, found.state, found.usage) == ("a" * 32, State.FAILED, report.usage)


def test_a_report_without_error_or_usage_is_a_report():
    found = Report.from_json({"mount_id": "a" * 32, "state": "serving"})
    assert found == Report(mount_id="a" * 32, state=State.SERVING)


def test_an_error_of_a_newer_peer_keeps_its_words():
    found = Report.from_json(
        {
            "mount_id": "a" * 32,
            "state": "failed",
            "error": {"code": "new-in-9", "what": "w", "hint": "h", "more": 1},
            "usage": {"open_files": 1, "new": 2},
        }
    )
    assert isinstance(found.error, InternalError)
    assert str(found.error) == "w (h)"
    assert found.usage == Usage(open_files=1)


def test_codes_are_unique_in_the_tree():
    codes, todo = [], [VolumeError]
    while todo:
        cls = todo.pop()
        todo += cls.__subclasses__()
        codes += [cls.code] if "code" in vars(cls) else []
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("text", ["x", "é", "\n", "\U0001f600"])
@pytest.mark.parametrize("n", [MAX_TEXT_BYTES, 10 * MAX_TEXT_BYTES, 100 * MAX_TEXT_BYTES])
def test_an_error_of_any_length_fits_into_a_message(text, n):
    long = text * n
    error = VolumeError(long, long, public=long)
    data = Report(mount_id="a" * 32, state=State.FAILED, error=error).to_json()
    assert len(json.dumps(data)) < MAX_MESSAGE_BYTES
    arrived = Report.from_json(over_the_link(data)).error
    assert len(arrived.what.encode()) <= MAX_TEXT_BYTES
    assert arrived.what.startswith(text * 100)


@pytest.mark.parametrize("text", ["\udcff\udcfe", "x\ud800y"])
def test_an_error_with_bytes_that_are_no_unicode_arrives_with_them_escaped(text):
    """As aiohttp has headers, and `fs` names of keys that are not UTF-8."""
    report = Report(mount_id="a" * 32, state=State.FAILED, error=VolumeError(text, public=text))
    arrived = Report.from_json(over_the_link(report.to_json())).error
    assert arrived.what == arrived.public == text.encode(errors="backslashreplace").decode()


WRONG = {
    "mount_id": ["", "a" * 31, "A" * 32, "a" * 32 + "\n", "../" * 11, None, 1, [], {}],
    "volume_handle": [None, 1, [], "a\0", "x" * (MAX_MESSAGE_BYTES + 1), "\ud800"],
    "state_dir": ["\0", 1, None],
    "has_node": [1, "true", None],
    "volume": [None, [], {}, {"bucket": {}}, {"bucket": {"bucket": 1}}],
}


@pytest.mark.parametrize(("field", "value"), [(f, v) for f in WRONG for v in WRONG[f]])
def test_a_field_that_is_none_of_its_type_is_refused_by_its_name(field, value):
    with pytest.raises(ValueError, match=rf"^MountSpec\.{field}"):
        MountSpec.from_json({**SPEC.to_json(), field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("uid", True),
        ("uid", 1.5),
        ("uid", 1 << 63),
        ("metadata_ttl_s", math.nan),
        ("metadata_ttl_s", "1"),
        ("allow_delete", 0),
    ],
)
def test_numbers_are_numbers(field, value):
    data = SPEC.to_json()
    data["volume"]["tree"][field] = value
    with pytest.raises(ValueError, match=rf"^MountSpec\.volume\.tree\.{field} "):
        MountSpec.from_json(data)


def test_a_path_may_have_bytes_that_are_no_unicode():
    data = {**SPEC.to_json(), "state_dir": os.fsdecode(b"/\xff")}
    assert os.fsencode(MountSpec.from_json(over_the_link(data)).state_dir) == b"/\xff"


def test_a_refusal_tells_nothing_of_the_value():
    with pytest.raises(ValueError, match="mount_id") as caught:
        MountSpec.from_json({**SPEC.to_json(), "mount_id": "secret" * 1000})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("n", [1000, 1001])
def test_a_mapping_has_a_bound(n):
    usage = {"memory_bytes": {str(k): k for k in range(n)}}
    data = {"mount_id": "a" * 32, "state": "serving", "usage": usage}
    if n > 1000:
        with pytest.raises(ValueError, match="more than 1000 entries"):
            Report.from_json(data)
    else:
        assert len(Report.from_json(data).usage.memory_bytes) == n
