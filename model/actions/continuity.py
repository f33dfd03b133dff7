"""An etcd that is restored from a backup: finding the loss, recovering it, and vouching that nothing is missing.

This world has its own part of the state (`State.continuity`). Revisions are compared by size across registrations, so
every commit counts. The world begins when a revocation has been committed that the backup lacks. There are no clocks: a
call after the receipt can only rest on a proof of freshness that was sent after the revocation was committed. There is
one node, and one replica, which has committed the revocation and remembers it. The steps of other replicas and nodes
are faults.

A receipt closes strict methods at some time after its revocation was noted. So a node that serves strict calls without
knowing the revocation breaks the promise as soon as the revocation is noted, and no call has to be modelled.
"""

from __future__ import annotations

from typing import Any

from model.actions import fault
from model.state import (
    DOWN,
    READY,
    REGISTERED,
    ContinuityEtcd,
    ContinuityNode,
    ContinuityReplica,
    ContinuityState,
    Observation,
    State,
)
from model.world import Steps, World

__all__ = [
    "check_continuity",
    "commit_other",
    "crash",
    "follow_watch",
    "mark_elsewhere",
    "note_revocation",
    "read_mesh",
    "receive_proof",
    "recover_from_loss",
    "register",
    "register_again",
    "restore",
    "send_proof",
    "serve_proof",
    "vouch",
    "vouch_elsewhere",
    "write_mark",
]

# The kinds of commits in the log. Each of them has put the beacon.
_REVOKED = "revoked"
_BEGUN = "begun"
_VOUCHED = "vouched"
_OTHER = "other"


def _observe(etcd: ContinuityEtcd) -> Observation:
    """What a read of etcd observes now (TrustBundle in interceptors/trust/bundle.py)."""
    return Observation(etcd.revision, etcd.log[-1][0], etcd.history, etcd.vouch_revision)


def _assess(known: Observation, now: Observation, world: World) -> str:
    """assess_continuity in interceptors/trust/continuity.py: "" for unbroken, "lost" or "another".

    The cluster's id never changes here: a restore that changes it is easy to find. Histories are numbered in the order
    in which they began.
    """
    if known.history and now.history != known.history:
        return "lost" if now.history < known.history else "another"
    missing = now.revision < known.revision or now.beacon[0] < known.beacon[0]
    if world.rules.beacons_compare_values and now.beacon[0] == known.beacon[0]:
        missing = missing or now.beacon != known.beacon
    return "lost" if missing and known.history else ""


def _merge(one: Observation, other: Observation) -> Observation:
    """merge_observations in interceptors/trust/continuity.py."""
    if one.history and other.history and one.history != other.history:
        return max(one, other, key=lambda observation: observation.history)
    newest = max((one, other), key=lambda observation: (observation.history, observation.vouch_revision))
    return newest._replace(revision=max(one.revision, other.revision), beacon=max(one.beacon, other.beacon))


def _after_commit(continuity: ContinuityState, kind: str = "", **changes: Any) -> ContinuityEtcd:
    """Returns etcd after one more commit. A commit with a kind is below mesh/, and puts the beacon."""
    etcd = continuity.etcd
    revision = etcd.revision + 1
    log = (*etcd.log, ((revision, int(continuity.restored)), kind)) if kind else etcd.log
    return etcd._replace(revision=revision, log=log, **changes)


def _with(state: State, **parts: Any) -> State:
    return state._replace(continuity=state.continuity._replace(**parts))


def _after_event(state: State, kind: str, **parts: Any) -> State:
    return _with(state, possible_events=tuple(one for one in state.continuity.possible_events if one != kind), **parts)


# Events in etcd


@fault
def restore(state: State, world: World) -> Steps:
    """etcd is restored from the backup, as the same cluster: nothing in etcd shows it."""
    continuity = state.continuity
    if not continuity.restored:
        # A restore takes longer than a proof may wait for its revision.
        node = continuity.node._replace(pending_proof=(0, 0)) if world.rules.proofs_expire else continuity.node
        after = _with(state, etcd=continuity.backup, restored=True, node=node)
        yield f"etcd is restored, to revision {continuity.backup.revision}", after


