"""Turns: a rename has its keys for itself, and whoever came first goes first."""

import asyncio

import pytest

from csi_s3.fs.base.key_range_lock import KeyRangeLock


class Somebody:
    """Takes a turn and keeps it until told to go."""

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
def moves():
    moves = KeyRangeLock()
    yield moves
    assert moves._entries == []
    assert moves._moves == 0


def change(moves, key):
    return Somebody(moves.change(lambda: key))


def move(moves, *keys):
    return Somebody(moves.move(*[lambda key=key: key for key in keys]))


async def test_changes_do_not_wait_for_each_other(moves):
    both = [change(moves, "a"), change(moves, "a")]
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
async def test_a_change_waits_for_a_move_of_its_key_and_the_other_way(moves, keys, key, waits):
    for first, second in (
        (move(moves, *keys), change(moves, key)),
        (change(moves, key), move(moves, *keys)),
        (move(moves, *keys), move(moves, key)),
    ):
        await settle()
        assert first.is_in
        assert second.is_in != waits
        await first.go()
        assert second.is_in
        await second.go()


async def test_a_move_that_waits_is_not_overtaken(moves):
    first, waiting = change(moves, "a/x"), move(moves, "a/", "b/")
    late, other = change(moves, "a/y"), change(moves, "c")
    await settle()
    assert (first.is_in, waiting.is_in, late.is_in, other.is_in) == (True, False, False, True)
    await first.go()
    assert (waiting.is_in, late.is_in) == (True, False)
    await waiting.go()
    assert late.is_in
    await late.go()
    await other.go()


async def test_a_key_that_has_changed_meanwhile_is_the_new_one(moves):
    name = "a"
    moving = move(moves, "a/", "b/")
    waiting = Somebody(moves.change(lambda: f"{name}/x"))
    second = move(moves, "b/", "c/")
    await settle()
    name = "b"
    await moving.go()
    assert (waiting.is_in, second.is_in) == (True, False)
    await waiting.go()
    await second.go()


async def test_a_turn_that_is_there_now_or_not_at_all(moves):
    with moves.change_at_once(lambda: "a/x") as is_ours:
        assert is_ours
        moving = move(moves, "a/")
        await settle()
        assert not moving.is_in
        with moves.change_at_once(lambda: "a/y") as is_ours_too:
            assert not is_ours_too
        with moves.change_at_once(lambda: "b") as other_is_ours:
            assert other_is_ours
    await settle()
    assert moving.is_in
    await moving.go()


@pytest.mark.parametrize("is_waiting", [False, True])
async def test_who_is_cancelled_gives_the_turn_up(moves, is_waiting):
    first, second, third = move(moves, "a"), move(moves, "a"), move(moves, "a")
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
