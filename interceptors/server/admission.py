"""The gate before one method: what sync and aio servers do alike for a call."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import grpc

from interceptors.caller import current_caller
from interceptors.clock import ticks
from interceptors.errors import Refusal
from interceptors.node.call_counts import CallCounts
from interceptors.node.mesh_node import MeshNode
from interceptors.node.open_streams import OpenCall
from interceptors.policy import MethodRule
from interceptors.verification.verifier import VerifiedCredential

__all__ = ["HIDDEN", "OTHERS", "MethodAdmission", "WrappedHandlers", "log_unexpected", "refused_unruled"]

H = TypeVar("H")

_log: Final = logging.getLogger("credmesh.server")
_MOST_METHODS: Final = 10_000

HIDDEN: Final = "internal error"
"""What a caller is told of an exception that the handler did not mean for it."""

OTHERS: Final = "others"
"""Where refusals are counted once there are too many methods to count each."""


class MethodAdmission:
    """Lets calls of one method in, or refuses them, and keeps count and trail of both."""

    __slots__ = ("counts", "method", "node", "rule")

    def __init__(self, node: MeshNode, rule: MethodRule) -> None:
        self.node = node
        self.rule = rule
        self.method = rule.method
        self.counts: CallCounts = node.counts_of(rule.method)

    def hold(self, verified: VerifiedCredential, end: Callable[[Refusal], None], peer: str) -> OpenCall:
        """Keeps an open stream among those that end with their credential.

        Raises Refusal if it was revoked since it was verified: the epoch may have passed by before the stream was kept.
        """
        ends_in = verified.stream_ends_at(follow_session=self.rule.follow_session) - time.time()

        def end_and_tell(refusal: Refusal) -> None:
            self.counts.end(refusal.reason.name)
            end(refusal)
            self.node.refusals.ended(self.method, peer, refusal, subject=verified.caller.subject)

        call = OpenCall(
            self.method,
            verified,
            ticks() + ends_in,
            following=self.rule.follow_session,
            end=end_and_tell,
            freshness=self.rule.freshness,
        )
        self.node.calls.add(call)
        try:
            self.node.verifier.recheck(verified)
        except Refusal:
            self.node.calls.remove(call)
            raise
        return call

    def release(self, call: OpenCall) -> None:
        """The stream has ended."""
        self.node.calls.remove(call)

    def refused(self, refusal: Refusal, peer: str) -> None:
        """Counts a refusal and writes its audit line. To be called where the handler runs, or would have run."""
        subject = refusal.subject
        if subject is None:
            # A refusal of the handler's own: the caller is the one that it serves.
            with contextlib.suppress(LookupError):
                subject = current_caller().subject
        self.counts.refuse(refusal.reason.name)
        self.node.refusals.refused(self.method, peer, refusal, subject=subject)


class WrappedHandlers(Generic[H]):
    """Wraps each method's handler once, and again only if the server's handler for it changes."""

    def __init__(self, node: MeshNode, wrap: Callable[[MethodAdmission, Any], H]) -> None:
        self._node = node
        self._wrap = wrap
        self._known: dict[str, tuple[object, H]] = {}

    def get(self, method: str, handler: object) -> H:
        """The wrapped handler. Refusal METHOD_DENIED if the method has no valid rule."""
        known = self._known.get(method)
        if known is not None and known[0] is handler:
            return known[1]
        wrapped = self._wrap(MethodAdmission(self._node, self._node.policy.rule(method)), handler)
        if len(self._known) < _MOST_METHODS:
            self._known[method] = (handler, wrapped)
        return wrapped


def refused_unruled(node: MeshNode, method: str, peer: str, refusal: Refusal) -> None:
    """Counts the refusal of a method without a valid rule, and writes its audit line."""
    # A server that answers to any name lets its callers choose the names.
    counted = method if method in node.counts or len(node.counts) < _MOST_METHODS else OTHERS
    node.counts_of(counted).refuse(refusal.reason.name)
    node.refusals.refused(method, peer, refusal)


def log_unexpected(method: str, error: BaseException) -> None:
    """Logs what a handler, or this package, did not mean to raise."""
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        _log.error("%s failed: a call that it made was answered %s: %s", method, error.code(), error.details())
    else:
        _log.error("%s failed", method, exc_info=error)