@fault
def commit_other(state: State, world: World) -> Steps:
    """Another commit below mesh/, by any process: the revision and the beacon grow.

    Code: interceptors/keyspace.py beacon_update.
    """
    continuity = state.continuity
    if _OTHER in continuity.possible_events and continuity.restored:
        etcd = _after_commit(continuity, _OTHER)
        yield f"another commit below mesh/: revision {etcd.revision}", _after_event(state, _OTHER, etcd=etcd)


@fault
def mark_elsewhere(state: State, world: World) -> Steps:
    """Another replica writes its own mark.

    Code: authsvc/continuity/vouching.py HistoryVoucher._vouch.
    """
    continuity = state.continuity
    if "mark" in continuity.possible_events and continuity.restored:
        revision = continuity.etcd.revision + 1
        etcd = _after_commit(continuity, mark=(revision, 2))
        yield f"another replica writes its mark: revision {revision}", _after_event(state, "mark", etcd=etcd)


@fault
def vouch_elsewhere(state: State, world: World) -> Steps:
    """Another replica vouches that never observed the revocation.

    A node cannot know better than that vouch. But the replica that remembers the revocation must find the loss when it
    checks.

    Code: authsvc/continuity/vouching.py HistoryVoucher._vouch.
    """
    continuity = state.continuity
    if "vouch" in continuity.possible_events and continuity.restored and continuity.etcd.history == 1:
        revision = continuity.etcd.revision + 1
        etcd = _after_commit(continuity, _VOUCHED, vouch_revision=revision)
        text = f"another replica, which remembers nothing, vouches: revision {revision}"
        yield text, _after_event(state, "vouch", etcd=etcd, vouched_elsewhere=True)


# The node


def register(state: State, world: World) -> Steps:
    """A process starts and registers. From this moment only a later vouch counts for it.

    Code: interceptors/node/heartbeat.py Heartbeat._register, Heartbeat._write_record;
    interceptors/trust/continuity_monitor.py ContinuityMonitor.require_vouch_after.
    """
    continuity = state.continuity
    if continuity.node.phase == DOWN:
        revision = continuity.etcd.revision + 1
        node = ContinuityNode(
            phase=REGISTERED, vouch_required_after=revision, in_touch_with_restored=continuity.restored
        )
        after = _with(state, etcd=_after_commit(continuity, registration=(revision, 0)), node=node)
        yield f"the node registers, at revision {revision}", after


def register_again(state: State, world: World) -> Steps:
    """The node puts its record again: it was out of touch with etcd, or has found a loss.

    Code: interceptors/node/heartbeat.py Heartbeat._write_record, Heartbeat._prove_freshness;
    interceptors/trust/continuity_monitor.py ContinuityMonitor.require_vouch_after.
    """
    continuity, node = state.continuity, state.continuity.node
    if node.phase == DOWN or node.proof or not _must_register_again(continuity, world):
        return
    revision = continuity.etcd.revision + 1
    after = node._replace(
        announced_broken=node.broken_history, in_touch_with_restored=continuity.restored, vouch_required_after=revision
    )
    report = f" and reports history {node.broken_history} as broken" if node.broken_history else ""
    text = f"the node puts its record again, at revision {revision}{report}"
    yield text, _with(state, etcd=_after_commit(continuity, registration=(revision, node.broken_history)), node=after)


def _must_register_again(continuity: ContinuityState, world: World) -> bool:
    # Every restore takes longer than the time after which a node considers itself out of touch.
    away = continuity.node.in_touch_with_restored != continuity.restored and world.rules.absence_needs_vouch
    return away or continuity.node.broken_history != continuity.node.announced_broken


