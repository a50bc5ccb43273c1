"""The outcome of a task in the mount's group: a result or an error, returned and never raised.

A task that raises ends the group, and with it the mount. An error of one file, even a bug, must
fail that file only.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from csi_s3.errors import InternalError, VolumeError

log = logging.getLogger(__name__)

T = TypeVar("T")


async def outcome(work: Callable[[], Awaitable[T]]) -> T | VolumeError:
    """The result of work, or its failure, without the frames of work and their buffers.

    A bug's traceback is in the log.
    """
    try:
        return await work()
    except VolumeError as exc:
        return exc.again()
    except Exception as exc:
        log.exception("bug in a file's task", extra={"code": "internal"})
        return InternalError(f"bug: {type(exc).__name__}", "the log has its traceback")
