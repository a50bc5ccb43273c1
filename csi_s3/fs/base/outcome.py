"""What became of work in a task of the mount's group: a value that is returned, never raised.

A task of the group that raises ends the group, and with it the mount; an error of one file, even
one that nobody has foreseen, must fail that file only.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from csi_s3.errors import InternalError, VolumeError

log = logging.getLogger(__name__)

T = TypeVar("T")


async def outcome(work: Callable[[], Awaitable[T]]) -> T | VolumeError:
    """The result of work, or its failure; a bug's traceback is in the log."""
    try:
        return await work()
    except VolumeError as exc:
        return exc
    except Exception as exc:
        log.exception("bug in a file's task", extra={"code": "internal"})
        return InternalError(f"bug: {type(exc).__name__}", "the log has its traceback")
