"""Workloads that list, look up, make and remove many names."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.scale.made_up_bucket import SIZES
from tests.scale.work_base import Place, WrongResultError, expect, program

THREADS = 6
HANDLES = 100
TREE_FILES = 100  # in each directory
FOUND = re.compile(r"(\d+)$")
TARGET = "a-long-name/" * 333


def lines(*words: str) -> Iterator[str]:
    """What a program prints.

    Raises:
        WrongResultError: it fails.

    """
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            yield line.rstrip("\n")
    expect(process.returncode == 0, f"{words[0]} ended with {process.returncode}")


def expect_numbers(names: Iterator[str], n: int) -> None:
    """Each number below n once: compared by count and sum."""
    count = total = 0
    for name in names:
        found = FOUND.search(name)
        if found is not None:
            count, total = count + 1, total + int(found[1])
    expect(count == n, f"{count} names of {n}")
    expect(total == n * (n - 1) // 2, "a name is missing and another one twice")


def sizes(n: int) -> int:
    whole, rest = divmod(n, SIZES)
    return whole * (SIZES * (SIZES - 1) // 2) + rest * (rest - 1) // 2


@program
def ls_f(at: Place) -> None:
    expect_numbers(lines("ls", "-f", str(at.path / "big")), at.n)


def _size_of_line(line: str) -> tuple[int, str]:
    fields = line.split()
    return int(fields[4]), fields[-1]


@program
def ls_l(at: Place) -> None:
    def names() -> Iterator[str]:
        for line in lines("ls", "-l", str(at.path / "big")):
            if not line.startswith("total"):
                size, name = _size_of_line(line)
                expect(size == int(name[1:]) % SIZES, f"{name} has {size} bytes")
                yield name

    expect_numbers(names(), at.n)


@program
def ls_dirs(at: Place) -> None:
    listed = lines("ls", "-l", str(at.path / "dirs"))
    expect_numbers((line for line in listed if line.startswith("d")), at.n)


@program
def find(at: Place) -> None:
    expect_numbers(lines("find", str(at.path / "big"), "-type", "f"), at.n)


@program
def du(at: Place) -> None:
    (line,) = lines("du", "-s", "-B1", "--apparent-size", str(at.path / "big"))
    own = (at.path / "big").lstat().st_size
    expect(int(line.split()[0]) == sizes(at.n) + own, f"du says {line}")


@program
def find_tree(at: Place) -> None:
    _find_tree(at, at.n)


def _find_tree(at: Place, n: int) -> None:
    count = sum(1 for _ in lines("find", str(at.path / "tree"), "-type", "f"))
    expect(count == n, f"{count} files of {n} in the tree")


@program
def ls_l_tree(at: Place) -> None:
    listed = lines("ls", "-lR", str(at.path / "tree"))
    count = sum(1 for line in listed if line.startswith("-"))
    expect(count == at.n, f"{count} files of {at.n}")


@program
def du_tree(at: Place) -> None:
    directories = -(-at.n // TREE_FILES)
    (line,) = lines("du", "-s", "-B1", "--apparent-size", str(at.path / "tree"))
    own = (at.path / "tree").lstat().st_size * (directories + 1)
    expect(int(line.split()[0]) == sizes(at.n) + own, f"du says {line}")


@program
def look_ups(at: Place) -> None:
    """By path, in six threads."""

    def look_up(first: int) -> None:
        for i in range(first, at.n, THREADS):
            size = os.stat(f"{at.path}/big/f{i:07d}").st_size
            expect(size == i % SIZES, f"file {i} has {size} bytes")

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(look_up, range(THREADS)))


@program
def many_names(at: Place) -> None:
    """All ways to see one directory, on one mount, then a tree of nine times as many names."""
    for see in (ls_l, ls_f, find):
        see(at)
    expect((at.path / "big" / "f0000077").stat().st_size == 77, "one stat")
    _find_tree(at, 9 * at.n)


@program
def creates(at: Place) -> None:
    directory = at.path / "new"
    directory.mkdir()
    for i in range(at.n):
        (directory / f"f{i}").write_bytes(b"%d\n" % i)
    expect_numbers(iter(os.listdir(directory)), at.n)
    for i in range(0, at.n, max(1, at.n // 100)):
        expect((directory / f"f{i}").read_bytes() == b"%d\n" % i, f"bytes of file {i}")


@program
def rm_r(at: Place) -> None:
    list(lines("rm", "-r", str(at.path / "old")))
    expect(not (at.path / "old").exists(), "the directory is still there")


@program
def job_directories(at: Place) -> None:
    """Each made here, and emptied again: none of them is ever removed."""
    above = at.path / "jobs"
    above.mkdir()
    for i in range(at.n):
        directory = above / f"d{i}"
        directory.mkdir()
        (directory / "part").write_bytes(b"x")
        (directory / "part").unlink()
    expect_numbers(iter(os.listdir(above)), at.n)


@program
def symbolic_links(at: Place) -> None:
    directory = at.path / "links"
    directory.mkdir()
    for i in range(at.n):
        (directory / f"l{i}").symlink_to(f"{TARGET}{i}")
    for i in range(at.n):
        found = os.readlink(directory / f"l{i}")
        expect(found == f"{TARGET}{i}", f"target of link {i}")


@program
def directory_handles(at: Place) -> None:
    """A hundred handles of one directory, read in turns."""
    handles = [os.scandir(at.path / "big") for _ in range(HANDLES)]
    counts, totals = [0] * HANDLES, [0] * HANDLES
    under_way = set(range(HANDLES))
    while under_way:
        for k in list(under_way):
            for _ in range(200):
                entry = next(handles[k], None)
                if entry is None:
                    under_way.discard(k)
                    break
                counts[k] += 1
                totals[k] += int(entry.name[1:])
    for k in range(HANDLES):
        handles[k].close()
        expect(counts[k] == at.n, f"handle {k} has {counts[k]} names of {at.n}")
        expect(totals[k] == at.n * (at.n - 1) // 2, f"handle {k}: other names")


@program
def slow_scandir(at: Place) -> None:
    """One handle that is read a little, while n files are created in the same directory."""
    directory, there = at.path / "old", 3000
    with os.scandir(directory) as handle:
        seen = [next(handle).name]
        for i in range(at.n):
            (directory / f"new-{i}").write_bytes(b"x")
            if i % max(1, at.n // 10) == 0:
                seen += [entry.name for _, entry in zip(range(20), handle, strict=False)]
        seen += [entry.name for entry in handle]
    expect(len(seen) == len(set(seen)), "a name is there twice")
    expect_numbers((name for name in seen if name.startswith("f")), there)
    names = os.listdir(directory)
    expect(len(names) == there + at.n, f"{len(names)} names, expected {there + at.n}")


@program
def rename_refused_copies(at: Place) -> None:
    _refused_rename(at, {"kind": "COPY", "skip": at.n // 2})


@program
def rename_refused_deletes(at: Place) -> None:
    _refused_rename(at, {"kind": "DELETE"})


def _refused_rename(at: Place, rule: dict[str, object]) -> None:
    at.set_rules({"key": "", **rule, "status": 403, "code": "AccessDenied"})
    try:
        (at.path / "old").rename(at.path / "moved")
    except OSError as exc:
        said = f"{exc.strerror}"
    else:
        raise WrongResultError("the rename was not refused")
    at.set_rules()
    time.sleep(2)  # longer than the TTL of names
    expect_numbers(iter(os.listdir(at.path / "old")), at.n)
    moved = at.path / "moved"
    left = len(os.listdir(moved)) if moved.exists() else 0
    if rule["kind"] == "COPY":
        expect(left == 0, f"{left} names are left at the new name after {said}")
    else:
        expect(left in (0, at.n), f"{left} names at the new name after {said}")


@program
def rename_directory(at: Place) -> None:
    (at.path / "old").rename(at.path / "moved")
    expect(not (at.path / "old").exists(), "the old name is still there")
    expect_numbers(iter(os.listdir(at.path / "moved")), at.n)


@program
def list_some(at: Place) -> None:
    expect_numbers(iter(os.listdir(at.path / "big")), at.n)
