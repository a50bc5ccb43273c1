"""pjdfstest: which error each call gives, and what it changes, for every kind of file."""

import re

import pytest

from tests.binaries import binary
from tests.posix import limits
from tests.posix.place import minio, place

__all__ = ["minio"]

SETTINGS = """
[features]
posix_fallocate = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.1
allow_remount = false
[dummy_auth]
entries = [["bin", "bin"], ["daemon", "daemon"]]
"""
# They remount; or are of what POSIX does not ask; or the system has no LINK_MAX.
SKIPPED = r"erofs_\w+$|^rename::changed_ctime_success::|^link::link_count_max$"


def run(here, tmp_path, *patterns):
    """What became of each case: ok, FAILED or skipped."""
    settings = tmp_path / "settings.toml"
    settings.write_text(SETTINGS)
    here.root.chmod(0o777)
    other = tmp_path / "other file system"
    other.mkdir()
    words = [binary("pjdfstest"), "-c", settings, "-p", here.root, "-s", other, *patterns]
    done = here.run(*words, within_s=500)
    found = re.findall(r"^(\w+(?:::\w+)+)\s+(ok|FAILED|skipped)\s*$", done.stdout, re.MULTILINE)
    assert found, done.stdout
    return dict(found)


@pytest.mark.timeout(600)
def test_only_the_listed_cases_fail(minio, tmp_path):
    with place(minio, "pjdfstest") as here:
        found = run(here, tmp_path)
    assert len(found) > 390
    limits.check("pjdfstest", [case for case, result in found.items() if result == "FAILED"])
    skipped = [case for case, result in found.items() if result == "skipped"]
    assert [case for case in skipped if not re.search(SKIPPED, case)] == []


@pytest.mark.timeout(300)
def test_cases_that_only_lack_a_mode_pass_where_the_options_give_it(minio, tmp_path):
    cases = ["etxtbsy", "create_flags_only", "write_access_required", "only_create_flags"]
    with place(minio, "pjdfstest-modes", "--dir-mode=0777", "--file-mode=0777") as here:
        found = run(here, tmp_path, *cases)
    assert len(found) >= len(cases)
    assert {case: result for case, result in found.items() if result != "ok"} == {}
