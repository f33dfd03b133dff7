"""An etcd that is restored from a backup: noticing it, answering it, and vouching that nothing is missing.

A world of its own (`State.past`): here revisions are compared by their size across registrations too, so every commit
counts. It begins when a revocation has been committed that the backup does not have. Clocks are left out: the only
proof of freshness that matters to a call after the receipt is one that was sent after the revocation was committed.
There is one node, and one replica, which has made the revocation and remembers; what others do is there as faults.

A receipt closes strict methods at some time after its revocation was noted. So a node that serves a strict call without
knowing the revocation has broken the promise as soon as it is noted, and nobody needs to make the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from model.actions import Steps, fault
from model.state import DOWN, READY, REGISTERED, Past, PastEtcd, PastNode, PastReplica, Sight, State

if TYPE_CHECKING:
    from model.worlds import World

__all__ = [
    "announce",
    "answer",
    "commit_something",
    "crash",
    "follow",
    "look",
    "mark",
    "mark_elsewhere",
    "note",
    "read",
    "receive_proof",
    "register",
    "restore",
    "send_proof",
    "serve_proof",
    "vouch",
    "vouch_elsewhere",
]

# What an entry of the log says, besides that it moved the beacon.
_REVOKED = "revoked"
_BEGUN = "begun"
_VOUCHED = "vouched"
_OTHER = "other"


def _sight(etcd: PastEtcd) -> Sight:
    """How far one sees who reads etcd now (interceptors/trust/bundle.py, TrustBundle._sight)."""
    return Sight(etcd.revision, etcd.log[-1][0], etcd.history, etcd.vouched_at)


def _judge(known: Sight, now: Sight, world: World) -> str:
    """interceptors/trust/continuity.py, judge: "" for unbroken, "lost" or "another". The id of the cluster stays the
    same here: where it does not, a restore is as easily told. Histories are numbered in the order in which they
    began."""
    if known.history and now.history != known.history:
        return "lost" if now.history < known.history else "another"
    missing = now.revision < known.revision or now.beacon[0] < known.beacon[0]
    if world.rules.beacons_are_told_apart and now.beacon[0] == known.beacon[0]:
        missing = missing or now.beacon != known.beacon
    return "lost" if missing and known.history else ""


def _further(one: Sight, other: Sight) -> Sight:
    """interceptors/trust/continuity.py, further."""
    if one.history and other.history and one.history != other.history:
        return max(one, other, key=lambda sight: sight.history)
    newest = max((one, other), key=lambda sight: (sight.history, sight.vouched_at))
    return newest._replace(revision=max(one.revision, other.revision), beacon=max(one.beacon, other.beacon))


def _put(past: Past, kind: str = "", **changes: Any) -> PastEtcd:
    """Etcd after one more commit; below mesh/ if it has a kind, and then it moves the beacon."""
    etcd = past.etcd
    revision = etcd.revision + 1
    log = (*etcd.log, ((revision, int(past.restored)), kind)) if kind else etcd.log
    return etcd._replace(revision=revision, log=log, **changes)


def _with(state: State, **parts: Any) -> State:
    return state._replace(past=state.past._replace(**parts))


def _after_fault(state: State, kind: str, **parts: Any) -> State:
    return _with(state, left=tuple(one for one in state.past.left if one != kind), **parts)


# What happens to etcd


@fault
def restore(state: State, world: World) -> Steps:
    """etcd is restored from it: to the same cluster id, and not a sign of it."""
    past = state.past
    if not past.restored:
        # That takes longer than a proof may wait for its revision.
        node = past.node._replace(unproven=(0, 0)) if world.rules.proofs_expire else past.node
        after = _with(state, etcd=past.backup, restored=True, node=node)
        yield f"etcd is restored, to revision {past.backup.revision}", after


@fault
def commit_something(state: State, world: World) -> Steps:
    """Something else is committed below mesh/, by whoever it is: revisions and the beacon grow.

    Code: interceptors/keyspace.py moved_beacon.
    """
    past = state.past
    if _OTHER in past.left and past.restored:
        etcd = _put(past, _OTHER)
        yield f"something else is committed: revision {etcd.revision}", _after_fault(state, _OTHER, etcd=etcd)


@fault
def mark_elsewhere(state: State, world: World) -> Steps:
    """Another replica writes a mark of its own.

    Code: authsvc/continuity/guard.py ContinuityGuard._vouch_once.
    """
    past = state.past
    if "mark" in past.left and past.restored:
        revision = past.etcd.revision + 1
        etcd = _put(past, mark=(revision, 2))
        yield f"another replica writes its mark: revision {revision}", _after_fault(state, "mark", etcd=etcd)


@fault
def vouch_elsewhere(state: State, world: World) -> Steps:
    """Another replica, which never saw the revocation and remembers nothing of it, vouches.

    Nothing can keep a node from believing that. But whoever does remember must notice when it looks.

    Code: authsvc/continuity/guard.py ContinuityGuard._vouch_once.
    """
    past = state.past
    if "vouch" in past.left and past.restored and past.etcd.history == 1:
        revision = past.etcd.revision + 1
        etcd = _put(past, _VOUCHED, vouched_at=revision)
        text = f"another replica, which remembers nothing, vouches: revision {revision}"
        yield text, _after_fault(state, "vouch", etcd=etcd, elsewhere=True)


# The node


def register(state: State, world: World) -> Steps:
    """A process starts and registers. From here on only a later vouch counts.

    Code: interceptors/node/heartbeat.py Heartbeat._register, Heartbeat._announce; interceptors/trust/continuity_monitor.py
    ContinuityMonitor.require_vouch_after.
    """
    past = state.past
    if past.node.phase == DOWN:
        revision = past.etcd.revision + 1
        node = PastNode(phase=REGISTERED, wanted=revision, touched=past.restored)
        after = _with(state, etcd=_put(past, record=(revision, 0)), node=node)
        yield f"the node registers, at revision {revision}", after


def announce(state: State, world: World) -> Steps:
    """The node puts its record again: it was out of touch, or has found something missing.

    Code: interceptors/node/heartbeat.py Heartbeat._announce, Heartbeat._prove; interceptors/trust/continuity_monitor.py
    ContinuityMonitor.require_vouch_after.
    """
    past, node = state.past, state.past.node
    if node.phase == DOWN or node.proof or not _must_announce(past, world):
        return
    revision = past.etcd.revision + 1
    after = node._replace(told=node.broken, touched=past.restored, wanted=revision)
    says = f" and says that history {node.broken} is broken" if node.broken else ""
    text = f"the node puts its record again, at revision {revision}{says}"
    yield text, _with(state, etcd=_put(past, record=(revision, node.broken)), node=after)


def _must_announce(past: Past, world: World) -> bool:
    # No restore is over in less than the time after which a node takes itself to have been out of touch.
    away = past.node.touched != past.restored and world.rules.away_wants_vouch
    return away or past.node.broken != past.node.told


def read(state: State, world: World) -> Steps:
    """The mirror reads everything, at first or anew.

    Code: interceptors/trust/bundle.py TrustBundle.load; interceptors/etcd/mirror.py Mirror._read;
    interceptors/trust/continuity_monitor.py ContinuityMonitor.begin_history.
    """
    past, node = state.past, state.past.node
    if node.phase != REGISTERED and not node.anew:
        return
    etcd, now = past.etcd, _sight(past.etcd)
    verdict = _met(node, node.sight, now, world)
    node = node._replace(phase=READY, position=(etcd.revision, now.beacon), anew=False, mirrored=past.restored)
    if verdict == "lost":
        node = _losing(node, now.history or node.sight.history)
        yield "the node reads the mesh, finds something missing, and keeps what it knows", _with(state, node=node)
        return
    node = node._replace(knows=any(kind in (_REVOKED, _BEGUN) for _, kind in etcd.log))
    if verdict == "another":
        node = node._replace(sight=now, lost=False, broken=0, wanted=0, proven=False, unproven=(0, 0))
    else:
        node = node._replace(sight=_further(node.sight, now))
    in_another = ", in another history" if verdict else ""
    text = f"the node reads the mesh at revision {etcd.revision}{in_another}"
    yield text, _with(state, node=_settled(node, past, world))


def _met(node: PastNode, since: Sight, now: Sight, world: World) -> str:
    """interceptors/trust/continuity_monitor.py, ContinuityMonitor.record_read."""
    verdict = _judge(since, now, world)
    if node.lost and verdict != "lost":
        return "another" if now.history and now.history != node.broken else "lost"
    return verdict


def _losing(node: PastNode, history: int) -> PastNode:
    """The loss is reported, and the mirror reads again (interceptors/node/mesh_node.py, MeshNode._on_lost)."""
    return node if node.lost else node._replace(lost=True, broken=history)


def follow(state: State, world: World) -> Steps:
    """The watch brings the next commit; or it broke, and resumes if etcd has the past that the mirror knows.

    Code: interceptors/etcd/mirror.py Mirror._same_history; interceptors/trust/bundle.py TrustBundle.apply,
        TrustBundle._follow_history.
    """
    past, node = state.past, state.past.node
    etcd, (revision, newest) = past.etcd, node.position
    if node.phase != READY or node.anew:
        return
    if node.mirrored != past.restored:
        there = _as_of(etcd, revision)
        same = there == newest if world.rules.beacons_are_told_apart else there[0] == newest[0]
        if etcd.revision >= revision and same:
            yield "the node's watch resumes", _with(state, node=node._replace(mirrored=past.restored))
        else:
            node = _losing(node, node.sight.history)._replace(anew=True)
            yield "the node's watch finds another history", _with(state, node=node)
        return
    entry = next((entry for entry in etcd.log if entry[0][0] > revision), None)
    if entry is None:
        return
    beacon, kind = entry
    if kind == _BEGUN or (node.lost and etcd.history != node.broken):
        yield "the node learns that another history has begun", _with(state, node=node._replace(anew=True))
        return
    after = node._replace(position=(beacon[0], beacon))
    if not node.lost:
        sight = node.sight._replace(revision=max(node.sight.revision, beacon[0]), beacon=max(node.sight.beacon, beacon))
        if kind == _VOUCHED:
            sight = sight._replace(vouched_at=beacon[0])
        after = _settled(after._replace(knows=node.knows or kind == _REVOKED, sight=sight), past, world)
    yield f"the node applies revision {beacon[0]} ({kind})", _with(state, node=after)


def _as_of(etcd: PastEtcd, revision: int) -> tuple[int, int]:
    """The beacon as of a revision (interceptors/etcd/client.py, EtcdClient.read_at)."""
    return max((beacon for beacon, _ in etcd.log if beacon[0] <= revision), default=(0, 0))


def _settled(node: PastNode, past: Past, world: World) -> PastNode:
    """TrustBundle._settle_proofs: a proof counts once its revision is applied, if the history is vouched for
    (Past.vouched), and if the watch has brought that very beacon. What is older than the backup both sides have."""
    revision, newest = node.position
    beacon = node.unproven
    vouched = not node.lost and node.sight.vouched_at > node.wanted
    if not beacon[0] or revision < beacon[0] or not vouched:
        return node
    brought = beacon[1] == newest[1] or beacon[0] <= past.backup.revision
    return node._replace(proven=brought or not world.rules.proofs_name_beacons, unproven=(0, 0))


def send_proof(state: State, world: World) -> Steps:
    """The node sends its read.

    Code: interceptors/node/heartbeat.py Heartbeat._prove.
    """
    past, node = state.past, state.past.node
    # Each proof waits for its own beacon; one more of the same says nothing new.
    waits = node.unproven[0] and node.unproven[1] == past.restored
    if node.phase != DOWN and not (node.proof or node.proven or waits or _must_announce(past, world)):
        yield "the node sends a read of the beacon", _with(state, node=node._replace(proof=(node.sight,)))


def serve_proof(state: State, world: World) -> Steps:
    """etcd answers it.

    Code: interceptors/node/heartbeat.py Heartbeat._prove.
    """
    node = state.past.node
    if len(node.proof) == 1:
        answered = (*node.proof, _sight(state.past.etcd))
        yield "etcd answers the node's read", _with(state, node=node._replace(proof=answered))


def receive_proof(state: State, world: World) -> Steps:
    """The node takes the answer in.

    Code: interceptors/trust/continuity_monitor.py ContinuityMonitor.record_read; interceptors/trust/bundle.py TrustBundle.prove,
    TrustBundle._settle_proofs.
    """
    past, node = state.past, state.past.node
    if len(node.proof) != 2:
        return
    since, now = node.proof
    after = node._replace(proof=())
    if node.touched != past.restored and world.rules.away_wants_vouch and world.rules.away_until_answered:
        yield "the answer came too late to count as being in touch", _with(state, node=after)
        return
    verdict = _met(node, since, now, world)
    if verdict == "lost":
        yield "the node finds something missing", _with(state, node=_losing(after, now.history or since.history))
    elif verdict == "another" or (since.history and since.history != node.sight.history):
        yield "the node's read is of another history", _with(state, node=after)
    else:
        after = after._replace(unproven=now.beacon, sight=_further(node.sight, now))
        text = f"the node's read proves what holds as of revision {now.beacon[0]}"
        yield text, _with(state, node=_settled(after, past, world))


@fault
def crash(state: State, world: World) -> Steps:
    """The node dies, and with it what it has seen."""
    past = state.past
    if past.node.phase != DOWN and "crash" in past.left:
        yield "the node dies", _after_fault(state, "crash", node=PastNode())


# The replica


def note(state: State, world: World) -> Steps:
    """The maker of the receipt remembers its revocation, and the receipt may be given out from then on.

    After a restore that would be late: then it asks etcd, which does not have the revocation any more.

    Code: authsvc/continuity/guard.py ContinuityGuard.note; authsvc/revocation/receipts.py Receipts._confirm.
    """
    past = state.past
    if past.noted or not world.rules.makers_remember or (past.restored and world.rules.late_notes_are_checked):
        return
    revision = past.revoked
    memory = past.replica.memory
    seen = memory._replace(revision=max(memory.revision, revision), beacon=max(memory.beacon, (revision, 0)))
    after = _with(state, noted=True, replica=past.replica._replace(memory=seen))
    yield f"the maker of the receipt remembers revision {revision}", after


def look(state: State, world: World) -> Steps:
    """The replica compares what is there with what it remembers, and hears what nodes say.

    Looks at other times than before a vouch matter only where they find something.

    Code: authsvc/continuity/guard.py ContinuityGuard.look, ContinuityGuard._judge.
    """
    past, replica = state.past, state.past.replica
    if replica.stage not in ("", "looking"):
        return
    etcd, now = past.etcd, _sight(past.etcd)
    known = replica.memory if world.rules.replicas_remember else Sight()
    verdict = _judge(known, now, world)
    if not verdict and world.rules.beacons_are_told_apart and known.beacon[0] < now.beacon[0]:
        verdict = "" if _as_of(etcd, known.beacon[0]) == known.beacon else "lost"
    if verdict == "another":
        done = replica._replace(stage="", memory=now)
        yield "the replica learns that another history was begun", _with(state, replica=done)
    elif verdict or etcd.record[1] == etcd.history:
        answering = replica._replace(stage="answer", vouched_at=etcd.vouched_at)
        yield "the replica looks, and something is missing", _with(state, replica=answering)
    elif replica.stage or not world.rules.marks_come_first or (past.noted and past.restored):
        following = "vouch" if world.rules.marks_come_first else "mark"
        asked = replica.stage or not world.rules.marks_come_first
        stage = following if asked and etcd.record[0] > etcd.vouched_at else ""
        done = replica._replace(stage=stage, memory=_further(replica.memory, now), vouched_at=etcd.vouched_at)
        fooled = past.noted and past.restored and etcd.history == 1
        yield "the replica looks, and misses nothing", _with(state, replica=done, fooled=fooled)


def answer(state: State, world: World) -> Steps:
    """The loss is answered: everybody is revoked, all keys go, another history begins. One commit.

    Code: authsvc/continuity/guard.py ContinuityGuard._answer.
    """
    past, replica = state.past, state.past.replica
    if replica.stage != "answer":
        return
    if past.etcd.vouched_at != replica.vouched_at:
        done = replica._replace(stage="")
        yield "the replica cannot answer: the history's record was changed", _with(state, replica=done)
        return
    revision = past.etcd.revision + 1
    after = _put(past, _BEGUN, history=past.etcd.history + 1, vouched_at=revision)
    done = PastReplica(memory=Sight(history=after.history, vouched_at=revision))
    text = f"the replica answers the loss: history {after.history} begins at revision {revision}"
    yield text, _with(state, etcd=after, replica=done)


def mark(state: State, world: World) -> Steps:
    """A node has registered since the last vouch: the replica writes its mark.

    Code: authsvc/continuity/guard.py ContinuityGuard._vouch_once.
    """
    past, replica = state.past, state.past.replica
    before, after = ("", "looking") if world.rules.marks_come_first else ("mark", "vouch")
    if replica.stage != before or past.etcd.record[0] <= past.etcd.vouched_at or past.etcd.history > 1:
        return
    revision = past.etcd.revision + 1
    marked = replica._replace(stage=after, marked=revision)
    text = f"the replica writes its mark: revision {revision}"
    yield text, _with(state, etcd=_put(past, mark=(revision, 1)), replica=marked)


def vouch(state: State, world: World) -> Steps:
    """It vouches, if mark and history are as they were and nobody has registered since.

    Code: authsvc/continuity/guard.py ContinuityGuard._vouch_once.
    """
    past, replica, etcd, rules = state.past, state.past.replica, state.past.etcd, world.rules
    if replica.stage != "vouch":
        return
    done = PastReplica(memory=replica.memory)
    mine = etcd.mark[0] == replica.marked and (etcd.mark[1] == 1 or not rules.marks_are_told_apart)
    newcomer = etcd.record[0] > replica.marked and rules.newcomers_wait
    if etcd.vouched_at != replica.vouched_at or newcomer or not (mine or not rules.vouching_compares_mark):
        yield "the replica cannot vouch: something has changed", _with(state, replica=done)
        return
    revision = etcd.revision + 1
    after = _with(state, etcd=_put(past, _VOUCHED, vouched_at=revision), replica=done)
    yield f"the replica vouches for the history: revision {revision}", after
