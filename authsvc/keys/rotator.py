"""The rotator: carries out rotation, step by step, while this replica leads."""

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
from authsvc.keys.ring import open_signer
from authsvc.keys.rotation import (
    Activate,
    Discard,
    JoinRequest,
    Prepare,
    Remove,
    Retire,
    RotationState,
    Rules,
    State,
    Step,
    Wait,
    decide,
)
from authsvc.keys.snapshot import BARRIER, KeySnapshot, read_key_snapshot
from authsvc.keys.transactions import NewKey, change
from authsvc.keys.vault import KekMissing, Vault, VaultError
from authsvc.revocation.lifetimes import read_in_force
from interceptors.clock import ticks
from interceptors.etcd.client import CreatedAt, EtcdClient, KeyValue
from interceptors.keyspace import Layout
from interceptors.tokens.verification_key import RecordError

__all__ = ["Rotator", "new_kid"]

_log: Final = logging.getLogger("credmesh.auth.keys")

_waited_for: Final = Gauge(
    "credmesh_auth_rotation_waits_for", "Live nodes whose acknowledgement a new signing key waits for; the leader's."
)

_LOOK_AGAIN: Final = 30.0
"""Seconds: events wake the rotator; this is for clocks that were set, and for events that got lost all the same."""

_LOST: Final = 8
"""Commits that may fail in a row, each because something changed at the same moment, before others get their turn."""