def read_mesh(state: State, world: World) -> Steps:
    """The mirror reads everything, for the first time or again.

    Code: interceptors/trust/bundle.py TrustBundle.load; interceptors/etcd/mirror.py Mirror._read;
    interceptors/trust/continuity_monitor.py ContinuityMonitor.begin_history.
    """
    continuity, node = state.continuity, state.continuity.node
    if node.phase != REGISTERED and not node.must_reread:
        return
    etcd, now = continuity.etcd, _observe(continuity.etcd)
    verdict = _assess_read(node, node.observed, now, world)
    node = node._replace(
        phase=READY, position=(etcd.revision, now.beacon), must_reread=False, watches_restored=continuity.restored
    )
    if verdict == "lost":
        node = _report_loss(node, now.history or node.observed.history)
        yield "the node reads the mesh, finds a loss, and keeps its knowledge", _with(state, node=node)
        return
    node = node._replace(knows_revocation=any(kind in (_REVOKED, _BEGUN) for _, kind in etcd.log))
    if verdict == "another":
        node = node._replace(
            observed=now, lost=False, broken_history=0, vouch_required_after=0, proven=False, pending_proof=(0, 0)
        )
    else:
        node = node._replace(observed=_merge(node.observed, now))
    in_another = ", in another history" if verdict else ""
    text = f"the node reads the mesh at revision {etcd.revision}{in_another}"
    yield text, _with(state, node=_settle_proof(node, continuity, world))


def _assess_read(node: ContinuityNode, since: Observation, now: Observation, world: World) -> str:
    """ContinuityMonitor.record_read in interceptors/trust/continuity_monitor.py."""
    verdict = _assess(since, now, world)
    if node.lost and verdict != "lost":
        return "another" if now.history and now.history != node.broken_history else "lost"
    return verdict


def _report_loss(node: ContinuityNode, history: int) -> ContinuityNode:
    """The node reports the loss, and the mirror reads again (MeshNode in interceptors/node/mesh_node.py)."""
    return node if node.lost else node._replace(lost=True, broken_history=history)


def follow_watch(state: State, world: World) -> Steps:
    """The watch brings the next commit; or it broke, and resumes if etcd has the beacon that the mirror knows.

    Code: interceptors/etcd/mirror.py Mirror._has_same_history; interceptors/trust/bundle.py TrustBundle.apply,
    TrustBundle._follow_history.
    """
    continuity, node = state.continuity, state.continuity.node
    etcd, (revision, newest) = continuity.etcd, node.position
    if node.phase != READY or node.must_reread:
        return
    if node.watches_restored != continuity.restored:
        there = _as_of(etcd, revision)
        same = there == newest if world.rules.beacons_compare_values else there[0] == newest[0]
        if etcd.revision >= revision and same:
            yield "the node's watch resumes", _with(state, node=node._replace(watches_restored=continuity.restored))
        else:
            node = _report_loss(node, node.observed.history)._replace(must_reread=True)
            yield "the node's watch finds another history", _with(state, node=node)
        return
    entry = next((entry for entry in etcd.log if entry[0][0] > revision), None)
    if entry is None:
        return
    beacon, kind = entry
    if kind == _BEGUN or (node.lost and etcd.history != node.broken_history):
        yield "the node learns that another history has begun", _with(state, node=node._replace(must_reread=True))
        return
    after = node._replace(position=(beacon[0], beacon))
    if not node.lost:
        observation = node.observed._replace(
            revision=max(node.observed.revision, beacon[0]), beacon=max(node.observed.beacon, beacon)
        )
        if kind == _VOUCHED:
            observation = observation._replace(vouch_revision=beacon[0])
        after = _settle_proof(
            after._replace(knows_revocation=node.knows_revocation or kind == _REVOKED, observed=observation),
            continuity,
            world,
        )
    yield f"the node applies revision {beacon[0]} ({kind})", _with(state, node=after)


def _as_of(etcd: ContinuityEtcd, revision: int) -> tuple[int, int]:
    """The beacon as of a revision (EtcdClient.read_at in interceptors/etcd/client.py)."""
    return max((beacon for beacon, _ in etcd.log if beacon[0] <= revision), default=(0, 0))


def _settle_proof(node: ContinuityNode, continuity: ContinuityState, world: World) -> ContinuityNode:
    """TrustBundle._accept_proofs: a proof counts once its revision is applied, if the history is vouched for
    (ContinuityMonitor.vouched), and if the watch has brought the same beacon.

    A beacon that is older than the backup is the same before and after the restore.
    """
    revision, newest = node.position
    beacon = node.pending_proof
    vouched = not node.lost and node.observed.vouch_revision > node.vouch_required_after
    if not beacon[0] or revision < beacon[0] or not vouched:
        return node
    brought = beacon[1] == newest[1] or beacon[0] <= continuity.backup.revision
    return node._replace(proven=brought or not world.rules.proofs_match_beacons, pending_proof=(0, 0))


