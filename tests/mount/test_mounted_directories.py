"""Directories on a real mount: made, listed, emptied, removed; and what df says."""

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import pytest

from tests.mount.command import names
from tests.mount.mounted import env, here, minio, mounted, sh

__all__ = ["env", "here", "minio", "mounted"]


def test_mkdir_p_rmdir_and_rm_r(here, mounted):
    sh("mkdir -p a/b/c && test -d a/b/c && rmdir a/b/c && test ! -e a/b/c && test -d a/b", here)
    sh("mkdir a/b/c && echo x > a/b/c/x && echo y > a/y && ! rmdir a/b 2>/dev/null", here)
    sh("rm -r a && test ! -e a && mkdir a && rmdir a", here)
    assert names(here) == []
    assert mounted.get(f"{here.name}/a/") is None
    assert mounted.get(f"{here.name}/") == b""


def test_rm_and_cp_again_in_the_same_directory(here, mounted):
    mounted.put(f"{here.name}/d/x", b"there")
    sh("cd d && rm x && test -d ../d && ls -la && echo new > x && cat x", here)
    assert mounted.get(f"{here.name}/d/x") == b"new\n"


def test_rm_rf_of_a_tree_that_others_made(here, mounted):
    for n in range(40):
        mounted.put(f"{here.name}/t/{n % 7}/{n}", b"x")
    sh("rm -rf t && test ! -e t", here)
    prefix = quote(f"{here.name}/t/", safe="")
    status, body = mounted.server.request("GET", f"/data/?list-type=2&prefix={prefix}")
    assert status == 200
    assert b"<Key>" not in body


def test_a_directory_of_5000_names_is_listed_complete(here, mounted):
    plain = {f"{n:04}" for n in range(4990)}
    odd = {"dir/", "dir-1", "dir.x", "dir0", "a b", "\u00e9", "e\u0301", "100%", "q?x=&y", "t\\n"}
    with ThreadPoolExecutor(8) as pool:
        key = f"{here.name}/{{}}".format
        list(pool.map(lambda n: mounted.put(key(n), n.encode()), [*(plain | odd)]))
    odd = odd - {"dir/"} | {"dir"}
    listed = names(here)
    assert len(listed) == len(set(listed)) == 5000
    assert set(listed) == plain | odd
    with os.scandir(here) as entries:
        sizes = {e.name: e.stat().st_size for e in entries if e.is_file()}
    assert sizes == {n: len(n.encode()) for n in (plain | odd) - {"dir"}}
    counted = sh("ls -l | tail -n +2 | wc -l; find . -type f | wc -l", here).stdout.split()
    assert counted == ["5000", "4999"]


def test_du_and_ls_lr_count_what_is_there(here, mounted):
    for name, size in (("a", 5000), ("d/b", 100_000), ("d/e/c", 1)):
        mounted.put(f"{here.name}/{name}", b"x" * size)
    assert sh("du -sb .", here).stdout.split()[0] == "105001"
    lines = sh("ls -lR", here).stdout
    assert "100000" in lines
    assert "./d/e:" in lines


def test_a_working_directory_that_others_emptied_stays_usable(here, mounted):
    mounted.put(f"{here.name}/d/x", b"x")
    names(here / "d")
    fd = os.open(here / "d", os.O_RDONLY | os.O_DIRECTORY)
    try:
        mounted.remove(f"{here.name}/d/x")
        with pytest.raises(FileNotFoundError):
            wait_for_absence(here / "d")
        made = os.open("y", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
        os.write(made, b"y")
        os.close(made)
    finally:
        os.close(fd)
    assert mounted.get(f"{here.name}/d/y") == b"y"


def wait_for_absence(path):
    """Until the kernel asks again: it believes what it was told for a second."""
    while True:
        path.stat()


def test_what_others_make_and_remove_is_seen_within_the_metadata_ttl(here, mounted):
    assert names(here) == []
    mounted.put(f"{here.name}/f", b"x")
    assert names(here) == ["f"]
    assert (here / "f").read_text() == "x"
    mounted.remove(f"{here.name}/f")
    assert names(here) == []
    with pytest.raises(FileNotFoundError):
        (here / "f").open("rb")
    with pytest.raises(FileNotFoundError):
        wait_for_absence(here / "f")


def test_what_is_made_here_is_listed_and_found_at_once(here):
    for n in range(50):
        (here / f"{n}").write_text("x")
        assert f"{n}" in names(here)
        assert (here / f"{n}").stat().st_size == 1
        if n % 3 == 0:
            (here / f"{n}").unlink()
            assert f"{n}" not in names(here)
            assert not (here / f"{n}").exists()


def test_df_shows_8_eib_free(here, mounted):
    """Promise: statfs reports 8 EiB free: 9007199254740992 1K-blocks in `df`."""
    done = subprocess.run(
        ["df", "-k", "--output=size,avail", mounted.path],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout.split()[-2:] == ["9007199254740992"] * 2
    assert shutil.disk_usage(mounted.path).free > 1 << 62
    found = os.statvfs(mounted.path)
    assert found.f_namemax == 255
    assert found.f_favail > 0


def test_odd_names_come_and_go(here, mounted):
    for name in ("a\nb", " lead", "trail ", "\x01", "*", "-rf", "\u00e9", "e\u0301", "x" * 255):
        (here / name).write_text("x")
        assert names(here) == [name]
        assert mounted.get(f"{here.name}/{name}") == b"x"
        (here / name).unlink()
    with pytest.raises(OSError, match="File name too long"):
        (here / ("x" * 256)).write_text("x")
    with pytest.raises(OSError, match="Invalid argument"):
        (here / os.fsdecode(b"\xff")).write_text("x")
