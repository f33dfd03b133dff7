"""What the sync and the aio server interceptors share: deciding on calls, and recording the decisions."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar

import grpc

from interceptors.caller import current_caller
from interceptors.clock import ticks
from interceptors.errors import Refusal
from interceptors.node.call_counts import CallCounts
from interceptors.node.mesh_node import MeshNode
from interceptors.node.open_streams import OpenStream
from interceptors.policy import MethodRule
from interceptors.verification.verifier import VerifiedCredential

__all__ = [
    "INTERNAL_ERROR",
    "MESSAGE_TIMEOUT_SECONDS",
    "OTHER_METHODS",
    "MethodAdmission",
    "Undecided",
    "WrappedHandlers",
    "log_handler_error",
    "record_denied_method",
    "status_after_error",
]

H = TypeVar("H")

_log: Final = logging.getLogger("credmesh.server")

_MAX_METHODS: Final = 10_000

MESSAGE_TIMEOUT_SECONDS: Final = 20.0
"""The default of how long the first request message of a call is awaited."""

INTERNAL_ERROR: Final = "internal error"
"""All that a caller learns of an exception that the handler did not raise for the caller."""

OTHER_METHODS: Final = "others"
"""The name under which refusals are counted once there are too many methods to count each."""

_STATUS_BY_NUMBER: Final = {code.value[0]: code for code in grpc.StatusCode}


Undecided = Callable[[Callable[[Refusal | None], None]], None]
"""Makes a decision that needs a lookup: see MethodAdmission.decide_by_metadata."""


class MethodAdmission:
    """Admits or refuses the calls of one method. Counts both, and writes refusals to the audit trail.

    `context` is the context of a call: of a `grpc.server`, of a `grpc.aio.server`, or the blocking context that a
    `grpc.aio.server` gives to plain functions.
    """

    __slots__ = ("_lookups", "_read_credential", "_verify", "_verify_cached", "counts", "method", "node", "rule")

    def __init__(self, node: MeshNode, rule: MethodRule) -> None:
        self.node = node
        self.rule = rule
        self.method = rule.method
        self.counts: CallCounts = node.call_counts_of(rule.method)
        self._lookups = node.lookups
        self._read_credential = node.verifier.read_credential
        self._verify_cached = node.verifier.verify_cached
        self._verify = node.verifier.verify

    def decide_by_metadata(self, metadata: Any) -> Undecided | None:
        """Refuses a call at once if its metadata suffice to see that it must be refused. Raises Refusal.

        Called before the request is received, so that a refused call occupies neither a thread nor memory. A call that
        goes on is decided by `admit` when its request is there: the credential may be revoked meanwhile.

        Returns None, unless the decision needs a lookup. Then returns a function that makes it without blocking: it
        calls its argument with the refusal, or with None.
        """
        if self.rule.public:
            return None
        now = time.time()
        credential = self._read_credential(metadata)
        if self._verify_cached(self.rule, credential, now) is not None:
            return None
        flow = self._verify(self.rule, credential, now)
        need = self._lookups.begin(flow)
        return None if need is None else partial(self._lookups.go_on, flow, need)

    async def look_up(self, metadata: Any) -> None:
        """Makes a decision that needs a lookup, without blocking the event loop. Raises Refusal."""
        credential = self._read_credential(metadata)
        await self._lookups.run_async(self._verify(self.rule, credential, time.time()))

    def read_credential(self, metadata: Any) -> str:
        """Returns the credential of a call; "" for a public method. Raises Refusal."""
        return "" if self.rule.public else self._read_credential(metadata)

    def admit(self, context: Any) -> VerifiedCredential | None:
        """Decides on a call. Returns its credential; None if the method is public. Raises Refusal.

        Blocks where the decision needs a lookup in etcd or at the auth service.
        """
        if self.rule.public:
            return None
        now = time.time()
        credential = self._read_credential(context.invocation_metadata())
        verified = self._verify_cached(self.rule, credential, now)
        if verified is None:
            verified = self._lookups.run(self._verify(self.rule, credential, now))
        self.counts.accepted += 1
        return verified

    def admit_cached(self, credential: str) -> VerifiedCredential | None:
        """Decides on a call whose credential is in the cache. Returns None if it is not. Raises Refusal."""
        verified = self._verify_cached(self.rule, credential, time.time())
        if verified is not None:
            self.counts.accepted += 1
        return verified

    async def admit_async(self, credential: str) -> VerifiedCredential:
        """As `admit`, for a credential that is not in the cache, and without blocking the event loop."""
        verified = await self._lookups.run_async(self._verify(self.rule, credential, time.time()))
        self.counts.accepted += 1
        return verified

    def open_stream(self, verified: VerifiedCredential, context: Any, end: Callable[[Refusal], None]) -> OpenStream:
        """Adds a call to the node's open streams: `end` is called when its credential ends.

        Raises Refusal if the credential was revoked since `admit`: its epoch may have come before the stream was added.
        """
        rule = self.rule
        peer = context.peer()  # not in `end_and_record`: grpc crashes if another thread asks for it while the call ends
        seconds_left = verified.stream_ends_at(follow_session=rule.follow_session) - time.time()

        def end_and_record(refusal: Refusal) -> None:
            self.counts.count_ended(refusal.reason.name)
            end(refusal)
            self.node.audit_log.log_ended(self.method, peer, refusal, subject=verified.caller.subject)

        stream = OpenStream(
            self.method,
            verified,
            ticks() + seconds_left,
            follows_session=rule.follow_session,
            end=end_and_record,
            freshness=rule.freshness,
        )
        self.node.streams.add(stream)
        try:
            self.node.verifier.recheck(verified)
        except Refusal:
            self.node.streams.remove(stream)
            raise
        return stream

    def close_stream(self, stream: OpenStream) -> None:
        """Removes a call that is over from the node's open streams."""
        self.node.streams.remove(stream)

    def record_refusal(self, refusal: Refusal, peer: str) -> None:
        """Counts a refusal and writes it to the audit trail."""
        subject = refusal.subject
        if subject is None:
            # The handler itself may have refused. Then the subject is that of the caller that it serves.
            with contextlib.suppress(LookupError):
                subject = current_caller().subject
        self.counts.count_refused(refusal.reason.name)
        self.node.audit_log.log_refused(self.method, peer, refusal, subject=subject)


