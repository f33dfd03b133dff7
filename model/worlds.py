"""The worlds that are searched: which parts there are, how large, and with how many faults.

One world with everything in it would be too large to search. The parts that are kept apart here meet in revisions only:
what an auth replica commits is what a node applies, whoever else is there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from model.actions import Action, applying, calls, histories, nodes, receipts, rotation, sessions
from model.invariants import (
    Invariant,
    acks_stand_for_applied,
    ended_sessions_stay_ended,
    nobody_is_refused_by_rotation,
    nobody_survives_a_restore,
    nobody_survives_the_receipt,
    nothing_is_issued_across,
    only_the_leader_writes,
    refresh_tokens_are_traded_once,
    removed_keys_are_gone,
    rotation_is_done,
    whoever_remembers_notices,
)
from model.rules import AS_BUILT, Rules
from model.state import (
    MINE,
    READY,
    Etcd,
    Issuer,
    Leader,
    Left,
    Node,
    Past,
    PastEtcd,
    PastNode,
    PastReplica,
    Sight,
    State,
)

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
    "World",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is searched.

    bounds       what the size is, for people
    beginnings   the states that it may begin in
    over         None, or from where nothing can be broken any more, so that nobody need look further
    goal         None, or what can still be reached from everywhere by steps that are no faults
    freshness    ticks; the longest that a strict method allows
    lease        ticks that a node's registration lasts
    patience     ticks that a call stands still at most between two of its steps
    timed        whether time goes in ticks; otherwise leases run out as often as `Left.expiries` allows
    small_steps  whether applying and checking have their single steps
    early_calls  whether calls that begin before the receipt are of interest, since they leave something behind
    keys         the highest key id that is ever made
    first_keys   those that are there at first
    """

    name: str
    bounds: str
    beginnings: tuple[State, ...]
    actions: tuple[Action, ...]
    invariants: tuple[Invariant, ...]
    goal: Invariant | None = None
    over: Callable[[State], bool] | None = None
    rules: Rules = AS_BUILT
    freshness: int = 1
    lease: int = 1
    patience: int = 1
    timed: bool = False
    small_steps: bool = False
    early_calls: bool = False
    keys: int = 0
    first_keys: int = 0

    @property
    def never(self) -> int:
        """An age that is too old for every rule."""
        return self.freshness + self.patience + 1

    def under(self, rules: Rules) -> World:
        """The same world with another protocol."""
        beginnings = self.beginnings
        if not rules.epochs_are_applied:
            beginnings = tuple(
                state._replace(nodes=(state.nodes[0]._replace(deaf=True), *state.nodes[1:])) for state in beginnings
            )
        return replace(self, rules=rules, beginnings=beginnings)


_NODE_STEPS: tuple[Action, ...] = (
    applying.apply,
    applying.acknowledge,
    nodes.register,
    nodes.read_mesh,
    nodes.register_anew,
    applying.hear_of_barrier,
    nodes.lease_runs_out,
    nodes.crash,
)
_PROOF_STEPS: tuple[Action, ...] = (
    calls.send_proof,
    calls.serve_proof,
    calls.receive_proof,
    nodes.renew,
    calls.tick,
    calls.sleep,
)
_RECEIPT_STEPS: tuple[Action, ...] = (
    receipts.begin,
    receipts.revoke,
    receipts.learn,
    receipts.look_at_acks,
    receipts.look_at_nodes,
    receipts.reach_bound,
    calls.begin_call,
    calls.check_proof,
    calls.check_epochs,
    calls.forget_call,
)


def _all_calls_decided(state: State) -> bool:
    """The receipt is made, and no call is under way or left."""
    return state.receipt.stage == "made" and not state.left.calls and not state.nodes[0].call.stage


_READY = Node(record=MINE, rest=1, phase=READY)
_DOWN = Node(age=3)
_OTHER = Node(record=MINE, phase=READY, age=3)

RECEIPTS = World(
    name="receipts",
    bounds="2 nodes, one of them perhaps not started yet; freshness 1 tick, leases 1 tick, 1 crash, 1 call",
    beginnings=(
        *(
            State(nodes=(watched, other), left=Left(faults=1, calls=1))
            for watched in (_READY, _DOWN)
            for other in (_OTHER, _DOWN)
        ),
    ),
    actions=(*_NODE_STEPS, nodes.leave, *_PROOF_STEPS, *_RECEIPT_STEPS),
    invariants=(nobody_survives_the_receipt, acks_stand_for_applied),
    timed=True,
    over=_all_calls_decided,
)

