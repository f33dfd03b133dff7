"""The gRPC status of each exception that a servicer of the auth service raises.

    InvalidField     INVALID_ARGUMENT, with a google.rpc.BadRequest that names the field
    ApiError         the status that it carries
    EtcdUnavailable  UNAVAILABLE: retry; a change may or may not have been made
    EtcdFull         UNAVAILABLE: etcd has reached its quota; nothing was changed
    EtcdRefused      INTERNAL: etcd refused the request, for example for missing permissions; nothing was changed
    Refusal          raised again: the credential interceptor sends status and reason
    RateLimited      also a Refusal, RATE_LIMITED, whose text is sent to the caller
    anything else    raised again: the credential interceptor logs it and hides it from the caller

One interceptor maps them for all methods, so no servicer can forget to.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn, TypeAlias

import grpc
from google.rpc import error_details_pb2
from prometheus_client import Counter

from authsvc.errors import ApiError, InvalidField
from interceptors.error_details import cut, status_details
from interceptors.errors import Refusal
from interceptors.etcd.client import EtcdFull, EtcdRefused, EtcdUnavailable

__all__ = ["StatusMappingInterceptor"]

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for the type checker only

_log: Final = logging.getLogger("credmesh.auth")
_calls: Final = Counter("credmesh_auth_calls", "Calls that reached a servicer of the auth service.", ("method", "code"))

_MAX_TEXT_BYTES: Final = 1024
"""Of a text for the caller. It is sent up to three times, once percent-encoded, and a client accepts about 8 KB."""

_ETCD_UNAVAILABLE: Final = (
    "etcd does not answer, so the auth service cannot either; retry. A change may or may not have been made"
)
_ETCD_FULL: Final = (
    "nothing was changed, because etcd is full and accepts no changes; an operator has to free space: "
    "docs/operations.md, A full etcd"
)
_ETCD_REFUSED: Final = "nothing was changed, because etcd refused the request; the auth service's log says why"


class StatusMappingInterceptor(grpc.ServerInterceptor):
    """Ends a call with the status of the exception that its servicer raised. Runs inside the credential interceptor."""

    def __init__(self) -> None:
        self._wrapped: dict[str, tuple[_Handler, _Handler]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wraps each method's handler once. The server holds a lock here, so the call itself is processed later."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        known = self._wrapped.get(method)
        if handler is None:
            return None
        if known is not None and known[0] is handler:
            return known[1]
        wrapper: _Handler
        if handler.unary_unary is not None:
            wrapper = grpc.unary_unary_rpc_method_handler(
                _wrap_unary(method, handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        elif handler.unary_stream is not None and method.startswith("/credmesh."):
            wrapper = grpc.unary_stream_rpc_method_handler(
                _wrap_stream(method, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        else:
            return handler  # a stream of the health or the reflection service
        self._wrapped[method] = (handler, wrapper)
        return wrapper


def _wrap_unary(method: str, serve: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
    def serve_with_status(request: Any, context: grpc.ServicerContext) -> Any:
        with _status_of_exceptions(method, context):
            return serve(request, context)

    return serve_with_status


def _wrap_stream(method: str, serve: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
    def serve_with_status(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with _status_of_exceptions(method, context):
            yield from serve(request, context)

    return serve_with_status


@contextmanager
def _status_of_exceptions(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Counts a call, and ends it with the status of the exception that leaves the block."""
    try:
        yield
    except Refusal as refusal:
        _calls.labels(method, refusal.status.name).inc()
        raise
    except InvalidField as error:
        context.set_trailing_metadata(_bad_request(error))
        _abort(method, context, grpc.StatusCode.INVALID_ARGUMENT, cut(str(error), _MAX_TEXT_BYTES))
    except ApiError as error:
        _abort(method, context, error.status, cut(str(error), _MAX_TEXT_BYTES))
    except EtcdFull as error:
        _log.error("%s: %s", method, error)
        _abort(method, context, grpc.StatusCode.UNAVAILABLE, _ETCD_FULL)
    except EtcdRefused as error:
        _log.error("%s: %s", method, error)
        _abort(method, context, grpc.StatusCode.INTERNAL, _ETCD_REFUSED)
    except EtcdUnavailable as error:
        _log.warning("%s: %s", method, error)
        _abort(method, context, grpc.StatusCode.UNAVAILABLE, _ETCD_UNAVAILABLE)
    except GeneratorExit:
        # The caller cancelled a stream.
        _calls.labels(method, grpc.StatusCode.CANCELLED.name).inc()
        raise
    except Exception:
        # `context.abort` raises a plain Exception after it has set the code. Any other exception has no code.
        code = _code(context)
        _calls.labels(method, "UNKNOWN" if code is None else code.name).inc()
        raise
    _calls.labels(method, "OK").inc()


def _code(context: grpc.ServicerContext) -> grpc.StatusCode | None:
    code: grpc.StatusCode | None = context.code()  # type: ignore[attr-defined]  # the stubs lack it
    return code


def _abort(method: str, context: grpc.ServicerContext, status: grpc.StatusCode, details: str) -> NoReturn:
    _calls.labels(method, status.name).inc()
    context.abort(status, details)
    raise AssertionError("abort returned")  # it raises; this is for the type checker


def _bad_request(error: InvalidField) -> tuple[tuple[str, bytes], ...]:
    violation = error_details_pb2.BadRequest.FieldViolation(
        field=error.field, description=cut(error.problem, _MAX_TEXT_BYTES)
    )
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    return status_details(grpc.StatusCode.INVALID_ARGUMENT, cut(str(error), _MAX_TEXT_BYTES), bad_request)
