"""A node: a process that verifies credentials by a trust bundle that it keeps up to date."""

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
from interceptors.node.audit import AuditLog
from interceptors.node.call_counts import CallCounts
from interceptors.node.heartbeat import AppliedBarrier, Heartbeat
from interceptors.node.open_streams import OpenStreams
from interceptors.policy import Policy
from interceptors.settings import MeshSettings
from interceptors.stored_records import FORMAT, RecordError
from interceptors.tokens.verification_key import read_key
from interceptors.trust.bundle import Changes, TrustBundle
from interceptors.trust.continuity import Continuity
from interceptors.verification.lookups import LookupService
from interceptors.verification.session_resolver import SessionResolver
from interceptors.verification.verifier import Verifier
from interceptors.waiting import await_event

__all__ = ["MeshNode"]

_log: Final = logging.getLogger("credmesh.node")

_LOOKUP_TIMEOUT_SECONDS: Final = 1.0
"""How long a call waits for etcd. A healthy node gets an answer of etcd every second anyway."""


class MeshNode:
    """Verifies credentials by the keys and epochs that it mirrors from etcd. One node serves all servers of a process.

    settings  how to reach etcd, and what to accept
    resolver  resolves opaque sessions at the auth service; without a resolver the node refuses them
    policy    the methods' rules; by default those of all loaded .proto files
    node_id   unique among the running nodes; by default the service's name, the host's name, and a random suffix
    bundle    the trust bundle that the node keeps up to date; by default a new one

    Call `start` before the server accepts calls and `stop` after it has ended, or use the node as a context manager.
    """

    def __init__(
        self,
        settings: MeshSettings,
        *,
        resolver: SessionResolver | None = None,
        policy: Policy | None = None,
        node_id: str | None = None,
        bundle: TrustBundle | None = None,
    ) -> None:
        self.settings = settings
        self.policy = policy or Policy()
        self.policy.limit_freshness(settings.longest_freshness)
        self.id = node_id or f"{settings.service}-{socket.gethostname()}-{secrets.token_hex(4)}"
        layout = Layout(settings.etcd.prefix)
        self._layout = layout
        self.bundle = bundle or TrustBundle(layout, settings.issuer)
        self.streams = OpenStreams(lambda: self.bundle.proven_at)
        self.call_counts: dict[str, CallCounts] = {}
        self.audit_log = AuditLog()
        self.verifier = Verifier(
            self.bundle,
            leeway=settings.leeway,
            max_credential_bytes=settings.max_credential_bytes,
            cached_credentials=settings.cached_credentials,
            resolves_sessions=resolver is not None,
        )
        self.lookups = LookupService(self._fetch_key, resolver, self._check_revision)
        self._client = EtcdClient(settings.etcd)
        self._mesh_read = threading.Event()
        self._observed_before_read = self.bundle.monitor.observed
        self._mirror = Mirror(
            settings.etcd,
            layout.mesh,
            on_snapshot=self._on_snapshot,
            on_events=self._on_events,
            before_read=self._before_read,
            on_other_history=self.bundle.monitor.report_loss,
            name="mesh",
        )
        record = mesh_pb2.NodeRecord(
            format=FORMAT, node_id=self.id, service=settings.service, address=settings.address, version=_version()
        )
        record.longest_freshness.FromNanoseconds(int(settings.longest_freshness * 1e9))
        # The node registers before it mirrors, so every barrier waits for it from before it can accept a credential.
        self._heartbeat = Heartbeat(
            self._client,
            layout,
            self.bundle,
            record,
            lease_ttl=settings.node_lease,
            on_registered=self._mirror.start,
            on_watch_lagging=self._mirror.reconnect,
        )
        self.bundle.monitor.loss_listeners.append(self._on_loss)

    def start(self, timeout: float | None = None, *, strict_timeout: float = 5.0) -> None:
        """Connects to etcd, and returns when the trust bundle has been read. Raises NotReady after `timeout`.

        timeout: seconds; with None it waits without limit, and the log says what it waits for. After NotReady the node
        goes on trying until it is stopped.

        strict_timeout: how many of these seconds to wait for strict methods: until the auth service has vouched for
        etcd's history, and the node has its first proof of freshness. The node refuses strict methods until then, even
        after this time. It serves all other methods as soon as the bundle has been read.
        """
        begun = time.monotonic()
        self._heartbeat.start()
        if not await_event(self._mesh_read, timeout):
            endpoints = ", ".join(self.settings.etcd.endpoints)
            raise NotReady(
                f"the trust bundle could not be read from etcd at {endpoints} within {timeout:g} s; is etcd up, and is "
                "ETCD_ENDPOINTS right?"
            )
        if timeout is not None:
            strict_timeout = min(strict_timeout, max(timeout - (time.monotonic() - begun), 0.0))
        if strict_timeout > 0 and not await_event(self.bundle.proven, strict_timeout):
            missing = (
                "this node could not prove its freshness; strict methods are refused until it can"
                if self.bundle.monitor.vouched
                else "no auth replica has vouched for etcd's history; strict methods are refused until one does"
            )
            _log.warning("after %g s %s", strict_timeout, missing)

    def stop(self) -> None:
        """Deregisters the node and ends its threads. Verification goes on with the last trust bundle."""
        self._heartbeat.stop()
        self._mirror.stop()
        self.streams.stop()
        self.lookups.stop()
        self._client.close()

    def __enter__(self) -> MeshNode:
        try:
            self.start()
        except BaseException:
            # Without __exit__ it has to be stopped here. A node that is interrupted while it waits may be registered
            # already, and a rotation or a receipt would wait for it until its lease has run out.
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def ready(self) -> bool:
        """Whether the trust bundle has been read, so that calls can be decided."""
        return self.bundle.revision > 0

    @property
    def connected(self) -> bool:
        """Whether the watch on etcd is open."""
        return self._mirror.connected

    def freshness_age(self) -> float | None:
        """Returns the node's freshness: the age of its newest proof, in seconds. None before the first proof."""
        proven_at = self.bundle.proven_at
        return None if proven_at is None else ticks() - proven_at

    def call_counts_of(self, method: str) -> CallCounts:
        """Returns the counts of a method's calls."""
        return self.call_counts.setdefault(method, CallCounts())

    def verify(self, credential: str, *, audience: str | None = None) -> Caller:
        """Verifies a credential outside a call. Checks the audience if one is given, but not scopes and freshness.

        May wait for a lookup in etcd or at the auth service. Raises Refusal.
        """
        if not self.ready:
            raise Refusal(Reason.MESH_NOT_READY, "the node has not read its trust bundle from etcd yet")
        if len(credential) > self.settings.max_credential_bytes:
            raise Refusal(Reason.CREDENTIAL_TOO_LARGE, f"{len(credential)} bytes")
        if not credential.isascii():
            raise Refusal(Reason.CREDENTIAL_MALFORMED, "the credential is not ASCII")
        caller = self.lookups.run(self.verifier.authenticate(credential, time.time())).caller
        if audience is not None and audience not in caller.audiences:
            raise Refusal(Reason.AUDIENCE_MISMATCH, f"the credential is not for {audience!r}")
        return caller

    def _fetch_key(self, kid: str) -> None:
        """Adds one key to the bundle if etcd has it: a token may arrive before the watch brings its key.

        Raises Refusal KEY_UNKNOWN if etcd does not answer, or has lost a part of its history.
        """
        etcd_key = self._layout.key(kid)
        since = self.bundle.monitor.observed
        try:
            found = self._client.read(
                etcd_key, self._layout.beacon, self._layout.history, timeout=_LOOKUP_TIMEOUT_SECONDS
            )
        except EtcdUnavailable as error:
            # A refusal is not remembered as an absent key is: the next call looks it up again.
            _log.warning("key %r is unknown, and could not be looked up in etcd: %s", kid, error)
            raise Refusal(Reason.KEY_UNKNOWN, f"key {kid!r} could not be looked up in etcd: {error}") from error
        entry = found.values.get(etcd_key)
        if self.bundle.record_read(since, found) is not Continuity.UNBROKEN:
            # In a restored etcd a revoked key may be present again, and a valid one may be missing.
            raise Refusal(Reason.KEY_UNKNOWN, f"etcd was restored, so key {kid!r} cannot be told from a revoked one")
        if entry is None:
            return
        try:
            self.bundle.add_key(read_key(entry.value), found.revision)
        except RecordError as error:
            _log.error("skipped %s: %s", etcd_key, error)

    def _check_revision(self, revision: int) -> None:
        """Reads etcd's revision, and records in the monitor whether it has reached one that a credential claims."""
        since = self.bundle.monitor.observed
        try:
            found = self._client.read(self._layout.beacon, self._layout.history, timeout=_LOOKUP_TIMEOUT_SECONDS)
        except EtcdUnavailable as error:
            raise Refusal(Reason.MESH_STALE, f"revision {revision} could not be looked up in etcd: {error}") from error
        if self.bundle.record_read(since, found) is Continuity.UNBROKEN:
            self.bundle.monitor.resolve_unseen_epoch(revision, found.revision)

    def _before_read(self) -> None:
        self._observed_before_read = self.bundle.monitor.observed

    def _on_loss(self) -> None:
        # Called in any thread. The heartbeat writes the loss into the node's record; the mirror checks etcd's history.
        self._heartbeat.wake()
        self._mirror.reconnect()

    def _on_snapshot(self, snapshot: Snapshot) -> None:
        before = self.bundle.revision
        changes = self.bundle.load(snapshot, self._observed_before_read)
        ended = 0
        if changes.new_history:
            self.verifier.clear_cache()
            self.streams.end_all(Refusal(Reason.CREDENTIAL_REVOKED, "etcd has lost a part of its history"))
        elif before:
            ended = self.streams.recheck(self.verifier.recheck, now=time.time(), unbroken=False)
        self._acknowledge(changes, {revision: ended for _, revision in changes.barriers if revision > before})
        self._signal_ready()

    def _on_events(self, events: Sequence[Event], revision: int) -> None:
        changes = self.bundle.apply(events, revision)
        ended: dict[int, int] = {}
        for scope, epoch in changes.revoked:
            ended[epoch] = ended.get(epoch, 0) + self.streams.revoke(scope, epoch)
        if changes.key_revisions:
            without_key = self.streams.recheck(self.verifier.recheck, now=time.time(), unbroken=True)
            ended.update({revision: ended.get(revision, 0) + without_key for revision in changes.key_revisions})
        self._acknowledge(changes, ended)
        self._signal_ready()

    def _signal_ready(self) -> None:
        if self.ready:
            self._mesh_read.set()

    def _acknowledge(self, changes: Changes, ended: Mapping[int, int] = MappingProxyType({})) -> None:
        """Acknowledges the raised barriers. ended: how many open streams were ended, by revision."""
        for barrier_id, revision in changes.barriers:
            self._heartbeat.acknowledge(AppliedBarrier(barrier_id, revision, ended.get(revision, 0)))


def _version() -> str:
    try:
        return metadata.version("credmesh")
    except metadata.PackageNotFoundError:
        return "unknown"
