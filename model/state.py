"""What the model knows of a mesh at one moment.

A state is made of plain tuples, so that it can be the key of a dictionary. There is one revocation scope, and one
credential or session that belongs to it. More of them would behave the same, side by side.

Revisions. Only commits below mesh/ are counted, because no other revision is ever compared by size. The product's etcd
revision is the number of those commits here, and what the mesh holds follows from `Etcd.log`.

Time. Where it matters, it passes in ticks. Every bound on it is an age or a remaining time, never a date, so that time
can go on forever in a finite number of states.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = [
    "ABSENT",
    "ACCEPTED",
    "CURRENT",
    "DOWN",
    "FORMER",
    "NO_LEADER",
    "READY",
    "RECEIPT",
    "REGISTERED",
    "ROTATION",
    "Budget",
    "Call",
    "Change",
    "ContinuityEtcd",
    "ContinuityNode",
    "ContinuityReplica",
    "ContinuityState",
    "Etcd",
    "Issuance",
    "Leader",
    "Node",
    "Observation",
    "Proof",
    "Receipt",
    "Request",
    "Session",
    "Signer",
    "State",
    "holds",
    "revision_of",
]

# A node's record in etcd: none, that of the running process, or that of a process that has died.
ABSENT: Final = 0
CURRENT: Final = 1
FORMER: Final = 2

# A node's phase: its process is down; it has registered; it has read the mesh and serves calls.
DOWN: Final = 0
REGISTERED: Final = 1
READY: Final = 2

# The barriers, as indices.
ROTATION: Final = 0
RECEIPT: Final = 1

NO_LEADER: Final = -1

ACCEPTED: Final = "accepted"

Change = tuple[str, int]
"""A part of a commit below mesh/: its kind, "epoch", "key", "gone" (a key was removed) or "barrier", and its number."""


class Proof(NamedTuple):
    """A proof of freshness in progress (Heartbeat._prove_freshness), or a proof that waits until its revision is
    applied.

    stage    "" for none, "sent", "read" once etcd has answered
    elapsed  ticks since it was sent
    beacon   the revision in etcd's answer
    history  the history of etcd that answered
    """

    stage: str = ""
    elapsed: int = 0
    beacon: int = 0
    history: int = 0


class Call(NamedTuple):
    """One call with the credential that is revoked in this world. Other steps can come between its steps.

    stage            "" for none; "begun"; "fresh" (the proof is new enough); "passed" (only in a broken protocol: the
                     epochs were checked first); "moved" (the generation has changed); ACCEPTED
    after_receipt    whether it began after the receipt promised that it is refused
    waited           ticks since it began; its age limits count from then
    generation_read  the generation that it read
    strict           whether its method has a freshness rule
    """

    stage: str = ""
    after_receipt: bool = False
    waited: int = 0
    generation_read: int = 0
    strict: bool = True


class Node(NamedTuple):
    """A node: its record and acknowledgements in etcd, and the knowledge of its process.

    record             ABSENT, CURRENT or FORMER
    lease_left         ticks until its lease can run out; a renewal sets it back to `World.lease`
    acks               by barrier: the revision that it has acknowledged, 0 for none
    phase              DOWN, REGISTERED or READY
    registration_revision
                       the revision of its last registration; -1 for a process that serves without ever having
                       registered (only in a broken protocol)
    revision           the revision up to which it has applied the commits
    epoch              the revision of the revocation that it has applied; 0 for none
    keys               the verification keys that it holds, as bits
    pending_acks       barriers that it has to acknowledge: (barrier, revision)
    heard_revision     the revision up to which it has queued acknowledgements (differs from `revision` only in a
                       broken protocol)
    history            the history of etcd that its trust bundle belongs to
    apply_step         progress in applying a commit: 0 for none, 1 when the epochs are in, 2 when the generation has
                       changed
    generation         changes with every commit that a cached verification may not survive
    cached_generation  the generation in which the cached credential was last found valid
    proof_age          ticks since its newest proof was sent; a value above every rule's freshness stands for "never"
    proof              the proof in progress
    pending_proof      the proof that waits until its revision is applied
    fetched_key        a key that was read from etcd and is not added yet: (kid, revision of the read); (0, 0) for none
    call               the call in progress
    counted_by         bits of the replicas that have counted its acknowledgement
    listed_by          bits of the replicas that listed it before they raised their barrier (only in a broken protocol)
    in_receipt         whether the receipt names it as having applied the revocation
    ignores_epochs     whether it ignores epochs (only in a broken protocol)
    """

    record: int = ABSENT
    lease_left: int = 0
    acks: tuple[int, int] = (0, 0)
    phase: int = DOWN
    registration_revision: int = 0
    revision: int = 0
    epoch: int = 0
    keys: int = 0
    pending_acks: tuple[tuple[int, int], ...] = ()
    heard_revision: int = 0
    history: int = 0
    apply_step: int = 0
    generation: int = 0
    cached_generation: int = 0
    proof_age: int = 0
    proof: Proof = Proof()
    pending_proof: Proof = Proof()
    fetched_key: tuple[int, int] = (0, 0)
    call: Call = Call()
    counted_by: int = 0
    listed_by: int = 0
    in_receipt: bool = False
    ignores_epochs: bool = False


class Etcd(NamedTuple):
    """The contents of etcd, without the nodes' records.

    log                  the commits below mesh/, oldest first; each is a tuple of changes, its position is its revision
    epoch                the revision of the scope's revocation; 0 for none
    keys                 the verification keys, as bits
    removal_revisions    by key: the revision that removed it; 0 for a key that was not removed
    prepared             the PREPARED key; 0 for none
    signing              the ACTIVE key; 0 for none
    barriers             by barrier: the revision that raised it; 0 for none
    beacon               the revision that put the beacon
    leader               the replica that leads, or NO_LEADER
    term                 the number of elections; it stands for the create revision of the leader's key
    rotation_requested   whether a rotation is requested
    history              the number of restores so far
    deposed_leader_wrote whether a replica has committed after its term had ended, which the fence must prevent
    """

    log: tuple[tuple[Change, ...], ...] = ()
    epoch: int = 0
    keys: int = 0
    removal_revisions: tuple[int, ...] = ()
    prepared: int = 0
    signing: int = 0
    barriers: tuple[int, int] = (0, 0)
    beacon: int = 0
    leader: int = NO_LEADER
    term: int = 0
    rotation_requested: bool = False
    history: int = 0
    deposed_leader_wrote: bool = False


class Receipt(NamedTuple):
    """A revocation with a receipt, on one auth replica.

    stage               "" before it; "about" (it is requested); "committed" (etcd's answer is on its way); "watching";
                        "acks" (the acknowledgements of this round are read); "made"
    ticks_since_commit  ticks since the replica learned of the commit
    complete            whether all registered nodes had acknowledged
    """

    stage: str = ""
    ticks_since_commit: int = 0
    complete: bool = False


class Leader(NamedTuple):
    """What one auth replica believes about its leadership, and the progress of its rotation job.

    fence                  the term in which it believes to lead; 0 for none
    stage                  "" or its next step: "prepare", "acks", "nodes", "activate", "remove"
    signing, barrier, key  what it read from etcd when it decided
    """

    fence: int = 0
    stage: str = ""
    signing: int = 0
    barrier: int = 0
    key: int = 0


class Signer(NamedTuple):
    """Signing tokens, on any replica.

    signing    the key that was ACTIVE when the token in progress was begun; 0 for none
    live_keys  the keys of tokens that were not revoked and have not expired, as bits
    """

    signing: int = 0
    live_keys: int = 0


class Session(NamedTuple):
    """A session's record.

    version           increases with every write; 0 stands for no record
    number            identifies the session
    epoch             its epoch
    current           the refresh token that is valid now
    used              refresh tokens that were exchanged: (token, successor, whether the grace window is over)
    authenticated_at  the revision at which its holder was authenticated; only the model knows it
    record_revision   the revision of the record
    """

    version: int = 0
    number: int = 0
    epoch: int = 0
    current: int = 0
    used: tuple[tuple[int, int, bool], ...] = ()
    authenticated_at: int = 0
    record_revision: int = 0


class Request(NamedTuple):
    """A request that an auth replica serves.

    kind              "" for none, "login", "client" (client credentials) or "refresh"
    stage             its next step
    token             the refresh token that was presented
    started_at        the revision that was read before authenticating
    authenticated_at  the revision at which the caller was authenticated
    revision          the revision of the preconditions that were read
    epoch             the scope's epoch among them
    session           the session's record among them
    verdict           what the refresh token was found to be
    """

    kind: str = ""
    stage: str = ""
    token: int = 0
    started_at: int = 0
    authenticated_at: int = 0
    revision: int = 0
    epoch: int = 0
    session: Session = Session()
    verdict: str = ""


class Issuance(NamedTuple):
    """The session, the requests in progress, and everything that was issued.

    session         the session's record
    tokens          the number of refresh tokens issued so far
    ended           by session: the revision that ended it, -1 if it was ended without an epoch, 0 while it lives
    requests        requests in progress
    held_tokens     refresh tokens that the holder has; a thief can present any of them, too
    exchanges       refresh tokens and the tokens that were issued for them
    access_tokens   access tokens issued: (epoch, the revision at which their holder was authenticated, session)
    reuse_accepted  whether a credential was issued for a refresh token that was used up
    """

    session: Session = Session()
    tokens: int = 0
    ended: tuple[int, ...] = (0,)
    requests: tuple[Request, ...] = ()
    held_tokens: frozenset[int] = frozenset()
    exchanges: frozenset[tuple[int, int]] = frozenset()
    access_tokens: frozenset[tuple[int, int, int]] = frozenset()
    reuse_accepted: bool = False


class Observation(NamedTuple):
    """What a node or a replica has observed of etcd (interceptors/trust/continuity.py, Observation).

    beacon          its revision, and its value: here whether it was put after etcd was restored
    vouch_revision  the revision of the history's record
    """

    revision: int = 0
    beacon: tuple[int, int] = (0, 0)
    history: int = 0
    vouch_revision: int = 0


class ContinuityEtcd(NamedTuple):
    """An etcd that can be restored. Here all revisions count, not only those below mesh/.

    log           the commits below mesh/: the beacon that each has put, and its kind
    registration  the node's record: its revision, and the history that it reports as broken
    mark          the mark of the replica that is about to vouch: its revision, and the replica
    """

    revision: int = 0
    log: tuple[tuple[tuple[int, int], str], ...] = ()
    history: int = 0
    vouch_revision: int = 0
    registration: tuple[int, int] = (0, 0)
    mark: tuple[int, int] = (0, 0)


class ContinuityNode(NamedTuple):
    """A node whose etcd can be restored.

    knows_revocation        whether it has applied the revocation, or the recovery from a loss, which revokes everything
    observed, vouch_required_after, lost, broken_history
                            as in interceptors/trust/continuity_monitor.py
    announced_broken        the history that its registration reports as broken
    position                the revision of its watch, and the newest beacon as of it
    must_reread             whether its mirror has to read everything again
    in_touch_with_restored  whether its last exchange with etcd came after the restore
    watches_restored        whether its watch was established after the restore
    pending_proof           the beacon that a proof waits for
    proven                  whether a proof has counted
    proof                   a read in progress: what was known when it was sent; then also what was read
    """

    phase: int = DOWN
    knows_revocation: bool = False
    observed: Observation = Observation()
    vouch_required_after: int = 0
    lost: bool = False
    broken_history: int = 0
    announced_broken: int = 0
    position: tuple[int, tuple[int, int]] = (0, (0, 0))
    must_reread: bool = False
    in_touch_with_restored: bool = False
    watches_restored: bool = False
    pending_proof: tuple[int, int] = (0, 0)
    proven: bool = False
    proof: tuple[Observation, ...] = ()


class ContinuityReplica(NamedTuple):
    """A replica that checks etcd's continuity (authsvc/continuity/guard.py).

    watermark       what it remembers of etcd
    stage           "" or its next step: "checking", "vouch", "recover"; "mark" in a broken protocol
    mark_revision   the revision of its mark
    vouch_revision  the revision of the history's record when it checked
    """

    watermark: Observation = Observation()
    stage: str = ""
    mark_revision: int = 0
    vouch_revision: int = 0


class ContinuityState(NamedTuple):
    """The world in which etcd is restored.

    backup            the snapshot that etcd can be restored from
    revocation_revision
                      the revision of the revocation, which the backup lacks
    noted             whether the replica that revoked has noted the revision; its receipt can be out from then on
    vouched_elsewhere whether a replica has vouched that remembers nothing
    missed_loss       whether the replica's watermark is of what was lost, and it has found nothing missing
    possible_events   what can still happen, besides the restore
    """

    etcd: ContinuityEtcd = ContinuityEtcd()
    backup: ContinuityEtcd = ContinuityEtcd()
    restored: bool = False
    node: ContinuityNode = ContinuityNode()
    replica: ContinuityReplica = ContinuityReplica()
    revocation_revision: int = 0
    noted: bool = False
    vouched_elsewhere: bool = False
    missed_loss: bool = False
    possible_events: tuple[str, ...] = ()


class Budget(NamedTuple):
    """How much can still happen, which keeps a world finite. A fault can be of any kind that the world has."""

    faults: int = 0
    rotations: int = 0
    revocations: int = 0
    requests: int = 0
    calls: int = 0


class State(NamedTuple):
    """A mesh at one moment."""

    etcd: Etcd = Etcd()
    nodes: tuple[Node, ...] = ()
    receipt: Receipt = Receipt()
    leaders: tuple[Leader, ...] = ()
    signer: Signer = Signer()
    issuance: Issuance = Issuance()
    budget: Budget = Budget()
    continuity: ContinuityState = ContinuityState()


def revision_of(etcd: Etcd) -> int:
    """The revision of the newest commit below mesh/."""
    return len(etcd.log)


def holds(keys: int, kid: int) -> bool:
    """Whether a set of keys, as bits, contains a key."""
    return bool(keys >> kid & 1)
