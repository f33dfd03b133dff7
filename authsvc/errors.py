"""The errors of the auth service that a caller is told of. authsvc.api.errors turns them into statuses."""

from __future__ import annotations

import grpc

from interceptors.error_details import error_info
from interceptors.errors import CredmeshError, Reason, Refusal

__all__ = ["AlreadyExists", "ApiError", "FailedPrecondition", "InvalidField", "NotFound", "TooMany"]


class ApiError(CredmeshError):
    """A call fails in a way that its caller can do something about. The text is for the caller; never a secret."""

    status: grpc.StatusCode = grpc.StatusCode.INTERNAL


class AlreadyExists(ApiError):
    """What is to be made is there already."""

    status = grpc.StatusCode.ALREADY_EXISTS


class NotFound(ApiError):
    """What is asked for is not there."""

    status = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(ApiError):
    """The state of things does not allow it; the text says what to change first."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class TooMany(Refusal):
    """A replica does as much of this as it may; RATE_LIMITED. The text is for the caller: what to do instead."""

    def __init__(self, advice: str) -> None:
        super().__init__(Reason.RATE_LIMITED, advice)

    @property
    def message(self) -> str:
        """The text."""
        return str(self)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The ErrorInfo. Clients compare its message with the status's."""
        return error_info(self.status, str(self), self.reason.name)


class InvalidField(ValueError):
    """A field of a request is not acceptable. The text is for the caller; it names the field and never a secret.

    field    the field's path as in the .proto file, e.g. "user.subject"
    problem  what is wrong with it and what would be right
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem
