"""Bugs that are put in on purpose, each where a person might make it, to show that the checker finds them.

They are put in by replacing methods in the test bed's own processes (see `entry`), where CHAOS_PLANT names them. The
product knows nothing of this.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

__all__ = ["BUGS", "plant"]

_BUSY: Final = 0.15
_BUSIER: Final = 0.3
_VERY_BUSY: Final = 2.0


def epoch_ignored() -> None:
    """The node drops every revocation that its watch brings."""
    from interceptors.trust.bundle import TrustBundle

    def dropped(_self: Any, _event: Any, _changes: Any) -> None:
        return None

    _replace(TrustBundle, "_apply_epoch", dropped)


def ack_before_applying() -> None:
    """The node acknowledges a barrier when it hears of it, and applies the revision when it has the time."""
    from interceptors.node.mesh_node import MeshNode
    from interceptors.trust.bundle import Changes

    right: Any = MeshNode._on_events

    def hasty(self: Any, events: Sequence[Any], revision: int) -> None:
        barriers = self.bundle._layout.barriers
        heard = [
            (event.key.removeprefix(barriers), event.mod_revision)
            for event in events
            if event.key.startswith(barriers) and event.value is not None
        ]
        if heard:
            self._acknowledge(Changes(barriers=heard))
            time.sleep(_BUSY)
        right(self, events, revision)

    _replace(MeshNode, "_on_events", hasty)


def signing_before_the_barrier() -> None:
    """The leader activates a key without waiting for anybody."""
    from authsvc.coordination import barriers

    def nobody(*_arguments: Any, **_options: Any) -> frozenset[str]:
        return frozenset()

    _replace(barriers, "waits_for", nobody)


def refresh_without_compare() -> None:
    """A refresh stores the session's record whatever has become of it since it was read."""
    from authsvc.sessions.sessions import Sessions

    _without_compare(Sessions)


def freshness_after_the_read() -> None:
    """The node takes the time of a proof when it comes to write it down, and not when it asked: busy as it is."""
    from interceptors import clock
    from interceptors.trust.bundle import TrustBundle

    right: Any = TrustBundle.prove

    def late(self: Any, revision: int, _sent_at: float, *others: Any) -> None:
        time.sleep(_VERY_BUSY)
        right(self, revision, clock.ticks(), *others)

    _replace(TrustBundle, "prove", late)


def token_across_a_revocation() -> None:
    """Whatever is issued claims the newest revision there is, and is committed without a compare."""
    from authsvc.sessions.issuer import Issuer
    from authsvc.sessions.sessions import Sessions

    right: Any = Issuer.sign

    def newest(self: Any, *arguments: Any, epoch: int, **others: Any) -> Any:
        time.sleep(_BUSIER)
        epoch = max(epoch, self._etcd.read(self._layout.beacon).revision)
        return right(self, *arguments, epoch=epoch, **others)

    _replace(Issuer, "sign", newest)
    _without_compare(Sessions)
    _without_compare(Issuer)


def any_audience() -> None:
    """The node takes whatever is good for some service."""
    from dataclasses import replace

    from interceptors.verification import verifier as verify

    right: Any = verify.Verifier._allow

    def lax(self: Any, rule: Any, verified: Any) -> None:
        right(self, replace(rule, audience=min(verified.caller.audiences)), verified)

    _replace(verify.Verifier, "_allow", lax)


def streams_outlive_tokens() -> None:
    """The node looks at a stream's credential when the stream begins, and then no more."""
    from interceptors.node.open_streams import OpenCalls

    def nothing(_self: Any, _now: float) -> tuple[list[Any], float]:
        return [], 1.0

    _replace(OpenCalls, "_take_expired", nothing)


def strict_streams_go_on() -> None:
    """The node lets go on what a strict method let in, however stale it has become since."""
    from interceptors.node.open_streams import OpenCalls

    def nothing(_self: Any, _now: float) -> tuple[list[Any], float]:
        return [], 1.0

    _replace(OpenCalls, "_take_outdated", nothing)


