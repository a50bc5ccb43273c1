"""Turns our errors into gRPC answers, and unforeseen ones into answers without a secret.

grpc.aio by itself would send an unforeseen exception's text to the client, and it may hold
anything. Requests are logged by the fields named here, never whole: `secrets` and the service
account tokens in `volume_context` are not among them.
"""

import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from typing_extensions import override

from csi_s3.errors import BusyError, Status, UnsupportedError, VolumeError
from csi_s3.obs.metrics import catalog as metrics

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_FIELDS = {"volume": "volume_id", "target": "target_path"}
# What a pod waits for, to start or to end.
_AWAITED = {"NodePublishVolume", "NodeUnpublishVolume"}
MOST_REFUSED = 1000  # targets whose last refusal is remembered
_POD = ("csi.storage.k8s.io/pod.namespace", "csi.storage.k8s.io/pod.name")
MOST_BYTES = 800  # of an answer: an Event has 1024, in which kubelet says what it was about

log = logging.getLogger(__name__)


class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not generic at run time
    """Every unary call ends in a message or a status; one log line says how."""

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
    """How loud a refusal is logged: kubelet asks again and again, with the same outcome."""

    def __init__(self) -> None:
        self._last_texts: OrderedDict[tuple[str, str], str] = OrderedDict()

    def level(self, op: str, target: str, error: VolumeError) -> int:
        """WARNING at least where a pod waits for it, the first time; DEBUG until the cause differs.

        That another operation is under way is the error's own level: nobody need act.
        """
        if op not in _AWAITED or isinstance(error, BusyError):
            return error.level
        said = answer_text(error)
        if self._last_texts.get((op, target)) == said:
            return logging.DEBUG
        self._last_texts[op, target] = said
        self._last_texts.move_to_end((op, target))
        if len(self._last_texts) > MOST_REFUSED:
            self._last_texts.popitem(last=False)
        return max(error.level, logging.WARNING)

    def succeeded(self, op: str, target: str) -> None:
        """Forget: if it is refused after this, that is news."""
        self._last_texts.pop((op, target), None)
        if op == "NodeUnpublishVolume":
            self._last_texts.pop(("NodePublishVolume", target), None)


def _answering(method: Callable[..., Any], op: str, refusals: Refusals) -> Callable[..., Any]:
    timer = metrics.CSI_SECONDS.child(op)

    async def counted(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        began_s = time.perf_counter()
        try:
            return await answer(request, context)
        finally:
            timer.observe(time.perf_counter() - began_s)

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
            code, details, named = _code(exc.status), answer_text(exc), exc.code
        except NotImplementedError:  # what the generated base class raises
            code, details = grpc.StatusCode.UNIMPLEMENTED, f"{op} is not offered by this driver"
            named = UnsupportedError.code
        except Exception:
            error_id = secrets.token_hex(4).upper()
            log.exception("internal error, id %s", error_id, extra={**fields, "code": "internal"})
            code, details = grpc.StatusCode.INTERNAL, f"internal error, id {error_id}"
            named = "internal"
        else:
            log.debug("done", extra=fields)
            refusals.succeeded(op, fields.get("target", ""))
            metrics.CSI_CALLS.inc(method=op, status="OK")
            return response
        metrics.CSI_CALLS.inc(method=op, status=code.name)
        metrics.CSI_ERRORS.inc(method=op, code=named)
        return await context.abort(code, details)

    return counted


def _pod(request: Any) -> str:  # noqa: ANN401 - any message
    context = getattr(request, "volume_context", None) or {}
    return "/".join(context[key] for key in _POD if key in context)


def answer_text(error: VolumeError) -> str:
    """One line of what, hint and code, short enough for an Event; a long `what` loses its end."""
    error = error.as_public()
    what, hint = " ".join(error.what.split()), " ".join(error.hint.split())
    end = f" ({hint}) [{error.code}]" if hint else f" [{error.code}]"
    return _cut(what, MOST_BYTES - len(end.encode())) + end


def _cut(text: str, most_bytes: int) -> str:
    raw = text.encode()
    if len(raw) <= most_bytes:
        return text
    return raw[: max(0, most_bytes - 3)].decode(errors="ignore") + "…"


def _code(status: Status) -> grpc.StatusCode:
    return grpc.StatusCode[status.name]
