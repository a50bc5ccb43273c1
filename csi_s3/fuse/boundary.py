"""The one door between kernel requests and our code."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from errno import EIO, EOPNOTSUPP, ETIMEDOUT, errorcode
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

from pyfuse3 import FUSEError

from csi_s3.errors import VolumeError
from csi_s3.obs import metrics

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Handler: TypeAlias = Coroutine[Any, Any, R]


def answered(
    deadline_s: float | None,
) -> Callable[[Callable[P, Handler[R]]], Callable[P, Handler[R]]]:
    """Guarantee a reply to every kernel request, whatever the handler does.

    pyfuse3 in asyncio mode replies only to a return value or a FUSEError. After anything else
    the caller sleeps unkillably, its directory stays locked, and no line is logged.

    deadline_s: None for what has a deadline of its own, without progress (uploads).

    Raises:
        FUSEError: always the way out for a failure.
        CancelledError: only when this very task is being shut down. Its caller then stays
            unanswered, so the session ends the connection before it cancels anything.

    """

    def wrap(handler: Callable[P, Handler[R]]) -> Callable[P, Handler[R]]:
        op = handler.__name__

        @wraps(handler)
        async def inner(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                async with asyncio.timeout(deadline_s):
                    result = await handler(*args, **kwargs)
            except Exception as exc:
                number = _errno(op, exc, deadline_s)
                metrics.FUSE_OPERATIONS.inc(op=op, result=_NAMES.get(number, str(number)))
                raise FUSEError(number) from exc
            except asyncio.CancelledError as exc:
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise
                raise FUSEError(EIO) from exc  # a task we waited for was cancelled, not we
            metrics.FUSE_OPERATIONS.inc(op=op, result="ok")
            return result

        return inner

    return wrap


_NAMES = {**errorcode, EOPNOTSUPP: "EOPNOTSUPP"}  # Linux has two names for 95


def _errno(op: str, exc: Exception, deadline_s: float | None) -> int:
    """The answer to the kernel; the one place where an error of an operation is logged."""
    fields: dict[str, Any] = {"op": op}
    if isinstance(exc, FUSEError):
        return int(exc.errno)
    if isinstance(exc, VolumeError):
        if not exc.was_logged:  # a lost upload fails flush and release with one and the same error
            # Of a failed release no caller hears, and it is bytes that were not stored.
            level = max(exc.level, logging.ERROR) if op == "release" else exc.level
            log.log(level, "%s: %s", op, exc, extra={**fields, "code": exc.code})
        exc.was_logged = True
        return exc.errno
    if isinstance(exc, TimeoutError):
        log.warning("%s: no answer in %s s", op, deadline_s, extra={**fields, "code": "timeout"})
        return ETIMEDOUT
    log.error("bug in %s", op, exc_info=exc, extra={**fields, "code": "internal"})
    return EIO
