"""What a store may do otherwise about directories: MinIO, and one that keeps versions."""

import re
import shutil
import time

import pytest

from tests.mount.command import WITHIN_S, names
from tests.mount.mounted import env, here, minio, mounted, sh
from tests.programs.runs import objects
from tests.servers import VERSIONED

__all__ = ["env", "here", "minio", "mounted"]

pytestmark = pytest.mark.parametrize(
    "minio", ["minio", VERSIONED], indirect=True, scope="module"
)


def seen(here, mounted):
    """What the store holds below the test's directory."""
    return objects(mounted.server, "data", f"{here.name}/")


def wait_for(what):
    """Until the kernel asks again: it believes what it was told for a second."""
    until = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_rm_r_and_mv_took_away_is_not_there_any_more(here, mounted):
    """Promise: A directory under which nothing but delete markers is left is not there: not in a
    listing, not for stat, mkdir, rmdir and rename."""
    for tree in ("a", "b"):
        for path in ("f", "sub/f", "sub/deep/f"):
            mounted.put(f"{here.name}/{tree}/{path}", b"x")
    assert sorted(names(here)) == ["a", "b"]
    shutil.rmtree(here / "a")
    (here / "b").rename(here / "c")
    (here / "c" / "sub").rename(here / "c" / "other")
    assert names(here) == ["c"]
    wait_for(lambda: not (here / "a").exists())  # by what the store says
    assert names(here) == ["c"]
    assert sorted(names(here / "c")) == ["f", "other"]
    sh("mkdir a b c/sub; rmdir a b c/sub; mkdir a; mv c a/; mv a/c b; ls -R .", here)
    assert sorted(names(here)) == ["a", "b"]
    assert seen(here, mounted) == {
        **dict.fromkeys(["a", "b", "b/other", "b/other/deep"]),
        **dict.fromkeys(["b/f", "b/other/f", "b/other/deep/f"], b"x"),
    }


def test_a_rename_over_a_directory_that_others_emptied(here, mounted):
    mounted.put(f"{here.name}/a/sub/f", b"there")
    mounted.put(f"{here.name}/c/f", b"x")
    assert sorted(names(here)) == ["a", "c"]
    mounted.remove(f"{here.name}/a/sub/f")
    assert names(here) == ["c"]
    (here / "c").rename(here / "a")
    assert (here / "a" / "f").read_bytes() == b"x"
    assert seen(here, mounted) == {"a": None, "a/f": b"x"}


def test_nothing_deletes_a_version(here, mounted):
    """Promise: In a bucket that keeps versions, an unlink, a rename and an overwrite leave the
    version that was there as a noncurrent one; nothing here ever deletes a version."""
    path = here / "f"
    for data in ("1", "2", "3"):
        path.write_text(data)
    path.rename(here / "g")
    (here / "g").unlink()
    query = f"prefix={here.name}%2F&versions="
    status, body = mounted.server.request("GET", f"/data?{query}")
    if mounted.server.kind == VERSIONED:
        assert status == 200
        sizes = re.findall(rb"<Version>.*?<Key>[^<]*/([fg])</Key>.*?<Size>1</Size>", body)
        assert sizes == [b"f", b"f", b"f", b"g"]
        assert len(re.findall(rb"<DeleteMarker>", body)) == 2
    assert seen(here, mounted) == {}
