"""CPython's tests of the calls that programs make of files: the small modules."""

import pytest

from tests.posix import cpython
from tests.posix.place import minio, place

__all__ = ["minio"]


@pytest.mark.parametrize(
    "module",
    ["test_file", "test_fileio", "test_genericpath", "test_mmap", "test_posix", "test_tempfile"],
)
def test_cpythons_own_tests_pass_on_a_mount(minio, tmp_path, module):
    with place(minio, module.replace("_", "-")) as here:
        cpython.run(here, module, tmp_path / "results.xml", within_s=110)
