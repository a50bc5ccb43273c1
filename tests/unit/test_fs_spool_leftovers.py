"""What killed workers left in the spool counts, is named, and goes again."""

import asyncio
import json
import logging
import os

import pytest

from csi_s3.config.volume import SpoolRules
from csi_s3.errors import SpoolFullError
from csi_s3.fs.base.few_lines import LINES
from csi_s3.fs.base.memory import Memory, MemoryKind
from csi_s3.fs.write.extents import Extents, Origin
from csi_s3.fs.write.spool_description import LISTED_EXTENTS, Description
from csi_s3.fs.write.spool_directory import SpoolDirectory
from csi_s3.fs.write.spool_leftovers import RECORD_BYTES, LeftoverTotal, SpoolLeftovers
from csi_s3.fs.write.spool_space import SpoolSpace
from tests.unit.costs import steps_of
from tests.unit.fs_mount import fail, mount, mounts
from tests.unit.spool_case import BLOCK, DOWN, leftovers, map_of, measured_bytes, put, spool_of

__all__ = ["mount", "mounts"]

MIB = 1 << 20
KEPT_S = SpoolRules().kept_s
BEING_CHANGED = pytest.mark.warnings_expected("was being changed when .*, or was changed in S3")
REMOVED = pytest.mark.warnings_expected("files that were not uploaded .* were removed for those in")
OVER = pytest.mark.warnings_expected("was not uploaded, and its time is over")
MORE = pytest.mark.warnings_expected("more files were not uploaded and are in")


@pytest.fixture
def state(tmp_path):
    return tmp_path / "state"


def leave(state, n, *, blocks=1, is_whole=False, start=1):
    """As killed workers: n files of so many blocks, the first the oldest."""
    state.mkdir(exist_ok=True)
    for number in range(start, start + n):
        (state / f"file-{number}.data").write_bytes(b"x" * blocks * BLOCK)
        description = {"key": f"key-{number}", "is_whole": is_whole}
        path = state / f"file-{number}.json"
        path.write_text(json.dumps(description))
        os.utime(path, (number, number))


def lines(caplog, level, text=""):
    return [r.getMessage() for r in caplog.records if r.levelno == level and text in r.getMessage()]


def numbers(state):
    return sorted(int(p.stem.partition("-")[2]) for p in state.glob("*.data"))


# what is said


@BEING_CHANGED
@MORE
@pytest.mark.parametrize(("n", "said"), [(1, 1), (10, 10), (100, 11)])
def test_the_log_of_a_start_has_few_lines_however_many_there_are(state, caplog, n, said):
    leave(state, n)
    spool = spool_of(state, blocks=3 * n)
    assert leftovers(spool) == []
    found = lines(caplog, logging.WARNING)
    assert len(found) == said
    assert found[0].startswith("key-1 was being changed")
    assert str(state / "file-1.data") in found[0]
    if n > LINES:
        assert found[-1] == f"{n - LINES} more files were not uploaded and are in {state}"
    assert spool.used_bytes == 2 * n * BLOCK


@pytest.mark.warnings_expected("failed again", "2 more files that an earlier worker")
def test_so_has_that_of_uploads_that_fail_again(mounts, state, caplog):
    leave(state, LINES + 2, is_whole=True)
    for number in range(1, LINES + 3):
        (state / f"file-{number}.json").write_text(
            json.dumps({"key": f"k{number}", "is_whole": True, "extents": [[0, 9, "spool"]]})
        )
    mount = mounts(state_dir=state)
    fail(mount.store, "PUT", DOWN, times=99)
    mount.recover()
    assert len(lines(caplog, logging.ERROR)) == LINES + 1
    mount.store_works()


# how long it stays


@BEING_CHANGED
@OVER
def test_it_is_kept_from_when_it_is_found_and_removed_after_its_time(state, caplog):
    """However old it was when its worker died.

    Promise: What no worker will upload is kept in the spool for 30 days (`mounter.spool` in the
    chart), and its removal is logged.
    """
    caplog.set_level(logging.INFO)
    leave(state, 2)
    spool = spool_of(state)
    assert leftovers(spool, now_s=KEPT_S * 10) == []
    assert numbers(state) == [1, 2]
    found_s = (state / "file-1.json").stat().st_mtime
    os.utime(state / "file-2.json", (found_s + 100, found_s + 100))
    spool = spool_of(state)
    assert leftovers(spool, now_s=found_s + KEPT_S - 1) == []
    assert (spool.used_bytes, numbers(state)) == (4 * BLOCK, [1, 2])
    spool = spool_of(state)
    assert leftovers(spool, now_s=found_s + KEPT_S + 50) == []
    assert (spool.used_bytes, numbers(state)) == (2 * BLOCK, [2])
    (line,) = lines(caplog, logging.WARNING, "its time is over")
    assert line.startswith("key-1: ")
    assert str(state / "file-1.data") in line


def test_what_can_be_uploaded_stays_for_any_time(state):
    leave(state, 2, is_whole=True)
    spool = spool_of(state)
    assert leftovers(spool, now_s=KEPT_S * 10**6) == [2, 1], "the last first"
    assert numbers(state) == [1, 2]


