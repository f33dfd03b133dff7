"""What becomes of an exception in a servicer of the auth service.

    InvalidField     INVALID_ARGUMENT, with a google.rpc.BadRequest that names the field
    ApiError         the status that it carries
    EtcdUnavailable  UNAVAILABLE: retry; a change may or may not have been made
    EtcdFull         UNAVAILABLE: etcd has reached its quota; nothing was changed
    EtcdRefused      INTERNAL: etcd answered, and this replica may not do what it must; nothing was changed
    Refusal          left to the credential interceptor, which sends the reason
    TooMany          a Refusal too, RATE_LIMITED, whose text the caller gets
    anything else    left to it too: it is logged there, and the caller learns nothing of it

Servicers raise; one interceptor answers, so that no method can forget to.
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
from interceptors.error_details import status_details
from interceptors.errors import Refusal
from interceptors.etcd.client import EtcdFull, EtcdRefused, EtcdUnavailable

__all__ = ["AnswerErrors"]

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for the type checker only

_log: Final = logging.getLogger("credmesh.auth")
_calls: Final = Counter("credmesh_auth_calls", "Calls that reached a servicer of the auth service.", ("method", "code"))

_ETCD_AWAY: Final = "etcd does not answer, so the auth service cannot either; retry. A change may or may not be made"

_ETCD_FULL: Final = "etcd is full and takes no changes; nothing was changed. Make room: docs/operations.md, A full etcd"

_ETCD_REFUSES: Final = "etcd refuses what the auth service asks of it; nothing was changed, and its log says why"


class AnswerErrors(grpc.ServerInterceptor):
    """Turns the exceptions of servicers into statuses. It stands inside of the credential interceptor."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Handler, _Handler]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], _Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler | None:
        """Wraps the method's handler, once; no call is looked at here, where the server holds a lock."""
        handler = continuation(handler_call_details)
        method = handler_call_details.method
        known = self._known.get(method)
        if handler is None:
            return None
        if known is not None and known[0] is handler:
            return known[1]
        answering: _Handler
        if handler.unary_unary is not None:
            answering = grpc.unary_unary_rpc_method_handler(
                _answering(method, handler.unary_unary),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        elif handler.unary_stream is not None and method.startswith("/credmesh."):
            answering = grpc.unary_stream_rpc_method_handler(
                _answering_stream(method, handler.unary_stream),
                request_deserializer=handler.request_deserializer,
                response_serializer=handler.response_serializer,
            )
        else:
            return handler  # health and reflection have streams of their own kind
        self._known[method] = (handler, answering)
        return answering


def _answering(method: str, serve: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        with _statuses(method, context):
            return serve(request, context)

    return answer


def _answering_stream(method: str, serve: Callable[[Any, grpc.ServicerContext], Any]) -> Callable[..., Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with _statuses(method, context):
            yield from serve(request, context)

    return answer


@contextmanager
def _statuses(method: str, context: grpc.ServicerContext) -> Iterator[None]:
    """Counts a call, and ends it with the status of the exception that leaves the block."""
    try:
        yield
    except Refusal as refusal:
        _calls.labels(method, refusal.status.name).inc()
        raise
    except InvalidField as error:
        context.set_trailing_metadata(_bad_request(error))
        _abort(method, context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
    except ApiError as error:
        _abort(method, context, error.status, str(error))
    except EtcdFull as error:
        _log.error("%s: %s", method, error)
        _abort(method, context, grpc.StatusCode.UNAVAILABLE, _ETCD_FULL)
    except EtcdRefused as error:
        _log.error("%s: %s", method, error)
        _abort(method, context, grpc.StatusCode.INTERNAL, _ETCD_REFUSES)
    except EtcdUnavailable as error:
        _log.warning("%s: %s", method, error)
        _abort(method, context, grpc.StatusCode.UNAVAILABLE, _ETCD_AWAY)
    except GeneratorExit:
        # The caller left a stream.
        _calls.labels(method, grpc.StatusCode.CANCELLED.name).inc()
        raise
    except Exception:
        # `context.abort` leaves a servicer like this, with its code set; anything else the interceptor hides.
        aborted_with = _code(context)
        _calls.labels(method, "UNKNOWN" if aborted_with is None else aborted_with.name).inc()
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
    violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.problem)
    bad_request = error_details_pb2.BadRequest(field_violations=[violation])
    return status_details(grpc.StatusCode.INVALID_ARGUMENT, str(error), bad_request)
