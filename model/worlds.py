"""The worlds that are searched: their parts, their sizes, and the number of faults in each.

One world with all parts would be too large to search. The worlds are separated where parts interact through revisions
only: a node applies what an auth replica has committed, regardless of the other parts.
"""

from __future__ import annotations

from dataclasses import replace

from model.actions import applying, calls, continuity, nodes, receipts, rotation, sessions
from model.invariants import (
    acks_imply_applied,
    ended_sessions_stay_ended,
    no_acceptance_after_receipt,
    no_acceptance_after_restore,
    nothing_issued_across_survives,
    only_the_leader_writes,
    refresh_tokens_are_used_once,
    remembered_loss_is_found,
    removed_keys_are_gone,
    rotation_can_finish,
    rotation_refuses_no_valid_token,
)
from model.state import (
    CURRENT,
    READY,
    Budget,
    ContinuityEtcd,
    ContinuityNode,
    ContinuityReplica,
    ContinuityState,
    Etcd,
    Leader,
    Node,
    Observation,
    Signer,
    State,
)
from model.world import Action, World

__all__ = [
    "FETCHING",
    "FEW_REQUESTS",
    "HISTORIES",
    "ONE_HOLDER",
    "ONE_LOSS",
    "ONE_NODE",
    "RECEIPTS",
    "RESTORE",
    "ROTATION",
    "SESSIONS",
    "THREADS",
    "WORLDS",
]


_NODE_STEPS: tuple[Action, ...] = (
    applying.apply,
    applying.acknowledge,
    nodes.register,
    nodes.read_mesh,
    nodes.register_again,
    applying.acknowledge_before_applying,
    nodes.expire_lease,
    nodes.crash,
)
_PROOF_STEPS: tuple[Action, ...] = (
    calls.send_proof,
    calls.serve_proof,
    calls.receive_proof,
    nodes.renew,
    calls.tick,
    calls.suspend,
)
_RECEIPT_STEPS: tuple[Action, ...] = (
    receipts.request_revocation,
    receipts.revoke,
    receipts.learn_of_commit,
    receipts.read_acks,
    receipts.read_nodes,
    receipts.reach_freshness_bound,
    calls.begin_call,
    calls.check_proof,
    calls.check_epochs,
    calls.drop_early_call,
)


def _all_calls_decided(state: State) -> bool:
    """The receipt is made, no call is in progress, and no other call can begin."""
    return state.receipt.stage == "made" and not state.budget.calls and not state.nodes[0].call.stage


_READY = Node(record=CURRENT, lease_left=1, phase=READY)
_DOWN = Node(proof_age=3)
_OTHER = Node(record=CURRENT, phase=READY, proof_age=3)

RECEIPTS = World(
    name="receipts",
    bounds="2 nodes, one of them perhaps not started yet; freshness 1 tick, leases 1 tick, 1 crash, 1 call",
    beginnings=(
        *(
            State(nodes=(watched, other), budget=Budget(faults=1, calls=1))
            for watched in (_READY, _DOWN)
            for other in (_OTHER, _DOWN)
        ),
    ),
    actions=(*_NODE_STEPS, nodes.leave, *_PROOF_STEPS, *_RECEIPT_STEPS),
    invariants=(no_acceptance_after_receipt, acks_imply_applied),
    timed=True,
    finished=_all_calls_decided,
)

ONE_NODE = replace(
    RECEIPTS,
    name="one-node",
    bounds="as receipts, with the first node only",
    beginnings=tuple(State(nodes=(watched,), budget=Budget(faults=1, calls=1)) for watched in (_READY, _DOWN)),
)
"""The smallest world in which a receipt can be wrong."""

THREADS = World(
    name="threads",
    bounds="1 node whose threads can interleave at every memory access; freshness 1 tick, 2 calls",
    beginnings=(
        State(
            # The node has yet to apply a key, so that the generation changes more than once.
            etcd=Etcd(log=((("key", 1),),), beacon=1),
            nodes=(_READY._replace(lease_left=0),),
            budget=Budget(calls=2),
        ),
    ),
    actions=(
        applying.apply,
        applying.acknowledge,
        *(step for step in _PROOF_STEPS if step is not nodes.renew),
        *_RECEIPT_STEPS,
    ),
    invariants=(no_acceptance_after_receipt, acks_imply_applied),
    timed=True,
    finished=_all_calls_decided,
    small_steps=True,
    early_calls=True,
)

