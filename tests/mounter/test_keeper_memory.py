"""Of mounts that have ended, the keeper holds the totals of the latest volumes only."""

import asyncio
import gc
import os
import pathlib
import tracemalloc

import pytest

from csi_s3.link.report import State
from csi_s3.mounter.metrics.volume_totals import MAX_ENDED
from tests.mounter.harness import line, mounter
from tests.scraping import Scrape

KIB = 1 << 10


async def served(running, n, *, first=0):
    """Serve and stop n volumes, each with a handle of its own."""
    for number in range(first, first + n):
        mount_id = f"{number:032x}"
        fuse = await running.node.serve(f"volume-{number}", mount_id=mount_id)
        await line(fuse)
        assert (await running.node.report()).state is State.SERVING
        await running.node.say("stop", mount_id)
        assert (await running.node.report()).state is State.ENDED
        assert await line(fuse) == ""
        os.close(fuse)


async def held():
    """Traced bytes; pathlib makes the interpreter's table of interned strings grow in steps."""

    def count():  # in a thread: it takes long, and the loop is watched
        gc.collect()
        filters = [tracemalloc.Filter(False, pathlib.__file__)]
        snapshot = tracemalloc.take_snapshot().filter_traces(filters)
        return sum(trace.size for trace in snapshot.traces)

    return await asyncio.to_thread(count)


@pytest.mark.timeout(400)  # 30 s on a busy machine
async def test_of_mounts_that_ended_only_the_latest_totals_stay(tmp_path):
    async with mounter(tmp_path / "node.sock") as running:
        await served(running, MAX_ENDED + 20)
        tracemalloc.start()
        try:
            grown = []
            for n in (20, 200):
                before = await held()
                await served(running, n, first=1000 * n)
                grown.append(await held() - before)
        finally:
            tracemalloc.stop()
        found = Scrape((await running.keeper.collect()).decode())
    assert max(grown) < 96 * KIB, grown
    assert found.value("mounter_records", kind="ended_volumes") == MAX_ENDED
    assert found.value("mounter_records", kind="messages") == 0
