"""Rotation of the signing key: decides the next step, given what etcd holds and the time. Pure.

    (no key) ──Prepare──▶ PREPARED ──Activate──▶ ACTIVE ──(a successor's Activate)──▶ RETIRING ──Remove──▶ (no key)
                              └──Discard──▶ (no key)

A key is PREPARED together with a barrier, in one commit. It is activated when every registered node has acknowledged
the barrier, so every node holds the key before it sees the key's first signature. Each step is one commit, and the next
step follows from what etcd holds alone. So a leader may die at any point, and its successor continues.

authsvc.keys.rotator carries the steps out.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "Activate",
    "Discard",
    "JoinRequest",
    "Key",
    "KeyState",
    "Prepare",
    "RaiseBarrier",
    "Remove",
    "RemoveBarrier",
    "Request",
    "Retire",
    "RotationState",
    "Rules",
    "Step",
    "Wait",
    "decide",
]


class KeyState(enum.Enum):
    """The state of a signing key. A removed key has no record."""

    PREPARED = 1
    ACTIVE = 2
    RETIRING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A signing key. Times are seconds since 1970; 0.0 for a state that the key has not reached.

    revision      the etcd revision of its record
    usable        whether its private key is in the vault and opens. Checked only for PREPARED and ACTIVE keys
    retiring_for  seconds for which this leader has seen the key RETIRING, by a clock that is never set
    """

    kid: str
    algorithm: str
    state: KeyState
    prepared_at: float
    activated_at: float = 0.0
    remove_at: float = 0.0
    revision: int = 0
    usable: bool = True
    retiring_for: float = math.inf


@dataclass(frozen=True, slots=True)
class Request:
    """A request for a new signing key. An empty algorithm stands for that of the rules."""

    algorithm: str
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationState:
    """The signing keys and the rotation that is under way, as etcd holds them.

    signing           the kid that the signing record names; None if there is no such record
    barrier_revision  the revision of the rotation's barrier; 0 if none is raised
    waiting_for       the registered nodes that have not acknowledged the barrier, read after it was raised
    """

    keys: tuple[Key, ...] = ()
    signing: str | None = None
    request: Request | None = None
    barrier_revision: int = 0
    waiting_for: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of rotation. Durations are seconds.

    algorithm        of new keys, unless a request names another
    interval         from a key's activation to the next scheduled rotation
    retirement       from a key's last signature to its removal: the longest token lifetime, the leeway, and a margin
                     for clocks that differ
    proceed_after    how long a registered node that does not acknowledge can delay a rotation; infinity for as long as
                     it is registered. After that the node refuses good tokens until it has fetched the key
    proceed_unsigned_after
                     the same while no key signs, at the first start and after a key was revoked. No user can sign in
                     then, and one silent node must not prolong that
    """

    algorithm: str
    interval: float
    retirement: float
    proceed_after: float = math.inf
    proceed_unsigned_after: float = 10.0


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make a key, distribute it, raise the barrier, and delete the request that this answers.

    cause: for the audit trail.
    """

    algorithm: str
    cause: str


