"""Records of the state directory: whole or as they were."""

import pytest

from csi_s3.fs.base.json_file import NEW_SUFFIX, read_json, write_json


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "made" / "later" / "a.json"
    for record in ({"key": "ü"}, {"key": "", "extents": [[0, 1, "base"]]}):
        write_json(path, record)
        assert read_json(path) == record
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


def test_a_record_that_cannot_be_replaced_stays_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"n": 1})

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, {"n": 2})
    assert read_json(path) == {"n": 1}
    assert not path.with_suffix(NEW_SUFFIX).exists()


@pytest.mark.parametrize("text", ["", "{", "no", "[]", '"text"', "null"])
def test_what_is_no_record_is_a_value_error(tmp_path, text):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"Expecting|not a record"):
        read_json(path)
