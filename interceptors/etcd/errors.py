"""What can go wrong with etcd.

CredmeshError
 └─ EtcdUnavailable          nobody answered in time, or there is no quorum
     └─ EtcdRefused          etcd answered and refuses this request; asking again changes nothing
         ├─ Compacted        the revision asked for is compacted away, or is one that this etcd has not reached
         ├─ EtcdFull         etcd has reached its quota, and takes nothing more before somebody makes room
         └─ LeaseNotFound    the lease is gone
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
    "TooLate",
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
    # etcd looks for a leader before it looks at the request (with `hasleader`, which all of our calls send).
    "etcdserver: no leader",
)


class EtcdUnavailable(CredmeshError):
    """Nobody answered in time, or there is no quorum. A commit may or may not have happened."""


class EtcdRefused(EtcdUnavailable):
    """etcd answered, and refuses the request (no permission, malformed). Nothing was committed."""


class Compacted(EtcdRefused):
    """The revision is compacted away, or lies in this etcd's future."""


class EtcdFull(EtcdRefused):
    """etcd's database has reached its quota: it refuses writes (before 3.5.3, transactions that only read, too)."""


class LeaseNotFound(EtcdRefused):
    """The lease is gone: it ran out, was revoked, or never was."""


class TooLate(grpc.RpcError):
    """A request that is not waited for any longer, as gRPC tells of one whose deadline has passed."""

    def code(self) -> grpc.StatusCode:
        """DEADLINE_EXCEEDED."""
        return _Code.DEADLINE_EXCEEDED

    def details(self) -> str:
        """How long was waited."""
        return str(self.args[0])


def refusal(error: grpc.RpcError) -> EtcdRefused | None:
    """The answer as an exception if etcd understood the request and refuses it; None if trying again may help."""
    code = error.code()
    if code is _Code.RESOURCE_EXHAUSTED and "space exceeded" in text_of(error):
        return EtcdFull(f"etcd is full: {text_of(error)}; compact and defragment it, then disarm its alarm")
    if code not in _REFUSALS:
        return None
    text = f"etcd refuses: {text_of(error)}"
    if code is _Code.OUT_OF_RANGE:
        return Compacted(text)
    if code is _Code.NOT_FOUND and "lease" in text:
        return LeaseNotFound(text)
    return EtcdRefused(text)


def never_sent(error: grpc.RpcError) -> bool:
    """Whether the request certainly had no effect, so that even a commit may be tried again.

    gRPC has no code for it, so its text decides. A text that changes makes a commit fail where it could have been
    tried again, and never makes one happen twice.
    """
    return error.code() is _Code.UNAVAILABLE and text_of(error).startswith(_NEVER_SENT)


def text_of(error: grpc.RpcError) -> str:
    """The failure in one line."""
    return error.details() or error.code().name