@BEING_CHANGED
@REMOVED
def test_the_oldest_give_way_to_files_in_use_until_half_of_the_spool_is_theirs(state, caplog):
    leave(state, 10)
    spool = spool_of(state, blocks=20)
    leftovers(spool)
    file, extents = spool.create("f"), Extents()
    assert numbers(state) == list(range(1, 11)), "the file in use took the first number"
    for at in range(9):
        put(file, extents, at * BLOCK, b"x")
    assert numbers(state) == [1, 6, 7, 8, 9, 10]
    assert spool.used_bytes == 20 * BLOCK
    with pytest.raises(SpoolFullError):
        put(file, extents, 9 * BLOCK, b"x")
    assert numbers(state) == [1, 6, 7, 8, 9, 10]
    said = lines(caplog, logging.WARNING, "were removed for those in use")
    assert "1 files" in said[0]
    assert f"key-1 ({state / 'file-1.data'})" in said[0]
    file.close(keep=False)


@BEING_CHANGED
def test_what_would_not_help_is_not_removed(state):
    leave(state, 10)
    spool = spool_of(state, blocks=20)
    leftovers(spool)
    with pytest.raises(SpoolFullError):
        spool.disk.take(21 * BLOCK)
    assert len(numbers(state)) == 10


@BEING_CHANGED
@OVER
def test_what_its_program_had_closed_gives_way_to_nothing_before_its_time(state, caplog):
    """Promise: What its program had closed is not removed for others before its time."""
    leave(state, 10, is_whole=True)
    spool = spool_of(state, blocks=20)
    leftovers(spool)
    for number in range(1, 11):
        spool.disk.leftovers.give_up(number)
    spool = spool_of(state, blocks=20)  # of the next worker
    assert leftovers(spool) == []
    assert spool.leftover_totals()["given-up"].files == 10
    with pytest.raises(SpoolFullError):
        spool.create("f")
    assert numbers(state) == list(range(1, 11))
    leftovers(spool_of(state), now_s=(state / "file-1.json").stat().st_mtime + KEPT_S + 50)
    assert numbers(state) == []
    assert lines(caplog, logging.WARNING, "its time is over")


@BEING_CHANGED
def test_leftovers_are_counted_by_kind_with_the_time_of_the_oldest(state):
    leave(state, 2, blocks=3, is_whole=True)
    leave(state, 3, start=3)
    spool = spool_of(state)
    leftovers(spool)
    tables = spool.disk.leftovers
    for number in sorted(tables._whole, reverse=True):  # an upload that fails puts it back
        tables.add(tables.pop(number))
    totals = spool.leftover_totals()
    assert totals["whole"] == LeftoverTotal(2, 2 * 4 * BLOCK, 1.0)
    assert (totals["unfinished"].files, totals["unfinished"].size) == (3, 3 * 2 * BLOCK)
    assert totals["given-up"] == LeftoverTotal(0, 0, 0.0)


def test_what_can_be_uploaded_gives_way_to_nothing(state):
    leave(state, 10, is_whole=True)
    spool = spool_of(state, blocks=20)
    leftovers(spool)
    with pytest.raises(SpoolFullError):
        spool.create("f")
    assert numbers(state) == list(range(1, 11))


