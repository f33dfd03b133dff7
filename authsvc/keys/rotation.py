"""Rotation: what to do next, given what etcd holds and the time. Pure; the rotator carries it out.

    nothing ──Prepare──▶ PREPARED ──Activate──▶ ACTIVE ──(a successor's Activate)──▶ RETIRING ──Remove──▶ nothing
                             └──Discard──▶ nothing

A key is PREPARED together with a barrier, in one commit, and is activated when every live node has acknowledged the
barrier: then no node meets its first signature unprepared. Each step is one commit, and what is next follows from what
etcd holds alone. So a leader may die at any point, and its successor carries on where it stopped.
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
    "LowerBarrier",
    "Prepare",
    "RaiseBarrier",
    "Remove",
    "Request",
    "Retire",
    "RotationState",
    "Rules",
    "State",
    "Step",
    "Wait",
    "decide",
]


class State(enum.Enum):
    """The life of a signing key. A removed key has no record."""

    PREPARED = 1
    ACTIVE = 2
    RETIRING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A signing key. Times are seconds since 1970; 0.0 where they are not reached.

    revision  the etcd revision of its record
    usable    whether its private key is in the vault and opens; asked of keys that sign or are to sign
    retired   seconds for which whoever decides has itself seen it RETIRING, by a clock that nobody sets
    """

    kid: str
    algorithm: str
    state: State
    prepared_at: float
    activated_at: float = 0.0
    remove_at: float = 0.0
    revision: int = 0
    usable: bool = True
    retired: float = math.inf


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody asked for a new signing key; an empty algorithm leaves it to the rules."""

    algorithm: str
    actor: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationState:
    """What etcd holds of a rotation.

    signing      the kid that the signing record names, or None where there is no such record
    barrier      the revision of the rotation's barrier; 0 where none is raised
    waiting_for  the live nodes that have not acknowledged the barrier; read after it was raised
    """

    keys: tuple[Key, ...] = ()
    signing: str | None = None
    request: Request | None = None
    barrier: int = 0
    waiting_for: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How rotation is to go. Durations are seconds.

    algorithm        of new keys, unless a request says otherwise
    interval         from a key's activation to the next scheduled rotation
    retirement       from the end of a key's signing to its removal: the longest token, leeway, and a margin for clocks
    proceed_after    how long a live node that does not acknowledge can hold a rotation up. Infinity: as long as it
                     lives. Going on without it makes it refuse good tokens, unless it fetches the key that it lacks
    proceed_unsigned_after
                     the same while no key signs, after a forced revocation or at the first start: then nobody can sign
                     in anywhere, and one silent node must not hold that up
    """

    algorithm: str
    interval: float
    retirement: float
    proceed_after: float = math.inf
    proceed_unsigned_after: float = 10.0


@dataclass(frozen=True, slots=True)
class Prepare:
    """Make a key, distribute it, raise the barrier, and drop the request that it answers. `cause` is for the audit."""

    algorithm: str
    cause: str


@dataclass(frozen=True, slots=True)
class RaiseBarrier:
    """Raise the barrier (anew) for a PREPARED key."""

    kid: str


@dataclass(frozen=True, slots=True)
class Activate:
    """Let a key sign, and retire those that did, until `remove_at`. `without` are nodes that did not acknowledge it."""

    kid: str
    retire: tuple[str, ...]
    remove_at: float
    without: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """Drop a request: the rotation that is under way answers it."""

    kid: str


