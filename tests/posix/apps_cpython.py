"""CPython's tests of the calls that programs make of files: the larger modules."""

import pytest

from tests.posix import cpython
from tests.posix.place import minio, place

__all__ = ["minio"]

MODULES = [
    "test_bz2", "test_dbm_dumb", "test_fcntl", "test_filecmp", "test_fileinput", "test_glob",
    "test_gzip", "test_mailbox", "test_os", "test_pathlib", "test_posixpath", "test_shutil",
    "test_sqlite3", "test_zipfile",
]  # fmt: skip
TARFILE = ["*MiscReadTest.*", "*WriteTest.*", "*NoneInfoExtractTests*", "*TestExtractionFilters*"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("module", MODULES)
def test_cpythons_own_tests_pass_on_a_mount(minio, tmp_path, module):
    with place(minio, module.replace("_", "-")) as here:
        cpython.run(here, module, tmp_path / "results.xml", within_s=560)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cases", TARFILE)
def test_cpythons_own_tests_of_archives_pass_on_a_mount(minio, tmp_path, cases):
    """Those that extract and write; most of the rest only read one archive again and again."""
    with place(minio, f"test-tarfile-{TARFILE.index(cases)}") as here:
        cpython.run(here, "test_tarfile", tmp_path / "results.xml", within_s=560, only=[cases])
