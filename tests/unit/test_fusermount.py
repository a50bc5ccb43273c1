"""What fusermount3 is asked, and what its failures become."""

import os
import time
from pathlib import Path

import pytest

from csi_s3.errors import MountError
from csi_s3.kernel import fusermount


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A fusermount3 of our own, first in PATH."""

    def install(script: str) -> None:
        path = tmp_path / "fusermount3"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return install


def test_a_fusermount3_that_hangs_is_an_error_that_says_so(program, monkeypatch, tmp_path):
    program("exec sleep 60")
    monkeypatch.setattr(fusermount, "DEADLINE_S", 0.2)
    began = time.monotonic()
    with pytest.raises(MountError, match="no answer from fusermount3"):
        fusermount.mount_as_user(tmp_path, source_name="x", read_only=False, allow_other=False)
    with pytest.raises(MountError, match="no answer from fusermount3"):
        fusermount.unmount_as_user(tmp_path)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(
    ("line", "granted"),
    [
        ("user_allow_other", True),
        ("  user_allow_other  # for the notebooks", True),
        ("#user_allow_other", False),
        ("user_allow_others", False),
    ],
)
def test_the_line_of_fuse_conf_is_read_as_fusermount3_reads_it(
    tmp_path, monkeypatch, line, granted
):
    conf = tmp_path / "fuse.conf"
    conf.write_text(f"# comment\n{line}\n")
    monkeypatch.setattr(fusermount, "CONF", Path(conf))
    assert fusermount._user_allow_other() is granted
