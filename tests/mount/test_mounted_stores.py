"""What a store may do otherwise about directories: MinIO, one that keeps versions, versitygw."""

import errno
import re
import shutil
import time

import pytest

from tests.mount.command import WITHIN_S, names
from tests.mount.mounted import env, errno_of, here, minio, mounted, sh
from tests.programs.runs import objects
from tests.servers import VERSIONED

__all__ = ["env", "here", "minio", "mounted"]

pytestmark = pytest.mark.parametrize(
    "minio", ["minio", VERSIONED, "versitygw"], indirect=True, scope="module"
)
LONG = "n" * 247
SPARK = """
mkdir -p table/_temporary/0/_temporary/attempt_1 table/_temporary/0/_temporary/attempt_2
for n in 1 2; do
    mkdir -p table/_temporary/0/_temporary/attempt_$n/day=$n
    echo $n > table/_temporary/0/_temporary/attempt_$n/day=$n/part-$n
    mv table/_temporary/0/_temporary/attempt_$n table/_temporary/0/task_$n
done
mv table/_temporary/0/task_1/day=1 table/day=1
mv table/_temporary/0/task_2/day=2 table/day=2
rm -r table/_temporary
touch table/_SUCCESS
mv table final
"""


def seen(here, mounted):
    """What the store holds below the test's directory."""
    return objects(mounted.server, "data", f"{here.name}/")


def wait_for(what):
    """Until the kernel asks again: it believes what it was told for a second."""
    until = time.monotonic() + WITHIN_S
    while not what():
        assert time.monotonic() < until
        time.sleep(0.1)


@pytest.mark.parametrize("fill", ["", "echo x > e1/x; mkdir e1/sub; echo y > e1/sub/y; "])
def test_a_directory_that_mkdir_made_is_renamed(here, mounted, fill):
    """Promise: rename of a directory works on every store: its marker is put again with the same
    headers, not copied (versitygw copies none); an object with such a key that has bytes is copied.
    """
    sh(f"mkdir e1; {fill} mv e1 e2; test ! -e e1; test -d e2", here)
    inside = {"e2/x": b"x\n", "e2/sub": None, "e2/sub/y": b"y\n"} if fill else {}
    assert seen(here, mounted) == {"e2": None, **inside}
    sh("mkdir e1; mkdir e3; mv -T e2 e3; rmdir e1; rm -r e3", here)
    assert names(here) == []
    assert seen(here, mounted) == {}


def test_spark_commits_by_renames_of_directories(here, mounted):
    sh(SPARK, here)
    assert seen(here, mounted) == {
        "final": None,
        **{f"final/day={n}": None for n in (1, 2)},
        **{f"final/day={n}/part-{n}": b"%d\n" % n for n in (1, 2)},
        "final/_SUCCESS": b"",
    }
    assert sorted(names(here / "final")) == ["_SUCCESS", "day=1", "day=2"]
    assert names(here) == ["final"]


def test_what_rm_r_and_mv_took_away_is_not_there_any_more(here, mounted):
    """Promise: A directory below which only delete markers are left does not exist: neither in a
    listing nor for stat, mkdir, rmdir and rename.
    """
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


def test_a_directory_name_that_the_store_cannot_hold_is_too_long(here, mounted):
    """Promise: MinIO accepts no directory name over 246 bytes: mkdir and rename give ENAMETOOLONG
    and change nothing.
    """
    if mounted.server.kind == "versitygw":
        (here / LONG).mkdir()
        (here / LONG).rename(here / f"{LONG}mmmmmmmm")
        assert seen(here, mounted) == {f"{LONG}mmmmmmmm": None}
        return
    (here / LONG[:-1]).mkdir()
    (here / "d").mkdir()
    for n in range(5):
        (here / "d" / f"{n}").write_bytes(b"x")
    before = seen(here, mounted)
    for name in (LONG, f"{LONG}mmmmmmmm"):
        assert errno_of((here / name).mkdir) == errno.ENAMETOOLONG
        assert errno_of(lambda name=name: (here / "d").rename(here / name)) == errno.ENAMETOOLONG
        assert not (here / name).exists()
        (here / name).write_bytes(b"a file may")
        (here / name).unlink()
    assert sorted(names(here)) == ["d", LONG[:-1]]
    assert len(names(here / "d")) == 5
    assert seen(here, mounted) == before
    assert any("at most 246" in str(line["message"]) for line in mounted.log())


def test_nothing_deletes_a_version(here, mounted):
    """Promise: In a bucket that keeps versions, an unlink, a rename and an overwrite leave the
    version that was there as a noncurrent one; no version is ever deleted.
    """
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