RESTORE = World(
    name="restore",
    bounds="1 node, etcd restored once from a backup older than what the node has applied; freshness 1 tick, 1 call",
    beginnings=(
        State(
            etcd=Etcd(log=((), ()), beacon=2),
            nodes=(_READY._replace(revision=2, heard_revision=2, registration_revision=0),),
            budget=Budget(calls=1, faults=1),
        ),
    ),
    actions=_NODE_STEPS + _PROOF_STEPS + _RECEIPT_STEPS + (receipts.restore, nodes.notice_restore),
    invariants=(no_acceptance_after_receipt, acks_imply_applied),
    timed=True,
    finished=_all_calls_decided,
)


def _node_keeps_revocation(state: State) -> bool:
    """The node knows the revocation, or that everything was revoked, and cannot die any more."""
    return state.continuity.node.knows_revocation and "crash" not in state.continuity.possible_events


def _before_restore(*possible_events: str, vouched: bool = True, marked: bool = False, other: bool = False) -> State:
    """The revocation was just committed, and no node has applied it; the backup is one or two revisions older.

    possible_events  what can happen besides the restore
    vouched          whether the node's history is vouched for
    marked           whether a vouch is about to be committed, and the backup contains its mark
    other            whether another commit precedes the revocation
    """
    log = (((1, 0), "vouched"), ((3, 0), "vouched" if vouched else "other"))[: 1 if marked else 2]
    vouch_revision = 3 if vouched else 1
    observation = Observation(revision=3, beacon=log[-1][0], history=1, vouch_revision=vouch_revision)
    backup = ContinuityEtcd(3, log, 1, vouch_revision, registration=(2, 0), mark=(3, 1) if marked else (0, 0))
    replica = ContinuityReplica(observation, "vouch", 3, vouch_revision) if marked else ContinuityReplica(observation)
    newer = ("other", "revoked") if other else ("revoked",)
    log = (*log, *(((revision, 0), kind) for revision, kind in enumerate(newer, 4)))
    return State(
        continuity=ContinuityState(
            etcd=backup._replace(revision=log[-1][0][0], log=log),
            backup=backup,
            node=ContinuityNode(
                phase=READY, observed=observation, vouch_required_after=2, position=(3, observation.beacon)
            ),
            replica=replica,
            revocation_revision=log[-1][0][0],
            possible_events=possible_events,
        )
    )


HISTORIES = World(
    name="histories",
    bounds="1 node, 1 replica with a watermark; 1 or 2 commits are lost when etcd is restored; one of: the node dies, "
    "another commit follows, another replica writes its mark, another replica without a watermark vouches",
    beginnings=(
        _before_restore("crash", other=True),
        _before_restore("other"),
        _before_restore("vouch"),
        _before_restore("mark", vouched=False),
        _before_restore(vouched=False, marked=True),
    ),
    actions=(
        continuity.restore,
        continuity.commit_other,
        continuity.mark_elsewhere,
        continuity.vouch_elsewhere,
        continuity.register,
        continuity.register_again,
        continuity.read_mesh,
        continuity.follow_watch,
        continuity.send_proof,
        continuity.serve_proof,
        continuity.receive_proof,
        continuity.crash,
        continuity.note_revocation,
        continuity.check_continuity,
        continuity.recover_from_loss,
        continuity.write_mark,
        continuity.vouch,
    ),
    invariants=(no_acceptance_after_restore, remembered_loss_is_found),
    finished=_node_keeps_revocation,
)

ONE_LOSS = replace(
    HISTORIES,
    name="one loss",
    bounds="1 node, which can die, 1 replica with a watermark; 2 commits are lost when etcd is restored",
    beginnings=HISTORIES.beginnings[:1],
)
"""The smallest world in which a proof of freshness can outlive a restore."""