class Rotator:
    """Prepares, activates, retires and removes signing keys, as `rotation.decide` says.

    What is next follows from etcd, whoever did the step before. All that is kept between two calls is for how long each
    key has been seen RETIRING: whoever takes the lead begins to count anew, and keeps those keys a little longer.

    algorithm          of new keys, unless a request says otherwise
    rotation_interval  seconds from a key's activation to the next scheduled rotation
    token_lifetime     seconds, of this replica's tokens; if a longer lifetime is in force it is that one which counts
    leeway             seconds of clock skew that nodes forgive
    margin             seconds that a retired key is kept beyond that, for the clocks of replicas that differ
    warn_after         seconds after which a node that does not acknowledge a key is named in log and audit trail
    proceed_after, proceed_unsigned_after
                       seconds until a rotation goes on without such a node (see `rotation.Rules`)
    stand_back         seconds for which a replica does not lead that lacks a key-encryption key
    clock              seconds since 1970
    monotonic          seconds on a clock that nobody sets

    `step` is the leader's job: called with the leader's fence it does what is due and returns in how many seconds it
    wants to be called again. It raises EtcdUnavailable; a commit that then happened all the same is found next time.
    StepDown where a key that signs or is to sign is sealed under a key-encryption key that this replica does not have:
    to the others it may be as good as ever, so this one changes nothing.
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
        algorithm: str = algorithms.DEFAULT,
        margin: float = 60.0,
        warn_after: float = 5.0,
        proceed_after: float = math.inf,
        proceed_unsigned_after: float = 10.0,
        stand_back: float = 10.0,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = ticks,
    ) -> None:
        self._etcd = etcd
        self._layout = layout
        self._vault = vault
        self._rules = Rules(
            algorithm=algorithms.check(algorithm),
            interval=rotation_interval,
            retirement=token_lifetime + leeway + margin,  # at least; see _rules_in_force
            proceed_after=proceed_after,
            proceed_unsigned_after=proceed_unsigned_after,
        )
        self._token_lifetime = token_lifetime
        self._warn_after = warn_after
        self._stand_back = stand_back
        self._clock = clock
        self._monotonic = monotonic
        self._retiring: tuple[CreatedAt | None, dict[tuple[str, int], float]] = (None, {})
        self._opened: dict[str, tuple[int, int, bool]] = {}
        self._warned: tuple[str | None, frozenset[str]] = (None, frozenset())
        self.step: Final = LeaderJob(
            self._step, wakes_on=(layout.rotation, barriers.acks_of(layout, BARRIER), layout.nodes), name="rotation"
        )

    def _step(self, fence: CreatedAt) -> float:
        lost = 0
        while lost < _LOST:
            try:
                snapshot = read_key_snapshot(self._etcd, self._layout, usable=self._usable)
            except KekMissing as error:
                _waited_for.set(0)
                _log.critical("this replica cannot sign, and leaves the rotation to others: %s", error)
                raise StepDown(str(error), seconds=self._stand_back) from error
            if snapshot.trouble is not None:
                # A newer replica may have written it. Whatever an older one did to it would be a guess.
                _log.error("rotation stands still, since the key that signs is in doubt: %s", snapshot.trouble)
                return _LOOK_AGAIN
            now = self._clock()
            step = decide(self._watched(snapshot.state, fence), self._rules_in_force(), now)
            if isinstance(step, Wait):
                return self._wait(step, snapshot, now)
            if not self._carry_out(step, snapshot, fence, now):
                lost += 1
                if not self._leads(fence):
                    _waited_for.set(0)
                    _log.info("this replica does not lead any more; another one carries on")
                    return _LOOK_AGAIN
        return 0.0

    def _rules_in_force(self) -> Rules:
        """The rules, with the longest lifetime under which any replica has issued what can still be good."""
        longer = max(read_in_force(self._etcd, self._layout).longest - self._token_lifetime, 0.0)
        return replace(self._rules, retirement=self._rules.retirement + longer)

    def _watched(self, state: RotationState, fence: CreatedAt) -> RotationState:
        """The state, with the time for which each key was seen RETIRING in this term."""
        tick = self._monotonic()
        term, seen = self._retiring
        if term != fence:
            seen = {}
        # By the record's revision too: one of that name in an etcd that was restored is not the one that was seen.
        seen = {
            (key.kid, key.revision): seen.get((key.kid, key.revision), tick)
            for key in state.keys
            if key.state is State.RETIRING
        }
        self._retiring = fence, seen
        return replace(
            state,
            keys=tuple(replace(key, retired=tick - seen.get((key.kid, key.revision), tick)) for key in state.keys),
        )

    def _carry_out(self, step: Step, snapshot: KeySnapshot, fence: CreatedAt, now: float) -> bool:
        new_key = None
        if isinstance(step, Prepare):
            new_key = NewKey(new_kid(now), step.algorithm, algorithms.generate(step.algorithm))
        commit = change(step, snapshot, self._layout, now=now, new_key=new_key, vault=self._vault)
        revision = self._etcd.commit([fence, *commit.conditions], commit.operations)
        if revision is None:
            return False
        _tell(step, snapshot, new_key, revision)
        return True

    def _leads(self, fence: CreatedAt) -> bool:
        leader = self._etcd.read(fence.key).values.get(fence.key)
        if leader is None or leader.create_revision != fence.create_revision:
            return False
        return fence.value is None or leader.value == fence.value

    def _usable(self, kid: str, record: KeyValue, sealed: KeyValue | None) -> bool:
        """Whether the key can sign. KekMissing if that is not for this replica to say.

        Opening is not repeated for records that have not changed.
        """
        if sealed is None:
            _log.error("key %r has no private key in the vault; another key takes its place", kid)
            return False
        known = self._opened.get(kid)
        if known is not None and known[:2] == (record.mod_revision, sealed.mod_revision):
            return known[2]
        try:
            open_signer(self._vault, kid, record.value, sealed.value)
            usable = True
        except KekMissing:
            raise
        except (RecordError, VaultError) as error:
            _log.error("%s; another key takes its place", error)
            usable = False
        if len(self._opened) > _LOST:
            self._opened.clear()
        self._opened[kid] = (record.mod_revision, sealed.mod_revision, usable)
        return usable

    def _wait(self, step: Wait, snapshot: KeySnapshot, now: float) -> float:
        """Seconds to wait. Names the nodes that hold a rotation up, once, and again when they are others."""
        until = min(step.until, now + _LOOK_AGAIN)
        _waited_for.set(len(step.waiting_for))
        if step.kid is None:
            return max(until - now, 0.0)
        since = next(key.prepared_at for key in snapshot.state.keys if key.kid == step.kid)
        if now < since + self._warn_after:
            until = min(until, since + self._warn_after)
        elif self._warned != (step.kid, step.waiting_for):
            self._warned = (step.kid, step.waiting_for)
            nodes = sorted(step.waiting_for)
            _log.warning(
                "key %r has waited %.0f s for %s to acknowledge it; are these nodes well? The rotation goes on when "
                "they do, or when their leases end",
                step.kid,
                now - since,
                ", ".join(nodes),
            )
            audit("key.waiting", kid=step.kid, waiting_for=nodes, seconds=round(now - since, 1))
        return max(until - now, 0.0)


def new_kid(now: float) -> str:
    """A new key's id: the day, for people, and 48 random bits. It begins with a digit, so no shell takes it amiss."""
    return f"{datetime.fromtimestamp(now, UTC):%Y%m%d}-{secrets.token_hex(6)}"


def _tell(step: Step, snapshot: KeySnapshot, new_key: NewKey | None, revision: int) -> None:
    """Writes a step that was committed into the audit trail."""
    match step:
        case Prepare(algorithm, cause) if new_key is not None:
            request = snapshot.state.request
            actor = {} if request is None else {"actor": request.actor}
            audit("key.prepare", kid=new_key.kid, algorithm=algorithm, cause=cause, revision=revision, **actor)
        case Activate():
            _tell_activation(step, step.retire, revision)
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


def _tell_activation(step: Activate, retired: Sequence[str], revision: int) -> None:
    audit("key.activate", kid=step.kid, without=sorted(step.without), revision=revision)
    for kid in retired:
        audit("key.retire", kid=kid, remove_at=_utc(step.remove_at), revision=revision)
    if step.without:
        _log.warning("key %r signs, and %s did not acknowledge it", step.kid, ", ".join(sorted(step.without)))


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