ONE_NODE = replace(
    RECEIPTS,
    name="one-node",
    bounds="as receipts, with the watched node alone",
    beginnings=tuple(State(nodes=(watched,), left=Left(faults=1, calls=1)) for watched in (_READY, _DOWN)),
)
"""The smallest world in which a receipt can be wrong."""

THREADS = World(
    name="threads",
    bounds="1 node whose threads take turns at every access; freshness 1 tick, 2 calls",
    beginnings=(
        State(
            # Something else is still to be applied, so that the generation moves more than once.
            etcd=Etcd(log=((("key", 1),),), beacon=1),
            nodes=(_READY._replace(rest=0),),
            left=Left(calls=2),
        ),
    ),
    actions=(
        applying.apply,
        applying.acknowledge,
        *(step for step in _PROOF_STEPS if step is not nodes.renew),
        *_RECEIPT_STEPS,
    ),
    invariants=(nobody_survives_the_receipt, acks_stand_for_applied),
    timed=True,
    over=_all_calls_decided,
    small_steps=True,
    early_calls=True,
)

RESTORE = World(
    name="restore",
    bounds="1 node, etcd restored once to before what it has applied; freshness 1 tick, 1 call",
    beginnings=(
        State(
            etcd=Etcd(log=((), ()), beacon=2),
            nodes=(_READY._replace(revision=2, told=2, since=0),),
            left=Left(calls=1, faults=1),
        ),
    ),
    actions=_NODE_STEPS + _PROOF_STEPS + _RECEIPT_STEPS + (receipts.restore, nodes.notice_restore),
    invariants=(nobody_survives_the_receipt, acks_stand_for_applied),
    timed=True,
    over=_all_calls_decided,
)


def _node_knows(state: State) -> bool:
    """The node knows the revocation, or that everything was revoked, and does not forget it."""
    return state.past.node.knows and "crash" not in state.past.left


def _before_restore(*left: str, vouched: bool = True, marked: bool = False, other: bool = False) -> State:
    """The revocation was just committed, and nobody has noticed; the backup is of the revision before, or older.

    vouched: the node waits for no vouch. marked: a vouch is about to be committed, and the backup has its mark.
    """
    log = (((1, 0), "vouched"), ((3, 0), "vouched" if vouched else "other"))[: 1 if marked else 2]
    vouched_at = 3 if vouched else 1
    sight = Sight(revision=3, beacon=log[-1][0], history=1, vouched_at=vouched_at)
    backup = PastEtcd(3, log, 1, vouched_at, record=(2, 0), mark=(3, 1) if marked else (0, 0))
    newer = ("other", "revoked") if other else ("revoked",)
    log = (*log, *(((revision, 0), kind) for revision, kind in enumerate(newer, 4)))
    return State(
        past=Past(
            etcd=backup._replace(revision=log[-1][0][0], log=log),
            backup=backup,
            node=PastNode(phase=READY, sight=sight, wanted=2, position=(3, sight.beacon)),
            replica=PastReplica(sight, "vouch", 3, vouched_at) if marked else PastReplica(sight),
            revoked=log[-1][0][0],
            left=left,
        )
    )


HISTORIES = World(
    name="histories",
    bounds="1 node, 1 replica that remembers; 1 or 2 commits are lost when etcd is restored; one of: the node dies, "
    "something else is committed, another replica writes its mark, another that knows less vouches",
    beginnings=(
        _before_restore("crash", other=True),
        _before_restore("other"),
        _before_restore("vouch"),
        _before_restore("mark", vouched=False),
        _before_restore(vouched=False, marked=True),
    ),
    actions=(
        histories.restore,
        histories.commit_something,
        histories.mark_elsewhere,
        histories.vouch_elsewhere,
        histories.register,
        histories.announce,
        histories.read,
        histories.follow,
        histories.send_proof,
        histories.serve_proof,
        histories.receive_proof,
        histories.crash,
        histories.note,
        histories.look,
        histories.answer,
        histories.mark,
        histories.vouch,
    ),
    invariants=(nobody_survives_a_restore, whoever_remembers_notices),
    over=_node_knows,
)