@BEING_CHANGED
@REMOVED
@pytest.mark.warnings_expected("f could not be uploaded and is kept in")
def test_a_volume_works_however_often_its_worker_was_killed(mounts, state):
    """Promise: At least half of `spool-size` is for files in use, however often workers were
    killed: the oldest of what was being changed then is removed where they need more, and the log
    names it. What can be uploaded is never removed.
    """
    mount = mounts(write_part_bytes=MIB, min_part_bytes=MIB, state_dir=state, spool_bytes=4 * MIB)
    mount.put("f", bytes(8 * MIB))
    for _ in range(10):
        mount.recover()
        fh = mount.open("f", os.O_RDWR)
        mount.write(fh, b"!" * (7 * MIB // 4), MIB)
        mount = mount.succeeded()
    mount.recover()
    fh = mount.open("f", os.O_RDWR)
    mount.write(fh, b"!" * (7 * MIB // 4), MIB)
    mount.close_file(fh)
    assert mount.data("f").count(b"!") == 7 * MIB // 4
    on_disk = sum(p.stat().st_blocks * 512 for p in mount.state_dir.iterdir())
    assert mount.spool.used_bytes == on_disk <= 4 * MIB


# memory and steps


@BEING_CHANGED
@MORE
@pytest.mark.parametrize("n", [300, 3000])
def test_many_are_found_in_short_steps(state, monkeypatch, n):
    leave(state, n)
    spool, longest, calls, really = spool_of(state, blocks=3 * n), 0, 0, os.lstat

    def counting(path):
        nonlocal calls
        calls += 1
        return really(path)

    monkeypatch.setattr(os, "lstat", counting)

    async def scan():
        nonlocal calls, longest
        finding = asyncio.ensure_future(spool.leftovers(0.0))
        while not finding.done():
            calls = 0
            await asyncio.sleep(0)
            longest = max(longest, calls)

    asyncio.run(scan())
    assert spool.used_bytes == 2 * n * BLOCK
    assert 0 < longest <= 32 * 3


@pytest.mark.parametrize("n", [200, 2000])
def test_a_record_is_as_large_as_it_counts(state, n):
    memory = Memory(1 << 20, 1 << 30)
    account = memory.account(MemoryKind.LEFTOVERS)
    leave(state, n, blocks=0)

    def scan():
        found = SpoolLeftovers(SpoolDirectory(state), SpoolSpace(1 << 40), account, KEPT_S)
        asyncio.run(found.scan(set(), now_s=0.0))
        return found

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(logging.Logger, "isEnabledFor", lambda *_: False)
        found, size = measured_bytes(scan)
    assert len(found) == n
    assert account.used_bytes >= n * RECORD_BYTES
    assert 0.75 * account.used_bytes <= size <= 1.25 * account.used_bytes


@BEING_CHANGED
@MORE
def test_what_exceeds_the_memory_counts_and_stays(state):
    leave(state, 100)
    memory = Memory(1 << 20, 40 * RECORD_BYTES * 4)
    account = memory.account(MemoryKind.LEFTOVERS)
    space = SpoolSpace(1 << 30)
    found = SpoolLeftovers(SpoolDirectory(state), space, account, KEPT_S)
    asyncio.run(found.scan(set(), now_s=0.0))
    assert 0 < len(found) <= 40
    assert account.used_bytes <= account.limit_bytes
    assert space.used_bytes == 200 * BLOCK


def test_a_description_of_before_can_be_read_and_one_of_now_by_before():
    """`is_left` is new; whatever does not know it takes the file for half written."""
    assert not Description.from_json({"key": "f", "is_whole": False}).is_left
    assert Description.from_json({"key": "f", "of a later release": 1}).key == "f"


def test_a_long_map_is_not_read_when_leftovers_are_counted(state):
    """Its JSON alone would take longer than other tasks may wait."""
    key = 'a", "extents": [[0, 1, "spool"]], "b'
    description = Description.whole(key, None, map_of(10_000))
    state.mkdir()
    directory = SpoolDirectory(state)
    (state / "file-1.data").write_bytes(b"x")
    directory.describe(1, description)
    assert directory.read_head(1) == description.without_map()
    assert directory.read(1) == description
    short = Description.whole(key, None, map_of(10))
    directory.describe(1, short)
    assert directory.read_head(1) == short


@pytest.mark.parametrize("n", [1000, 10_000, 100_000])
def test_a_map_is_kept_and_read_without_a_loop_over_its_extents(n):
    extents = map_of(n)

    def kept_and_read():
        description = Description.whole("f", None, extents)
        read = Description.from_json(json.loads(json.dumps(description.to_json())))
        assert read == description
        return read.map()

    assert steps_of(kept_and_read) < 100
    read = kept_and_read()
    assert list(read) == list(extents)
    assert [read.count(o) for o in Origin] == [extents.count(o) for o in Origin]


@pytest.mark.parametrize("n", [1, LISTED_EXTENTS, LISTED_EXTENTS + 1, 5000])
def test_a_map_that_an_earlier_release_wrote_is_the_same_map(n):
    ranges = [(e.start, e.end, e.origin.value) for e in map_of(n)]
    data = {"key": "f", "is_whole": True, "extents": ranges}
    description = Description.whole("f", None, map_of(n))
    assert Description.from_json(json.loads(json.dumps(data))) == description
    assert (description.to_json()["extents"] == ranges) == (n <= LISTED_EXTENTS)


def test_an_earlier_release_cannot_take_a_packed_map_for_an_empty_one():
    """It unpacks a list of three for each extent: it would else store an empty file."""
    packed = Description.whole("f", None, map_of(LISTED_EXTENTS + 1)).to_json()["extents"]
    with pytest.raises(ValueError, match="unpack"):
        [(s, e, o) for s, e, o in packed]


@pytest.mark.parametrize(
    "wrong",
    [
        {"origins": "sz"},
        {"ends": "AQAAAAAAAAA=", "origins": "sz"},
        {"ends": "AQAAAAA=", "origins": "s"},
        {"ends": "AQAAAAAAAAA", "origins": "s"},
        {"ends": "AQAAAAAAAAA=", "origins": "-"},
        {"ends": "AQAAAAAAAAA=", "origins": 1},
        {"ends": "AAAAAAAAAAA=", "origins": "s"},
        {"ends": "AQAAAAAAAAACAAAAAAAAAA==", "origins": "ss"},
        {"ends": "AgAAAAAAAAABAAAAAAAAAA==", "origins": "sz"},
        [[0, 1 << 70, "spool"]],
        [[0, 1, "sent"]],
    ],
)
def test_a_map_that_cannot_be_is_refused(wrong):
    with pytest.raises((ValueError, TypeError)):
        Description.from_json({"key": "f", "extents": wrong})
