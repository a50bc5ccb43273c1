"""Directories of any size that are made up as they are listed, and what their listings hold."""

from csi_s3.s3.memory_store import MemoryStore
from csi_s3.s3.store import ListPage, ObjectInfo

INFO = ObjectInfo(key="", size=1, etag=f'"{1:032x}"', last_modified=1000.0)


def name(n):
    return f"file-{n:08}"


def make_up(store: MemoryStore, count: int, *, in_page: int = 1000):
    """Let `d/` have so many files, which were never put. Answers the numbers of pages asked for."""
    asked: list[int] = []
    whole = store.list_page

    async def list_page(prefix, *, token=None, max_keys=1000, delimiter="/"):
        if prefix != "d/":
            return await whole(prefix, token=token, max_keys=max_keys, delimiter=delimiter)
        await store._enter("LIST", prefix)
        first = int(token or 0)
        asked.append(first // in_page)
        last = min(count, first + min(max_keys, in_page))
        objects = [ObjectInfo(f"d/{name(n)}", *INFO[1:]) for n in range(first, last)]
        return ListPage(
            objects=objects, prefixes=[], next_token=str(last) if last < count else None
        )

    store.list_page = list_page
    store.put_now("d/")
    return asked


def used(mount, kind):
    return mount.fs._context.memory.account(kind).used_bytes


def listings(mount, path="d"):
    return mount.fs._inodes.get(mount.ino(path)).runtime.directory.listings


async def count(mount, fh, start=0):
    """Read to the end, as the kernel does that forgets at once; answers number and end."""
    n = 0
    while True:
        before = n
        async for entry in mount.fs.readdir(fh, start):
            n, start = n + 1, entry.position
            if n - before == 500:
                break
        if n == before:
            return n, start