def expired_is_fine() -> None:
    """The node forgives any clock skew."""
    from interceptors.verification import verifier as verify

    _replace(verify, "check_times", lambda *_arguments: None)


def stale_for_everybody() -> None:
    """The node, cut off from etcd, refuses what a plain method would go on serving."""
    from interceptors.verification import verifier as verify

    right: Any = verify.Verifier._allow

    def strict(self: Any, rule: Any, *others: Any) -> None:
        from dataclasses import replace

        right(self, rule if rule.freshness or rule.public else replace(rule, freshness=2.5), *others)

    _replace(verify.Verifier, "_allow", strict)


def reuse_is_forgiven() -> None:
    """A refresh token that was used before is good for ever, as if it were within the grace window."""
    from authsvc.sessions import sessions

    right = vars(sessions)["judge_refresh_token"]

    def mild(record: Any, secret: bytes, *, now: float, grace: float) -> Any:
        return right(record, secret, now=now, grace=grace + 1e6)

    _replace(sessions, "judge_refresh_token", mild)


def revoked_in_memory() -> None:
    """A revocation is answered before it is committed, and lost if that fails: here, now and then."""
    from authsvc.revocation.revoker import Revoker

    right: Any = Revoker.revoke
    count = 0

    def forgetful(self: Any, scope: str, **others: Any) -> int | None:
        nonlocal count
        count += 1
        if count % 5 == 0 and not others.get("extra_conditions"):
            return int(self._etcd.read(self._layout.beacon).revision)
        revision: int | None = right(self, scope, **others)
        return revision

    _replace(Revoker, "revoke", forgetful)


def receipt_forgets_a_node() -> None:
    """A receipt leaves out one of the nodes that it waited for."""
    from authsvc.revocation.receipts import Receipts

    right: Any = Receipts._wait

    def forgetful(self: Any, *arguments: Any) -> Any:
        nodes, listed = right(self, *arguments)
        return dict(sorted(nodes.items())[1:]), listed

    _replace(Receipts, "_wait", forgetful)


def removed_key_still_accepted() -> None:
    """The node takes new keys in, and lets go of none."""
    from interceptors.trust.bundle import TrustBundle

    right_key: Any = TrustBundle._apply_key
    right_epoch: Any = TrustBundle._apply_epoch

    def keeps(self: Any, event: Any, keys: Any) -> None:
        if event.value is not None:
            right_key(self, event, keys)

    def spares(self: Any, event: Any, changes: Any) -> None:
        if not event.key.startswith(f"{self._layout.epochs}kid/"):
            right_epoch(self, event, changes)

    _replace(TrustBundle, "_apply_key", keeps)
    _replace(TrustBundle, "_apply_epoch", spares)


BUGS: Final[dict[str, Callable[[], None]]] = {
    bug.__name__.replace("_", "-"): bug
    for bug in (
        ack_before_applying,
        any_audience,
        epoch_ignored,
        expired_is_fine,
        freshness_after_the_read,
        receipt_forgets_a_node,
        refresh_without_compare,
        removed_key_still_accepted,
        reuse_is_forgiven,
        revoked_in_memory,
        signing_before_the_barrier,
        stale_for_everybody,
        streams_outlive_tokens,
        strict_streams_go_on,
        token_across_a_revocation,
    )
}


def plant(names: Iterable[str]) -> None:
    """Puts bugs into this process. KeyError for a name that there is not."""
    for name in names:
        BUGS[name]()


class _Careless:
    """A client of etcd that forgets the conditions of a commit."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def commit(self, _conditions: Any, operations: Any) -> Any:
        """Commits."""
        return self._client.commit([], operations)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _without_compare(owner: Any) -> None:
    """Has the instances of a class commit without conditions."""
    right = owner.__init__

    def careless(self: Any, *, etcd: Any, **others: Any) -> None:
        right(self, etcd=_Careless(etcd), **others)

    _replace(owner, "__init__", careless)


def _replace(owner: Any, name: str, value: Any) -> None:
    if not hasattr(owner, name) and name not in getattr(owner, "__slots__", ()):
        raise AttributeError(f"there is no {name} in {owner} any more; plant this bug anew")
    setattr(owner, name, value)
