"""Mutations: injected bugs, of the kind that a person could make, to show that the checker finds them.

They replace methods in the test bed's own processes (see `entry`) that CHAOS_PLANT names them for. The product does not
know of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

__all__ = ["MUTATIONS", "inject"]

_APPLY_DELAY_SECONDS: Final = 0.15
_SIGN_DELAY_SECONDS: Final = 0.3
_PROOF_DELAY_SECONDS: Final = 2.0


def epoch_ignored() -> None:
    """The node ignores every revocation that its watch brings."""
    from interceptors.trust.bundle import TrustBundle

    def ignore(_self: Any, _event: Any, _changes: Any) -> None:
        return None

    _replace(TrustBundle, "_apply_epoch", ignore)


def ack_before_applying() -> None:
    """The node acknowledges a barrier when its watch brings it, and applies the revision later."""
    from interceptors.node.mesh_node import MeshNode
    from interceptors.trust.bundle import Changes

    original: Any = MeshNode._on_events

    def acknowledge_first(self: Any, events: Sequence[Any], revision: int) -> None:
        barriers = self.bundle._layout.barriers
        heard = [
            (event.key.removeprefix(barriers), event.mod_revision)
            for event in events
            if event.key.startswith(barriers) and event.value is not None
        ]
        if heard:
            self._acknowledge(Changes(barriers=heard))
            time.sleep(_APPLY_DELAY_SECONDS)
        original(self, events, revision)

    _replace(MeshNode, "_on_events", acknowledge_first)


def signing_before_the_barrier() -> None:
    """The leader activates a key without waiting for acknowledgements."""
    from authsvc.coordination import barriers

    def no_nodes(*_arguments: Any, **_options: Any) -> frozenset[str]:
        return frozenset()

    _replace(barriers, "read_unacknowledged_nodes", no_nodes)


def refresh_without_compare() -> None:
    """A refresh stores the session's record without comparing it with the record that the decision rests on."""
    _refresh_without_conditions()


def freshness_after_the_read() -> None:
    """The node counts a proof's age from when it processes the answer, not from when it sent the read."""
    from interceptors import clock
    from interceptors.trust.bundle import TrustBundle

    original: Any = TrustBundle.add_proof

    def prove_late(self: Any, beacon: Any, _sent_at: float, *others: Any) -> None:
        time.sleep(_PROOF_DELAY_SECONDS)
        original(self, beacon, clock.ticks(), *others)

    _replace(TrustBundle, "add_proof", prove_late)


def token_across_a_revocation() -> None:
    """The replica gives every credential the newest revision as its epoch, and commits it without a comparison."""
    from authsvc.sessions.issuer import Issuer

    original: Any = Issuer.sign

    def sign_with_newest_epoch(self: Any, *arguments: Any, epoch: int, **others: Any) -> Any:
        time.sleep(_SIGN_DELAY_SECONDS)
        epoch = max(epoch, self._etcd.read(self._layout.beacon).revision)
        return original(self, *arguments, epoch=epoch, **others)

    _replace(Issuer, "sign", sign_with_newest_epoch)
    _refresh_without_conditions()
    _commit_without_conditions(Issuer)


def any_audience() -> None:
    """The node accepts credentials for any audience."""
    from dataclasses import replace

    from interceptors.verification import verifier

    original: Any = verifier.Verifier._authorize

    def allow_any_audience(self: Any, rule: Any, verified: Any) -> None:
        original(self, replace(rule, audience=min(verified.caller.audiences)), verified)

    _replace(verifier.Verifier, "_authorize", allow_any_audience)


def streams_outlive_tokens() -> None:
    """The node does not end a stream when its token expires."""
    from interceptors.node.open_streams import OpenStreams

    def remove_none(_self: Any, _now: float) -> tuple[list[Any], float]:
        return [], 1.0

    _replace(OpenStreams, "_remove_expired", remove_none)


def strict_streams_go_on() -> None:
    """The node does not end strict streams when it becomes stale."""
    from interceptors.node.open_streams import OpenStreams

    def remove_none(_self: Any, _now: float) -> tuple[list[Any], float]:
        return [], 1.0

    _replace(OpenStreams, "_remove_stale", remove_none)


def expired_is_fine() -> None:
    """The node does not check `exp` and `nbf`."""
    from interceptors.verification import verifier

    _replace(verifier, "check_times", lambda *_arguments: None)


