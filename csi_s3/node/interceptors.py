"""Turns our errors into gRPC answers, and unforeseen ones into answers without a secret.

grpc.aio by itself would send an unforeseen exception's text to the client, and it may hold
anything. Requests are logged by the fields named here, never whole: `secrets` and the service
account tokens in `volume_context` are not among them.
"""

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
from typing_extensions import override

from csi_s3.errors import Status, VolumeError

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_FIELDS = {"volume": "volume_id", "target": "target_path"}

log = logging.getLogger(__name__)


class Answering(grpc.aio.ServerInterceptor):  # type: ignore[type-arg] # not generic at run time
    """Every unary call ends in a message or a status; one log line says how."""

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
            _answering(handler.unary_unary, op),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _answering(method: Callable[..., Any], op: str) -> Callable[..., Any]:
    async def answer(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        fields = {"op": op}
        for name, field in _FIELDS.items():
            if value := getattr(request, field, ""):
                fields[name] = value
        try:
            response = await method(request, context)
        except VolumeError as exc:
            log.log(exc.level, "%s", exc, extra={**fields, "code": exc.code})
            code, details = _code(exc.status), f"{exc} [{exc.code}]"
        except NotImplementedError:  # what the generated base class raises
            code, details = grpc.StatusCode.UNIMPLEMENTED, f"{op} is not offered by this driver"
        except Exception:
            error_id = secrets.token_hex(4).upper()
            log.exception("internal error, id %s", error_id, extra={**fields, "code": "internal"})
            code, details = grpc.StatusCode.INTERNAL, f"internal error, id {error_id}"
        else:
            log.debug("done", extra=fields)
            return response
        return await context.abort(code, details)

    return answer


def _code(status: Status) -> grpc.StatusCode:
    return grpc.StatusCode[status.name]
