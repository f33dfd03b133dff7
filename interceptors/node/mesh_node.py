"""A node: a process that verifies credentials, and keeps up with what the mesh knows."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from types import MappingProxyType, TracebackType
from typing import Final

from credmesh.store.v1 import mesh_pb2
from interceptors.caller import Caller
from interceptors.clock import ticks
from interceptors.errors import NotReady, Reason, Refusal
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Snapshot
from interceptors.etcd.mirror import Event, Mirror
from interceptors.keyspace import Layout
from interceptors.node.audit import RefusalLog
from interceptors.node.call_counts import CallCounts
from interceptors.node.heartbeat import AppliedBarrier, Heartbeat
from interceptors.node.open_streams import OpenCalls
from interceptors.policy import Policy
from interceptors.settings import MeshSettings
from interceptors.tokens.verification_key import RecordError, read_key
from interceptors.trust.bundle import Changes, TrustBundle
from interceptors.trust.continuity import Continuity
from interceptors.verification.lookups import LookupService
from interceptors.verification.session_resolver import SessionResolver
from interceptors.verification.verifier import Verifier
from interceptors.waiting import await_event

__all__ = ["MeshNode"]

_log: Final = logging.getLogger("credmesh.node")

_CALLS_WAIT: Final = 1.0
"""Seconds that a call waits for etcd, which a node that is well asks every second anyway."""


class MeshNode:
    """Verifies credentials by keys and epochs that it mirrors from etcd. One per process serves all of its servers.

    settings  how to reach etcd, and what to accept
    resolver  asks the auth service about opaque sessions; without one they are refused here
    policy    the methods' rules; by default those of all loaded .proto files
    node_id   unique among the living; by default the service's name, the host's, and something random

    `start` it before the server takes calls, and `stop` it after, or use it as a context manager.
    """

    def __init__(
        self,
        settings: MeshSettings,
        *,
        resolver: SessionResolver | None = None,
        policy: Policy | None = None,
        node_id: str | None = None,
    ) -> None:
        self.settings = settings
        self.policy = policy or Policy()
        self.policy.limit_freshness(settings.longest_freshness)
        self.id = node_id or f"{settings.service}-{socket.gethostname()}-{secrets.token_hex(4)}"
        layout = Layout(settings.etcd.prefix)
        self._layout = layout
        self.bundle = TrustBundle(layout, settings.issuer)
        self.calls = OpenCalls(lambda: self.bundle.proven_at)
        self.counts: dict[str, CallCounts] = {}
        self.refusals = RefusalLog()
        self.verifier = Verifier(
            self.bundle,
            leeway=settings.leeway,
            max_credential_bytes=settings.max_credential_bytes,
            cached_credentials=settings.cached_credentials,
            resolves_sessions=resolver is not None,
        )
        self.asker = LookupService(self._fetch_key, resolver, self._ask_revision)
        self._client = EtcdClient(settings.etcd)
        self._read = threading.Event()
        self._since = self.bundle.continuity.observed
        self._mirror = Mirror(
            settings.etcd,
            layout.mesh,
            on_snapshot=self._on_snapshot,
            on_events=self._on_events,
            before_read=self._before_read,
            on_other_history=self.bundle.continuity.report_loss,
            name="mesh",
        )
        record = mesh_pb2.NodeRecord(
            format=1, node_id=self.id, service=settings.service, address=settings.address, version=_version()
        )
        record.longest_freshness.FromNanoseconds(int(settings.longest_freshness * 1e9))
        # Registered first, mirrored second: whoever waits for every node then knows of this one before it could serve.
        self._pulse = Heartbeat(
            self._client,
            layout,
            self.bundle,
            record,
            lease_ttl=settings.node_lease,
            on_registered=self._mirror.start,
            on_behind=self._mirror.reconnect,
        )
        self.bundle.continuity.listeners.append(self._on_lost)

    def start(self, timeout: float | None = None, *, strict_timeout: float = 5.0) -> None:
        """Connects to etcd and returns when the mesh's state has been read.

        timeout: seconds; None waits as long as it takes, and the log says what for. Raises NotReady when it has passed;
        the node goes on trying until it is stopped.

        strict_timeout: seconds to wait, of these, until methods with a freshness rule can be served too: until the auth
        service has vouched that nothing is missing in what was read, and a first proof of freshness counts. They are
        refused until then however long it takes; all others are served at once.
        """
        begun = time.monotonic()
        self._pulse.start()
        if not await_event(self._read, timeout):
            endpoints = ", ".join(self.settings.etcd.endpoints)
            raise NotReady(
                f"the mesh's state could not be read from etcd at {endpoints} within {timeout:g} s; is etcd up, and is "
                "ETCD_ENDPOINTS right?"
            )
        if timeout is not None:
            strict_timeout = min(strict_timeout, max(timeout - (time.monotonic() - begun), 0.0))
        if strict_timeout > 0 and not await_event(self.bundle.proven, strict_timeout):
            missing = (
                "this node could not prove how fresh its knowledge is; strict methods are refused until it can"
                if self.bundle.continuity.vouched
                else "no auth replica has vouched for etcd's history; strict methods are refused until one does"
            )
            _log.warning("after %g s %s", strict_timeout, missing)

    def stop(self) -> None:
        """Takes the node out of the mesh and ends its threads. Verification goes on with what is known."""
        self._pulse.stop()
        self._mirror.stop()
        self.calls.stop()
        self.asker.stop()
        self._client.close()

    def __enter__(self) -> MeshNode:
        try:
            self.start()
        except BaseException:
            # Nobody else will: a node that is told to end while it waits may be registered already, and a rotation or a
            # receipt would wait for it until its lease is over.
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def ready(self) -> bool:
        """Whether the mesh's state has been read, so that calls can be decided."""
        return self.bundle.revision > 0

    @property
    def connected(self) -> bool:
        """Whether the watch on etcd is up."""
        return self._mirror.connected

    def freshness_age(self) -> float | None:
        """Seconds: how old this node's knowledge of revocations can be at most. None before the first proof."""
        proven_at = self.bundle.proven_at
        return None if proven_at is None else ticks() - proven_at

    def counts_of(self, method: str) -> CallCounts:
        """Where the calls of a method are counted."""
        return self.counts.setdefault(method, CallCounts())

    def verify(self, credential: str, *, audience: str | None = None) -> Caller:
        """Verifies a credential outside a call: everything but scopes and freshness, and the audience if one is given.

        May ask etcd or the auth service. Raises Refusal.
        """
        if not self.ready:
            raise Refusal(Reason.MESH_NOT_READY, "nothing was read from etcd yet")
        if len(credential) > self.settings.max_credential_bytes:
            raise Refusal(Reason.CREDENTIAL_TOO_LARGE, f"{len(credential)} bytes")
        if not credential.isascii():
            raise Refusal(Reason.CREDENTIAL_MALFORMED, "the credential is not ASCII")
        caller = self.asker.run(self.verifier.identify(credential, time.time())).caller
        if audience is not None and audience not in caller.audiences:
            raise Refusal(Reason.AUDIENCE_MISMATCH, f"the credential is not for {audience!r}")
        return caller

    def _fetch_key(self, kid: str) -> None:
        """Reads one key from etcd into the bundle, if it is there: a token may be quicker than the watch.

        Refusal KEY_UNKNOWN if nobody can say whether it is there.
        """
        name = self._layout.key(kid)
        since = self.bundle.continuity.observed
        try:
            found = self._client.read(name, self._layout.beacon, self._layout.history, timeout=_CALLS_WAIT)
        except EtcdUnavailable as error:
            # Not "there is no such key": whoever comes next asks again, and is served as soon as etcd answers.
            _log.warning("key %r is unknown, and etcd could not be asked for it: %s", kid, error)
            raise Refusal(Reason.KEY_UNKNOWN, f"etcd could not be asked for key {kid!r}: {error}") from error
        entry = found.values.get(name)
        if self.bundle.record_read(found, since) is not Continuity.UNBROKEN:
            # A key that is back since etcd was restored may have been revoked, and one that is missing may come back.
            raise Refusal(
                Reason.KEY_UNKNOWN, f"key {kid!r} cannot be told from one that was revoked: etcd was restored"
            )
        if entry is None:
            return
        try:
            self.bundle.add_key(read_key(entry.value), found.revision)
        except RecordError as error:
            _log.error("%s cannot be used: %s", name, error)

    def _ask_revision(self, revision: int) -> None:
        """Asks etcd whether it has reached a revision that a credential claims."""
        since = self.bundle.continuity.observed
        try:
            found = self._client.read(self._layout.beacon, self._layout.history, timeout=_CALLS_WAIT)
        except EtcdUnavailable as error:
            raise Refusal(Reason.MESH_STALE, f"etcd could not be asked for revision {revision}: {error}") from error
        if self.bundle.record_read(found, since) is Continuity.UNBROKEN:
            self.bundle.continuity.resolve_unseen_epoch(revision, found.revision)

    def _before_read(self) -> None:
        self._since = self.bundle.continuity.observed

    def _on_lost(self) -> None:
        # Whichever thread has noticed: the auth service is told, and the watch is asked what there is.
        self._pulse.wake()
        self._mirror.reconnect()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        before = self.bundle.revision
        changes = self.bundle.load(snapshot, self._since)
        ended = 0
        if changes.another:
            self.verifier.forget()
            self.calls.end_all(Refusal(Reason.CREDENTIAL_REVOKED, "etcd has lost a part of its history"))
        elif before:
            ended = self.calls.recheck(self.verifier.recheck, now=time.time(), unbroken=False)
        self._acknowledge(changes, {revision: ended for _, revision in changes.barriers if revision > before})
        self._tell_ready()

    def _on_events(self, events: Sequence[Event], revision: int) -> None:
        changes = self.bundle.apply(events, revision)
        ended: dict[int, int] = {}
        for scope, epoch in changes.revoked:
            ended[epoch] = ended.get(epoch, 0) + self.calls.revoke(scope, epoch)
        if changes.keys:
            without_key = self.calls.recheck(self.verifier.recheck, now=time.time(), unbroken=True)
            ended.update({revision: ended.get(revision, 0) + without_key for revision in changes.keys})
        self._acknowledge(changes, ended)
        self._tell_ready()

    def _tell_ready(self) -> None:
        if self.ready:
            self._read.set()

    def _acknowledge(self, changes: Changes, ended: Mapping[int, int] = MappingProxyType({})) -> None:
        """Has the barriers acknowledged that were raised. ended: live streams that were ended, by revision."""
        for barrier_id, revision in changes.barriers:
            self._pulse.acknowledge(AppliedBarrier(barrier_id, revision, ended.get(revision, 0)))


def _version() -> str:
    try:
        return metadata.version("credmesh")
    except metadata.PackageNotFoundError:
        return "unknown"
