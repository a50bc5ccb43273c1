"""Changes of a file's bytes or size whose caller may give up, and what the kernel then still has.

The kernel drops pages and changes the size that it knows when such a request succeeds. One that is
answered with an error, because its caller was interrupted or nothing moved, goes on here; so the
kernel has to be asked once it has ended.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from csi_s3.fs.base.context import MountContext
from csi_s3.fs.base.progress_timeout import FileProgress
from csi_s3.fs.names.inode import Inode
from csi_s3.fs.names.versions import Versions

log = logging.getLogger(__name__)


class LateChanges:
    """Lifetime: as the mount. Concurrency and cancellation: as `ProgressTimeout`."""

    def __init__(self, context: MountContext, versions: Versions) -> None:
        self._progress_timeout, self._versions = context.progress_timeout, versions
        self._group = context.group

    async def run(
        self,
        inode: Inode,
        change: Callable[[], Awaitable[None]],
        what: str,
        *,
        progress: Callable[[], FileProgress | None],
    ) -> None:
        """Change bytes or size, even if the caller gives up; as `ProgressTimeout.wait`."""
        is_late = False

        def leave(task: "asyncio.Task[None]") -> None:
            nonlocal is_late
            is_late = True
            if task.done():  # in the step in which the caller gave up
                drop = self._drop(inode)
                try:
                    self._group.create_task(drop)
                except RuntimeError:  # the mount is ending, and its pages with it
                    drop.close()

        async def work() -> None:
            try:
                await change()
            finally:
                if is_late:
                    await self._drop(inode)

        await self._progress_timeout.wait(work, what, progress=progress, leave=leave)

    async def _drop(self, inode: Inode) -> None:
        try:
            await self._versions.drop_pages(inode)
        except TimeoutError:
            log.debug("%s: the kernel keeps pages", inode.name)
