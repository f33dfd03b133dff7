"""A call that failed before it was sent, in the forms that grpc and grpc.aio give to failed calls."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import grpc
import grpc.aio

from interceptors.client.renewal import RenewalFailure
from interceptors.errors import PicklableError

__all__ = ["CANCELLED", "CLOSED", "TIMED_OUT", "FailedCall", "aio_error", "mark_exception_retrieved"]

CANCELLED: Final = RenewalFailure(grpc.StatusCode.CANCELLED, "Locally cancelled by application!")
CLOSED: Final = RenewalFailure(
    grpc.StatusCode.CANCELLED, "these credentials were closed; make calls before closing them, or make new credentials"
)
TIMED_OUT: Final = RenewalFailure(
    grpc.StatusCode.DEADLINE_EXCEEDED, "the call's time ran out while it waited for a credential from the auth service"
)


class FailedCall(PicklableError, grpc.RpcError, grpc.Call, grpc.Future):  # type: ignore[type-arg]
    """A failed call of any of the four kinds: an error, a call, a future and an iterator at once.

    code(), details() and trailing_metadata() say why it failed; they are those of the auth service's answer.
    """

    def __init__(self, failure: RenewalFailure) -> None:
        super().__init__(failure.details)
        self._failure = failure

    @property
    def unreachable(self) -> bool:
        """See RenewalFailure. False if only the call's own time ran out."""
        return self._failure.unreachable and self._failure != TIMED_OUT

    def __repr__(self) -> str:
        return f"<{type(self).__name__} code={self._failure.code.name} details={self._failure.details!r}>"

    __str__ = __repr__

    def code(self) -> grpc.StatusCode:
        """See grpc.Call."""
        return self._failure.code

    def details(self) -> str:
        """See grpc.Call."""
        return self._failure.details

    def debug_error_string(self) -> str:
        """The details. gRPC's own errors have this method."""
        return self._failure.details

    def initial_metadata(self) -> tuple[()]:
        """See grpc.Call."""
        return ()

    def trailing_metadata(self) -> Any:
        """See grpc.Call."""
        return self._failure.trailing_metadata

    def is_active(self) -> bool:
        """See grpc.RpcContext."""
        return False

    def time_remaining(self) -> Any:
        """See grpc.RpcContext."""
        return None

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """See grpc.RpcContext: False, since the call has ended."""
        del callback
        return False

    def cancel(self) -> bool:
        """See grpc.Future."""
        return False

    def cancelled(self) -> bool:
        """See grpc.Future."""
        return self._failure == CANCELLED  # not `is`: the call may have been unpickled

    def running(self) -> bool:
        """See grpc.Future."""
        return False

    def done(self) -> bool:
        """See grpc.Future."""
        return True

    def result(self, timeout: float | None = None) -> NoReturn:
        """See grpc.Future."""
        del timeout
        if self.cancelled():
            raise grpc.FutureCancelledError
        raise self

    def exception(self, timeout: float | None = None) -> Self:
        """See grpc.Future."""
        del timeout
        if self.cancelled():
            raise grpc.FutureCancelledError
        return self

    def traceback(self, timeout: float | None = None) -> TracebackType | None:
        """See grpc.Future."""
        try:
            self.result(timeout)
        except FailedCall:
            return sys.exc_info()[2]

    def add_done_callback(self, fn: Callable[[Any], None]) -> None:
        """See grpc.Future."""
        fn(self)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> NoReturn:
        raise self


def aio_error(failure: RenewalFailure) -> grpc.aio.AioRpcError:
    """Returns the error of a failed call in grpc.aio, where a failed call is an exception only."""
    return grpc.aio.AioRpcError(
        failure.code,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(*failure.trailing_metadata),
        failure.details,
        failure.details,
    )


def mark_exception_retrieved(future: asyncio.Future[Any]) -> None:
    """A done callback for a future that may end unread. Without it asyncio logs the exception of such a future."""
    if not future.cancelled():
        future.exception()
