"""Protocols with a rule broken. Each must be caught, or else the model is blind to what the rule is for.

And the reverse: rules that may go, since another one does the same. They are kept in the code as a second line, and
here it is shown that each of the two suffices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from model.invariants import (
    Invariant,
    ended_sessions_stay_ended,
    nobody_is_refused_by_rotation,
    nobody_survives_a_restore,
    nobody_survives_the_receipt,
    nothing_is_issued_across,
    only_the_leader_writes,
    refresh_tokens_are_traded_once,
    removed_keys_are_gone,
    whoever_remembers_notices,
)
from model.rules import Rules
from model.worlds import FETCHING, FEW_REQUESTS, HISTORIES, ONE_HOLDER, ONE_LOSS, ONE_NODE, RESTORE, THREADS, World

__all__ = ["BROKEN", "SPARE", "Variant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A protocol that is not ours.

    says    what is different about it
    breaks  the promise that it is about; None for the goal of its world, or for one that keeps all promises
    """

    name: str
    says: str
    world: World
    rules: Rules
    breaks: Invariant | None = None

    def searched(self) -> World:
        """The world to search: as it is, with this protocol, and asked for one promise if one is named."""
        world = self.world.under(self.rules)
        if self.breaks is None:
            return world
        return replace(world, name=self.name, invariants=(self.breaks,), goal=None)


def _receipts(name: str, says: str, rules: Rules, world: World = ONE_NODE) -> Variant:
    return Variant(name=name, says=says, world=world, rules=rules, breaks=nobody_survives_the_receipt)


def _rotation(name: str, says: str, rules: Rules, breaks: Invariant | None = nobody_is_refused_by_rotation) -> Variant:
    return Variant(name=name, says=says, world=ONE_HOLDER, rules=rules, breaks=breaks)


def _sessions(name: str, says: str, rules: Rules, breaks: Invariant) -> Variant:
    return Variant(name=name, says=says, world=FEW_REQUESTS, rules=rules, breaks=breaks)


def _histories(name: str, says: str, rules: Rules, breaks: Invariant = nobody_survives_a_restore) -> Variant:
    return Variant(name=name, says=says, world=HISTORIES, rules=rules, breaks=breaks)


_BY_LEASE: Rules = Rules(lease_bound=True, complete_is_not_all=False)

_RECEIPTS: tuple[Variant, ...] = (
    _receipts("epoch-ignored", "one node ignores epochs", Rules(epochs_are_applied=False)),
    _receipts("ack-before-applying", "barriers are acknowledged as heard of", Rules(ack_after_apply=False)),
    _receipts("time-after-read", "a proof's age counts from its answer", Rules(proof_from_send=False)),
    _receipts(
        "proof-not-awaited", "a proof counts before its revision is applied", Rules(proof_waits_for_revision=False)
    ),
    _receipts("no-beacon", "the revocation does not put the beacon", Rules(every_commit_moves_beacon=False)),
    _receipts("clock-sleeps", "a node's clock stops while its machine sleeps", Rules(clocks_never_stop=False)),
    _receipts("bound-cut-short", "the receipt does not wait for the bound", Rules(whole_bound=False)),
    _receipts("bound-from-before", "the bound counts from before the commit", Rules(bound_from_answer=False)),
    _receipts("stale-nodes-serve", "strict methods serve at any age", Rules(refuses_stale=False)),
    _receipts("complete-is-all", "a complete receipt speaks for all nodes at once", Rules(complete_is_not_all=False)),
    _receipts(
        "listed-too-early",
        "the nodes are listed before the barrier is raised, and a complete receipt speaks for all nodes",
        replace(_BY_LEASE, nodes_after_raise=False),
    ),
    _receipts(
        "epochs-before-proof",
        "a call looks at the epochs first, and at the proof then",
        Rules(proof_before_epochs=False),
    ),
    _receipts(
        "stamped-too-new",
        "a call reads the epochs first, and the generation that it stamps the credential with then",
        Rules(generation_before_epochs=False),
        THREADS,
    ),
    _receipts(
        "generation-too-early",
        "applying moves the generation first, and changes the epochs then",
        Rules(epochs_before_generation=False),
        THREADS,
    ),
    _receipts(
        "histories-confused",
        "what one history of etcd proves counts for another",
        Rules(histories_are_told_apart=False),
        RESTORE,
    ),
)

_HISTORIES: tuple[Variant, ...] = (
    _histories(
        "away-unnoticed",
        "a node that was out of touch goes on as if nothing had been",
        Rules(away_wants_vouch=False),
    ),
    _histories(
        "in-touch-when-asked",
        "a node counts as in touch from the moment it asked, whenever the answer comes",
        Rules(away_until_answered=False),
    ),
    _histories(
        "proof-of-before",
        "a proof waits for its revision however long that takes, and whatever beacon comes then",
        Rules(proofs_expire=False, proofs_name_beacons=False),
    ),
    _histories("maker-forgets", "who makes a receipt does not remember its revision", Rules(makers_remember=False)),
    _histories("late-note", "a receipt is given out however late it was noted", Rules(late_notes_are_checked=False)),
    _histories("replica-forgets", "a replica goes by what is there alone", Rules(replicas_remember=False)),
    _histories("numbers-alone", "beacons are compared by their revisions", Rules(beacons_are_told_apart=False)),
    _histories(
        "numbers-after-another",
        "beacons are compared by their revisions, and one who knows less has vouched",
        Rules(beacons_are_told_apart=False),
        whoever_remembers_notices,
    ),
    _histories("mark-comes-late", "the mark is written after the look", Rules(marks_come_first=False)),
    _histories("mark-uncompared", "vouching does not compare the mark", Rules(vouching_compares_mark=False)),
    _histories("marks-alike", "marks are compared by their revisions alone", Rules(marks_are_told_apart=False)),
    _histories("newcomer-vouched", "who registers after the mark is vouched for too", Rules(newcomers_wait=False)),
)

