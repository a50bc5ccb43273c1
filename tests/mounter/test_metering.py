"""What the keeper makes of its workers' numbers, and the memory it gives them."""

import logging
import os
import signal

import pytest

from csi_s3.link.report import State
from csi_s3.mounter.memory_shares import MIB, MemoryShares
from csi_s3.obs.metrics import catalog as metrics
from tests.mounter.harness import line, mounter
from tests.rpc.fake_mounter import until
from tests.scraping import Scrape

OTHER = "b" * 32


@pytest.fixture
async def running(tmp_path):
    async with mounter(tmp_path / "node.sock") as found:
        yield found


async def scraped(running) -> Scrape:
    return Scrape((await running.keeper.collect()).decode())


async def test_a_worker_is_asked_and_its_numbers_have_its_volume(running):
    fuse = await running.node.serve("counts")
    pid = int(await line(fuse))
    await running.node.report()
    first, second = await scraped(running), await scraped(running)
    assert first.value("read_bytes_total", volume="counts") == 1
    assert second.value("read_bytes_total", volume="counts") == 2
    assert second.value("workers") == second.value("node_connected") == 1
    assert pid > 0
    os.close(fuse)


@pytest.mark.warnings_expected("died: SIGKILL")
async def test_what_a_killed_worker_said_last_is_added_to_what_its_successor_counts(running):
    for expected in (1, 2):
        fuse = await running.node.serve("counts")
        pid = int(await line(fuse))
        await running.node.report()
        found = await scraped(running)
        assert found.value("read_bytes_total", volume="counts") == expected
        os.kill(pid, signal.SIGKILL)
        assert (await running.node.report()).state is State.FAILED
        assert await line(fuse) == ""
        os.close(fuse)
    after = await scraped(running)
    assert after.value("read_bytes_total", volume="counts") == 2
    assert "csi_s3_memory_bound_bytes" not in after.names()
    assert after.value("workers") == 0


async def test_two_mounts_with_one_handle_are_summed(running):
    fuses = [await running.node.serve("counts", mount_id=m) for m in ("a" * 32, OTHER)]
    for fuse in fuses:
        await line(fuse)
        await running.node.report()
    found = await scraped(running)
    assert found.value("read_bytes_total", volume="counts") == 2
    assert found.value("workers") == 2
    for fuse in fuses:
        os.close(fuse)


async def test_a_silent_worker_costs_a_scrape_no_more_than_its_deadline(tmp_path):
    async with mounter(tmp_path / "node.sock", metrics_s=0.1) as running:
        silent = await running.node.serve("obedient")
        talks = await running.node.serve("counts", mount_id=OTHER)
        for fuse in (silent, talks):
            await line(fuse)
            await running.node.report()
        before = metrics.STALE_ANSWERS.value(volume="obedient")
        for again in (1, 2):
            found = await scraped(running)
            assert found.value("stale_worker_answers_total", volume="obedient") == before + again
        assert found.value("read_bytes_total", volume="counts") >= 1
        assert found.value("worker_starts_total", volume="obedient") >= 1
        for fuse in (silent, talks):
            os.close(fuse)


async def test_readiness_is_the_connection_and_the_end(running):
    assert running.keeper.unready() is None
    running.node.go_away()
    while running.keeper.unready() is None:
        await scraped(running)
    assert running.keeper.unready().startswith("not connected to node at ")
    running.node.come_back()
    await running.node.accept()


@pytest.mark.warnings_expected("nothing is left for another")
async def test_a_volume_gets_its_share_and_one_too_many_is_refused(tmp_path):
    limit = 400 * MIB
    shares = MemoryShares(limit, 2)
    async with mounter(tmp_path / "node.sock", shares=shares) as running:
        fuses = []
        for mount_id in ("a" * 32, OTHER):
            fuses.append(await running.node.serve("counts", mount_id=mount_id))
            await line(fuses[-1])
            assert (await running.node.report()).state is State.SERVING
        found = await scraped(running)
        assert shares.share_bytes > 16 * MIB
        budgets = found.value("memory_bound_bytes", volume="counts", kind="buffers")
        assert budgets == 2 * shares.share_bytes

        refused = await running.node.serve("counts", mount_id="c" * 32)
        report = await running.node.report()
        assert (report.state, report.error.code) == (State.FAILED, "memory-limit")
        assert "mounter.maxVolumes" in report.error.hint
        os.close(refused)
        found = await scraped(running)
        assert found.value("mount_failures_total", volume="counts", code="memory-limit") == 1

        await running.node.say("stop")
        assert (await running.node.report()).state is State.ENDED
        assert await line(fuses[0]) == ""
        fuses.append(await running.node.serve("counts", mount_id="c" * 32))
        await line(fuses[-1])
        assert (await running.node.report()).state is State.SERVING
        for fuse in fuses:
            os.close(fuse)


@pytest.fixture
async def full(tmp_path):
    """A mounter whose only volume is unmounted and still ending."""
    async with mounter(tmp_path / "node.sock", shares=MemoryShares(400 * MIB, 1)) as running:
        fuse = await running.node.serve("obedient")
        await line(fuse)
        assert (await running.node.report()).state is State.SERVING
        os.close(fuse)  # as the kernel ends a connection: the keeper's end has POLLERR now
        yield running


def waits(caplog) -> bool:
    return "waiting for the memory of a mount that is ending" in caplog.text


async def test_a_volume_waits_for_the_memory_of_one_that_is_ending(full, caplog):
    caplog.set_level(logging.INFO)
    fuse = await full.node.serve("obedient", mount_id=OTHER)
    await until(lambda: waits(caplog))
    await full.node.say("stop")  # its worker ends now, and not before
    ended, serving = await full.node.report(), await full.node.report()
    assert (ended.mount_id, ended.state) == ("a" * 32, State.ENDED)
    assert (serving.mount_id, serving.state) == (OTHER, State.SERVING)
    os.close(fuse)


async def test_a_volume_that_waits_for_memory_can_be_given_up(full, caplog):
    caplog.set_level(logging.INFO)
    fuse = await full.node.serve("obedient", mount_id=OTHER)
    await until(lambda: waits(caplog))
    await full.node.say("stop", OTHER)
    report = await full.node.report()
    assert (report.mount_id, report.state) == (OTHER, State.ENDED)
    assert await line(fuse) == ""
    os.close(fuse)


async def test_a_volume_that_waits_for_memory_can_be_replaced(full, caplog):
    caplog.set_level(logging.INFO)
    old = await full.node.serve("obedient", mount_id=OTHER)
    await until(lambda: waits(caplog))
    new = await full.node.serve("counts", mount_id=OTHER)
    assert await line(old) == ""
    await full.node.say("stop")
    ended, serving = await full.node.report(), await full.node.report()
    assert (ended.mount_id, ended.state) == ("a" * 32, State.ENDED)
    assert (serving.mount_id, serving.state) == (OTHER, State.SERVING)
    assert int(await line(new)) > 0
    os.close(old)
    os.close(new)


async def test_node_gets_the_spec_back_as_it_sent_it(tmp_path):
    async with mounter(tmp_path / "node.sock", shares=MemoryShares(1024 * MIB, 2)) as running:
        fuse = await running.node.serve("counts")
        await line(fuse)
        await running.node.report()
        running.node.hang_up()
        _, have, _ = await running.node.accept()
        assert have.body["spec"]["volume"]["tree"]["memory_bytes"] is None
        have.close_fds()
        os.close(fuse)
