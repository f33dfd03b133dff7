"""Protocols with a rule broken. Each must be caught, or else the model is blind to the purpose of that rule.

And the reverse: pairs of rules of which one suffices. The code keeps both, as a second line of defence, and a search
shows that each of them is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from model.invariants import (
    ended_sessions_stay_ended,
    no_acceptance_after_receipt,
    no_acceptance_after_restore,
    nothing_issued_across_survives,
    only_the_leader_writes,
    refresh_tokens_are_used_once,
    remembered_loss_is_found,
    removed_keys_are_gone,
    rotation_refuses_no_valid_token,
)
from model.rules import Rules
from model.world import Invariant, World
from model.worlds import FETCHING, FEW_REQUESTS, HISTORIES, ONE_HOLDER, ONE_LOSS, ONE_NODE, RESTORE, THREADS

__all__ = ["BROKEN", "SPARE", "Variant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A protocol that differs from the protocol as built.

    description  the difference
    breaks       the promise that it breaks; None if it breaks the goal of its world, or nothing
    """

    name: str
    description: str
    world: World
    rules: Rules
    breaks: Invariant | None = None

    def world_to_search(self) -> World:
        """The world to search: with this protocol, and with only the promise that it breaks, if there is one."""
        world = self.world.under(self.rules)
        if self.breaks is None:
            return world
        return replace(world, name=self.name, invariants=(self.breaks,), goal=None)


def _receipts(name: str, description: str, rules: Rules, world: World = ONE_NODE) -> Variant:
    return Variant(name=name, description=description, world=world, rules=rules, breaks=no_acceptance_after_receipt)


def _rotation(
    name: str, description: str, rules: Rules, breaks: Invariant | None = rotation_refuses_no_valid_token
) -> Variant:
    return Variant(name=name, description=description, world=ONE_HOLDER, rules=rules, breaks=breaks)


def _sessions(name: str, description: str, rules: Rules, breaks: Invariant) -> Variant:
    return Variant(name=name, description=description, world=FEW_REQUESTS, rules=rules, breaks=breaks)


def _histories(name: str, description: str, rules: Rules, breaks: Invariant = no_acceptance_after_restore) -> Variant:
    return Variant(name=name, description=description, world=HISTORIES, rules=rules, breaks=breaks)


_BY_LEASE: Rules = Rules(lease_bound=True, complete_excludes_unregistered=False)

_RECEIPTS: tuple[Variant, ...] = (
    _receipts("epoch-ignored", "one node ignores epochs", Rules(epochs_are_applied=False)),
    _receipts("ack-before-applying", "barriers are acknowledged before they are applied", Rules(ack_after_apply=False)),
    _receipts("time-after-read", "a proof's age counts from its answer", Rules(proof_from_send=False)),
    _receipts(
        "proof-not-awaited", "a proof counts before its revision is applied", Rules(proof_waits_for_revision=False)
    ),
    _receipts("no-beacon", "the revocation does not put the beacon", Rules(every_commit_moves_beacon=False)),
    _receipts("clock-sleeps", "a node's clock stops while its machine is suspended", Rules(clocks_never_stop=False)),
    _receipts("bound-cut-short", "the receipt does not wait for the bound", Rules(bound_is_awaited=False)),
    _receipts("bound-from-before", "the bound counts from before the commit", Rules(bound_from_answer=False)),
    _receipts("stale-nodes-serve", "strict methods serve at any age", Rules(refuses_stale=False)),
    _receipts(
        "complete-is-all",
        "a complete receipt covers unregistered nodes at once",
        Rules(complete_excludes_unregistered=False),
    ),
    _receipts(
        "listed-too-early",
        "the nodes are listed before the barrier is raised, and a complete receipt covers unregistered nodes",
        replace(_BY_LEASE, nodes_after_raise=False),
    ),
    _receipts(
        "epochs-before-proof",
        "a call checks the epochs first, and the proof after them",
        Rules(proof_before_epochs=False),
    ),
    _receipts(
        "stamped-too-new",
        "a call reads the epochs first, and after them the generation under which it caches the result",
        Rules(generation_before_epochs=False),
        THREADS,
    ),
    _receipts(
        "generation-too-early",
        "applying changes the generation first, and the epochs after it",
        Rules(epochs_before_generation=False),
        THREADS,
    ),
    _receipts(
        "histories-confused",
        "a proof of one history of etcd counts for another",
        Rules(histories_are_compared=False),
        RESTORE,
    ),
)

_HISTORIES: tuple[Variant, ...] = (
    _histories(
        "away-unnoticed",
        "a node that was out of touch with etcd needs no new vouch",
        Rules(absence_needs_vouch=False),
    ),
    _histories(
        "in-touch-when-asked",
        "a node counts as in touch from the moment of its request, whenever the answer comes",
        Rules(absence_lasts_until_answer=False),
    ),
    _histories(
        "proof-of-before",
        "a proof waits for its revision without a limit, and any beacon of that revision will do",
        Rules(proofs_expire=False, proofs_match_beacons=False),
    ),
    _histories(
        "maker-forgets", "a replica gives out a receipt without noting its revision", Rules(receipts_are_noted=False)
    ),
    _histories(
        "late-note", "a receipt is given out however late its revision was noted", Rules(late_notes_are_checked=False)
    ),
    _histories("replica-forgets", "a replica compares etcd with nothing", Rules(watermarks_are_compared=False)),
    _histories("numbers-alone", "beacons are compared by their revisions alone", Rules(beacons_compare_values=False)),
    _histories(
        "numbers-after-another",
        "beacons are compared by their revisions alone, and a replica without a watermark has vouched",
        Rules(beacons_compare_values=False),
        remembered_loss_is_found,
    ),
    _histories("mark-comes-late", "the mark is written after the check", Rules(marks_come_first=False)),
    _histories("mark-uncompared", "vouching does not compare the mark", Rules(vouching_compares_mark=False)),
    _histories("marks-alike", "marks are compared by their revisions alone", Rules(marks_compare_values=False)),
    _histories(
        "newcomer-vouched", "a vouch covers nodes that registered after the mark", Rules(late_registrations_wait=False)
    ),
)

