"""What can go wrong with etcd.

CredmeshError
 └─ EtcdUnavailable             no endpoint answered in time, or etcd has no quorum
     └─ EtcdRefused             etcd refused the request; repeating it changes nothing
         ├─ Compacted           the requested revision is compacted
         ├─ EtcdFull            the database has reached its quota: etcd refuses writes until an operator frees space
         ├─ LeaseNotFound       the lease is gone
         └─ RevisionNotReached  the requested revision is higher than etcd's
"""

from __future__ import annotations

from typing import Final

import grpc

from interceptors.errors import CredmeshError

__all__ = [
    "Compacted",
    "EtcdFull",
    "EtcdRefused",
    "EtcdUnavailable",
    "LeaseNotFound",
    "RevisionNotReached",
    "WaitTimedOut",
    "never_sent",
    "refusal",
    "text_of",
]

_Code: Final = grpc.StatusCode

_REFUSALS: Final = frozenset(
    {
        _Code.ALREADY_EXISTS,
        _Code.FAILED_PRECONDITION,
        _Code.INVALID_ARGUMENT,
        _Code.NOT_FOUND,
        _Code.OUT_OF_RANGE,
        _Code.PERMISSION_DENIED,
        _Code.UNAUTHENTICATED,
        _Code.UNIMPLEMENTED,
    }
)

_NEVER_SENT: Final = (
    # gRPC had no connection to send the request over.
    "connections to all backends failing",
    "failed to connect to all addresses",
    "errors resolving",
    "DNS resolution failed",
    # etcd checks for a leader before it reads the request (with `hasleader`, which this client always sends).
    "etcdserver: no leader",
)


class EtcdUnavailable(CredmeshError):
    """No endpoint answered in time, or etcd has no quorum. A commit may or may not have happened."""


class EtcdRefused(EtcdUnavailable):
    """etcd refused the request, for example for lack of permission. Nothing was committed."""


class Compacted(EtcdRefused):
    """The revision is compacted."""


class EtcdFull(EtcdRefused):
    """etcd's database has reached its quota: etcd refuses writes, and before 3.5.3 also transactions that only read."""


class LeaseNotFound(EtcdRefused):
    """The lease ran out, was revoked, or never existed."""


class RevisionNotReached(EtcdRefused):
    """The revision is higher than etcd's. If etcd had reached it before, etcd was restored from a backup."""


class WaitTimedOut(grpc.RpcError):
    """The wait for a request timed out. Like gRPC's error for a passed deadline, but the request goes on."""

    def code(self) -> grpc.StatusCode:
        """DEADLINE_EXCEEDED."""
        return _Code.DEADLINE_EXCEEDED

    def details(self) -> str:
        """How long the wait was."""
        return str(self.args[0])


def refusal(error: grpc.RpcError) -> EtcdRefused | None:
    """Returns the exception for a request that etcd refused; None if repeating the request may help."""
    code = error.code()
    if code is _Code.RESOURCE_EXHAUSTED and "space exceeded" in text_of(error):
        return EtcdFull(f"etcd is full: {text_of(error)}; compact and defragment it, then disarm its alarm")
    if code not in _REFUSALS:
        return None
    text = f"etcd refuses: {text_of(error)}"
    if code is _Code.OUT_OF_RANGE:
        # etcd has one status code for both, so the text decides.
        return Compacted(text) if "compacted" in text else RevisionNotReached(text)
    if code is _Code.NOT_FOUND and "lease" in text:
        return LeaseNotFound(text)
    return EtcdRefused(text)


def never_sent(error: grpc.RpcError) -> bool:
    """Whether the request certainly had no effect, so that even a commit may be repeated.

    gRPC has no status code for this, so the text of the error decides. If another version changes that text, a commit
    fails that could have been repeated, but none happens twice.
    """
    return error.code() is _Code.UNAVAILABLE and text_of(error).startswith(_NEVER_SENT)


def text_of(error: grpc.RpcError) -> str:
    """Returns the failure in one line."""
    return error.details() or error.code().name
