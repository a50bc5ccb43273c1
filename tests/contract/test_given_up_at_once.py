"""Many requests at a time, some of which are given up at any moment, before a store that hangs.

Each actor has names of its own in one directory, and knows what they must stand for: what was given
up has been done or not, and the next request for the name tells which.
"""

import asyncio
import os
import random

import pytest

from csi_s3.errors import NotFoundError
from tests.contract.holding import ENDED_WITHIN_S, Held, HoldingProxy, Place
from tests.contract.test_given_up import gateway, held

__all__ = ["gateway", "held"]

ACTORS, STEPS = 8, 25
REWRITE = os.O_WRONLY | os.O_TRUNC


class Actor:
    """contents: what each of its names stands for."""

    def __init__(self, place: Place, number: int, seed: int) -> None:
        self.place, self.fs = place, place.fs
        self.names = [f"{number}-{n}" for n in "ab"]
        self.contents: dict[str, bytes | None] = dict.fromkeys(self.names)
        self.random = random.Random(f"{seed} {number}")
        self.given_up = 0

    async def attempt(self, call):
        """Make a request, or give it up. Returns whether it has ended, and its result."""
        task = asyncio.create_task(call)
        if self.random.random() < 0.5:
            return True, await task
        for _ in range(self.random.randrange(6)):
            await asyncio.sleep(self.random.choice((0, 0, 0.002)))
        task.cancel()
        await asyncio.wait({task}, timeout=ENDED_WITHIN_S)
        assert task.done()
        self.given_up += task.cancelled()
        return (False, None) if task.cancelled() else (True, task.result())

    async def run(self) -> None:
        for _ in range(STEPS):
            name = self.random.choice(self.names)
            step = self.random.choice((self.write, self.write, self.rename, self.unlink, self.cut))
            await step(name)
            await self.check()

    async def check(self) -> None:
        for name, content in self.contents.items():
            assert await self.place.exists(name) == (content is not None), name
            if content is not None:
                assert await self.place.read(name) == content
        shown = [n for n in await self.place.names() if n in self.names]
        assert shown == [n for n, content in self.contents.items() if content is not None]

    async def write(self, name: str) -> None:
        parent, flags = self.place.ino, os.O_CREAT | self.random.choice((0, os.O_EXCL))
        if self.contents[name] is not None:
            fh = await self.place.open(name, REWRITE)
        else:
            is_made, made = await self.attempt(
                self.fs.files.create(parent, name.encode(), os.O_WRONLY | flags)
            )
            if not is_made:
                if await self.place.exists(name):
                    assert flags & os.O_EXCL
                    self.contents[name] = b""
                return
            fh, attributes = made
            self.place.references.append(attributes.ino)
        data = self.random.randbytes(100)
        accepted = 0
        while accepted < len(data):
            is_done, n = await self.attempt(self.fs.files.write(fh, accepted, data[accepted:]))
            accepted += n if is_done else 0
        await self.attempt(self.fs.files.flush(fh))
        await self.fs.files.release(fh)
        self.contents[name] = data

    async def rename(self, name: str) -> None:
        other = next(n for n in self.names if n != name)
        if self.contents[name] is None:
            return
        ino = self.place.ino
        moving = self.fs.rename(ino, name.encode(), ino, other.encode(), may_replace=True)
        is_done, _ = await self.attempt(moving)
        if is_done or not await self.place.exists(name):
            self.contents[other], self.contents[name] = self.contents[name], None

    async def unlink(self, name: str) -> None:
        try:
            is_done, _ = await self.attempt(self.fs.unlink(self.place.ino, name.encode()))
        except NotFoundError:
            assert self.contents[name] is None
            return
        if is_done or not await self.place.exists(name):
            self.contents[name] = None

    async def cut(self, name: str) -> None:
        content = self.contents[name]
        if content is None:
            return
        size = self.random.randrange(len(content) + 1)
        is_done, _ = await self.attempt(self.fs.setattr(await self.place.lookup(name), size=size))
        await self.fs._context.progress_timeout.settled()
        if is_done or await self.place.read(name) == content[:size]:
            self.contents[name] = content[:size]


async def hang_now_and_then(proxy: HoldingProxy, seed: int) -> None:
    chance = random.Random(seed)
    while True:
        proxy.hold()
        await asyncio.sleep(chance.uniform(0, 0.01))
        proxy.let_go()
        await asyncio.sleep(chance.uniform(0, 0.01))


@pytest.mark.parametrize("seed", range(2))
async def test_what_was_given_up_was_done_or_not_and_the_next_request_knows(held: Held, seed):
    """Promise: A store at close or fsync, a truncation, and making, removing or renaming a name go
    on when they are interrupted. They are done or not in the end, and the next call for the name
    waits for that.
    """
    place = await held.place()
    actors = [Actor(place, n, seed) for n in range(ACTORS)]
    async with asyncio.TaskGroup() as group:
        hanging = group.create_task(hang_now_and_then(held.proxy, seed))
        async with asyncio.TaskGroup() as all_at_once:
            for actor in actors:
                all_at_once.create_task(actor.run())
        hanging.cancel()
    held.proxy.let_go()
    await held.context.progress_timeout.settled()
    for actor in actors:
        await actor.check()
        for name, content in actor.contents.items():
            assert place.stored(name) == content
    assert sum(actor.given_up for actor in actors) > ACTORS
    await place.remove()
    await held.check_nothing_is_held()