_ROTATIONS: tuple[Variant, ...] = (
    _rotation("signing-before-barrier", "a key signs without waiting for acknowledgements", Rules(wait_for_acks=False)),
    _rotation(
        "listed-before-raising", "the nodes are listed before the barrier is raised", Rules(nodes_after_raise=False)
    ),
    _rotation(
        "read-before-registering", "a node reads the mesh before it registers", Rules(register_before_read=False)
    ),
    _rotation(
        "old-acks-count",
        "a late acknowledgement is written, and counts for a later barrier",
        Rules(acks_name_revisions=False, acks_compare_barrier=False),
    ),
    _rotation(
        "removed-too-early", "a key is removed as soon as it is not ACTIVE any more", Rules(keys_outlive_tokens=False)
    ),
    _rotation("uncompared", "a leader's commit compares nothing but its fence", Rules(commits_compare=False)),
    _rotation("unfenced-uncompared", "a leader's commit compares nothing", Rules(fenced=False, commits_compare=False)),
    _rotation("unfenced", "a leader's commit does not compare its term", Rules(fenced=False), only_the_leader_writes),
    _rotation(
        "late-ack-overwrites",
        "an acknowledgement is written without comparing its barrier",
        Rules(acks_compare_barrier=False),
        None,
    ),
    _rotation(
        "acks-not-repeated",
        "a node that registers again loses its pending acknowledgements if etcd fails at that moment",
        Rules(reregistering_reacks=False),
        None,
    ),
    Variant(
        name="fetched-key-stays",
        description="a fetched key is added even if the watch is past the revision of the fetch",
        world=FETCHING,
        rules=Rules(watch_overrides_fetch=False),
        breaks=removed_keys_are_gone,
    ),
)

_SESSIONS: tuple[Variant, ...] = (
    _sessions(
        "issued-uncompared",
        "a session's epoch is the revision of its commit, which compares no epochs",
        Rules(issuing_compares=False, epoch_of_read=False),
        nothing_issued_across_survives,
    ),
    _sessions(
        "authenticated-long-ago",
        "a login does not check for revocations since its authentication",
        Rules(authentication_is_dated=False),
        nothing_issued_across_survives,
    ),
    _sessions(
        "refresh-unreviewed",
        "a revoked session can be refreshed",
        Rules(refreshing_reviews=False),
        nothing_issued_across_survives,
    ),
    _sessions(
        "known-refresh-uncompared",
        "a refresh without a read does not compare epochs",
        Rules(known_refresh_compares=False),
        nothing_issued_across_survives,
    ),
    _sessions(
        "refresh-uncompared",
        "a refresh does not compare the record",
        Rules(refreshing_compares=False),
        refresh_tokens_are_used_once,
    ),
    _sessions(
        "retry-gets-another",
        "a retry gets another refresh token",
        Rules(retries_get_successor=False),
        refresh_tokens_are_used_once,
    ),
    _sessions(
        "reuse-goes-on",
        "a refresh token is accepted after its grace window",
        Rules(reuse_ends_session=False),
        refresh_tokens_are_used_once,
    ),
    _sessions(
        "ended-without-epoch",
        "ending a session only deletes its record",
        Rules(ends_put_epochs=False),
        ended_sessions_stay_ended,
    ),
)

BROKEN: tuple[Variant, ...] = _RECEIPTS + _HISTORIES + _ROTATIONS + _SESSIONS
"""Each of them must be caught."""

SPARE: tuple[Variant, ...] = (
    Variant(
        name="issuing-by-epoch-alone",
        description="no commit compares epochs; a credential's epoch is the revision of the read, so nodes refuse it",
        world=FEW_REQUESTS,
        rules=Rules(issuing_compares=False),
    ),
    Variant(
        name="issuing-by-compare-alone",
        description="a credential's epoch is the revision of its commit, which compares epochs",
        world=FEW_REQUESTS,
        rules=Rules(epoch_of_read=False),
    ),
    Variant(
        name="acks-by-compare-alone",
        description="an acknowledgement counts for any barrier; a late one is not written",
        world=ONE_HOLDER,
        rules=Rules(acks_name_revisions=False),
    ),
    Variant(
        name="proofs-by-time-alone",
        description="a proof counts with any beacon of its revision, if the watch brings it soon",
        world=ONE_LOSS,
        rules=Rules(proofs_match_beacons=False),
    ),
    Variant(
        name="proofs-by-beacon-alone",
        description="a proof waits without a limit, but only for the beacon that it has read",
        world=ONE_LOSS,
        rules=Rules(proofs_expire=False),
    ),
    Variant(
        name="complete-by-lease",
        description="a complete receipt covers unregistered nodes at once: a node without a certain lease refuses "
        "strict calls, and only proofs that it sent while registered count",
        world=ONE_NODE,
        rules=_BY_LEASE,
    ),
)
"""Protocols that break nothing: another rule makes up for the rule that they leave out."""
