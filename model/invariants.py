"""The promises, as questions about one state. Each answers with what is broken, or with None."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from model.actions import name
from model.state import ACCEPTED, MINE, READY, Session, State, holds

if TYPE_CHECKING:
    from model.worlds import World

__all__ = [
    "Invariant",
    "acks_stand_for_applied",
    "ended_sessions_stay_ended",
    "nobody_is_refused_by_rotation",
    "nobody_survives_a_restore",
    "nobody_survives_the_receipt",
    "nothing_is_issued_across",
    "only_the_leader_writes",
    "refresh_tokens_are_traded_once",
    "removed_keys_are_gone",
    "rotation_is_done",
    "whoever_remembers_notices",
]

Invariant = Callable[[State, "World"], str | None]


def nobody_survives_the_receipt(state: State, world: World) -> str | None:
    """I1. After the receipt's strict_from no node accepts the credential on a strict method.

    And a node that the receipt names as having applied the revocation accepts it on no method at all, at once.
    """
    for index, node in enumerate(state.nodes):
        if node.call.stage == ACCEPTED and node.call.late:
            return f"I1: node {name(index)} accepts the revoked credential in a call that began after the receipt"
    return None


def nobody_survives_a_restore(state: State, world: World) -> str | None:
    """I1, across a restore of etcd from a backup that does not have the revocation.

    Unless a replica has vouched that remembers nothing: that is what a memory is for.
    """
    past = state.past
    receipt = past.noted or not world.rules.makers_remember
    serves = past.node.phase == READY and past.node.proven
    if receipt and serves and not past.node.knows and not past.elsewhere:
        return "I1: the node serves strict calls after the receipt, and does not know the revocation"
    return None


def whoever_remembers_notices(state: State, world: World) -> str | None:
    """However far the restored etcd has gone on, and whoever has vouched for it meanwhile."""
    return "I1: the replica remembers what is lost, and finds nothing missing" if state.past.fooled else None


def acks_stand_for_applied(state: State, world: World) -> str | None:
    """I1 and I2 rest on it: an acknowledgement is there only if its node has applied the barrier's revision.

    A process that has died, or a new one that has not read yet, serves nobody.
    """
    for index, node in enumerate(state.nodes):
        same = node.history == state.etcd.history
        for barrier, ack in enumerate(node.acks):
            raised = state.etcd.barriers[barrier]
            if node.phase == READY and raised and ack >= raised and not (same and node.revision >= raised):
                return f"I1, I2: node {name(index)} has acknowledged revision {ack} and applied {node.revision}"
    return None


def nobody_is_refused_by_rotation(state: State, world: World) -> str | None:
    """I2. A token that is good can be verified: its key is in etcd, for a node that asks; and every registered node
    holds it already, unless it had lost its registration and has not caught up with the new one (then it asks)."""
    live, signing = state.issuer.live, state.etcd.signing
    if signing and not holds(state.etcd.keys, signing):
        return f"I2: key {signing} signs, and was removed: nobody accepts what is issued"
    if live & ~state.etcd.keys:
        return f"I2: the key {(live & ~state.etcd.keys).bit_length() - 1} of good tokens was removed"
    for index, node in enumerate(state.nodes):
        if node.phase == READY and node.record == MINE and node.revision >= node.since and live & ~node.keys:
            missing = (live & ~node.keys).bit_length() - 1
            return (
                f"I2: node {name(index)} is registered and live, and lacks key {missing}, which has signed good tokens"
            )
    return None


def removed_keys_are_gone(state: State, world: World) -> str | None:
    """A node that has applied the revision which removed a key does not hold it: what it signed is refused there."""
    for index, node in enumerate(state.nodes):
        if node.phase != READY:
            continue
        for kid, removed in enumerate(state.etcd.removed):
            if removed and removed <= node.revision and holds(node.keys, kid):
                return f"node {name(index)} holds key {kid}, whose removal it has applied"
    return None


def only_the_leader_writes(state: State, world: World) -> str | None:
    """The fence: a replica whose term is over has changed nothing."""
    return "the fence: a replica whose term is over has written" if state.etcd.trespass else None


def rotation_is_done(state: State, world: World) -> str | None:
    """Where everything that was asked for has come about: a key signs, and none is on its way."""
    etcd = state.etcd
    if etcd.prepared or etcd.request or not etcd.signing:
        return "the rotation cannot be finished, although nothing fails any more"
    return None


def nothing_is_issued_across(state: State, world: World) -> str | None:
    """I3. Whoever was authenticated before a revocation holds nothing that survives it, whenever it was issued."""
    revoked = state.etcd.epoch
    for epoch, vouched, _ in state.desk.access:
        if vouched < revoked <= epoch:
            return (
                f"I3: an access token of epoch {epoch} survives the revocation of revision {revoked}, and its holder "
                f"was authenticated at revision {vouched}"
            )
    session = state.desk.session
    if session.version and session.vouched < revoked <= session.epoch:
        return (
            f"I3: a session of epoch {session.epoch} survives the revocation of revision {revoked}, and its holder was "
            f"authenticated at revision {session.vouched}"
        )
    return None


def refresh_tokens_are_traded_once(state: State, world: World) -> str | None:
    """I4. A refresh token is traded for one other, however often and by whom it is shown; never after its grace."""
    successors: dict[int, int] = {}
    for token, successor in state.desk.trades:
        if successors.setdefault(token, successor) != successor:
            one, other = sorted((successors[token], successor))
            return f"I4: refresh token {token} was traded for {one} and for {other}"
    if state.desk.misjudged:
        return "I4: a refresh token that was used up got credentials after its grace window"
    return None


def ended_sessions_stay_ended(state: State, world: World) -> str | None:
    """I3, I4. The end of a session ends everything that hangs from it."""
    ended = state.desk.ended
    session: Session = state.desk.session
    if session.version and ended[session.created]:
        return "I4: a session that was ended is there again"
    for epoch, _, created in state.desk.access:
        at = ended[created]
        if at == -1 or 0 < at <= epoch:
            return f"I4: session {created} has ended, and an access token of it lives on"
    return None
