"""Turns errors into gRPC answers, and unexpected exceptions into answers without a secret.

grpc.aio by itself would send the text of an unexpected exception to the client, and that may hold
anything. Requests are logged by the fields named here, never as a whole: `secrets` and the service
account tokens in `volume_context` are not among them.
"""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from typing_extensions import override

from csi_s3.bounded import Recent
from csi_s3.errors import BusyError, UnsupportedError, VolumeError, shortened
from csi_s3.obs.metrics import catalog as metrics

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

MAX_BYTES = 800  # of an answer: an Event has 1024, in which kubelet adds its own words
_FIELDS = {"volume": "volume_id", "target": "target_path"}
_POD = ("csi.storage.k8s.io/pod.namespace", "csi.storage.k8s.io/pod.name")
# A pod waits for these, to start or to end.
_AWAITED = {"NodePublishVolume", "NodeUnpublishVolume"}

log = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not generic at run time
    """Every unary call ends with a message or a status, and one log line."""

    def __init__(self) -> None:
        self._refusals = Refusals()

    @override
    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        handler: Handler | None = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler  # type: ignore[return-value] # None: gRPC itself answers UNIMPLEMENTED
        op = handler_call_details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            _answering(handler.unary_unary, op, self._refusals),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


class Refusals:
    """The log level of a refusal: kubelet repeats its request, with the same result.

    max_targets: whose last refusal is remembered.
    """

    def __init__(self, max_targets: int = 1000) -> None:
        self._last_texts: Recent[tuple[str, str], str] = Recent(max_targets)

    def level(self, op: str, target: str, error: VolumeError) -> int:
        """At least WARNING if a pod waits for it, the first time; DEBUG until the cause differs.

        The error's own level if another operation is in progress: no action is needed.
        """
        if op not in _AWAITED or isinstance(error, BusyError):
            return error.level
        text = answer_text(error)
        if self._last_texts.get((op, target)) == text:
            return logging.DEBUG
        self._last_texts[op, target] = text
        return max(error.level, logging.WARNING)

    def succeeded(self, op: str, target: str) -> None:
        """Forget the last refusal: the next one is logged as new."""
        self._last_texts.pop((op, target), None)
        if op == "NodeUnpublishVolume":
            self._last_texts.pop(("NodePublishVolume", target), None)


def _answering(method: Callable[..., Any], op: str, refusals: Refusals) -> Callable[..., Any]:
    timer = metrics.CSI_SECONDS.labels(op)

    async def counted(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        started_s = time.perf_counter()
        try:
            return await answer(request, context)
        finally:
            timer.observe(time.perf_counter() - started_s)

    async def answer(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        fields = {"op": op}
        for name, field in _FIELDS.items():
            if value := getattr(request, field, ""):
                fields[name] = value
        if pod := _pod(request):
            fields["pod"] = pod
        try:
            response = await method(request, context)
        except VolumeError as exc:
            level = refusals.level(op, fields.get("target", ""), exc)
            log.log(level, "%s", exc, extra={**fields, "code": exc.code})
            code, details = grpc.StatusCode[exc.status.name], answer_text(exc)
            error_code = exc.code
        except NotImplementedError:  # what the generated base class raises
            code, details = grpc.StatusCode.UNIMPLEMENTED, f"this driver does not implement {op}"
            error_code = UnsupportedError.code
        except Exception:
            error_id = secrets.token_hex(4).upper()
            log.exception("internal error, id %s", error_id, extra={**fields, "code": "internal"})
            code, details = grpc.StatusCode.INTERNAL, f"internal error, id {error_id}"
            error_code = "internal"
        else:
            log.debug("done", extra=fields)
            refusals.succeeded(op, fields.get("target", ""))
            metrics.CSI_CALLS.inc(method=op, status="OK")
            return response
        metrics.CSI_CALLS.inc(method=op, status=code.name)
        metrics.CSI_ERRORS.inc(method=op, code=error_code)
        return await context.abort(code, details)

    return counted


def _pod(request: Any) -> str:  # noqa: ANN401 - any message
    context = getattr(request, "volume_context", None) or {}
    return "/".join(context[key] for key in _POD if key in context)


def answer_text(error: VolumeError) -> str:
    """One line of what, hint and code, short enough for an Event; a long `what` is cut."""
    error = error.as_public()
    what = " ".join(error.what.split())
    hint = shortened(" ".join(error.hint.split()), MAX_BYTES // 2)
    end = f" ({hint}) [{error.code}]" if hint else f" [{error.code}]"
    return shortened(what, MAX_BYTES - len(end.encode())) + end
