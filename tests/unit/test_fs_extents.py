"""Where bytes are, and the parts that a file is sent in: Hypothesis against a plain list."""

import asyncio
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from csi_s3.fs.write.extents import STEP_EXTENTS, Extents, Origin
from csi_s3.fs.write.upload_plan import plan
from csi_s3.s3.store import Limits

ORIGINS = st.sampled_from([Origin.BASE, Origin.SPOOL, Origin.ZERO])
RUNS = st.lists(st.tuples(st.integers(1, 60), ORIGINS), min_size=1, max_size=30)
MIB = 1 << 20
S3 = Limits()


def planned(*args, **kwargs):
    return asyncio.run(plan(*args, **kwargs))


def laid_out(runs):
    extents = Extents()
    for size, origin in runs:
        extents.put(extents.size, extents.size + size, origin)
    return extents


def flat(extents):
    return [e.origin for e in extents for _ in range(e.size)]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 40), st.integers(0, 20), ORIGINS),
            st.tuples(st.just("truncate"), st.integers(0, 60)),
        )
    )
)
def test_a_map_is_what_a_list_of_every_byte_would_be(steps):
    extents, plain = Extents(), []
    for kind, *rest in steps:
        if kind == "put":
            start, size, origin = rest
            start = min(start, len(plain))
            extents.put(start, start + size, origin)
            plain[start : start + size] = [origin] * size
        else:
            size = min(rest[0], len(plain))
            extents.truncate(size)
            del plain[size:]
        assert flat(extents) == plain
        assert extents.size == len(plain)
        items = list(extents)
        assert all(a.end == b.start and a.origin != b.origin for a, b in pairwise(items))
        assert all(e.size > 0 for e in items)
        for origin in Origin:
            assert extents.count(origin) == plain.count(origin)
            assert extents.has(origin) == (origin in plain)
            assert extents.count_within(3, 11, origin) == plain[3:11].count(origin)
            blocks = {at // 4 for at, one in enumerate(plain) if one is origin and 3 <= at < 29}
            assert extents.blocks_within(3, 29, origin, block_bytes=4) == len(blocks)
        assert [e.origin for e in extents.within(3, 11) for _ in range(e.size)] == plain[3:11]


def test_a_gap_is_refused():
    with pytest.raises(ValueError, match="a gap from 0 to 1"):
        Extents().put(1, 2, Origin.ZERO)


@given(RUNS, st.integers(0, 100), st.integers(1, 16), st.integers(1, 64))
@example([(1, Origin.SPOOL), (9, Origin.BASE), (1, Origin.SPOOL)], 0, 5, 8)
@example([(9, Origin.BASE), (1, Origin.SPOOL), (9, Origin.BASE)], 9, 5, 5)
def test_a_plan_covers_what_is_left_once_in_parts_that_s3_takes(runs, start, least, part):
    extents = laid_out(runs)
    start, part = min(start, extents.size), max(part, least)
    pieces = planned(extents, start, part_bytes=part, limits=Limits(min_part_bytes=least))
    at = start
    for piece in pieces:
        assert piece.start == at
        assert piece.size > 0
        at = piece.end
        if piece.is_copy:
            assert {e.origin for e in extents.within(piece.start, piece.end)} == {Origin.BASE}
        elif piece is not pieces[-1]:
            assert least <= piece.size <= part + least
    assert at == extents.size
    assert all(piece.size >= least for piece in pieces[:-1])
    assert len(pieces) <= S3.max_parts


@given(RUNS, st.integers(1, 16), st.integers(1, 64))
@example([(5, Origin.BASE), (1, Origin.SPOOL)], 5, 8)
@example([(1, Origin.SPOOL), (6, Origin.BASE)], 4, 8)
def test_what_others_follow_ends_in_a_part_that_s3_takes_too(runs, least, part):
    extents, part = laid_out(runs), max(part, least)
    pieces = planned(extents, 0, part_bytes=part, limits=Limits(min_part_bytes=least), is_end=False)
    assert [p.start for p in pieces] == [0, *(p.end for p in pieces[:-1])]
    assert pieces[-1].end == extents.size
    assert all(p.size >= min(least, extents.size) for p in pieces)
    assert all(p.size <= part + 2 * least for p in pieces if not p.is_copy)
    for p in pieces:
        assert not p.is_copy or {e.origin for e in extents.within(p.start, p.end)} == {Origin.BASE}


@given(RUNS, st.integers(1, 16))
def test_no_more_is_sent_than_the_changes_and_what_each_lacks_to_be_a_part(runs, least):
    extents = laid_out(runs)
    pieces = planned(extents, 0, part_bytes=64, limits=Limits(min_part_bytes=least))
    sent = sum(p.size for p in pieces if not p.is_copy)
    changed = extents.size - extents.count(Origin.BASE)
    small = sum(e.size for e in extents if e.origin is Origin.BASE and e.size < 2 * least)
    edges = sum(2 * least for e in extents if e.origin is not Origin.BASE)
    assert changed <= sent <= changed + small + edges


def test_a_file_in_very_many_pieces_is_sent_in_coarser_ones():
    extents = Extents()
    for _ in range(S3.max_parts):
        extents.put(extents.size, extents.size + 8 * MIB, Origin.BASE)
        extents.put(extents.size, extents.size + 1, Origin.SPOOL)
    pieces = planned(extents, 0, part_bytes=8 * MIB, limits=S3)
    assert len(pieces) <= S3.max_parts
    assert pieces[-1].end == extents.size
    extents.put(extents.size, extents.size + 8 * MIB, Origin.SPOOL)
    extents.put(extents.size, extents.size + 8 * MIB, Origin.BASE)
    assert planned(extents, 0, part_bytes=8 * MIB, limits=S3) is None
    assert len(planned(extents, 0, part_bytes=16 * MIB, limits=S3)) <= S3.max_parts


@pytest.mark.parametrize("n", [5000, 50_000])
def test_a_plan_of_very_many_copies_gives_others_their_turns(n):
    extents = Extents()
    for _ in range(n):
        extents.put(extents.size, extents.size + 7 * MIB, Origin.BASE)
        extents.put(extents.size, extents.size + 1, Origin.SPOOL)
    planning = plan(extents, 0, part_bytes=8 * MIB, limits=S3)
    turns = 0
    with pytest.raises(StopIteration) as over:  # noqa: PT012 - of the last turn
        while True:
            planning.send(None)
            turns += 1
    most = S3.max_parts + STEP_EXTENTS
    assert min(2 * n, most) / 2 / STEP_EXTENTS - 2 <= turns <= 2 * n / STEP_EXTENTS + 5
    pieces = over.value.value
    assert pieces is None or 0 < len(pieces) <= S3.max_parts


def test_large_copies_are_cut_to_go_in_parallel():
    extents = laid_out([(3 * S3.max_copy_part_bytes + 1, Origin.BASE)])
    pieces = planned(extents, 0, part_bytes=8 * MIB, limits=S3)
    assert all(p.is_copy for p in pieces)
    assert all(S3.min_part_bytes <= p.size <= S3.max_copy_part_bytes for p in pieces[:-1])
    assert len(pieces) == 4


def test_the_largest_objects_are_copied_in_larger_parts_lest_they_be_too_many():
    extents = laid_out([(5 << 40, Origin.BASE), (1, Origin.SPOOL)])
    pieces = planned(extents, 0, part_bytes=8 * MIB, limits=S3)
    assert len(pieces) <= S3.max_parts
    assert [p.size for p in pieces if not p.is_copy] == [1]
    assert all(S3.min_part_bytes <= p.size <= S3.max_put_bytes for p in pieces[:-1])


def test_a_byte_appended_or_changed_in_a_gib_sends_no_more_than_the_least_part():
    gib = 1 << 30
    appended = laid_out([(gib, Origin.BASE), (1, Origin.SPOOL)])
    assert [
        p.size for p in planned(appended, 0, part_bytes=8 * MIB, limits=S3) if not p.is_copy
    ] == [1]
    changed = laid_out([(gib // 2, Origin.BASE), (1, Origin.SPOOL), (gib // 2, Origin.BASE)])
    sent = [p.size for p in planned(changed, 0, part_bytes=8 * MIB, limits=S3) if not p.is_copy]
    assert sent == [S3.min_part_bytes]
