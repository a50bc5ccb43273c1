"""fsx: random reads, writes, truncations and mappings of one file, each byte checked."""

import pytest

from tests.binaries import binary
from tests.posix.place import minio, place

__all__ = ["minio"]

WEIGHTS = """
[weights]
close_open = 2
read = 10
write = 10
mapread = 10
mapwrite = 10
invalidate = 1
truncate = 3
fsync = 1
fdatasync = 1
sendfile = 2
posix_fadvise = 1
copy_file_range = 3
punch_hole = 3
posix_fallocate = 2
"""
SMALL = f"flen = 262144\n[opsize]\nmax = 65536\n{WEIGHTS}"
LARGE = f"flen = 50331648\n[opsize]\nmax = 8388608\n{WEIGHTS}"  # multipart uploads, the spool


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("settings", "operations", "seed"),
    [(SMALL, 3000, 1), (SMALL, 3000, 2), (LARGE, 300, 3), (LARGE, 300, 4)],
)
def test_a_file_holds_what_was_written(minio, tmp_path, settings, operations, seed):
    (tmp_path / "fsx.toml").write_text(settings)
    with place(minio, f"fsx-{seed}") as here:
        options = ["-f", tmp_path / "fsx.toml", "-N", operations, "-S", seed, "-P", tmp_path]
        done = here.run(binary("fsx"), *options, here.root / "file", within_s=350)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "A-OK" in done.stdout
