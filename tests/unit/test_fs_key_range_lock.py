"""Turns of keys: a rename excludes other changes below its keys, first come, first served."""

import asyncio

import pytest

from csi_s3.errors import StaleError
from csi_s3.fs.base.key_range_lock import KeyRangeLock, _Turn


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
    assert lock.is_free


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


class Keys:
    """Counts how often turns ask for their keys."""

    def __init__(self):
        self.asked = 0

    def __call__(self, key):
        def ask():
            self.asked += 1
            return key

        return ask


@pytest.mark.parametrize("n", [1000, 10_000])
async def test_the_cost_of_n_changes_is_proportional_to_n(lock, n):
    keys, began = Keys(), asyncio.Event()

    async def one(key):
        async with lock.change(keys(key)):
            await began.wait()

    async with asyncio.TaskGroup() as changes:
        for i in range(n):
            changes.create_task(one(f"d/{i}"))
        await settle()
        began.set()
    assert keys.asked == n


@pytest.mark.parametrize("n", [1000, 10_000])
async def test_a_move_among_n_changes_compares_each_a_few_times(lock, n, monkeypatch):
    """Before it n changes that it waits for, and behind it n that wait for it."""
    keys, compared = Keys(), 0
    whole = _Turn.touches

    def touches(self, other):
        nonlocal compared
        compared += 1
        return whole(self, other)

    monkeypatch.setattr(_Turn, "touches", touches)
    before = [Turn(lock.change(keys(f"d/{i}"))) for i in range(n)]
    await settle()
    moving = Turn(lock.move(keys("d/"), keys("e/")))
    await settle()
    behind = [Turn(lock.change(keys(f"e/{i}"))) for i in range(n)]
    await settle()
    for turn in before:
        turn._go.set()
    await settle()
    assert moving.is_in
    assert not any(turn.is_in for turn in behind)
    await moving.go()
    assert all(turn.is_in for turn in behind)
    for turn in behind:
        turn._go.set()
    await settle()
    assert keys.asked == 3 * n + 2
    assert compared == 2 * n


async def test_a_turn_that_has_no_key_any_more_fails_alone(lock):
    keys = iter(["a/x"])

    def key():
        for one in keys:
            return one
        raise StaleError("gone")

    moving, waiting = move(lock, "a/"), Turn(lock.change(key))
    behind = change(lock, "a/y")
    await settle()
    await moving.go()
    assert behind.is_in
    with pytest.raises(StaleError):
        await waiting.task
    await behind.go()
