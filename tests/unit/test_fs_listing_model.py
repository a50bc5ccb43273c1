"""Listings next to the plainest model of a directory: the names that are there.

Random calls of several handles, small pages, a cache that drops pages at any time, changes by this
mount and by another client while pages are under way.
"""

import asyncio
import os
import random

import pytest

from csi_s3.errors import IsDirectoryError, NotFoundError
from tests.unit.fs_mount import mount, mounts, paged

__all__ = ["mount", "mounts"]

NAMES = [f"{a}{b}" for a in "abcd" for b in ("", "!", "-", "-1", "0", "é", "\U0001f600")]
STEPS = 100
FIRST_SEED, SEEDS = map(int, os.environ.get("LISTING_SEEDS", "0:24").split(":"))


class Handle:
    """One open handle that reads from its beginning to its end, and what it must give.

    touched_before: names that were changed since the listing was begun that it may have joined.
    """

    def __init__(self, fh, names, touched_before):
        self.fh, self.at_open, self.touched_before = fh, set(names), touched_before
        self.touched: set[str] = set()
        self.given: list[tuple[str, int]] = []
        self.is_over = self.is_busy = False

    @property
    def position(self):
        return self.given[-1][1] if self.given else 0

    def check(self):
        given = [name for name, _ in self.given]
        for name in self.at_open - self.touched:
            assert given.count(name) == 1, (name, given)
        assert set(given) <= self.at_open | self.touched

    def check_again(self, at, names):
        """names: those that were read after seekdir to the position behind the one given `at`."""
        behind = [name for name, _ in self.given[at + 1 :]]
        assert set(behind) <= {*names} | self.touched, (behind, names)
        if not self.touched | self.touched_before:
            assert names[: len(behind)] == behind


