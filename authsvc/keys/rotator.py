"""The rotator: carries out the rotation of signing keys, step by step, while this replica leads."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final

from prometheus_client import Gauge

from authsvc.audit import audit
from authsvc.coordination import barriers
from authsvc.coordination.election import LeaderJob, StepDown
from authsvc.keys import algorithms
from authsvc.keys.rotation import (
    Activate,
    Discard,
    JoinRequest,
    KeyState,
    Prepare,
    Remove,
    Retire,
    RotationState,
    Rules,
    Step,
    Wait,
    decide,
)
from authsvc.keys.signer_cache import load_signer
from authsvc.keys.snapshot import BARRIER, KeySnapshot, read_key_snapshot
from authsvc.keys.transactions import NewKey, transaction_for
from authsvc.keys.vault import KekMissing, Vault, VaultError
from authsvc.revocation.lifetimes import read_lifetimes_in_force
from interceptors.clock import ticks
from interceptors.etcd.client import CreatedAt, EtcdClient, KeyValue
from interceptors.keyspace import Layout
from interceptors.stored_records import RecordError

__all__ = ["Rotator", "new_kid"]

_log: Final = logging.getLogger("credmesh.auth.keys")

_nodes_waited_for: Final = Gauge(
    "credmesh_auth_rotation_waits_for",
    "Registered nodes whose acknowledgement a new signing key waits for; the leader's.",
)

_MAX_STEP_INTERVAL_SECONDS: Final = 30.0
"""Events wake the rotator. It looks this often without one, since a clock may be set and an event may get lost."""

_MAX_LOST_COMMITS: Final = 8
"""Commits in a row that may fail, each because something changed at the same moment, before the job gives way."""

_MAX_REMEMBERED_KEYS: Final = 8


class Rotator:
    """Prepares, activates, retires and removes signing keys, as `rotation.decide` says.

    The next step follows from etcd, whichever replica did the step before. Between two calls only one thing is kept:
    how long each key has been seen RETIRING. A new leader starts counting at zero, and so keeps those keys a little
    longer.

    algorithm          of new keys, unless a request names another
    rotation_interval  seconds from a key's activation to the next scheduled rotation
    token_lifetime     seconds, of this replica's tokens. If a longer lifetime is in force, that one counts
    leeway             seconds of clock skew that nodes tolerate
    margin             seconds that a retired key is kept beyond that, because the clocks of replicas differ
    warn_after         seconds after which a node that does not acknowledge a key is named in log and audit trail
    proceed_after, proceed_unsigned_after
                       seconds until a rotation proceeds without such a node (see `rotation.Rules`)
    step_down_seconds  seconds for which a replica that lacks a key-encryption key does not lead
    clock              seconds since 1970
    monotonic          seconds on a clock that is never set

    `step` is the leader's job: given the leader's fence it carries out the steps that are due, and returns the seconds
    until it wants to be called again. It raises EtcdUnavailable; if such a commit happened after all, the next call
    finds it done. It raises StepDown if a key that signs or is PREPARED is sealed under a key-encryption key that this
    replica does not have: other replicas may be able to use it, so this one changes nothing.
    """

    def __init__(
        self,
        etcd: EtcdClient,
        layout: Layout,
        vault: Vault,
        *,
        rotation_interval: float,
        token_lifetime: float,
        leeway: float,
        algorithm: str = algorithms.DEFAULT_ALGORITHM,
        margin: float = 60.0,
        warn_after: float = 5.0,
        proceed_after: float = math.inf,
        proceed_unsigned_after: float = 10.0,
        step_down_seconds: float = 10.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = ticks,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._vault = vault
        self._rules = Rules(
            algorithm=algorithms.require_known(algorithm),
            interval=rotation_interval,
            retirement=token_lifetime + leeway + margin,  # at least; see _rules_in_force
            proceed_after=proceed_after,
            proceed_unsigned_after=proceed_unsigned_after,
        )
        self._token_lifetime = token_lifetime
        self._warn_after = warn_after
        self._stand_back = step_down_seconds
        self._clock = clock
        self._monotonic = monotonic
        self._first_seen_retiring: tuple[CreatedAt | None, dict[tuple[str, int], float]] = (None, {})
        self._usable_by_kid: dict[str, tuple[int, int, bool]] = {}
        self._warned_about: tuple[str | None, frozenset[str]] = (None, frozenset())
        self.step: Final = LeaderJob(
            self._step,
            wakes_on=(layout.rotation, barriers.acks_directory(layout, BARRIER), layout.nodes),
            name="rotation",
        )

    def _step(self, fence: CreatedAt) -> float:
        lost_commits = 0
        while lost_commits < _MAX_LOST_COMMITS:
            try:
                snapshot = read_key_snapshot(self._etcd, self._layout, usable=self._is_usable)
            except KekMissing as error:
                _nodes_waited_for.set(0)
                _log.critical("this replica cannot sign, and leaves the rotation to other replicas: %s", error)
                raise StepDown(str(error), seconds=self._stand_back) from error
            if snapshot.signing_error is not None:
                # A newer replica may have written the record. An older one must not guess what it says.
                _log.error("the rotation is stopped: it is not certain which key signs: %s", snapshot.signing_error)
                return _MAX_STEP_INTERVAL_SECONDS
            now = self._clock()
            step = decide(self._with_retiring_times(snapshot.state, fence), self._rules_in_force(), now)
            if isinstance(step, Wait):
                return self._seconds_to_wait(step, snapshot, now)
            if not self._commit_step(step, snapshot, fence, now):
                lost_commits += 1
                if not self._still_leads(fence):
                    _nodes_waited_for.set(0)
                    _log.info("this replica no longer leads; the new leader continues the rotation")
                    return _MAX_STEP_INTERVAL_SECONDS
        return 0.0

    def _rules_in_force(self) -> Rules:
        """The rules, with the longest lifetime under which any replica has issued tokens that may still be good."""
        longer = max(read_lifetimes_in_force(self._etcd, self._layout).longest - self._token_lifetime, 0.0)
        return replace(self._rules, retirement=self._rules.retirement + longer)

    def _with_retiring_times(self, state: RotationState, fence: CreatedAt) -> RotationState:
        """The state, with the seconds for which each key has been seen RETIRING in this term."""
        tick = self._monotonic()
        term, first_seen = self._first_seen_retiring
        if term != fence:
            first_seen = {}
        # The record's revision is part of the name: in a restored etcd a key of the same kid is another key.
        first_seen = {
            (key.kid, key.revision): first_seen.get((key.kid, key.revision), tick)
            for key in state.keys
            if key.state is KeyState.RETIRING
        }
        self._first_seen_retiring = fence, first_seen
        keys = (replace(key, retiring_for=tick - first_seen.get((key.kid, key.revision), tick)) for key in state.keys)
        return replace(state, keys=tuple(keys))

    def _commit_step(self, step: Step, snapshot: KeySnapshot, fence: CreatedAt, now: float) -> bool:
        """Commits a step; False if the leader or something that the step rests on has changed."""
        new_key = None
        if isinstance(step, Prepare):
            new_key = NewKey(new_kid(now), step.algorithm, algorithms.generate_private_key(step.algorithm))
        transaction = transaction_for(step, snapshot, self._layout, now=now, new_key=new_key, vault=self._vault)
        revision = self._etcd.commit([fence, *transaction.conditions], transaction.operations)
        if revision is None:
            return False
        _audit_step(step, snapshot, new_key, revision)
        return True

    def _still_leads(self, fence: CreatedAt) -> bool:
        leader = self._etcd.read(fence.key).values.get(fence.key)
        if leader is None or leader.create_revision != fence.create_revision:
            return False
        return fence.value is None or leader.value == fence.value

    def _is_usable(self, kid: str, record: KeyValue, sealed: KeyValue | None) -> bool:
        """Whether the key can sign. KekMissing if this replica cannot tell.

        The result is remembered until one of the records changes.
        """
        if sealed is None:
            _log.error("key %r has no private key in the vault; a new key replaces it", kid)
            return False
        known = self._usable_by_kid.get(kid)
        if known is not None and known[:2] == (record.mod_revision, sealed.mod_revision):
            return known[2]
        try:
            load_signer(self._vault, kid, record.value, sealed.value)
            usable = True
        except KekMissing:
            raise
        except (RecordError, VaultError) as error:
            _log.error("%s; a new key replaces it", error)
            usable = False
        if len(self._usable_by_kid) > _MAX_REMEMBERED_KEYS:
            self._usable_by_kid.clear()
        self._usable_by_kid[kid] = (record.mod_revision, sealed.mod_revision, usable)
        return usable

    def _seconds_to_wait(self, step: Wait, snapshot: KeySnapshot, now: float) -> float:
        """Seconds to wait. Names the nodes that delay a rotation in the log, once for each set of them."""
        until = min(step.until, now + _MAX_STEP_INTERVAL_SECONDS)
        _nodes_waited_for.set(len(step.waiting_for))
        if step.kid is None:
            return max(until - now, 0.0)
        prepared_at = next(key.prepared_at for key in snapshot.state.keys if key.kid == step.kid)
        if now < prepared_at + self._warn_after:
            until = min(until, prepared_at + self._warn_after)
        elif self._warned_about != (step.kid, step.waiting_for):
            self._warned_about = (step.kid, step.waiting_for)
            nodes = sorted(step.waiting_for)
            _log.warning(
                "key %r has waited %.0f s for %s to acknowledge it; check these nodes. The rotation proceeds when they "
                "acknowledge or when their leases end",
                step.kid,
                now - prepared_at,
                ", ".join(nodes),
            )
            audit("key.waiting", kid=step.kid, waiting_for=nodes, seconds=round(now - prepared_at, 1))
        return max(until - now, 0.0)


def new_kid(now: float) -> str:
    """A new key's id: the date, for readers, and 48 random bits. It begins with a digit, so no shell interprets it."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%d}-{secrets.token_hex(6)}"