def send_proof(state: State, world: World) -> Steps:
    """The node sends its read.

    Code: interceptors/node/heartbeat.py Heartbeat._prove_freshness.
    """
    continuity, node = state.continuity, state.continuity.node
    # A second proof that waits for the same beacon would change nothing.
    waits = node.pending_proof[0] and node.pending_proof[1] == continuity.restored
    if node.phase != DOWN and not (node.proof or node.proven or waits or _must_register_again(continuity, world)):
        yield "the node sends a read of the beacon", _with(state, node=node._replace(proof=(node.observed,)))


def serve_proof(state: State, world: World) -> Steps:
    """etcd answers the read.

    Code: interceptors/node/heartbeat.py Heartbeat._prove_freshness.
    """
    node = state.continuity.node
    if len(node.proof) == 1:
        answered = (*node.proof, _observe(state.continuity.etcd))
        yield "etcd answers the node's read", _with(state, node=node._replace(proof=answered))


def receive_proof(state: State, world: World) -> Steps:
    """The node processes the answer.

    Code: interceptors/trust/continuity_monitor.py ContinuityMonitor.record_read;
    interceptors/trust/bundle.py TrustBundle.add_proof,
    TrustBundle._accept_proofs.
    """
    continuity, node = state.continuity, state.continuity.node
    if len(node.proof) != 2:
        return
    since, now = node.proof
    after = node._replace(proof=())
    if (
        node.in_touch_with_restored != continuity.restored
        and world.rules.absence_needs_vouch
        and world.rules.absence_lasts_until_answer
    ):
        yield "the answer came too late: the node still counts as out of touch", _with(state, node=after)
        return
    verdict = _assess_read(node, since, now, world)
    if verdict == "lost":
        yield "the node finds a loss", _with(state, node=_report_loss(after, now.history or since.history))
    elif verdict == "another" or (since.history and since.history != node.observed.history):
        yield "the node's read is of another history", _with(state, node=after)
    else:
        after = after._replace(pending_proof=now.beacon, observed=_merge(node.observed, now))
        text = f"the node's read proves freshness as of revision {now.beacon[0]}"
        yield text, _with(state, node=_settle_proof(after, continuity, world))


@fault
def crash(state: State, world: World) -> Steps:
    """The node dies, and its observations are lost."""
    continuity = state.continuity
    if continuity.node.phase != DOWN and "crash" in continuity.possible_events:
        yield "the node dies", _after_event(state, "crash", node=ContinuityNode())


# The replica


def note_revocation(state: State, world: World) -> Steps:
    """The replica notes the revision of its revocation; the receipt can be given out from then on.

    After a restore the note comes late. The replica then asks etcd, which lacks the revocation, and gives no receipt.

    Code: authsvc/continuity/guard.py ContinuityGuard.remember_commit; authsvc/revocation/receipts.py Receipts._confirm.
    """
    continuity = state.continuity
    if (
        continuity.noted
        or not world.rules.receipts_are_noted
        or (continuity.restored and world.rules.late_notes_are_checked)
    ):
        return
    revision = continuity.revocation_revision
    memory = continuity.replica.watermark
    seen = memory._replace(revision=max(memory.revision, revision), beacon=max(memory.beacon, (revision, 0)))
    after = _with(state, noted=True, replica=continuity.replica._replace(watermark=seen))
    yield f"the replica notes revision {revision}", after