def stale_for_everybody() -> None:
    """The node refuses plain calls when it is stale."""
    from interceptors.verification import verifier

    original: Any = verifier.Verifier._authorize

    def allow_only_fresh(self: Any, rule: Any, *others: Any) -> None:
        from dataclasses import replace

        original(self, rule if rule.freshness or rule.public else replace(rule, freshness=2.5), *others)

    _replace(verifier.Verifier, "_authorize", allow_only_fresh)


def reuse_is_forgiven() -> None:
    """The replica's grace window for used refresh tokens never ends."""
    from authsvc.sessions import sessions

    original = vars(sessions)["judge_refresh_token"]

    def judge_with_long_grace(record: Any, secret: bytes, *, now: float, grace: float) -> Any:
        return original(record, secret, now=now, grace=grace + 1e6)

    _replace(sessions, "judge_refresh_token", judge_with_long_grace)


def revoked_in_memory() -> None:
    """The replica acknowledges every fifth revocation without committing it, as if the commit came later and failed."""
    from authsvc.revocation.revoker import Revoker

    original: Any = Revoker.revoke
    count = 0

    def revoke_or_lose(self: Any, scope: str, **others: Any) -> int | None:
        nonlocal count
        count += 1
        if count % 5 == 0 and not others.get("extra_conditions"):
            return int(self._etcd.read(self._layout.beacon).revision)
        revision: int | None = original(self, scope, **others)
        return revision

    _replace(Revoker, "revoke", revoke_or_lose)


def receipt_forgets_a_node() -> None:
    """A receipt leaves out one of its nodes."""
    from authsvc.revocation.receipts import Receipts

    original: Any = Receipts._wait_for_nodes

    def wait_and_drop_one(self: Any, *arguments: Any) -> Any:
        nodes, listed = original(self, *arguments)
        return dict(sorted(nodes.items())[1:]), listed

    _replace(Receipts, "_wait_for_nodes", wait_and_drop_one)


def removed_key_still_accepted() -> None:
    """The node adds keys, and never removes one."""
    from interceptors.trust.bundle import TrustBundle

    original_apply_key: Any = TrustBundle._apply_key
    original_apply_epoch: Any = TrustBundle._apply_epoch

    def apply_added_key(self: Any, event: Any, keys: Any) -> None:
        if event.value is not None:
            original_apply_key(self, event, keys)

    def apply_other_epoch(self: Any, event: Any, changes: Any) -> None:
        if not event.key.startswith(f"{self._layout.epochs}kid/"):
            original_apply_epoch(self, event, changes)

    _replace(TrustBundle, "_apply_key", apply_added_key)
    _replace(TrustBundle, "_apply_epoch", apply_other_epoch)


MUTATIONS: Final[dict[str, Callable[[], None]]] = {
    mutation.__name__.replace("_", "-"): mutation
    for mutation in (
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


def inject(names: Iterable[str]) -> None:
    """Injects mutations into this process. KeyError for an unknown name, AttributeError if a target was renamed."""
    for name in names:
        MUTATIONS[name]()


class _UnconditionalClient:
    """An etcd client that drops the conditions of a commit."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def commit(self, _conditions: Any, operations: Any) -> Any:
        """Commits the operations without the conditions."""
        return self._client.commit([], operations)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


def _refresh_without_conditions() -> None:
    """Drops the conditions of both commits that a refresh can make: after a read, and of a known session."""
    from authsvc.revocation.lifetimes import IssuingLifetime
    from authsvc.sessions.sessions import Sessions
    from interceptors.etcd.client import Transaction

    original: Any = IssuingLifetime.commit_in_force

    def commit_anyway(self: Any, key: str, prepare: Any) -> int | None:
        def prepare_unconditional() -> Transaction | None:
            transaction = prepare()
            return None if transaction is None else Transaction([], transaction.operations)

        revision: int | None = original(self, key, prepare_unconditional)
        return revision

    _commit_without_conditions(Sessions)
    _replace(IssuingLifetime, "commit_in_force", commit_anyway)


def _commit_without_conditions(owner: Any) -> None:
    """Makes the instances of a class commit without conditions."""
    original = owner.__init__

    def init_unconditional(self: Any, *, etcd: Any, **others: Any) -> None:
        original(self, etcd=_UnconditionalClient(etcd), **others)

    _replace(owner, "__init__", init_unconditional)


def _replace(owner: Any, name: str, value: Any) -> None:
    if not hasattr(owner, name) and name not in getattr(owner, "__slots__", ()):
        raise AttributeError(f"{owner} has no attribute {name} any more: adapt the mutation that replaces it")
    setattr(owner, name, value)
