"""The switch that reports steps which hold the event loop, on both event loops."""

import asyncio
import gc
import logging
import time

import pytest
import uvloop

from csi_s3.config.environment import slow_step_ms
from csi_s3.errors import BadOptionError
from csi_s3.obs.metrics import catalog as metrics
from csi_s3.obs.slow_steps import SlowSteps

LIMIT_S = 0.02


def burn(cpu_s):
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


async def burns():
    await asyncio.sleep(0)
    burn(2 * LIMIT_S)
    await asyncio.sleep(0)
    return "done"


async def blocks():
    await asyncio.sleep(0)
    time.sleep(2 * LIMIT_S)
    await asyncio.sleep(0)


async def waits():
    await asyncio.sleep(2 * LIMIT_S)


async def fails():
    await asyncio.sleep(0)
    try:
        raise KeyError("first")
    finally:
        burn(2 * LIMIT_S)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def loop(request):
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def watched(loop):
    """How to run a coroutine on a watched loop; each long step writes a line."""
    steps = SlowSteps(LIMIT_S, every_s=0)
    steps.watch(loop)
    yield loop.run_until_complete
    steps.close()


def lines(caplog, cause="ran for"):
    """By cause: on a machine with other work, any step may be blocked for a moment."""
    found = [r.getMessage() for r in caplog.records if r.name == "csi_s3.obs.slow_steps"]
    return [line for line in found if cause in line]


@pytest.mark.warnings_expected("held the event loop")
def test_a_step_that_computes_is_reported_with_the_place_it_came_to(watched, caplog):
    before = metrics.SLOW_STEPS.value(cause="cpu")
    assert watched(burns()) == "done"
    [line] = lines(caplog)
    assert line.startswith("a step held the event loop: burns ran for ")
    assert "until " in line
    assert "its end" not in line
    assert metrics.SLOW_STEPS.value(cause="cpu") == before + 1


@pytest.mark.warnings_expected("held the event loop")
def test_a_step_that_sleeps_in_a_system_call_is_reported_as_blocked(watched, caplog):
    watched(blocks())
    assert any("blocks was blocked for " in line for line in lines(caplog, "was blocked"))


def test_a_task_that_waits_is_not_reported(watched, caplog):
    watched(waits())
    assert not lines(caplog, "")


@pytest.mark.warnings_expected("held the event loop")
def test_a_step_that_ends_with_an_error_is_reported_and_raises_it(watched, caplog):
    with pytest.raises(KeyError, match="first"):
        watched(fails())
    [line] = lines(caplog)
    assert line.endswith("until its end")


@pytest.mark.warnings_expected("held the event loop")
def test_a_task_of_a_group_is_watched_and_can_be_cancelled(watched, caplog):
    async def root():
        async with asyncio.TaskGroup() as group:
            group.create_task(burns(), name="named")
            waiting = group.create_task(asyncio.sleep(60))
            await asyncio.sleep(0)
            waiting.cancel()
        return waiting.cancelled()

    assert watched(root())
    assert len(lines(caplog)) == 1


@pytest.mark.warnings_expected("held the event loop")
def test_a_handler_is_reported_once_and_by_its_name(loop, caplog):
    """A task of pyfuse3 runs many; what a handler used is not counted for the task as well."""

    class Handlers:
        async def lookup(self, parent, *, name):
            burn(2 * LIMIT_S)
            return name

        async def getattr(self):
            await asyncio.sleep(0)

    async def session(handlers):
        await asyncio.sleep(0)
        found = await handlers.lookup(1, name="a")
        await handlers.getattr()
        return found

    steps, handlers = SlowSteps(LIMIT_S, every_s=0), Handlers()
    try:
        steps.watch(loop)
        steps.watch_methods(handlers)
        assert loop.run_until_complete(session(handlers)) == "a"
    finally:
        steps.close()
    [line] = lines(caplog)
    assert "loop: lookup ran for" in line


@pytest.mark.warnings_expected("held the event loop")
def test_the_lines_of_one_coroutine_are_limited_and_all_are_counted(loop, caplog):
    async def twice():
        for _ in range(2):
            burn(2 * LIMIT_S)
            await asyncio.sleep(0)

    steps = SlowSteps(LIMIT_S)
    before = metrics.SLOW_STEPS.value(cause="cpu")
    try:
        steps.watch(loop)
        loop.run_until_complete(twice())
    finally:
        steps.close()
    assert len(lines(caplog)) == 1
    assert metrics.SLOW_STEPS.value(cause="cpu") == before + 2


def cycles():
    """So many that a collection of them takes longer than the limit."""
    made = [[] for _ in range(300_000)]
    for one in made:
        one.append(one)
    return made


async def collects(garbage):
    await asyncio.sleep(0)
    garbage.clear()
    await asyncio.sleep(0)
    gc.collect()
    await asyncio.sleep(0)


@pytest.mark.warnings_expected("held the event loop")
def test_a_collection_of_garbage_is_reported_by_itself_and_is_no_part_of_a_step(watched, caplog):
    before = metrics.SLOW_STEPS.value(cause="garbage")
    watched(collects(cycles()))
    [line] = lines(caplog, "garbage")
    assert line.startswith("a step held the event loop: a collection of garbage took ")
    assert metrics.SLOW_STEPS.value(cause="garbage") == before + 1
    assert not lines(caplog)


def test_a_suite_does_not_count_collections(loop, caplog):
    steps = SlowSteps(LIMIT_S, is_suite=True)
    try:
        steps.watch(loop)
        loop.run_until_complete(collects(cycles()))
    finally:
        steps.close()
    assert not lines(caplog, "")


def test_a_suite_does_not_count_what_blocks(loop, caplog):
    steps = SlowSteps(LIMIT_S, is_suite=True)
    try:
        steps.watch(loop)
        loop.run_until_complete(blocks())
    finally:
        steps.close()
    assert not lines(caplog, "")


def test_the_switch_is_a_number_of_milliseconds(monkeypatch):
    monkeypatch.delenv("CSI_S3_SLOW_STEP_MS", raising=False)
    assert slow_step_ms() is None
    monkeypatch.setenv("CSI_S3_SLOW_STEP_MS", "50")
    assert slow_step_ms() == 50
    for wrong in ("0", "0.5", "-1", "on", "50ms"):
        monkeypatch.setenv("CSI_S3_SLOW_STEP_MS", wrong)
        with pytest.raises(BadOptionError, match="CSI_S3_SLOW_STEP_MS"):
            slow_step_ms()


@pytest.fixture(autouse=True)
def all_lines(caplog):
    """And no line for the garbage of all tests before."""
    caplog.set_level(logging.WARNING)
    gc.disable()
    yield
    gc.enable()
