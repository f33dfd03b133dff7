"""The errors of the auth service whose text is for its callers. authsvc.api.status_mapping maps them to statuses."""

from __future__ import annotations

import grpc

from interceptors.error_details import error_info
from interceptors.errors import CredmeshError, PicklableError, Reason, Refusal

__all__ = ["AlreadyExists", "ApiError", "FailedPrecondition", "InvalidField", "NotFound", "RateLimited"]


class ApiError(CredmeshError):
    """A call fails for a reason that its caller can act on. The text is for the caller, and holds no secret."""

    status: grpc.StatusCode = grpc.StatusCode.INTERNAL


class AlreadyExists(ApiError):
    """The account or other record that the call would create exists already."""

    status = grpc.StatusCode.ALREADY_EXISTS


class NotFound(ApiError):
    """The record that the call names does not exist."""

    status = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(ApiError):
    """The state of the mesh does not allow the call. The text says what to change first."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class RateLimited(Refusal):
    """The replica handles as many calls of this kind as it may (RATE_LIMITED). The text says what to do instead."""

    def __init__(self, advice: str) -> None:
        super().__init__(Reason.RATE_LIMITED, advice)

    @property
    def message(self) -> str:
        """The text for the caller."""
        return str(self)

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The metadata with the ErrorInfo. Its message must equal the status's message, which clients compare."""
        return error_info(self.status, str(self), self.reason.name)


class InvalidField(PicklableError, ValueError):
    """A field of a request is invalid. The text is for the caller, names the field, and holds no secret.

    field    the field's path as in the .proto file, for example "user.subject"
    problem  what is wrong, and which values are valid
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}")
        self.field = field
        self.problem = problem
