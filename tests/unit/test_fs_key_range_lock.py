"""Turns of keys: a rename excludes other changes below its keys, first come, first served."""

import asyncio

import pytest

from csi_s3.fs.base.key_range_lock import KeyRangeLock


class Turn:
    """Takes a turn and holds it until `go`."""

    def __init__(self, turn):
        self.is_in, self._go = False, asyncio.Event()
        self.task = asyncio.create_task(self._run(turn))

    async def _run(self, turn):
        async with turn:
            self.is_in = True
            await self._go.wait()
        self.is_in = False

    async def go(self):
        self._go.set()
        await self.task
        await settle()


async def settle():
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def lock():
    lock = KeyRangeLock()
    yield lock
    assert lock._entries == []
    assert lock._moves == 0


def change(lock, key):
    return Turn(lock.change(lambda: key))


def move(lock, *keys):
    return Turn(lock.move(*[lambda key=key: key for key in keys]))


async def test_changes_do_not_wait_for_each_other(lock):
    both = [change(lock, "a"), change(lock, "a")]
    await settle()
    assert all(x.is_in for x in both)
    for x in both:
        await x.go()


@pytest.mark.parametrize(
    ("keys", "key", "waits"),
    [
        (["a", "b"], "a", True),
        (["a", "b"], "b", True),
        (["a", "b"], "ab", False),
        (["a/", "b/"], "a/x/y", True),
        (["a/", "b/"], "b/", True),
        (["a/", "b/"], "a", False),
        (["a/", "b/"], "c/a/x", False),
        (["a/x", "b"], "a/", True),
    ],
)
async def test_a_change_waits_for_a_move_of_its_key_and_the_other_way(lock, keys, key, waits):
    for first, second in (
        (move(lock, *keys), change(lock, key)),
        (change(lock, key), move(lock, *keys)),
        (move(lock, *keys), move(lock, key)),
    ):
        await settle()
        assert first.is_in
        assert second.is_in != waits
        await first.go()
        assert second.is_in
        await second.go()


async def test_a_move_that_waits_is_not_overtaken(lock):
    first, waiting = change(lock, "a/x"), move(lock, "a/", "b/")
    late, other = change(lock, "a/y"), change(lock, "c")
    await settle()
    assert (first.is_in, waiting.is_in, late.is_in, other.is_in) == (True, False, False, True)
    await first.go()
    assert (waiting.is_in, late.is_in) == (True, False)
    await waiting.go()
    assert late.is_in
    await late.go()
    await other.go()


async def test_a_key_that_changes_before_its_turn_is_the_new_one(lock):
    name = "a"
    moving = move(lock, "a/", "b/")
    waiting = Turn(lock.change(lambda: f"{name}/x"))
    second = move(lock, "b/", "c/")
    await settle()
    name = "b"
    await moving.go()
    assert (waiting.is_in, second.is_in) == (True, False)
    await waiting.go()
    await second.go()


async def test_a_turn_that_is_there_now_or_not_at_all(lock):
    with lock.change_at_once(lambda: "a/x") as is_ours:
        assert is_ours
        moving = move(lock, "a/")
        await settle()
        assert not moving.is_in
        with lock.change_at_once(lambda: "a/y") as is_ours_too:
            assert not is_ours_too
        with lock.change_at_once(lambda: "b") as other_is_ours:
            assert other_is_ours
    await settle()
    assert moving.is_in
    await moving.go()


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_who_is_cancelled_gives_the_turn_up(lock, is_waiting):
    first, second, third = move(lock, "a"), move(lock, "a"), move(lock, "a")
    await settle()
    gone = second if is_waiting else first
    gone.task.cancel()
    await settle()
    if is_waiting:
        await first.go()
        await third.go()
    else:
        await second.go()
        await third.go()