@dataclass(frozen=True, slots=True)
class RaiseBarrier:
    """Raise the barrier of a PREPARED key, or raise it again."""

    kid: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Let a key sign, and retire the keys that signed before.

    retire     the keys to retire, which are removed at `remove_at`
    without    registered nodes that did not acknowledge the key
    """

    kid: str
    retire: tuple[str, ...]
    remove_at: float
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Delete a request: the rotation that is under way answers it."""

    kid: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Retire an ACTIVE key that does not sign, or give a RETIRING key the time of removal that it lacks.

    The auth service leaves no such key behind, but an edit in etcd may.
    """

    kid: str
    remove_at: float


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a RETIRING key: everything that it signed has expired."""

    kid: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove a PREPARED key that is not usable, and request another."""

    kid: str


@dataclass(frozen=True, slots=True)
class RemoveBarrier:
    """Remove a barrier that belongs to no PREPARED key."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing before `until` (seconds since 1970, or infinity), unless etcd changes.

    kid, waiting_for  the PREPARED key, and the nodes that it waits for
    """

    until: float
    kid: str | None = None
    waiting_for: frozenset[str] = frozenset()


Step = Prepare | RaiseBarrier | Activate | JoinRequest | Retire | Remove | Discard | RemoveBarrier | Wait


def decide(state: RotationState, rules: Rules, now: float) -> Step:
    """The next step. `now` is in seconds since 1970."""
    signing = _signing_key(state)
    prepared = max(_keys_in(state, KeyState.PREPARED), key=lambda key: key.revision, default=None)
    step: Step | None = _repair(state, prepared, rules, now)
    if step is None:
        if prepared is not None:
            step = _continue_rotation(state, prepared, signing, rules, now)
        else:
            step = _start_rotation_if_due(state, signing, rules, now)
    if not isinstance(step, Wait):
        return step
    retiring = [key for key in _keys_in(state, KeyState.RETIRING) if key.kid != state.signing]
    for key in retiring:
        if now >= _removal_time(key, rules, now):
            return Remove(key.kid)
    removals = (_removal_time(key, rules, now) for key in retiring)
    return Wait(min(step.until, *removals, math.inf), step.kid, step.waiting_for)


def _removal_time(key: Key, rules: Rules, now: float) -> float:
    """When a RETIRING key may be removed, as seen at `now`.

    `remove_at` alone is not enough: a wall clock that is set forward, here or where the key was retired, would remove
    the key while tokens that it signed are good. `retiring_for` is measured by a clock that is never set.
    """
    return max(key.remove_at, now + max(rules.retirement - key.retiring_for, 0.0))


def _repair(state: RotationState, prepared: Key | None, rules: Rules, now: float) -> Step | None:
    """Repairs what no commit of the auth service leaves behind, but an edit in etcd may."""
    for key in _keys_in(state, KeyState.PREPARED):
        if key is not prepared and key.kid != state.signing:
            return Discard(key.kid)
    for key in state.keys:
        never_removed = key.state is KeyState.RETIRING and not key.remove_at
        if key.kid != state.signing and (key.state is KeyState.ACTIVE or never_removed):
            return Retire(key.kid, now + rules.retirement)
    if prepared is None and state.barrier_revision:
        return RemoveBarrier()
    return None


def _continue_rotation(state: RotationState, prepared: Key, signing: Key | None, rules: Rules, now: float) -> Step:
    if not prepared.usable:
        return Discard(prepared.kid)
    if state.request is not None and state.request.algorithm in ("", prepared.algorithm):
        return JoinRequest(prepared.kid)
    if state.barrier_revision < prepared.revision:
        # There is no barrier, or it is older than the key: its acknowledgements do not cover the key.
        return RaiseBarrier(prepared.kid)
    patience = rules.proceed_unsigned_after if signing is None else rules.proceed_after
    if state.waiting_for and now < prepared.prepared_at + patience:
        return Wait(prepared.prepared_at + patience, prepared.kid, state.waiting_for)
    # The key that the signing record names signs until this commit, whatever state its own record says.
    retire = tuple(key.kid for key in state.keys if key.kid == state.signing and key is not prepared)
    return Activate(prepared.kid, retire, now + rules.retirement, state.waiting_for)


def _start_rotation_if_due(state: RotationState, signing: Key | None, rules: Rules, now: float) -> Step:
    if state.request is not None:
        return Prepare(state.request.algorithm or rules.algorithm, "requested")
    if signing is None:
        return Prepare(rules.algorithm, "no key signs")
    if now >= signing.activated_at + rules.interval:
        return Prepare(rules.algorithm, "scheduled")
    return Wait(signing.activated_at + rules.interval)


def _signing_key(state: RotationState) -> Key | None:
    """The key that signs: ACTIVE, usable, and named by the signing record."""
    for key in _keys_in(state, KeyState.ACTIVE):
        if key.kid == state.signing and key.usable:
            return key
    return None


def _keys_in(state: RotationState, key_state: KeyState) -> Iterable[Key]:
    return (key for key in state.keys if key.state is key_state)
