"""The promises, as conditions on one state. Each returns what is broken, or None."""

from __future__ import annotations

from model.actions import name
from model.state import ACCEPTED, CURRENT, READY, Session, State, holds
from model.world import World

__all__ = [
    "acks_imply_applied",
    "ended_sessions_stay_ended",
    "no_acceptance_after_receipt",
    "no_acceptance_after_restore",
    "nothing_issued_across_survives",
    "only_the_leader_writes",
    "refresh_tokens_are_used_once",
    "remembered_loss_is_found",
    "removed_keys_are_gone",
    "rotation_can_finish",
    "rotation_refuses_no_valid_token",
]


def no_acceptance_after_receipt(state: State, world: World) -> str | None:
    """I1. After the receipt's strict_from, no node accepts the credential on a strict method.

    A node that has applied the revocation according to the receipt accepts it on no method, from then on.
    """
    for index, node in enumerate(state.nodes):
        if node.call.stage == ACCEPTED and node.call.after_receipt:
            return f"I1: node {name(index)} accepts the revoked credential in a call that began after the receipt"
    return None


def no_acceptance_after_restore(state: State, world: World) -> str | None:
    """I1, across a restore of etcd from a backup that lacks the revocation.

    The promise ends if a replica vouches that remembers nothing: preventing that is the purpose of the watermark.
    """
    continuity = state.continuity
    receipt = continuity.noted or not world.rules.receipts_are_noted
    serves = continuity.node.phase == READY and continuity.node.proven
    if receipt and serves and not continuity.node.knows_revocation and not continuity.vouched_elsewhere:
        return "I1: the node serves strict calls after the receipt, and does not know the revocation"
    return None


def remembered_loss_is_found(state: State, world: World) -> str | None:
    """A replica that remembers a lost commit finds the loss, whatever was committed or vouched since."""
    return (
        "I1: the replica remembers a lost commit, and finds nothing missing" if state.continuity.missed_loss else None
    )


def acks_imply_applied(state: State, world: World) -> str | None:
    """I1 and I2 rest on this: an acknowledgement exists only if its node has applied the barrier's revision.

    A process that has died, or has not read the mesh yet, serves no calls and does not count.
    """
    for index, node in enumerate(state.nodes):
        same = node.history == state.etcd.history
        for barrier, ack in enumerate(node.acks):
            raised = state.etcd.barriers[barrier]
            if node.phase == READY and raised and ack >= raised and not (same and node.revision >= raised):
                return f"I1, I2: node {name(index)} has acknowledged revision {ack} and applied {node.revision}"
    return None


def rotation_refuses_no_valid_token(state: State, world: World) -> str | None:
    """I2. A valid token can be verified: etcd holds its key, for a node that fetches it.

    Every registered node already holds the key, unless it had lost its registration and has not caught up with the new
    one; such a node fetches the key.
    """
    live, signing = state.signer.live_keys, state.etcd.signing
    if signing and not holds(state.etcd.keys, signing):
        return f"I2: key {signing} signs, and was removed: no node accepts the tokens that are issued"
    if live & ~state.etcd.keys:
        return f"I2: the key {(live & ~state.etcd.keys).bit_length() - 1} of valid tokens was removed"
    for index, node in enumerate(state.nodes):
        if (
            node.phase == READY
            and node.record == CURRENT
            and node.revision >= node.registration_revision
            and live & ~node.keys
        ):
            missing = (live & ~node.keys).bit_length() - 1
            return f"I2: node {name(index)} is registered and serves, and lacks key {missing} of valid tokens"
    return None


def removed_keys_are_gone(state: State, world: World) -> str | None:
    """A node that has applied the removal of a key does not hold the key: it refuses the tokens that the key signed."""
    for index, node in enumerate(state.nodes):
        if node.phase != READY:
            continue
        for kid, removed in enumerate(state.etcd.removal_revisions):
            if removed and removed <= node.revision and holds(node.keys, kid):
                return f"node {name(index)} holds key {kid}, whose removal it has applied"
    return None


def only_the_leader_writes(state: State, world: World) -> str | None:
    """The fence: a replica whose term has ended commits nothing."""
    return "the fence: a replica whose term has ended has committed" if state.etcd.deposed_leader_wrote else None


def rotation_can_finish(state: State, world: World) -> str | None:
    """The goal of a rotation: a key is ACTIVE, none is PREPARED, and none is requested."""
    etcd = state.etcd
    if etcd.prepared or etcd.rotation_requested or not etcd.signing:
        return "the rotation cannot be finished, although nothing fails any more"
    return None


def nothing_issued_across_survives(state: State, world: World) -> str | None:
    """I3. No credential survives a revocation that came after its holder was authenticated, whenever it was issued."""
    revoked = state.etcd.epoch
    for epoch, vouched, _ in state.issuance.access_tokens:
        if vouched < revoked <= epoch:
            return (
                f"I3: an access token of epoch {epoch} survives the revocation of revision {revoked}, and its holder "
                f"was authenticated at revision {vouched}"
            )
    session = state.issuance.session
    if session.version and session.authenticated_at < revoked <= session.epoch:
        return (
            f"I3: a session of epoch {session.epoch} survives the revocation of revision {revoked}, and its holder was "
            f"authenticated at revision {session.authenticated_at}"
        )
    return None


def refresh_tokens_are_used_once(state: State, world: World) -> str | None:
    """I4. A refresh token has one successor, however often it is presented, and gets nothing after its grace window."""
    successors: dict[int, int] = {}
    for token, successor in state.issuance.exchanges:
        if successors.setdefault(token, successor) != successor:
            one, other = sorted((successors[token], successor))
            return f"I4: refresh token {token} was exchanged for {one} and for {other}"
    if state.issuance.reuse_accepted:
        return "I4: a refresh token was exchanged after its grace window"
    return None


def ended_sessions_stay_ended(state: State, world: World) -> str | None:
    """I3, I4. The end of a session ends every credential that belongs to it."""
    ended = state.issuance.ended
    session: Session = state.issuance.session
    if session.version and ended[session.number]:
        return "I4: a session that was ended exists again"
    for epoch, _, number in state.issuance.access_tokens:
        at = ended[number]
        if at == -1 or 0 < at <= epoch:
            return f"I4: session {number} has ended, and an access token of it is still valid"
    return None