ONE_LOSS = replace(
    HISTORIES,
    name="one loss",
    bounds="1 node, which may die, 1 replica that remembers; 2 commits are lost when etcd is restored",
    beginnings=HISTORIES.beginnings[:1],
)
"""The smallest world in which a proof can outlive a restore."""

_FIRST_KEY = 1 << 1
_HOLDER = Node(record=MINE, phase=READY, keys=_FIRST_KEY)
_STARTING = Node()
_ROTATION_STEPS: tuple[Action, ...] = (
    *_NODE_STEPS,
    nodes.lease_of_the_dead_ends,
    applying.acknowledging_fails,
    rotation.campaign,
    rotation.lose_lead,
    rotation.ask_for_rotation,
    rotation.decide,
    rotation.prepare,
    rotation.look_at_acks,
    rotation.look_at_nodes,
    rotation.activate,
    rotation.remove,
    rotation.revoke_key,
    rotation.sign_token,
    rotation.expire_tokens,
)


def _before_rotation(*first: Node, leaders: int, left: Left) -> State:
    return State(
        etcd=Etcd(keys=_FIRST_KEY, signing=1, removed=(0,) * 4),
        nodes=first,
        leaders=(Leader(),) * leaders,
        issuer=Issuer(live=_FIRST_KEY),
        left=left,
    )


ROTATION = World(
    name="rotation",
    bounds="2 nodes, one of them perhaps not started yet; 2 replicas that lead; 1 rotation asked for; 3 keys; "
    "1 key revoked and 1 fault, or 2 faults: a node dies, a lease is lost, a request fails, the leader is cut off",
    beginnings=tuple(
        _before_rotation(_HOLDER, other, leaders=2, left=left)
        for other in (_HOLDER, _STARTING)
        for left in (Left(faults=1, rotations=1, revocations=1), Left(faults=2, rotations=1))
    ),
    actions=_ROTATION_STEPS,
    invariants=(
        nobody_is_refused_by_rotation,
        acks_stand_for_applied,
        removed_keys_are_gone,
        only_the_leader_writes,
    ),
    goal=rotation_is_done,
    keys=3,
    first_keys=_FIRST_KEY,
)

ONE_HOLDER = replace(
    ROTATION,
    name="one-holder",
    bounds="as rotation, with one node",
    beginnings=tuple(
        _before_rotation(holder, leaders=2, left=left)
        for holder in (_HOLDER, _STARTING)
        for left in (Left(faults=1, rotations=1, revocations=1), Left(faults=2, rotations=1))
    ),
)
"""The smallest world in which a rotation can go wrong."""

FETCHING = World(
    name="fetching",
    bounds="1 node that asks etcd for keys it does not know, 1 replica that leads; 1 rotation asked for; 3 keys; "
    "1 key revoked and 1 fault",
    beginnings=(_before_rotation(_HOLDER, leaders=1, left=Left(faults=1, rotations=1, revocations=1)),),
    actions=(*_ROTATION_STEPS, applying.fetch_key, applying.add_fetched_key),
    invariants=(nobody_is_refused_by_rotation, removed_keys_are_gone),
    keys=3,
    first_keys=_FIRST_KEY,
)

SESSIONS = World(
    name="sessions",
    bounds="4 requests (logins, client tokens, refresh tokens shown by holder or thief), 2 revocations, 1 answer lost",
    beginnings=(State(left=Left(requests=4, revocations=2, faults=1)),),
    actions=(
        sessions.begin_login,
        sessions.show_refresh_token,
        sessions.authenticate,
        sessions.read_preconditions,
        sessions.commit_login,
        sessions.judge,
        sessions.commit_refresh,
        sessions.lose_answer,
        sessions.end_for_reuse,
        sessions.grace_passes,
        sessions.revoke_subject,
    ),
    invariants=(nothing_is_issued_across, refresh_tokens_are_traded_once, ended_sessions_stay_ended),
)

FEW_REQUESTS = replace(
    SESSIONS,
    name="few-requests",
    bounds="as sessions, with 3 requests and 1 revocation",
    beginnings=(State(left=Left(requests=3, revocations=1)),),
)
"""The smallest world in which a session can go wrong."""

WORLDS = (RECEIPTS, THREADS, RESTORE, HISTORIES, ROTATION, FETCHING, SESSIONS)
"""Where the protocol as it is must keep its promises."""
