"""Every FUSE request is answered, whatever its handler does, and every error is logged once."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from errno import EINTR, EIO, EOPNOTSUPP, ETIMEDOUT, errorcode
from functools import wraps
from time import perf_counter
from typing import Any, ParamSpec, TypeAlias, TypeVar
from weakref import WeakSet

from pyfuse3 import FUSEError

from csi_s3.errors import (
    NotPermittedError,
    Occurrence,
    OutOfMemoryError,
    TooManyOpenFilesError,
    VolumeError,
)
from csi_s3.fuse.interrupts import PendingRequest
from csi_s3.obs.metrics import catalog as metrics

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")
Operation: TypeAlias = Coroutine[Any, Any, R]
ErrorListener: TypeAlias = Callable[[str, VolumeError], None]

# Called with each error, once; set before the session is started.
error_listener: ContextVar[ErrorListener | None] = ContextVar("error_listener", default=None)

REFUSALS_EVERY_S = 10.0
LIMIT_HINT = "raise the mounter's memory, or lower mounter.maxVolumes; please report it as a bug"

# A process serves one mount.
_logged: WeakSet[Occurrence] = WeakSet()  # a lost upload fails many calls
_refused_at: dict[str, float] = {}  # by the option that an operation needs, or the error's code


def answered(
    deadline_s: float | None, *, has_caller: bool = True
) -> Callable[[Callable[P, Operation[R]]], Callable[P, Operation[R]]]:
    """Guarantee a reply to every kernel request, whatever the handler does.

    pyfuse3 in asyncio mode replies only to a return value or a FUSEError. After anything else
    the caller sleeps and cannot be killed, its directory stays locked, and nothing is logged.

    deadline_s: None for operations with a timeout of their own, by lack of progress (uploads).
    has_caller: a program waits for the answer, and may be interrupted: see `interrupts.interrupt`.

    Raises:
        FUSEError: every failure.
        CancelledError: only when this task itself is cancelled. Its caller then gets no answer, so
            the session ends the connection before it cancels anything.

    """

    def wrap(handler: Callable[P, Operation[R]]) -> Callable[P, Operation[R]]:
        op = handler.__name__
        done, timer = metrics.FUSE_OPERATIONS.labels(op, "ok"), metrics.FUSE_SECONDS.labels(op)

        @wraps(handler)
        async def inner(*args: P.args, **kwargs: P.kwargs) -> R:
            began_s = perf_counter()
            request = PendingRequest(deadline_s, can_be_interrupted=has_caller)
            try:
                with request:
                    result = await handler(*args, **kwargs)
            except Exception as exc:
                if isinstance(exc, TimeoutError) and request.is_interrupted:
                    log.debug("%s: interrupted while it waited", op)
                    raise _answer(op, EINTR, exc, began_s) from exc
                ended = _ended(request, deadline_s)
                raise _answer(op, _errno(op, exc, ended), exc, began_s) from exc
            except asyncio.CancelledError as exc:
                me = asyncio.current_task()
                if me is not None and me.cancelling():
                    raise
                metrics.FUSE_OPERATIONS.inc(op=op, result="EIO")
                timer.observe(perf_counter() - began_s)
                raise FUSEError(EIO) from exc  # a task that this one waited for was cancelled
            done.count += 1
            timer.observe(perf_counter() - began_s)
            return result

        return inner

    return wrap


def answered_at_once(handler: Callable[P, R]) -> Callable[P, R]:
    """As `answered`, of plain code: what is answered without a task. Only True is an answer."""
    op = handler.__name__.removesuffix("_now")
    done, timer = metrics.FUSE_OPERATIONS.labels(op, "ok"), metrics.FUSE_SECONDS.labels(op)

    @wraps(handler)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        began_s = perf_counter()
        try:
            result = handler(*args, **kwargs)
        except Exception as exc:
            raise _answer(op, _errno(op, exc), exc, began_s) from exc
        if result is True:
            done.count += 1
            timer.observe(perf_counter() - began_s)
        return result

    return inner


def _answer(op: str, number: int, exc: Exception, began_s: float) -> FUSEError:
    _drop_frames(exc)
    metrics.FUSE_OPERATIONS.inc(op=op, result=_NAMES.get(number, str(number)))
    metrics.FUSE_SECONDS.labels(op).observe(perf_counter() - began_s)
    return FUSEError(number)


def _drop_frames(exc: BaseException | None) -> None:
    """Drop the frames that an error came through: their variables often refer to the error.

    Such a cycle would keep the request's bytes until a collection finds it.
    """
    while exc is not None and exc.__traceback__ is not None:
        exc.__traceback__ = None
        exc = exc.__cause__ or exc.__context__


_NAMES = {**errorcode, EOPNOTSUPP: "EOPNOTSUPP"}  # Linux has two names for 95


def _errno(op: str, exc: Exception, ended: str = "") -> int:
    """The answer to the kernel; only here errors of operations are logged.

    ended: what ended the operation, of a TimeoutError that is not its own.
    """
    fields: dict[str, Any] = {"op": op}
    if isinstance(exc, FUSEError):
        return int(exc.errno)
    if isinstance(exc, VolumeError):
        metrics.ERRORS.inc(code=exc.code)
        if exc.occurrence not in _logged:
            _logged.add(exc.occurrence)
            _log(op, exc)
            if (listener := error_listener.get()) is not None:
                listener(op, exc)
        return exc.errno
    if isinstance(exc, MemoryError):
        limited = OutOfMemoryError("the worker's limit of memory is reached", LIMIT_HINT)
        return _errno(op, limited)
    if isinstance(exc, TimeoutError):
        metrics.ERRORS.inc(code="timeout")
        why = ended or f"a call that it waited for was too late: {str(exc) or 'of the kernel'}"
        log.warning("%s: %s", op, why, extra={**fields, "code": "timeout"})
        return ETIMEDOUT
    metrics.ERRORS.inc(code="internal")
    log.error("bug in %s", op, exc_info=exc, extra={**fields, "code": "internal"})
    return EIO


def _log(op: str, error: VolumeError) -> None:
    what = error.option if isinstance(error, NotPermittedError) else ""
    if isinstance(error, OutOfMemoryError | TooManyOpenFilesError):
        what = error.code
    if what:  # `rm -r` fails for each file, and a `find` for each directory
        now = perf_counter()
        if now - _refused_at.get(what, -REFUSALS_EVERY_S) < REFUSALS_EVERY_S:
            return
        _refused_at[what] = now
    # No caller gets the error of a release, and its bytes are not stored.
    level = max(error.level, logging.ERROR) if op == "release" else error.level
    log.log(level, "%s: %s", op, error, extra={"op": op, "code": error.code})


def _ended(request: PendingRequest, deadline_s: float | None) -> str:
    if request.has_expired:
        return f"no answer in {deadline_s:g} s"
    return "no answer in the time that was left to the mount" if request.is_ended else ""