class WrappedHandlers(Generic[H]):
    """Wraps each method's handler once, and again only if the server's handler for the method changes."""

    def __init__(self, node: MeshNode, wrap: Callable[[MethodAdmission, Any], H]) -> None:
        self._node = node
        self._wrap = wrap
        self._wrapped: dict[str, tuple[object, MethodAdmission, H]] = {}

    def get(self, method: str, handler: object) -> tuple[MethodAdmission, H]:
        """Returns the method's admission and the wrapped handler. Refusal METHOD_DENIED if it has no valid rule."""
        known = self._wrapped.get(method)
        if known is not None and known[0] is handler:
            return known[1], known[2]
        admission = MethodAdmission(self._node, self._node.policy.rule(method))
        wrapped = self._wrap(admission, handler)
        if len(self._wrapped) < _MAX_METHODS:
            self._wrapped[method] = (handler, admission, wrapped)
        return admission, wrapped


def record_denied_method(node: MeshNode, method: str, refusal: Refusal, peer: str) -> None:
    """Counts the refusal of a method without a valid rule, and writes it to the audit trail."""
    # On a server with a generic handler, callers choose the methods' names. Their number must stay bounded.
    counted = method if method in node.call_counts or len(node.call_counts) < _MAX_METHODS else OTHER_METHODS
    node.call_counts_of(counted).count_refused(refusal.reason.name)
    node.audit_log.log_refused(method, peer, refusal)


def status_after_error(code: Any, details: Any) -> tuple[grpc.StatusCode, str]:
    """The status of a call whose handler raised an unexpected exception, given the context's code and details.

    That is the status that the handler had set before, or else UNKNOWN without the exception's text.
    """
    status = _STATUS_BY_NUMBER.get(code, code)  # the aio server's context returns the number
    if status is None or status is grpc.StatusCode.OK:
        return grpc.StatusCode.UNKNOWN, INTERNAL_ERROR
    return status, (details.decode() if isinstance(details, bytes) else details) or INTERNAL_ERROR


def log_handler_error(method: str, error: BaseException, status: grpc.StatusCode) -> None:
    """Logs an exception that a handler, or this package, raised unexpectedly. status: what the caller gets."""
    if isinstance(error, NotImplementedError) and status is grpc.StatusCode.UNIMPLEMENTED:
        return  # the method that protoc generates for one that the servicer does not have
    if isinstance(error, grpc.RpcError) and isinstance(error, grpc.Call):
        _log.error("%s failed: a call that it made was answered %s: %s", method, error.code(), error.details())
    else:
        _log.error("%s failed", method, exc_info=error)
