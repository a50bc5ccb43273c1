"""A mount whose budget for the bytes of files is small, so that few files fill it."""

import pytest

MIB = 1 << 20


@pytest.fixture
def small(mounts, tmp_path):
    """A mount of 1 MiB for buffers, with parts of 256 KiB of which S3 takes no smaller ones."""

    def make(*, has_spool=True, **options):
        options = {"memory_bytes": MIB, "write_part_bytes": MIB // 4, **options}
        state = tmp_path / "state" if has_spool else None
        return mounts(min_part_bytes=MIB // 8, state_dir=state, **options)

    return make
