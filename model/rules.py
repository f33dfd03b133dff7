"""Every choice of the protocol that can be got wrong. What stands here is what the code does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["AS_BUILT", "Rules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The protocol. Each field says what is right; a variant sets one of them to what is wrong.

    Nodes
      register_before_read      a node is in etcd's list before it reads the mesh for the first time
      ack_after_apply           a barrier is acknowledged when it was applied, not when it was heard of
      acks_name_revisions       an acknowledgement counts for the barrier's own revision, not for an older barrier's
      acks_compare_barrier      acknowledging compares the barrier: what is late is not written over what is newer
      reregistering_reacks      who registers anew acknowledges what it has applied, even if etcd fails just then
      epochs_are_applied        by every node
      fetch_minds_the_watch     a key that was fetched is added only if the watch is not past that read

    Freshness
      proof_from_send           a proof's age counts from before its read was sent
      proof_waits_for_revision  a proof counts once the revision that it found is applied
      every_commit_moves_beacon
      histories_are_told_apart  proofs and acknowledgements of one history of etcd say nothing about another
      clocks_never_stop         a node's clock goes on while the node stands still

    A restored etcd
      away_wants_vouch          a node that was out of touch proves nothing before it is vouched for anew
      away_until_answered       it is out of touch until it is answered, however long that takes
      proofs_expire             a proof counts only if its revision is applied soon after it was sent
      proofs_name_beacons       and only if the watch has brought the very beacon that was read
      makers_remember           who makes a receipt remembers its revocation before the receipt is out
      late_notes_are_checked    and gives none if that comes late and the revocation is not in etcd any more
      replicas_remember         a replica looks by what it remembers, and not only by what is there
      beacons_are_told_apart    by what they hold, and not by their revisions alone
      marks_come_first          whoever vouches writes its mark before it looks
      vouching_compares_mark    and vouches only if the mark is still there
      marks_are_told_apart      by what they hold, and not by their revisions alone
      newcomers_wait            nobody is vouched for who has registered after the mark

    Calls
      proof_before_epochs       a call looks at the proof first and at the epochs after it
      generation_before_epochs  a call reads the generation first and the epochs after it
      epochs_before_generation  an apply changes epochs first and moves the generation on after it
      refuses_stale             a strict call is refused when the proof is too old

    Receipts
      nodes_after_raise         nodes are listed after the barrier was raised (rotations too)
      bound_from_answer         the freshness bound counts from when the commit was known, not from before it was sent
      whole_bound               a receipt promises nothing about other nodes before the bound has passed
      complete_is_not_all       nor when all registered nodes have acknowledged: others may be out there
      lease_bound               (not in the code) a node refuses strict calls unless its lease is certainly alive and
                                its proof was sent after it registered; then `complete_is_not_all` is not needed

    Rotation
      wait_for_acks             a key signs after every registered node has acknowledged it
      fenced                    a leader's writes compare its term
      compares                  ... and everything that their decision rested on
      keys_outlive_tokens       a key is removed when what it signed has expired

    Sessions
      epoch_of_read             a credential's epoch is the revision of the read, not of the commit
      issuing_compares          the commit compares the epochs that were read
      authentication_is_dated   who was revoked after the login began is authenticated again
      refreshing_compares       the commit compares the session's record
      refreshing_reviews        a session that was revoked cannot be refreshed
      retries_get_the_same      a retry within the grace window gets the successor that the first try got
      reuse_ends                a token that is used after its grace window ends the session
      ends_put_epochs           ending a session puts an epoch, and not only its record away
    """

    register_before_read: bool = True
    ack_after_apply: bool = True
    acks_name_revisions: bool = True
    acks_compare_barrier: bool = True
    reregistering_reacks: bool = True
    epochs_are_applied: bool = True
    fetch_minds_the_watch: bool = True
    proof_from_send: bool = True
    proof_waits_for_revision: bool = True
    every_commit_moves_beacon: bool = True
    histories_are_told_apart: bool = True
    clocks_never_stop: bool = True
    away_wants_vouch: bool = True
    away_until_answered: bool = True
    proofs_expire: bool = True
    proofs_name_beacons: bool = True
    makers_remember: bool = True
    late_notes_are_checked: bool = True
    replicas_remember: bool = True
    beacons_are_told_apart: bool = True
    marks_come_first: bool = True
    vouching_compares_mark: bool = True
    marks_are_told_apart: bool = True
    newcomers_wait: bool = True
    proof_before_epochs: bool = True
    generation_before_epochs: bool = True
    epochs_before_generation: bool = True
    refuses_stale: bool = True
    nodes_after_raise: bool = True
    bound_from_answer: bool = True
    whole_bound: bool = True
    complete_is_not_all: bool = True
    lease_bound: bool = False
    wait_for_acks: bool = True
    fenced: bool = True
    compares: bool = True
    keys_outlive_tokens: bool = True
    epoch_of_read: bool = True
    issuing_compares: bool = True
    authentication_is_dated: bool = True
    refreshing_compares: bool = True
    refreshing_reviews: bool = True
    retries_get_the_same: bool = True
    reuse_ends: bool = True
    ends_put_epochs: bool = True


AS_BUILT: Final = Rules()
"""What the code does."""