def _audit_step(step: Step, snapshot: KeySnapshot, new_key: NewKey | None, revision: int) -> None:
    """Writes a committed step into the audit trail."""
    match step:
        case Prepare(algorithm, cause) if new_key is not None:
            request = snapshot.state.request
            actor = {} if request is None else {"actor": request.actor}
            audit("key.prepare", kid=new_key.kid, algorithm=algorithm, cause=cause, revision=revision, **actor)
        case Activate():
            _audit_activation(step, step.retire, revision)
        case JoinRequest(kid):
            request = snapshot.state.request
            audit("key.join", kid=kid, actor="" if request is None else request.actor, revision=revision)
        case Retire(kid, remove_at):
            audit("key.retire", kid=kid, remove_at=_utc(remove_at), revision=revision)
        case Remove(kid):
            audit("key.remove", kid=kid, revision=revision)
        case Discard(kid):
            audit("key.discard", kid=kid, revision=revision)
        case _:
            _log.info("rotation: %s at revision %d", step, revision)


def _audit_activation(step: Activate, retired: Sequence[str], revision: int) -> None:
    audit("key.activate", kid=step.kid, without=sorted(step.without), revision=revision)
    for kid in retired:
        audit("key.retire", kid=kid, remove_at=_utc(step.remove_at), revision=revision)
    if step.without:
        _log.warning("key %r signs, although %s did not acknowledge it", step.kid, ", ".join(sorted(step.without)))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
