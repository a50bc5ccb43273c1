"""Which parts an upload of a file being changed is made of. No I/O: `file_sender` sends them."""

import asyncio
from typing import NamedTuple

from csi_s3.fs.write.extents import STEP_EXTENTS, Extents, Origin
from csi_s3.s3.store import Limits


class Piece(NamedTuple):
    """One part of an upload: a range to be copied inside the store from the base, or sent."""

    start: int
    end: int
    is_copy: bool

    @property
    def size(self) -> int:
        return self.end - self.start


async def plan(
    extents: Extents, start: int, *, part_bytes: int, limits: Limits, is_end: bool = True
) -> list[Piece] | None:
    """Cut [start, size) into the parts of an upload, with as few bytes sent as S3 allows.

    Every part but the last has at least min_part_bytes, so a changed range that is smaller includes
    unchanged bytes after it. A file in more than max_parts pieces is sent in larger ones, if
    possible. None: it has more in any case; larger parts are needed.

    part_bytes: the size of parts that are sent. is_end: whether the last piece is the upload's
    last. It awaits nothing, but gives other tasks a turn: a map of 100,000 extents takes a while.
    """
    min_part_bytes = min_copy_bytes = limits.min_part_bytes
    size = extents.size
    copy_bytes = copy_part_bytes(size - start, limits)
    copies = extents.large(Origin.BASE, start, least_bytes=min_copy_bytes)
    is_all_base = extents.next_of(Origin.BASE, start) == (start, size, Origin.BASE)
    if is_all_base:
        copies = [(start, size)]
    while True:
        # a smaller one may become part of a sent piece, so that the two are one
        certain = sum(end - begin >= 2 * min_part_bytes for begin, end in copies)
        if is_all_base or certain <= limits.max_parts:
            runs = await _runs(copies, start, size, limits)
            sizes = [(r, copy_bytes if r.is_copy else part_bytes) for r in runs]
            if len(runs) <= limits.max_parts and (
                sum(r.size // largest or 1 for r, largest in sizes) <= limits.max_parts
            ):
                pieces = [p for run, largest in sizes for p in cut_piece(run, largest, limits)]
                pieces = pieces if is_end else _filled_up(pieces, min_part_bytes)
                if len(pieces) <= limits.max_parts:
                    return pieces
        if is_all_base or not copies:
            return None
        min_copy_bytes *= 2
        copies = [c for c in copies if c[1] - c[0] >= min_copy_bytes]
        await asyncio.sleep(0)


def copy_part_bytes(size: int, limits: Limits) -> int:
    """How large copied parts are: larger than usual only where that would be too many."""
    copy_bytes = limits.max_copy_part_bytes
    while copy_bytes < limits.max_put_bytes and size > copy_bytes * (limits.max_parts * 9 // 10):
        copy_bytes = min(2 * copy_bytes, limits.max_put_bytes)
    return copy_bytes


async def _runs(
    copies: list[tuple[int, int]], start: int, size: int, limits: Limits
) -> list[Piece]:
    """Ranges in turn copied and sent, each large enough to be a part; only the last may be less.

    Of more than max_parts, only the first.
    """
    runs: list[Piece] = []
    min_part_bytes = limits.min_part_bytes

    def send(at: int, end: int) -> None:
        if at < end:
            before = runs.pop().start if runs and not runs[-1].is_copy else at
            runs.append(Piece(before, end, is_copy=False))

    at = start
    for n, (begin, end) in enumerate(copies):
        if n % STEP_EXTENTS == STEP_EXTENTS - 1:
            await asyncio.sleep(0)
            if len(runs) > limits.max_parts + 2:  # the last two may still become one
                return runs
        send(at, begin)
        at, last = begin, runs[-1] if runs else None
        if last is not None and not last.is_copy and last.size < min_part_bytes:
            at = min(end, last.start + min_part_bytes)  # the sent run borrows what it lacks
            if end - at < min_part_bytes and end < size:
                at = end
            send(begin, at)
        if at < end:
            runs.append(Piece(at, end, is_copy=True))
        at = end
    send(at, size)
    return runs


def cut_piece(run: Piece, piece_bytes: int, limits: Limits) -> list[Piece]:
    """Cut a range into parts of this size, none too small but one that was so before.

    Some may be larger; there are no more than ceil(size / piece_bytes).
    """
    pieces, least = [], limits.min_part_bytes
    at = run.start
    while at < run.end:
        end = min(at + piece_bytes, run.end)
        if 0 < run.end - end < least:
            end = run.end if run.end - at <= limits.max_copy_part_bytes else run.end - least
        pieces.append(Piece(at, end, is_copy=run.is_copy))
        at = end
    return pieces


def _filled_up(pieces: list[Piece], min_part_bytes: int) -> list[Piece]:
    """Let the last piece be large enough as well: it takes what it lacks from those before."""
    while len(pieces) > 1 and pieces[-1].size < min_part_bytes:
        *rest, before, last = pieces
        at = last.end - min_part_bytes
        if at - before.start < min_part_bytes:
            at = before.start
        else:
            rest.append(Piece(before.start, at, is_copy=before.is_copy))
        pieces = [*rest, Piece(at, last.end, is_copy=False)]
    return pieces