def check_continuity(state: State, world: World) -> Steps:
    """The replica compares etcd with its watermark, and reads what nodes report.

    A check that is not made before a vouch matters only if it finds a loss.

    Code: authsvc/continuity/guard.py ContinuityGuard.check_and_recover, ContinuityGuard._assess_continuity.
    """
    continuity, replica = state.continuity, state.continuity.replica
    if replica.stage not in ("", "checking"):
        return
    etcd, now = continuity.etcd, _observe(continuity.etcd)
    known = replica.watermark if world.rules.watermarks_are_compared else Observation()
    verdict = _assess(known, now, world)
    if not verdict and world.rules.beacons_compare_values and known.beacon[0] < now.beacon[0]:
        verdict = "" if _as_of(etcd, known.beacon[0]) == known.beacon else "lost"
    if verdict == "another":
        done = replica._replace(stage="", watermark=now)
        yield "the replica learns that another history has begun", _with(state, replica=done)
    elif verdict or etcd.registration[1] == etcd.history:
        recovering = replica._replace(stage="recover", vouch_revision=etcd.vouch_revision)
        yield "the replica checks, and finds a loss", _with(state, replica=recovering)
    elif replica.stage or not world.rules.marks_come_first or (continuity.noted and continuity.restored):
        following = "vouch" if world.rules.marks_come_first else "mark"
        asked = replica.stage or not world.rules.marks_come_first
        stage = following if asked and etcd.registration[0] > etcd.vouch_revision else ""
        done = replica._replace(
            stage=stage, watermark=_merge(replica.watermark, now), vouch_revision=etcd.vouch_revision
        )
        missed_loss = continuity.noted and continuity.restored and etcd.history == 1
        yield "the replica checks, and finds nothing missing", _with(state, replica=done, missed_loss=missed_loss)


def recover_from_loss(state: State, world: World) -> Steps:
    """One commit recovers from the loss: everyone is revoked, all keys are removed, another history begins.

    Code: authsvc/continuity/recovery.py recover_from_loss.
    """
    continuity, replica = state.continuity, state.continuity.replica
    if replica.stage != "recover":
        return
    if continuity.etcd.vouch_revision != replica.vouch_revision:
        done = replica._replace(stage="")
        yield "the replica cannot recover: the history's record was changed", _with(state, replica=done)
        return
    revision = continuity.etcd.revision + 1
    after = _after_commit(continuity, _BEGUN, history=continuity.etcd.history + 1, vouch_revision=revision)
    done = ContinuityReplica(watermark=Observation(history=after.history, vouch_revision=revision))
    text = f"the replica recovers from the loss: history {after.history} begins at revision {revision}"
    yield text, _with(state, etcd=after, replica=done)


def write_mark(state: State, world: World) -> Steps:
    """A node has registered since the last vouch: the replica writes its mark.

    Code: authsvc/continuity/vouching.py HistoryVoucher._vouch.
    """
    continuity, replica = state.continuity, state.continuity.replica
    before, after = ("", "checking") if world.rules.marks_come_first else ("mark", "vouch")
    if (
        replica.stage != before
        or continuity.etcd.registration[0] <= continuity.etcd.vouch_revision
        or continuity.etcd.history > 1
    ):
        return
    revision = continuity.etcd.revision + 1
    marked = replica._replace(stage=after, mark_revision=revision)
    text = f"the replica writes its mark: revision {revision}"
    yield text, _with(state, etcd=_after_commit(continuity, mark=(revision, 1)), replica=marked)


def vouch(state: State, world: World) -> Steps:
    """The replica vouches, if mark and history are unchanged and no node has registered since the mark.

    Code: authsvc/continuity/vouching.py HistoryVoucher._vouch.
    """
    continuity, replica, etcd, rules = state.continuity, state.continuity.replica, state.continuity.etcd, world.rules
    if replica.stage != "vouch":
        return
    done = ContinuityReplica(watermark=replica.watermark)
    mark_unchanged = etcd.mark[0] == replica.mark_revision and (etcd.mark[1] == 1 or not rules.marks_compare_values)
    registered_since = etcd.registration[0] > replica.mark_revision and rules.late_registrations_wait
    if (
        etcd.vouch_revision != replica.vouch_revision
        or registered_since
        or not (mark_unchanged or not rules.vouching_compares_mark)
    ):
        yield "the replica cannot vouch: something has changed", _with(state, replica=done)
        return
    revision = etcd.revision + 1
    after = _with(state, etcd=_after_commit(continuity, _VOUCHED, vouch_revision=revision), replica=done)
    yield f"the replica vouches for the history: revision {revision}", after
