"""Why a call is refused.

Exception
 └─ CredmeshError            anything this package raises on purpose
     ├─ Refusal              a call is refused; carries its Reason, which owns status and message
     ├─ NotReady             the node has not read the mesh's state yet
     └─ SettingsError        a setting is absent or wrong

What a caller learns is the reason and its fixed message, as a status and a `google.rpc.ErrorInfo`; the precise cause
stays in the exception's own text, for the log and the audit trail.
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
    "Reason",
    "Refusal",
    "SettingsError",
    "reason_of",
    "trailing_metadata",
]

_U: Final = grpc.StatusCode.UNAUTHENTICATED
_P: Final = grpc.StatusCode.PERMISSION_DENIED


class Reason(enum.Enum):
    """Why a call is refused: the `reason` of the ErrorInfo, the status that goes with it, and what to do next."""

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

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        self.status = status
        self.message = message

    @property
    def renewable(self) -> bool:
        """Whether a fresh access token may succeed where this one failed: refresh, then retry once."""
        return self in _RENEWABLE


_RENEWABLE: Final = frozenset({Reason.CREDENTIAL_EXPIRED, Reason.KEY_UNKNOWN, Reason.CREDENTIAL_REVOKED})


class CredmeshError(Exception):
    """Anything that this package raises on purpose."""


class Refusal(CredmeshError):
    """A call is refused.

    `reason` is what the caller learns. The exception's text is the precise cause; it is for logs only and must never
    hold a credential. `metadata` goes into the ErrorInfo, for what the caller may know, e.g. the missing scope.
    `subject` is whose credential it was, where that was verified; for the audit trail.
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
        """The gRPC status that goes with the reason."""
        return self.reason.status

    @property
    def message(self) -> str:
        """The gRPC status message: short, and the same for every cause of the reason."""
        return self.reason.message

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The ErrorInfo, as the trailing metadata that gRPC's richer error model uses."""
        return trailing_metadata(self.reason, self.metadata)


class NotReady(CredmeshError):
    """The node has not read the mesh's state in time: etcd is away, or the settings point elsewhere."""


class SettingsError(CredmeshError):
    """A setting is absent or wrong. The text names the variable, says what is wrong, and shows an example."""


@lru_cache(maxsize=1024)
def trailing_metadata(reason: Reason, metadata: tuple[tuple[str, str], ...] = ()) -> tuple[tuple[str, bytes], ...]:
    """`grpc-status-details-bin` for a reason. Made once each: refusing a bad credential has to be cheap."""
    return error_info(reason.status, reason.message, reason.name, metadata)


def reason_of(failed: grpc.RpcError | grpc.Call | Iterable[tuple[str, str | bytes]] | None) -> Reason | None:
    """The reason why a call was refused, or None if credmesh did not refuse it (or one with newer reasons did).

    `failed` is the error that was caught, of `grpc` or `grpc.aio`; or a call of `grpc`; or its trailing metadata, which
    is what a call of `grpc.aio` is asked for: `reason_of(await call.trailing_metadata())`.
    """
    if isinstance(failed, grpc.RpcError | grpc.Call):
        # A bare RpcError, as a test or a library may raise it, has none.
        read: Callable[[], Any] = getattr(failed, "trailing_metadata", tuple)
        metadata: Iterable[tuple[str, str | bytes]] | None = read()
    else:
        metadata = failed
    info = error_info_in(metadata)
    return None if info is None else Reason.__members__.get(info.reason)
