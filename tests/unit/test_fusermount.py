"""What fusermount3 is asked, and what its failures become."""

import os
import time

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


def test_a_fusermount3_that_hangs_is_an_error_that_says_so(program, tmp_path):
    program("exec sleep 60")
    began = time.monotonic()
    with pytest.raises(MountError, match="no answer from fusermount3"):
        fusermount.mount_as_user(
            tmp_path, source_name="x", read_only=False, allow_other=False, within_s=0.2
        )
    with pytest.raises(MountError, match="no answer from fusermount3"):
        fusermount.unmount_as_user(tmp_path, within_s=0.2)
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
def test_the_line_of_fuse_conf_is_read_as_fusermount3_reads_it(tmp_path, line, granted):
    conf = tmp_path / "fuse.conf"
    conf.write_text(f"# comment\n{line}\n")
    assert fusermount._user_allow_other(conf) is granted