@dataclass(frozen=True, slots=True)
class Retire:
    """Retire an ACTIVE key that does not sign, or a RETIRING one that has no end. Nothing of ours leaves one behind."""

    kid: str
    remove_at: float


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove a key: whatever it signed has expired."""

    kid: str


@dataclass(frozen=True, slots=True)
class Discard:
    """Remove a PREPARED key that cannot be used, and ask for another."""

    kid: str


@dataclass(frozen=True, slots=True)
class LowerBarrier:
    """Remove a barrier that no PREPARED key is behind."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do before `until` (seconds since 1970, or infinity), unless something happens.

    kid, waiting_for  the PREPARED key, and the nodes that it waits for
    """

    until: float
    kid: str | None = None
    waiting_for: frozenset[str] = frozenset()


Step = Prepare | RaiseBarrier | Activate | JoinRequest | Retire | Remove | Discard | LowerBarrier | Wait


def decide(state: RotationState, rules: Rules, now: float) -> Step:
    """The next step. `now` is in seconds since 1970."""
    signing = _signing(state)
    prepared = max(_in(state, State.PREPARED), key=lambda key: key.revision, default=None)
    step: Step | None = _repair(state, prepared, rules, now)
    if step is None:
        if prepared is not None:
            step = _advance(state, prepared, signing, rules, now)
        else:
            step = _begin(state, signing, rules, now)
    if not isinstance(step, Wait):
        return step
    retiring = [key for key in _in(state, State.RETIRING) if key.kid != state.signing]
    for key in retiring:
        if now >= _removal(key, rules, now):
            return Remove(key.kid)
    return Wait(min(step.until, *(_removal(key, rules, now) for key in retiring), math.inf), step.kid, step.waiting_for)


def _removal(key: Key, rules: Rules, now: float) -> float:
    """When a RETIRING key may go, as of `now`.

    Its `remove_at` alone is not to be relied on: a clock that is put forward by minutes, here or where it was retired,
    would take the key away while tokens that it signed are good. Nobody sets the clock by which it was seen RETIRING.
    """
    return max(key.remove_at, now + max(rules.retirement - key.retired, 0.0))


def _repair(state: RotationState, prepared: Key | None, rules: Rules, now: float) -> Step | None:
    """What no commit of ours leaves behind, but a hand in etcd may."""
    for key in _in(state, State.PREPARED):
        if key is not prepared and key.kid != state.signing:
            return Discard(key.kid)
    for key in state.keys:
        without_end = key.state is State.RETIRING and not key.remove_at
        if key.kid != state.signing and (key.state is State.ACTIVE or without_end):
            return Retire(key.kid, now + rules.retirement)
    if prepared is None and state.barrier:
        return LowerBarrier()
    return None


def _advance(state: RotationState, prepared: Key, signing: Key | None, rules: Rules, now: float) -> Step:
    """A rotation is under way."""
    if not prepared.usable:
        return Discard(prepared.kid)
    if state.request is not None and state.request.algorithm in ("", prepared.algorithm):
        return JoinRequest(prepared.kid)
    if state.barrier < prepared.revision:
        # It is missing, or older than the key: acknowledging it says nothing about the key.
        return RaiseBarrier(prepared.kid)
    patience = rules.proceed_unsigned_after if signing is None else rules.proceed_after
    if state.waiting_for and now < prepared.prepared_at + patience:
        return Wait(prepared.prepared_at + patience, prepared.kid, state.waiting_for)
    # Whatever the signing record names has signed up to this commit, in whichever state its own record is.
    retire = tuple(key.kid for key in state.keys if key.kid == state.signing and key is not prepared)
    return Activate(prepared.kid, retire, now + rules.retirement, state.waiting_for)


def _begin(state: RotationState, signing: Key | None, rules: Rules, now: float) -> Step:
    """No rotation is under way. Is one due?"""
    if state.request is not None:
        return Prepare(state.request.algorithm or rules.algorithm, "requested")
    if signing is None:
        return Prepare(rules.algorithm, "no key signs")
    if now >= signing.activated_at + rules.interval:
        return Prepare(rules.algorithm, "scheduled")
    return Wait(signing.activated_at + rules.interval)


def _signing(state: RotationState) -> Key | None:
    """The key that signs: named by the signing record, ACTIVE, and usable by whoever holds the KEK."""
    for key in _in(state, State.ACTIVE):
        if key.kid == state.signing and key.usable:
            return key
    return None


def _in(state: RotationState, life: State) -> Iterable[Key]:
    return (key for key in state.keys if key.state is life)
