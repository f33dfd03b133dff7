"""Why a call is refused.

PicklableError
 └─ CredmeshError            anything this package raises on purpose
     ├─ Refusal              a call is refused; carries its Reason, which owns status and message
     ├─ NotReady             the node has not read its trust bundle yet
     └─ SettingsError        a setting is absent or wrong

The caller learns the reason and its fixed message, as a status and a `google.rpc.ErrorInfo`. The precise cause is the
exception's text, for the log and the audit log.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import grpc

from interceptors.error_details import error_info, error_info_in

__all__ = [
    "CredmeshError",
    "NotReady",
    "PicklableError",
    "Reason",
    "Refusal",
    "SettingsError",
    "reason_of",
    "trailing_metadata",
]

_U: Final = grpc.StatusCode.UNAUTHENTICATED
_P: Final = grpc.StatusCode.PERMISSION_DENIED


class Reason(enum.Enum):
    """Why a call is refused: the `reason` of the ErrorInfo, its status, and a message that says what to do next."""

    CREDENTIAL_MISSING = (_U, "no credential was presented; sign in and send it as 'authorization: Bearer …'")
    CREDENTIAL_MALFORMED = (_U, "the credential cannot be read; send exactly one 'authorization: Bearer …'")
    CREDENTIAL_INVALID = (_U, "the credential is not valid here; sign in again")
    CREDENTIAL_TOO_LARGE = (_U, "the credential is larger than this server reads; ask for fewer scopes")
    CREDENTIAL_EXPIRED = (_U, "the credential has expired; refresh it and retry")
    KEY_UNKNOWN = (_U, "the key that signed the credential is not known here; refresh it and retry")
    CREDENTIAL_REVOKED = (_U, "the credential was revoked; refresh it once, and if that is refused sign in again")
    AUDIENCE_MISMATCH = (_P, "the credential is not for this service; ask for one with its audience")
    SCOPE_MISSING = (_P, "the credential lacks a scope that this method needs; ask for it")
    METHOD_DENIED = (_P, "no rule allows calling this method")
    MESH_STALE = (grpc.StatusCode.UNAVAILABLE, "this server cannot prove that it knows of all revocations; retry")
    MESH_NOT_READY = (grpc.StatusCode.UNAVAILABLE, "this server has not read the mesh's state yet; retry")
    RATE_LIMITED = (grpc.StatusCode.RESOURCE_EXHAUSTED, "too many attempts; wait before the next")
    REQUEST_MALFORMED = (
        grpc.StatusCode.INVALID_ARGUMENT,
        "the request cannot be parsed; send the method's type",
    )
    REQUEST_MISSING = (grpc.StatusCode.DEADLINE_EXCEEDED, "the request did not arrive in time; send it with the call")

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        self.status = status
        self.message = message

    @property
    def renewable(self) -> bool:
        """Whether the call may succeed with a new access token: refresh, then retry once."""
        return self in _RENEWABLE


_RENEWABLE: Final = frozenset({Reason.CREDENTIAL_EXPIRED, Reason.KEY_UNKNOWN, Reason.CREDENTIAL_REVOKED})


class PicklableError(Exception):
    """An exception that can be pickled whatever its `__init__` takes. Process pools pickle the errors of their jobs."""

    def __reduce__(self) -> tuple[Any, ...]:
        """See object.__reduce__. Exception's would have the class called with the text alone."""
        return _unpickled, (type(self), self.args, self.__dict__)


def _unpickled(kind: type[PicklableError], args: tuple[Any, ...], attributes: dict[str, Any]) -> PicklableError:
    """Returns a pickled error."""
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


class CredmeshError(PicklableError):
    """Anything that this package raises on purpose."""


class Refusal(CredmeshError):
    """A call is refused.

    reason    what the caller learns
    cause     the precise cause, the exception's text; for logs only, and never with a credential in it
    metadata  what else the caller may know, such as the missing scope; it goes into the ErrorInfo
    subject   the subject of the credential, if it was verified; for the audit log
    """

    def __init__(
        self,
        reason: Reason,
        cause: str = "",
        *,
        metadata: Mapping[str, str] | None = None,
        subject: str | None = None,
    ) -> None:
        super().__init__(cause or reason.message)
        self.reason = reason
        self.subject = subject
        self.metadata: tuple[tuple[str, str], ...] = tuple(sorted((metadata or {}).items()))

    @property
    def status(self) -> grpc.StatusCode:
        """The gRPC status of the reason."""
        return self.reason.status

    @property
    def message(self) -> str:
        """The gRPC status message: short, and the same for every cause of the reason."""
        return self.reason.message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """Returns the ErrorInfo as trailing metadata, as gRPC's richer error model defines it."""
        return trailing_metadata(self.reason, self.metadata)


class NotReady(CredmeshError):
    """The node has not read its trust bundle in time: etcd does not answer, or the settings name another etcd."""


class SettingsError(CredmeshError):
    """A setting is absent or wrong. The text names the variable, says what is wrong, and shows an example."""


@lru_cache(maxsize=1024)
def trailing_metadata(reason: Reason, metadata: tuple[tuple[str, str], ...] = ()) -> tuple[tuple[str, bytes], ...]:
    """Returns `grpc-status-details-bin` for a reason. Cached, since refusing a bad credential has to be cheap."""
    return error_info(reason.status, reason.message, reason.name, metadata)


def reason_of(failed: grpc.RpcError | grpc.Call | Iterable[tuple[str, str | bytes]] | None) -> Reason | None:
    """Returns the reason why a call was refused; None if credmesh did not refuse it, or with a reason unknown here.

    failed: the error that was caught, of `grpc` or `grpc.aio`; or a call of `grpc`; or trailing metadata. For a call of
    `grpc.aio`, write `reason_of(await call.trailing_metadata())`.
    """
    if isinstance(failed, grpc.RpcError | grpc.Call):
        # An RpcError that a test or a library raised may have no trailing metadata.
        read: Callable[[], Any] = getattr(failed, "trailing_metadata", tuple)
        metadata: Iterable[tuple[str, str | bytes]] | None = read()
    else:
        metadata = failed
    info = error_info_in(metadata)
    return None if info is None else Reason.__members__.get(info.reason)
