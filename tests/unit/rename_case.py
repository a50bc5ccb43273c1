"""rename of directories: a small tree, and a rename of it that fails or stands still."""

import itertools

import pytest

from csi_s3.errors import AccessDeniedError, StoreUnavailableError
from tests.unit.fs_mount import Held

DOWN = StoreUnavailableError("S3 is down")
DENIED = AccessDeniedError("403")
TREE = {"d/": b"", "d/a": b"1", "d/b/x": b"2", "d/b/y/": b"", "d/c-": b"3"}
MOVED = {f"e{key[1:]}": data for key, data in TREE.items()}
LEFT_OVER = pytest.mark.warnings_expected("the rename of d/ to e/, which an earlier worker began")
NOT_UNDONE = pytest.mark.warnings_expected("copies under e/ could not be removed after the rename")


def stored(mount):
    return {k: v.data for k, v in mount.store.objects.items()}


def with_tree(mount):
    for key, data in TREE.items():
        mount.put(key, data)
    mount.put("d-", b"beside")
    return mount


def rename_now(mount, old="d", new="e"):
    mount.lookup(old)
    mount.run(mount.fs.rename(1, old.encode(), 1, new.encode(), may_replace=True))


def beside(keys):
    return {"d-": b"beside", **keys}


def stopped_at(mount, kind, n, *, after):
    """A rename that stands still at its nth such request, or is done."""
    mount.lookup("d")
    seen = itertools.count()
    held = Held(mount.store, kind, after=after)
    stop = held._stop

    async def nth(operation, key):
        if operation == kind and next(seen) == n:
            await stop(operation, key)

    setattr(mount.store, "after" if after else "gate", nth)
    renaming = mount.renaming("d", "e")
    mount.settle()
    if not held.waiting:
        mount.wait(renaming)
    return renaming


def killed(mount, renaming):
    """The mount's next worker, over a store that works, after one that stood still was killed."""
    worker = mount.succeeded()
    worker.store_works()
    if not renaming.cancelled():
        renaming.exception()
    return worker


async def refuse_the_end(operation, key):
    """As a store's gate: the last copy is refused, and so are all deletions."""
    if operation == "DELETE_MANY" or (operation == "COPY" and key == "e/c-"):
        raise DENIED
