"""What the model knows of a mesh at one moment.

A state is made of plain tuples, so that it can be a key of a dictionary. There is one scope that can be revoked, and
one credential or session that belongs to it; more of them would only do the same side by side.

Revisions. Only commits below mesh/ are counted, since no other revision is ever compared by its size: an etcd revision
of the code is the number of those commits here, and what the mesh holds follows from `Etcd.log`.

Time. Where it matters it goes in ticks. Whatever bounds it is an age or a rest, never a date, so that time can go on
for ever in a finite number of states.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = [
    "ABSENT",
    "ACCEPTED",
    "CHANGES",
    "DOWN",
    "FORMER",
    "MINE",
    "NOBODY",
    "READY",
    "RECEIPT",
    "REGISTERED",
    "ROTATION",
    "Call",
    "Desk",
    "Etcd",
    "Issuer",
    "Leader",
    "Left",
    "Node",
    "Past",
    "PastEtcd",
    "PastNode",
    "PastReplica",
    "Proof",
    "Receipt",
    "Session",
    "Sight",
    "State",
    "Worker",
    "holds",
    "revision_of",
]

# What etcd holds of a node: nothing, the record of the process that runs, or that of one that has died.
ABSENT: Final = 0
MINE: Final = 1
FORMER: Final = 2

# How far a node has come: its process is down; it has registered; it has read the mesh and serves.
DOWN: Final = 0
REGISTERED: Final = 1
READY: Final = 2

# The barriers, as indices.
ROTATION: Final = 0
RECEIPT: Final = 1

NOBODY: Final = -1

ACCEPTED: Final = "accepted"

# What a commit below mesh/ can hold.
CHANGES: Final = ("epoch", "key", "gone", "barrier")

Change = tuple[str, int]


class Proof(NamedTuple):
    """A proof of freshness under way (Heartbeat._prove), or one that waits for its revision to be applied.

    stage    "" for none, "sent", "read" once etcd has answered
    elapsed  ticks since it was sent
    beacon   the revision that etcd answered with
    history  which history of etcd answered
    """

    stage: str = ""
    elapsed: int = 0
    beacon: int = 0
    history: int = 0


class Call(NamedTuple):
    """One call with the credential that is revoked in this world. Each has several steps, and others come between.

    stage    "" for none, "begun", "fresh" (proof looked at), "moved" (the generation has to be taken in), or ACCEPTED
    late     whether it began after the receipt promised that it is refused
    waited   ticks since it began; its age limits count from then
    fresh    what the look at the proof told
    seen     the generation that was read
    strict   whether its method has a freshness rule
    """

    stage: str = ""
    late: bool = False
    waited: int = 0
    fresh: bool = False
    seen: int = 0
    strict: bool = True


class Node(NamedTuple):
    """A node: what etcd holds of it, and what its process knows.

    record      ABSENT, MINE or FORMER
    rest        ticks until its lease may run out; renewing begins anew
    acks        by barrier: the revision that it has acknowledged, 0 for none
    phase       DOWN, REGISTERED or READY
    since       the revision at which it registered (anew); -1 for a process that serves without having registered yet
    revision    up to which it has applied the commits
    epoch       the revision of the revocation that it knows; 0 for none
    keys        the keys that it holds, as bits
    queue       barriers to acknowledge: (barrier, revision)
    told        up to which revision barriers were acknowledged (of use only where that happens too early)
    history     which history of etcd its bundle is of
    halfway     how far it is in applying a commit: 0 for not, 1 when epochs are in, 2 when the generation has moved
    generation  moves on with what a verified credential may not survive
    stamp       the generation in which the cached credential was last found good
    age         ticks since the send of its newest proof; more than any rule allows stands for never
    proof       the proof under way; `unproven` is one that waits for its revision
    fetch       a key that was read from etcd and is not added yet: (kid, revision of the read); (0, 0) for none
    call        the call under way
    heard       bits of those who have found its acknowledgement good; listed: bits of those who took it down before
                they raised their barrier (of use only where that is done)
    deaf        it ignores epochs (a broken node)
    """

    record: int = ABSENT
    rest: int = 0
    acks: tuple[int, int] = (0, 0)
    phase: int = DOWN
    since: int = 0
    revision: int = 0
    epoch: int = 0
    keys: int = 0
    queue: tuple[tuple[int, int], ...] = ()
    told: int = 0
    history: int = 0
    halfway: int = 0
    generation: int = 0
    stamp: int = 0
    age: int = 0
    proof: Proof = Proof()
    unproven: Proof = Proof()
    fetch: tuple[int, int] = (0, 0)
    call: Call = Call()
    heard: int = 0
    listed: int = 0
    applied: bool = False
    deaf: bool = False


class Etcd(NamedTuple):
    """What etcd holds besides the nodes' records.

    log       the commits below mesh/, oldest first; each is a tuple of changes, and its place is its revision
    epoch     the revision of the scope's revocation; 0 for none
    keys      the verification keys, as bits
    removed   by key: the revision that removed it; 0 where it was not
    prepared  the PREPARED key; 0 for none
    signing   the key that signs; 0 for none
    barriers  by barrier: the revision that raised it; 0 where it is not
    beacon    the revision that put the beacon
    leader    who leads, NOBODY for none; term counts the elections and stands for the create revision of the key
    request   whether a rotation is asked for
    history   how often etcd was restored
    trespass  a replica whose term is over has written (which no fence lets happen)
    """

    log: tuple[tuple[Change, ...], ...] = ()
    epoch: int = 0
    keys: int = 0
    removed: tuple[int, ...] = ()
    prepared: int = 0
    signing: int = 0
    barriers: tuple[int, int] = (0, 0)
    beacon: int = 0
    leader: int = NOBODY
    term: int = 0
    request: bool = False
    history: int = 0
    trespass: bool = False


class Receipt(NamedTuple):
    """A revocation that is waited for, on one auth replica.

    stage     "" before it, "about" (the clock is read), "committed" (the answer is on its way), "watching", "acks"
              (the acknowledgements of this look are read), "made"
    since     ticks since the commit was known
    complete  whether all registered nodes had acknowledged
    """

    stage: str = ""
    since: int = 0
    complete: bool = False


class Leader(NamedTuple):
    """What one auth replica believes of leading, and how far its rotation job is.

    fence     the term that it believes to lead in; 0 for none
    stage     "" or the step that comes next: "prepare", "acks", "nodes", "activate", "remove"
    signing, barrier, key  what etcd held when it looked
    """

    fence: int = 0
    stage: str = ""
    signing: int = 0
    barrier: int = 0
    key: int = 0


class Issuer(NamedTuple):
    """Signing tokens, on any replica.

    signing  the key that signed when the token under way was begun; 0 for none
    live     keys under which there are tokens that nobody revoked and that have not expired, as bits
    """

    signing: int = 0
    live: int = 0


class Session(NamedTuple):
    """A session's record.

    version  moves on with every write; 0 stands for no record
    created  which session it is
    epoch    its epoch
    current  the refresh token that is good now
    used     tokens that were traded: (token, successor, whether the grace window is over)
    vouched  the revision at which its holder was really authenticated; nobody but the model knows it
    """

    version: int = 0
    created: int = 0
    epoch: int = 0
    current: int = 0
    used: tuple[tuple[int, int, bool], ...] = ()
    vouched: int = 0


class Worker(NamedTuple):
    """A request that an auth replica serves.

    kind       "" for none, "login", "client" (client credentials) or "refresh"
    stage      the step that comes next
    token      the refresh token that was shown; `over`: whether its grace was over when it was judged
    began      the revision read before authenticating
    vouched    the revision at which it authenticated
    revision   the revision of what was read; epoch: the scope's epoch then
    session    the session's record then
    verdict    what the refresh token was judged to be
    """

    kind: str = ""
    stage: str = ""
    token: int = 0
    began: int = 0
    vouched: int = 0
    revision: int = 0
    epoch: int = 0
    session: Session = Session()
    verdict: str = ""


class Desk(NamedTuple):
    """Sessions and those who ask for them.

    session    the record; sessions and tokens are the counters of what was made
    workers    requests under way
    ended      by session: the revision that ended it, -1 where it was ended without one, 0 while it lives
    hands      refresh tokens that somebody outside holds; a thief may show any of them as well
    trades     what was handed out for which token
    access     access tokens handed out: (epoch, the revision at which their holder was really authenticated, session)
    misjudged  a credential was given for a token that was used up
    """

    session: Session = Session()
    sessions: int = 0
    tokens: int = 0
    ended: tuple[int, ...] = (0,)
    workers: tuple[Worker, ...] = ()
    hands: frozenset[int] = frozenset()
    trades: frozenset[tuple[int, int]] = frozenset()
    access: frozenset[tuple[int, int, int]] = frozenset()
    misjudged: bool = False


class Sight(NamedTuple):
    """How far somebody has seen (interceptors/trust/continuity.py, Sight). vouched_at: the revision of the history's
    record.

    A beacon is told by its revision, and by what it holds: here whether it was put after etcd was restored.
    """

    revision: int = 0
    beacon: tuple[int, int] = (0, 0)
    history: int = 0
    vouched_at: int = 0


class PastEtcd(NamedTuple):
    """An etcd that can be restored. Here all of its revisions count.

    log     the commits below mesh/: the beacon that each has put, and what it was
    record  the node's registration: its revision, and the history that it says is broken
    mark    the mark of whoever is about to vouch: its revision, and whose it is
    """

    revision: int = 0
    log: tuple[tuple[tuple[int, int], str], ...] = ()
    history: int = 0
    vouched_at: int = 0
    record: tuple[int, int] = (0, 0)
    mark: tuple[int, int] = (0, 0)


class PastNode(NamedTuple):
    """A node under which etcd may be restored.

    knows         the revocation, or the answer to a loss, which revokes everything
    sight, wanted, lost, broken  as interceptors/trust/continuity_monitor.py has them
    told          what its registration says is broken
    position      the revision that its watch is at, and the newest beacon by then; `anew`: it has to read anew
    touched, mirrored  whether it was in touch, and its watch up, after etcd was restored
    unproven      a proof that waits for this beacon
    proven        a proof has counted
    proof         a read under way: what was known; then what was found too
    """

    phase: int = DOWN
    knows: bool = False
    sight: Sight = Sight()
    wanted: int = 0
    lost: bool = False
    broken: int = 0
    told: int = 0
    position: tuple[int, tuple[int, int]] = (0, (0, 0))
    anew: bool = False
    touched: bool = False
    mirrored: bool = False
    unproven: tuple[int, int] = (0, 0)
    proven: bool = False
    proof: tuple[Sight, ...] = ()


class PastReplica(NamedTuple):
    """A replica that watches over the history (authsvc/continuity/guard.py).

    stage       "" or what comes next: "looking", "vouch", "answer"; "mark" in a broken protocol
    marked      the revision of its mark
    vouched_at  the revision of the history's record as it found it
    """

    memory: Sight = Sight()
    stage: str = ""
    marked: int = 0
    vouched_at: int = 0


class Past(NamedTuple):
    """The world in which etcd is restored.

    backup     the snapshot that etcd may be restored from
    revoked    the revision of the revocation, which the backup does not have
    noted      the maker of its receipt remembers it, and the receipt may be out
    elsewhere  somebody vouched who remembers nothing
    fooled     the replica remembers what is lost, and has found nothing missing
    left       what may still happen, besides the restore
    """

    etcd: PastEtcd = PastEtcd()
    backup: PastEtcd = PastEtcd()
    restored: bool = False
    node: PastNode = PastNode()
    replica: PastReplica = PastReplica()
    revoked: int = 0
    noted: bool = False
    elsewhere: bool = False
    fooled: bool = False
    left: tuple[str, ...] = ()


class Left(NamedTuple):
    """How much may still happen. What is counted here makes a world finite. Faults are of any kind that it has."""

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
    issuer: Issuer = Issuer()
    desk: Desk = Desk()
    left: Left = Left()
    past: Past = Past()


def revision_of(etcd: Etcd) -> int:
    """The revision of the newest commit below mesh/."""
    return len(etcd.log)


def holds(keys: int, kid: int) -> bool:
    """Whether a set of keys has this one."""
    return bool(keys >> kid & 1)