_ROTATIONS: tuple[Variant, ...] = (
    _rotation("signing-before-barrier", "a key signs at once", Rules(wait_for_acks=False)),
    _rotation(
        "listed-before-raising", "the nodes are listed before the barrier is raised", Rules(nodes_after_raise=False)
    ),
    _rotation("read-before-registering", "a node reads the mesh and registers then", Rules(register_before_read=False)),
    _rotation(
        "old-acks-count",
        "a late acknowledgement is written, and counts for a later barrier",
        Rules(acks_name_revisions=False, acks_compare_barrier=False),
    ),
    _rotation("removed-too-early", "a key is removed as soon as it does not sign", Rules(keys_outlive_tokens=False)),
    _rotation("uncompared", "a leader's commit compares nothing but its fence", Rules(compares=False)),
    _rotation("unfenced-uncompared", "a leader's commit compares nothing", Rules(fenced=False, compares=False)),
    _rotation("unfenced", "a leader's commit does not compare its term", Rules(fenced=False), only_the_leader_writes),
    _rotation(
        "late-ack-overwrites",
        "an acknowledgement is written whatever became of its barrier",
        Rules(acks_compare_barrier=False),
        None,
    ),
    _rotation(
        "acks-not-repeated",
        "who registers anew forgets what it owes when etcd fails right then",
        Rules(reregistering_reacks=False),
        None,
    ),
    Variant(
        name="fetched-key-stays",
        says="a key that was fetched is added whatever the watch has brought",
        world=FETCHING,
        rules=Rules(fetch_minds_the_watch=False),
        breaks=removed_keys_are_gone,
    ),
)

_SESSIONS: tuple[Variant, ...] = (
    _sessions(
        "issued-uncompared",
        "a session has the epoch of its commit, which compares no epochs",
        Rules(issuing_compares=False, epoch_of_read=False),
        nothing_is_issued_across,
    ),
    _sessions(
        "authenticated-long-ago",
        "a login does not ask whether it was revoked after it was authenticated",
        Rules(authentication_is_dated=False),
        nothing_is_issued_across,
    ),
    _sessions(
        "refresh-unreviewed",
        "a revoked session can be refreshed",
        Rules(refreshing_reviews=False),
        nothing_is_issued_across,
    ),
    _sessions(
        "refresh-uncompared",
        "a refresh does not compare the record",
        Rules(refreshing_compares=False),
        refresh_tokens_are_traded_once,
    ),
    _sessions(
        "retry-gets-another",
        "a retry gets a refresh token of its own",
        Rules(retries_get_the_same=False),
        refresh_tokens_are_traded_once,
    ),
    _sessions(
        "reuse-goes-on",
        "a token that was used up gets credentials",
        Rules(reuse_ends=False),
        refresh_tokens_are_traded_once,
    ),
    _sessions(
        "ended-without-epoch",
        "ending a session only takes its record away",
        Rules(ends_put_epochs=False),
        ended_sessions_stay_ended,
    ),
)

BROKEN: tuple[Variant, ...] = _RECEIPTS + _HISTORIES + _ROTATIONS + _SESSIONS
"""Each of them must be caught."""

SPARE: tuple[Variant, ...] = (
    Variant(
        name="issuing-by-epoch-alone",
        says="no commit compares epochs; credentials have the epoch of what they were made from, and nodes kill them",
        world=FEW_REQUESTS,
        rules=Rules(issuing_compares=False),
    ),
    Variant(
        name="issuing-by-compare-alone",
        says="credentials have the epoch of their commit, which compares",
        world=FEW_REQUESTS,
        rules=Rules(epoch_of_read=False),
    ),
    Variant(
        name="acks-by-compare-alone",
        says="any acknowledgement of a barrier counts; a late one is not written",
        world=ONE_HOLDER,
        rules=Rules(acks_name_revisions=False),
    ),
    Variant(
        name="proofs-by-time-alone",
        says="a proof counts whatever beacon the watch brings, if it comes soon",
        world=ONE_LOSS,
        rules=Rules(proofs_name_beacons=False),
    ),
    Variant(
        name="proofs-by-beacon-alone",
        says="a proof waits however long it takes, for the very beacon that it found",
        world=ONE_LOSS,
        rules=Rules(proofs_expire=False),
    ),
    Variant(
        name="complete-by-lease",
        says="a complete receipt speaks for all nodes at once, since a node without a certain lease refuses strict "
        "calls, and only proofs that it sent while registered count",
        world=ONE_NODE,
        rules=_BY_LEASE,
    ),
)
"""None of them breaks anything: what they leave out, something else makes up for."""