_FIRST_KEY = 1 << 1
_HOLDER = Node(record=CURRENT, phase=READY, keys=_FIRST_KEY)
_STARTING = Node()
_ROTATION_STEPS: tuple[Action, ...] = (
    *_NODE_STEPS,
    nodes.expire_lease_of_dead_node,
    applying.fail_to_acknowledge,
    rotation.campaign,
    rotation.lose_leadership,
    rotation.request_rotation,
    rotation.decide,
    rotation.prepare,
    rotation.read_acks,
    rotation.read_nodes,
    rotation.activate,
    rotation.remove,
    rotation.revoke_key,
    rotation.sign_token,
    rotation.expire_tokens,
)


def _before_rotation(*first: Node, leaders: int, budget: Budget) -> State:
    return State(
        etcd=Etcd(keys=_FIRST_KEY, signing=1, removal_revisions=(0,) * 4),
        nodes=first,
        leaders=(Leader(),) * leaders,
        signer=Signer(live_keys=_FIRST_KEY),
        budget=budget,
    )


ROTATION = World(
    name="rotation",
    bounds="2 nodes, one of them perhaps not started yet; 2 replicas that can lead; 1 rotation requested; 3 keys; "
    "1 key revoked and 1 fault, or 2 faults: a node dies, a lease is lost, a request fails, the leader is cut off",
    beginnings=tuple(
        _before_rotation(_HOLDER, other, leaders=2, budget=budget)
        for other in (_HOLDER, _STARTING)
        for budget in (Budget(faults=1, rotations=1, revocations=1), Budget(faults=2, rotations=1))
    ),
    actions=_ROTATION_STEPS,
    invariants=(
        rotation_refuses_no_valid_token,
        acks_imply_applied,
        removed_keys_are_gone,
        only_the_leader_writes,
    ),
    goal=rotation_can_finish,
    keys=3,
    first_keys=_FIRST_KEY,
)

ONE_HOLDER = replace(
    ROTATION,
    name="one-holder",
    bounds="as rotation, with one node",
    beginnings=tuple(
        _before_rotation(holder, leaders=2, budget=budget)
        for holder in (_HOLDER, _STARTING)
        for budget in (Budget(faults=1, rotations=1, revocations=1), Budget(faults=2, rotations=1))
    ),
)
"""The smallest world in which a rotation can go wrong."""

FETCHING = World(
    name="fetching",
    bounds="1 node that fetches unknown keys from etcd, 1 replica that leads; 1 rotation requested; 3 keys; "
    "1 key revoked and 1 fault",
    beginnings=(_before_rotation(_HOLDER, leaders=1, budget=Budget(faults=1, rotations=1, revocations=1)),),
    actions=(*_ROTATION_STEPS, applying.fetch_key, applying.add_fetched_key),
    invariants=(rotation_refuses_no_valid_token, removed_keys_are_gone),
    keys=3,
    first_keys=_FIRST_KEY,
)

SESSIONS = World(
    name="sessions",
    bounds="4 requests (logins, client tokens, refresh tokens presented by holder or thief), 2 revocations, "
    "1 answer lost",
    beginnings=(State(budget=Budget(requests=4, revocations=2, faults=1)),),
    actions=(
        sessions.begin_login,
        sessions.present_refresh_token,
        sessions.authenticate,
        sessions.read_preconditions,
        sessions.commit_login,
        sessions.judge_refresh_token,
        sessions.commit_refresh,
        sessions.use_known_session,
        sessions.commit_known_refresh,
        sessions.lose_answer,
        sessions.end_for_reuse,
        sessions.grace_passes,
        sessions.revoke_subject,
    ),
    invariants=(nothing_issued_across_survives, refresh_tokens_are_used_once, ended_sessions_stay_ended),
)

FEW_REQUESTS = replace(
    SESSIONS,
    name="few-requests",
    bounds="as sessions, with 3 requests and 1 revocation",
    beginnings=(State(budget=Budget(requests=3, revocations=1)),),
)
"""The smallest world in which a session can go wrong."""

WORLDS = (RECEIPTS, THREADS, RESTORE, HISTORIES, ROTATION, FETCHING, SESSIONS)
"""The worlds in which the protocol as built must keep its promises."""