class Model:
    def __init__(self, mount, rng):
        self.mount, self.rng = mount, rng
        self.names: set[str] = set()  # that are there
        self.foreign: set[str] = set()  # that another client has changed
        self.changing: set[str] = set()  # that this mount is changing
        self.gone: set[str] = set()  # that this mount has removed
        self.handles: list[Handle] = []
        mount.put("d/", b"")
        self.ino = mount.ino("d")
        paged(mount.store, rng.choice([1, 2, 3, 5, 50]))
        mount.store.gate = self.gate

    async def gate(self, operation, _key):
        for _ in range(self.rng.choice([0, 0, 1, 5, 20])):
            await asyncio.sleep(0)
        if self.rng.random() < 0.3:
            self.drop_pages()

    def drop_pages(self):
        cache = self.mount.fs._tree.listings._cache
        cache._shrink(self.rng.randrange(cache.account.used_bytes + 1))

    def touch(self, name):
        for handle in self.handles:
            handle.touched.add(name)

    def pick(self, *, there):
        names = sorted(self.names if there else set(NAMES) - self.names)
        return self.rng.choice(names) if names else None

    # another client

    def put_elsewhere(self):
        name = self.rng.choice(NAMES)
        self.touch(name)
        if name not in self.names:
            self.mount.put(self.rng.choice([f"d/{name}", f"d/{name}/x", f"d/{name}.rclonelink"]))
        elif self.mount.data(f"d/{name}") is not None:
            self.mount.put(f"d/{name}/y")  # a directory hides the file
        self.names.add(name)
        self.foreign.add(name)
        self.gone.discard(name)

    def delete_elsewhere(self):
        if name := self.pick(there=True):
            self.touch(name)
            for key in [*self.mount.store.objects]:
                if key in (f"d/{name}", f"d/{name}.rclonelink") or key.startswith(f"d/{name}/"):
                    self.mount.delete(key)
            self.mount.time.now_s += 2
            self.names.discard(name)
            self.foreign.add(name)

    # this mount

    async def make(self):
        if name := self.pick(there=False):
            self.touch(name)
            self.changing.add(name)
            self.gone.discard(name)
            if self.rng.random() < 0.3:
                made = await self.mount.fs.mkdir(self.ino, name.encode())
            else:
                fh, made = await self.mount.fs.files.create(self.ino, name.encode(), 1)
                await self.mount.fs.files.flush(fh)
                await self.mount.fs.files.release(fh)
            self.mount.fs.forget(made.ino, 1)
            self.changing.discard(name)
            self.names.add(name)
            self.touch(name)

    async def remove(self, name):
        self.changing.add(name)
        self.touch(name)
        await self.removed(name)
        self.names.discard(name)
        self.changing.discard(name)
        self.touch(name)

    async def removed(self, name):
        for remove in (self.mount.fs.unlink, self.mount.fs.rmdir):
            try:
                await remove(self.ino, name.encode())
            except IsDirectoryError:
                pass
            else:
                self.gone.add(name)
                return

    # reading

    async def open(self):
        if len(self.handles) < 4:
            fh = await self.mount.fs.opendir(self.ino)
            before = {name for h in self.handles for name in h.touched | h.touched_before}
            self.handles.append(Handle(fh, self.names - self.changing, before))
            self.handles[-1].touched |= self.changing

    async def read(self, handle, start, count):
        """At most so many names from a position on; one more is not taken."""
        found = []
        entries = self.mount.fs.readdir(handle.fh, start)
        gone = set(self.gone)
        handle.is_busy = True
        try:
            async for entry in entries:
                if len(found) == count:
                    break
                found.append((entry.name.decode(), entry.position))
            else:
                handle.is_over = True
        finally:
            await entries.aclose()
            handle.is_busy = False
        assert not {name for name, _ in found} & gone & self.gone, "a removed name came back"
        return found

    async def read_on(self):
        if idle := [h for h in self.handles if not h.is_busy]:
            handle = self.rng.choice(idle)
            if not handle.is_over:
                found = await self.read(handle, handle.position, self.rng.randrange(1, 9))
                handle.given += found
            if handle.is_over:
                handle.check()
                self.close(handle)

    async def read_again(self):
        """seekdir to any earlier position, the last call of the handle."""
        idle = [h for h in self.handles if h.given and not h.is_busy]
        if idle and self.rng.random() < 0.3:
            handle = self.rng.choice(idle)
            at = self.rng.randrange(len(handle.given))
            found = await self.read(handle, handle.given[at][1], 1000)
            handle.check_again(at, [name for name, _ in found])
            self.close(handle)

    async def rewind(self):
        if idle := [h for h in self.handles if not h.is_busy]:
            handle = self.rng.choice(idle)
            is_new = bool(handle.given)  # else it reads the listing that opendir joined
            handle.touched_before = set() if is_new else handle.touched_before | handle.touched
            handle.given, handle.is_over = [], False
            handle.at_open, handle.touched = set(self.names), set(self.changing)
            found = await self.read(handle, 0, self.rng.randrange(1, 9))
            handle.given = found
            if handle.is_over:
                handle.check()
                self.close(handle)

    def close(self, handle):
        self.handles.remove(handle)
        self.mount.fs.releasedir(handle.fh)

    async def look(self):
        name = self.rng.choice(NAMES)
        if name in self.foreign:
            return
        is_there = name in self.names
        if name in self.changing:
            return
        try:
            found = await self.mount.fs.lookup(self.ino, name.encode())
        except NotFoundError:
            assert not (is_there and name in self.names - self.changing), name
        else:
            self.mount.fs.forget(found.ino, 1)
            assert is_there or name in self.names | self.changing, name

    def step(self):
        """A few calls at the same time; changes one after the other."""
        changes = [self.make, self.make, self.removal, self.nothing, self.nothing]
        calls = [self.rng.choice(changes)()]
        kinds = [self.read_on, self.read_on, self.read_on, self.open, self.look, self.read_again]
        kinds += [self.rewind] if self.rng.random() < 0.3 else []
        calls += [kind() for kind in self.rng.sample(kinds, self.rng.randrange(1, 4))]

        async def all_at_once():
            async with asyncio.TaskGroup() as group:
                for call in calls:
                    group.create_task(call)

        self.mount.run(all_at_once())

    def removal(self):
        name = self.pick(there=True)
        return self.remove(name) if name and name not in self.foreign else self.nothing()

    async def nothing(self):
        pass


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + SEEDS))
@pytest.mark.parametrize("others", [0.0, 0.2])
def test_a_name_that_is_there_is_given_once(mount, seed, others):
    """Promise: A name that is in a directory while it is read is listed exactly once, whatever is
    made, renamed or removed there at the same time. A name that is new by then is listed if it
    sorts behind what has been read.

    Promise: A listing of any length needs a bounded amount of memory ([memory.md](memory.md)).
    Where pages of it had to be dropped, they are requested again. If their names have changed by
    then, a handle goes on behind the last name that it read. After seekdir to another position in
    or behind such a page, names may be listed twice, but none is left out. Positions from before
    that seekdir, or of an earlier opendir, count names, as far as the directory has not changed.
    """
    model = Model(mount, random.Random(seed))
    for _ in range(STEPS):
        if model.rng.random() < others:
            model.rng.choice([model.put_elsewhere, model.put_elsewhere, model.delete_elsewhere])()
        if model.rng.random() < 0.3:
            model.drop_pages()
        if model.rng.random() < 0.2:
            mount.settle()
        model.step()
    for handle in [*model.handles]:
        while not handle.is_over:
            handle.given += mount.run(model.read(handle, handle.position, 7))
        handle.check()
        model.close(handle)
    mount.store.gate = type(mount.store)().gate
    mount.time.now_s += 10
    assert set(mount.ls("d")) == model.names
