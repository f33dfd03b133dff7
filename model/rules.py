"""Every choice of the protocol that can be made wrongly. The defaults are what the code does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AS_BUILT", "Rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The protocol. The description of each field states the right choice; a variant sets one of them to the wrong one.

    Nodes
      register_before_read      a node registers before it reads the mesh for the first time
      ack_after_apply           a node acknowledges a barrier after applying its revision, not on receiving it
      acks_name_revisions       an acknowledgement counts for its own barrier's revision, not for a later barrier's
      acks_compare_barrier      an acknowledgement is committed only if its barrier is unchanged, so that a late one
                                overwrites nothing newer
      reregistering_reacks      a node that registers again acknowledges what it has applied, even if etcd fails then
      epochs_are_applied        every node applies epochs
      watch_overrides_fetch     a fetched key is added only if the watch is not past the revision of the fetch

    Freshness
      proof_from_send           a proof's age counts from the moment before its read was sent
      proof_waits_for_revision  a proof counts once the revision that it read is applied
      every_commit_moves_beacon every commit that nodes must learn of puts the beacon
      histories_are_compared    proofs and acknowledgements of one history of etcd say nothing about another
      clocks_never_stop         a node's clock goes on while the node stands still

    A restored etcd
      absence_needs_vouch       after a node was out of touch with etcd, its proofs count only once the auth service has
                                vouched again
      absence_lasts_until_answer  a node is out of touch until etcd has answered, however long that takes
      proofs_expire             a proof counts only if its revision is applied soon after it was sent
      proofs_match_beacons      a proof counts only if the watch has brought the same beacon that it read
      receipts_are_noted        a replica notes the revision of a revocation before it gives the receipt out
      late_notes_are_checked    if that note comes late and the revocation is not in etcd any more, there is no receipt
      watermarks_are_compared   a replica compares etcd with its watermark, not only with the contents of etcd
      beacons_compare_values    beacons are compared by their values, not by their revisions alone
      marks_come_first          a replica that is about to vouch writes its mark before it checks
      vouching_compares_mark    it vouches only if its mark is still there
      marks_compare_values      marks are compared by their values, not by their revisions alone
      late_registrations_wait   a vouch fails if a node has registered after the mark

    Calls
      proof_before_epochs       a call checks the proof first and the epochs after it
      generation_before_epochs  a call reads the generation first and the epochs after it
      epochs_before_generation  applying changes the epochs first and the generation after them
      refuses_stale             a strict call is refused if the proof is too old

    Receipts
      nodes_after_raise         the nodes are listed after the barrier was raised (for rotations, too)
      bound_from_answer         the freshness bound counts from the moment at which the commit was known, not from one
                                before it was sent
      bound_is_awaited          a receipt promises nothing about other nodes before the bound has passed
      complete_excludes_unregistered
                                an acknowledgement by all registered nodes promises nothing about unregistered ones
      lease_bound               (not in the code) a node refuses strict calls unless its lease is certainly alive and
                                its proof was sent after it registered; `complete_excludes_unregistered` is not needed
                                then

    Rotation
      wait_for_acks             a key signs after every registered node has acknowledged it
      fenced                    a leader's commits compare its term
      commits_compare           a leader's commits compare everything that their decision rests on
      keys_outlive_tokens       a key is removed after the tokens that it signed have expired

    Sessions
      epoch_of_read             a credential's epoch is the revision of the read, not of the commit
      issuing_compares          the commit compares the epochs that were read
      authentication_is_dated   a subject that was revoked after its login began is authenticated again
      refreshing_compares       the commit compares the session's record
      refreshing_reviews        a revoked session cannot be refreshed
      known_refresh_compares    a refresh without a read commits only if nothing was revoked since the record's epoch
      retries_get_successor     a retry within the grace window gets the same successor as the first attempt
      reuse_ends_session        a refresh token that is used after its grace window ends the session
      ends_put_epochs           ending a session puts an epoch; it does not only delete the record
    """

    register_before_read: bool = True
    ack_after_apply: bool = True
    acks_name_revisions: bool = True
    acks_compare_barrier: bool = True
    reregistering_reacks: bool = True
    epochs_are_applied: bool = True
    watch_overrides_fetch: bool = True
    proof_from_send: bool = True
    proof_waits_for_revision: bool = True
    every_commit_moves_beacon: bool = True
    histories_are_compared: bool = True
    clocks_never_stop: bool = True
    absence_needs_vouch: bool = True
    absence_lasts_until_answer: bool = True
    proofs_expire: bool = True
    proofs_match_beacons: bool = True
    receipts_are_noted: bool = True
    late_notes_are_checked: bool = True
    watermarks_are_compared: bool = True
    beacons_compare_values: bool = True
    marks_come_first: bool = True
    vouching_compares_mark: bool = True
    marks_compare_values: bool = True
    late_registrations_wait: bool = True
    proof_before_epochs: bool = True
    generation_before_epochs: bool = True
    epochs_before_generation: bool = True
    refuses_stale: bool = True
    nodes_after_raise: bool = True
    bound_from_answer: bool = True
    bound_is_awaited: bool = True
    complete_excludes_unregistered: bool = True
    lease_bound: bool = False
    wait_for_acks: bool = True
    fenced: bool = True
    commits_compare: bool = True
    keys_outlive_tokens: bool = True
    epoch_of_read: bool = True
    issuing_compares: bool = True
    authentication_is_dated: bool = True
    refreshing_compares: bool = True
    refreshing_reviews: bool = True
    known_refresh_compares: bool = True
    retries_get_successor: bool = True
    reuse_ends_session: bool = True
    ends_put_epochs: bool = True


AS_BUILT: Final = Rules()
"""What the code does."""
