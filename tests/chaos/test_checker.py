"""The checker on histories that were told by hand: what breaks a promise is found, what only looks like it is not."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.told_histories import Told


@pytest.fixture
def told() -> Told:
    return Told()


class TestAcceptingWhatWasRevoked:
    def test_on_a_node_that_a_receipt_names_it_is_wrong_at_once_and_on_every_method(self, told: Told) -> None:
        alice = told.issued()
        told.called(alice["cred"])
        told.revoked()
        told.called(alice["cred"], method="Plain")
        assert told.verdict("I1").violated == 1

    def test_on_another_node_it_is_wrong_on_strict_methods_once_the_bound_has_passed(self, told: Told) -> None:
        alice = told.issued()
        told.revoked()
        told.called(alice["cred"], node="n2")
        told.after(2.5).called(alice["cred"], node="n2", method="Plain")
        assert told.verdict("I1").kept
        told.called(alice["cred"], node="n2")
        assert told.verdict("I1").violated == 1

    def test_without_a_receipt_the_bound_is_a_freshness_after_the_commit(self, told: Told) -> None:
        alice = told.issued()
        told.revoked(receipt=False)
        told.after(2.4).called(alice["cred"])
        assert told.verdict("I1").kept
        told.after(0.2).called(alice["cred"])
        assert told.verdict("I1").violated == 1

    def test_what_nobody_was_told_of_counts_too_if_etcd_tells(self, told: Told) -> None:
        """The answer to the one who revoked was lost."""
        alice = told.issued()
        told.etcd("epoch", scope="sid/s1", gone=False)
        told.after(2.6).called(alice["cred"])
        assert told.verdict("I1").violated == 1

    def test_it_is_for_ever_whatever_is_restored(self, told: Told) -> None:
        alice = told.issued()
        told.revoked()
        told.after(3).tell("restore", lasts=1.0, life=1)
        told.revision = 5
        told.after(5).called(alice["cred"])
        assert told.verdict("I1").violated == 1

    def test_what_was_issued_after_it_is_not_touched(self, told: Told) -> None:
        told.issued()
        told.revoked()
        again = told.issued(sid="s2")
        told.after(5).called(again["cred"])
        assert told.verdict("I1").kept

    def test_another_subject_is_not_touched(self, told: Told) -> None:
        told.revoked("sub/alice")
        bob = told.issued(subject="bob")
        told.revoked("sub/alice")
        told.after(5).called(bob["cred"])
        assert told.verdict("I1").kept

    @pytest.mark.parametrize("scope", ["all", "client/password", "aud/chaos", "sid/s1", "sub/alice"])
    def test_every_scope_counts(self, told: Told, scope: str) -> None:
        alice = told.issued()
        told.revoked(scope)
        told.called(alice["cred"])
        assert told.verdict("I1").violated == 1

    def test_a_stream_that_goes_on_is_wrong_too(self, told: Told) -> None:
        alice = told.issued()
        begun = told.now
        told.revoked()
        stream = {"at": "node-1", "cred": alice["cred"], "answer": "refused", "reason": "CREDENTIAL_REVOKED"}
        told.tell("stream", **stream, node="n1", mono=begun, seen=told.now, messages=3)
        assert told.verdict("I1").kept
        told.tell("stream", **stream, node="n1", mono=told.now, seen=told.now, messages=4)
        assert told.verdict("I1").violated == 1

    @pytest.mark.parametrize(("method", "violated"), [("Stream", 0), ("StrictStream", 1)])
    def test_a_strict_stream_must_not_go_on_beyond_the_bound(self, told: Told, method: str, violated: int) -> None:
        alice = told.issued()
        told.revoked()
        stream = {"at": "node-1", "cred": alice["cred"], "method": method, "answer": "ok", "node": "n2"}
        for after in (2.3, 1.2):
            assert told.verdict("I1").kept
            began = told.after(after).now
            trail = [[began + tick, began] for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
            told.after(1).tell("stream", **stream, mono=trail[-1][0], seen=told.now, messages=9, trail=trail)
        assert told.verdict("I1").violated == violated

    def test_what_a_removed_key_has_signed_is_revoked_too(self, told: Told) -> None:
        alice, bob = told.issued(kid="k1"), told.issued(kid="k2", sid="s2")
        told.removed("k1")
        told.after(3).called(bob["cred"])
        told.called(alice["cred"], node="n2", method="Plain")
        assert told.verdict("I1").kept
        told.called(alice["cred"], node="n2")
        told.called(alice["cred"], node="n1", method="Plain")
        assert told.verdict("I1").violated == 2

    def test_a_key_that_nobody_knows_to_be_removed_revokes_nothing(self, told: Told) -> None:
        """The answer was lost, and so may the question have been."""
        alice = told.issued(kid="k1")
        told.removed("k1", answer="none", receipt=None)
        told.after(3).called(alice["cred"])
        assert told.verdict("I1").kept

    def test_it_does_if_etcd_tells(self, told: Told) -> None:
        alice = told.issued(kid="k1")
        told.removed("k1", answer="none", receipt=None)
        told.etcd("epoch", scope="kid/k1", gone=False)
        told.after(3).called(alice["cred"])
        assert told.verdict("I1").violated == 1


class TestReceipts:
    @pytest.fixture(autouse=True)
    def two_nodes(self, told: Told) -> None:
        told.etcd("node", id="n2", name="node-1", gone=False)

    def revoked(self, told: Told, **receipt: Any) -> None:
        """And somebody else afterwards: so much is certain of who was still registered."""
        known = {"complete": True, "strict_in": 2.4, "applied": ["n1", "n2"], "lagging": [], "left": []}
        told.revoked(receipt=True)["receipt"] = {**known, **receipt}
        told.revoked("sub/bob")

    def test_a_receipt_that_lists_everybody_is_fine(self, told: Told) -> None:
        self.revoked(told)
        verdict = told.verdict("I1")
        assert verdict.kept
        assert verdict.checked["nodes to be listed"] == 2

    def test_a_receipt_that_forgets_a_node_is_wrong(self, told: Told) -> None:
        self.revoked(told, applied=["n1"])
        assert told.verdict("I1").violated == 1

    def test_unless_it_says_that_it_is_not_complete(self, told: Told) -> None:
        """Its list could not be read."""
        self.revoked(told, applied=["n1"], complete=False)
        verdict = told.verdict("I1")
        assert verdict.kept
        assert verdict.undecided == {"a receipt that is not complete lacks a node": 1}

    def test_a_node_that_may_have_left_before_the_receipt_need_not_be_listed(self, told: Told) -> None:
        told.revoked()
        told.etcd("node", id="n2", name="", gone=True)
        told.revoked("sub/bob")
        assert told.verdict("I1").kept

    def test_a_node_that_came_after_the_revocation_need_not_be_listed(self, told: Told) -> None:
        told.revoked(receipt=False)
        told.etcd("node", id="n3", name="node-1", gone=False)
        told.records[-2]["receipt"] = {"complete": True, "strict_in": 2.4, "applied": ["n1", "n2"], "lagging": []}
        told.revoked("sub/bob")
        assert told.verdict("I1").kept

    def test_complete_means_that_nobody_lags_who_is_registered(self, told: Told) -> None:
        self.revoked(told, applied=["n1"], lagging=["n2"])
        assert told.verdict("I1").violated == 1

    def test_whoever_is_said_to_have_left_must_have(self, told: Told) -> None:
        self.revoked(told, applied=["n1"], lagging=["n2"], left=["n2"])
        assert told.verdict("I1").violated == 1

    def test_what_the_observer_missed_proves_nothing(self, told: Told) -> None:
        """A node that went unseen is not told of anew. One that is was there all along, since the revision told."""
        since = told.revision
        told.revoked()
        told.tell("etcd", lasts=0.0, what="gap", revision=0, life=0)
        told.tell("etcd", lasts=0.0, what="node", revision=12, life=0, id="n1", name="node-1", gone=False)
        told.revoked("sub/bob")
        assert told.verdict("I1").kept
        told.tell("etcd", lasts=0.0, what="node", revision=since, life=0, id="n2", name="node-1", gone=False)
        assert told.verdict("I1").violated == 1

    def test_across_a_restore_nobody_knows_who_was_registered(self, told: Told) -> None:
        told.tell("restore", lasts=1.0, life=1)
        told.records[-1]["t"] = 200.0
        told.records[-1]["u"] = 201.0
        told.now = 199.9
        told.revoked(lasts=2.0)
        verdict = told.verdict("I1")
        assert verdict.kept
        assert verdict.undecided == {"etcd was restored while a receipt was waited for": 1}

    @pytest.mark.parametrize("answer", ["ok", "none"])
    @pytest.mark.parametrize(("seconds", "quiet", "violated"), [(4.4, 6.0, 0), (4.6, 6.0, 1), (9.0, 4.0, 0)])
    def test_in_a_calm_a_receipt_comes_within_its_bound(
        self, told: Told, answer: str, seconds: float, quiet: float, violated: int
    ) -> None:
        """But what happens after the calm may hold it up."""
        calm = told.tell("calm", lasts=0.0, quiet=told.now + quiet)
        told.revoked(lasts=seconds, answer=answer)["receipt"]["applied"] = ["n1", "n2"]
        calm["u"] = calm["t"] + 4.0
        assert told.verdict("I1").violated == violated


class TestRotating:
    def test_a_registered_node_that_does_not_know_a_key_is_wrong(self, told: Told) -> None:
        told.rotated("k2")
        alice = told.issued(kid="k2")
        told.called(alice["cred"], "KEY_UNKNOWN")
        assert told.verdict("I2").violated == 1

    def test_one_that_was_not_registered_when_the_key_began_to_sign_is_not(self, told: Told) -> None:
        told.etcd("node", id="n1", name="", gone=True)
        told.rotated("k2", acked=False)
        alice = told.issued(kid="k2")
        told.called(alice["cred"], "KEY_UNKNOWN")
        verdict = told.verdict("I2")
        assert verdict.kept
        assert verdict.undecided == {"the node was not registered when the key began to sign": 1}

    def test_a_key_that_was_removed_by_force_is_unknown_by_right(self, told: Told) -> None:
        told.rotated("k2")
        alice = told.issued(kid="k2")
        told.tell("revoke-key", at="auth-1", kid="k2", answer="none")
        told.called(alice["cred"], "KEY_UNKNOWN")
        assert told.verdict("I2").kept

    def test_signing_before_a_registered_node_has_acknowledged_is_wrong(self, told: Told) -> None:
        told.rotated("k2", acked=False)
        assert told.verdict("I2").violated == 1

    def test_an_acknowledgement_of_an_earlier_key_does_not_count(self, told: Told) -> None:
        told.etcd("ack", id="n1", applied=told.revision)
        told.rotated("k2", acked=False)
        assert told.verdict("I2").violated == 1

    def test_a_node_that_came_later_is_not_waited_for(self, told: Told) -> None:
        told.etcd("key", kid="k2", state=1, gone=False)
        told.etcd("ack", id="n1", applied=told.revision)
        told.etcd("node", id="n2", name="node-1", gone=False)
        told.etcd("signing", kid="k2", gone=False)
        assert told.verdict("I2").kept

    @pytest.mark.parametrize("what", [{"what": "key", "state": 1}, {"what": "signing"}])
    def test_who_was_deposed_writes_nothing(self, told: Told, what: dict[str, Any]) -> None:
        told.etcd("leader", id="auth-1", gone=False)
        told.etcd(**what, kid="k1", gone=False)
        told.etcd("leader", id="", gone=True)
        told.etcd(**what, kid="k1", gone=True)
        assert told.verdict("I2").kept
        told.etcd(**what, kid="k1", gone=False)
        assert told.verdict("I2").violated == 1

    def test_nor_what_was_missed_when_he_may_have_come_back(self, told: Told) -> None:
        told.etcd("leader", id="", gone=True)
        told.tell("etcd", lasts=0.0, what="gap", revision=0, life=0)
        told.etcd("signing", kid="k1", gone=False)
        assert told.verdict("I2").kept

    def test_what_was_there_before_it_was_known_who_leads_is_nobodys_fault(self, told: Told) -> None:
        told.tell("restore", lasts=1.0, life=1)
        told.etcd("key", kid="k0", state=1, gone=False)
        told.etcd("leader", id="auth-1", gone=False)
        assert told.verdict("I2").kept

    def test_where_no_key_signed_one_silent_node_does_not_count(self, told: Told) -> None:
        told.etcd("signing", kid="", gone=True)
        told.rotated("k2", acked=False)
        assert told.verdict("I2").kept

    def test_refusing_a_good_credential_as_expired_is_wrong_unless_a_clock_was(self, told: Told) -> None:
        alice = told.issued()
        told.called(alice["cred"], "CREDENTIAL_EXPIRED")
        assert told.verdict("I2").violated == 1
        told.tell("clock", who="node-1", ahead=300.0, before=0.0)
        told.tell("clock", who="node-1", ahead=300.0, before=300.0)
        told.called(alice["cred"], "CREDENTIAL_EXPIRED")
        verdict = told.verdict("I2")
        assert verdict.violated == 1
        assert verdict.undecided == {"a clock was wrong": 1}


class TestIssuingAcrossARevocation:
    def test_a_session_that_was_revoked_gives_nothing_any_more(self, told: Told) -> None:
        alice = told.issued()
        told.revoked()
        told.refreshed(alice["refresh"])
        assert told.verdict("I3").violated == 1

    def test_a_refresh_at_the_same_time_is_no_newer_than_the_revocation(self, told: Told) -> None:
        alice = told.issued()
        told.refreshed(alice["refresh"], lasts=0.1)
        told.now -= 0.05
        told.revoked()
        assert told.verdict("I3").kept
        told.records[-3]["epoch"] = told.revision
        assert told.verdict("I3").violated == 1

    def test_a_node_that_accepts_what_says_to_be_older_breaks_another_promise(self, told: Told) -> None:
        """It was issued rightly: it is the node that ignores the revocation."""
        alice = told.issued()
        renewed = told.refreshed(alice["refresh"], lasts=0.1)
        told.now -= 0.05
        told.revoked()
        told.after(5).called(renewed["cred"], node="n2")
        assert told.verdict("I1").violated == 1

    def test_a_login_after_it_begins_another_session(self, told: Told) -> None:
        told.issued()
        told.revoked()
        again = told.issued(sid="s2")
        told.refreshed(again["refresh"], sid="s2", session="s2")
        assert told.verdict("I3").kept


class TestRefreshing:
    def test_a_retry_within_grace_gets_the_successor_or_what_became_of_it(self, told: Told) -> None:
        alice = told.issued()
        first = told.refreshed(alice["refresh"])
        told.refreshed(alice["refresh"], refresh=first["refresh"])
        second = told.refreshed(first["refresh"])
        told.refreshed(alice["refresh"], refresh=second["refresh"])
        assert told.verdict("I4").kept

    def test_two_successors_that_do_not_follow_from_each_other_are_wrong(self, told: Told) -> None:
        alice = told.issued()
        told.refreshed(alice["refresh"])
        told.refreshed(alice["refresh"])
        assert told.verdict("I4").violated == 1

    def test_a_reuse_after_grace_must_be_refused(self, told: Told) -> None:
        alice = told.issued()
        first = told.refreshed(alice["refresh"])
        told.after(4).refreshed(alice["refresh"], refresh=first["refresh"])
        assert told.verdict("I4").violated == 1

    def test_unless_a_clock_was_wrong(self, told: Told) -> None:
        alice = told.issued()
        first = told.refreshed(alice["refresh"])
        for ahead, before in ((-60.0, 0.0), (-60.0, -60.0), (0.0, -60.0), (0.0, 0.0)):
            told.after(1).tell("clock", who="auth-1", ahead=ahead, before=before)
        told.refreshed(alice["refresh"], refresh=first["refresh"])
        verdict = told.verdict("I4")
        assert verdict.kept
        assert verdict.undecided == {"a replica's clock was wrong": 1}

    def test_a_retry_within_grace_must_not_be_refused(self, told: Told) -> None:
        alice = told.issued()
        told.refreshed(alice["refresh"])
        told.refused(alice["refresh"])
        assert told.verdict("I4").violated == 1

    def test_unless_somebody_had_revoked_the_session(self, told: Told) -> None:
        alice = told.issued()
        told.refreshed(alice["refresh"])
        told.revoked()
        told.refused(alice["refresh"])
        assert told.verdict("I4").kept

    @pytest.mark.parametrize(("answer", "violated"), [("none", 0), ("refused", 1)])
    def test_whose_answer_may_have_been_lost(self, told: Told, answer: str, violated: int) -> None:
        """Who revoked it was killed before it could say so."""
        alice = told.issued()
        told.refreshed(alice["refresh"])
        told.tell("revoke", at="auth-1", how="kick", scope="sid/s1", wait=True, answer=answer, code="UNAVAILABLE")
        told.etcd("epoch", scope="sid/s1", gone=False)
        told.refused(alice["refresh"])
        assert told.verdict("I4").violated == violated

    def test_after_a_reuse_the_session_must_be_over(self, told: Told) -> None:
        alice = told.issued()
        first = told.refreshed(alice["refresh"])
        told.after(4).refused(alice["refresh"])
        told.refreshed(first["refresh"])
        assert told.verdict("I4").violated == 1


class TestSurviving:
    def test_an_acknowledged_revocation_must_be_in_etcd(self, told: Told) -> None:
        told.revoked(seen=False)
        assert told.verdict("I5").violated == 1

    def test_an_acknowledged_key_must_have_signed(self, told: Told) -> None:
        told.tell("rotate", at="auth-1", answer="ok", kid="k9")
        assert told.verdict("I5").violated == 1

    @pytest.mark.parametrize("reason", ["CREDENTIAL_REVOKED", "CREDENTIAL_INVALID"])
    def test_a_session_that_nobody_ended_must_go_on(self, told: Told, reason: str) -> None:
        alice = told.issued()
        told.refused(alice["refresh"], reason)
        assert told.verdict("I5").violated == 1

    def test_a_credential_that_nobody_revoked_must_not_be_refused_as_revoked(self, told: Told) -> None:
        alice = told.issued()
        told.called(alice["cred"], "CREDENTIAL_REVOKED")
        assert told.verdict("I5").violated == 1

    def test_a_revocation_that_was_asked_for_explains_it(self, told: Told) -> None:
        alice = told.issued()
        told.revoked(lasts=1.0)
        told.now -= 0.5
        told.called(alice["cred"], "CREDENTIAL_REVOKED")
        told.refused(alice["refresh"])
        assert told.verdict("I5").kept

    def test_one_before_it_was_issued_does_not(self, told: Told) -> None:
        told.revoked()
        alice = told.issued()
        told.called(alice["cred"], "CREDENTIAL_REVOKED")
        assert told.verdict("I5").violated == 1

    def test_a_restore_explains_it_until_it_was_answered(self, told: Told) -> None:
        alice = told.issued()
        told.etcd("history", id="h1")
        told.tell("restore", lasts=1.0, life=1)
        early = told.issued(sid="s2")
        told.etcd("history", id="h2")
        late = told.issued(sid="s3", lasts=0.1)
        for one in (alice, early):
            told.called(one["cred"], "CREDENTIAL_REVOKED")
        assert told.verdict("I5").kept
        told.called(late["cred"], "CREDENTIAL_REVOKED")
        assert told.verdict("I5").violated == 1

    def test_a_right_password_must_stay_right(self, told: Told) -> None:
        told.tell("login", at="auth-1", answer="refused", reason="CREDENTIAL_INVALID", subject="a", client="password")
        assert told.verdict("I5").violated == 1


class TestForging:
    def test_an_accepted_forgery_is_wrong(self, told: Told) -> None:
        told.tell("forged", at="node-1", kind="unsigned", answer="refused", reason="CREDENTIAL_INVALID")
        told.tell("forged", at="node-1", kind="unsigned", answer="ok")
        assert told.verdict("I6").violated == 1

    def test_an_expired_credential_is_judged_by_the_clock_of_the_node(self, told: Told) -> None:
        alice = told.issued(exp=200)
        told.called(alice["cred"], wall=204.9)
        told.called(alice["cred"], wall=205.1)
        assert told.verdict("I6").violated == 1

    def test_a_stream_is_over_when_its_token_expires_by_the_clock_of_the_node(self, told: Told) -> None:
        alice = told.issued(exp=200)
        stream = {"at": "node-1", "cred": alice["cred"], "method": "Stream", "answer": "ok"}
        for begins in (204.9, 205.0):
            trail = [[told.now + tick, begins + tick] for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
            told.tell("stream", **stream, node="n1", mono=trail[-1][0], seen=told.now, messages=9, trail=trail)
            assert told.verdict("I6").violated == (begins >= 205.0)

    def test_what_it_says_right_when_it_wakes_up_does_not_count(self, told: Told) -> None:
        alice = told.issued(exp=200)
        trail = [[told.now, wall] for wall in (203.0, 203.2, 203.4, 209.0, 209.1)]
        stream = {"at": "node-1", "cred": alice["cred"], "method": "Stream", "answer": "ok"}
        told.tell("stream", **stream, node="n1", mono=told.now, seen=told.now, messages=9, trail=trail)
        assert told.verdict("I6").kept

    def test_nor_does_it_where_the_clock_was_set_meanwhile(self, told: Told) -> None:
        alice = told.issued(exp=200)
        began = told.now
        told.tell("clock", who="node-1", ahead=300.0, before=0.0)
        told.tell("clock", who="node-1", ahead=300.0, before=300.0)
        trail = [[told.now, 400.0]] * 6
        stream = {"at": "node-1", "cred": alice["cred"], "method": "Stream", "answer": "ok"}
        told.tell("stream", **stream, node="n1", mono=told.now, seen=told.now, messages=9, trail=trail)["t"] = began
        verdict = told.verdict("I6")
        assert verdict.kept
        assert verdict.undecided == {"the node's clock was set meanwhile": 1}

    def test_a_process_that_ends_by_itself_is_wrong(self, told: Told) -> None:
        told.tell("exit", who="node-1", code=-11, log=[])
        assert told.verdict("I6").violated == 1

    def test_but_for_a_member_of_etcd_which_is_not_ours(self, told: Told) -> None:
        """It is said all the same: a run in which etcd crashed shows less."""
        told.tell("exit", who="etcd-1", code=2, log=[])
        verdict = told.verdict("I6")
        assert verdict.kept
        assert verdict.undecided == {"a member of etcd ended by itself": 1}


class TestRecovering:
    def test_a_plain_method_must_not_refuse_for_being_stale(self, told: Told) -> None:
        alice = told.issued()
        told.called(alice["cred"], "MESH_STALE")
        assert told.verdict("I7").kept
        told.called(alice["cred"], "MESH_STALE", method="Plain")
        assert told.verdict("I7").violated == 1

    def test_after_a_restore_it_may_until_the_next_calm(self, told: Told) -> None:
        told.tell("restore", lasts=1.0, life=1)
        alice = told.issued()
        told.after(30).called(alice["cred"], "MESH_STALE", method="Plain")
        assert told.verdict("I7").kept
        told.tell("calm", lasts=4.0)
        told.called(alice["cred"], "MESH_STALE", method="Plain")
        assert told.verdict("I7").violated == 1

    @pytest.mark.parametrize("method", ["Strict", "Plain"])
    def test_in_a_calm_every_node_must_serve(self, told: Told, method: str) -> None:
        alice = told.issued()
        began = told.now
        for _ in range(2):
            told.tell("call", at="node-1", cred=alice["cred"], method=method, answer="none", code="UNAVAILABLE")
        told.tell("calm", lasts=0.0)
        told.records[-1]["t"] = began
        assert told.verdict("I7").violated == 1

    def test_a_calm_in_which_etcd_has_fallen_apart_is_none(self, told: Told) -> None:
        began = told.now
        for _ in range(2):
            told.tell("login", at="auth-1", answer="none", code="UNAVAILABLE", subject="alice", client="password")
        calm = told.tell("calm", lasts=0.0, disagreement="etcd-3 is at revision 1, and etcd-2 had been at 2")
        calm["t"] = began
        verdict = told.verdict("I7")
        assert verdict.kept
        assert any("disagreed" in why for why in verdict.undecided)
        calm["disagreement"] = ""
        assert told.verdict("I7").violated == 1

    @pytest.mark.parametrize("op", ["login", "rotate", "revoke"])
    def test_in_a_calm_every_replica_must_serve(self, told: Told, op: str) -> None:
        began = told.now
        fields: dict[str, Any] = {"scope": "all", "wait": True, "subject": "alice", "client": "password"}
        told.tell(op, at="auth-1", answer="none", code="UNAVAILABLE", **fields)
        calm = told.tell("calm", lasts=0.0)
        calm["t"] = began
        verdict = told.verdict("I7")
        assert verdict.kept
        assert any(why.startswith("only one asked") for why in verdict.undecided)
        told.tell(op, at="auth-1", answer="none", code="UNAVAILABLE", **fields)
        calm["u"] = told.now
        assert told.verdict("I7").violated == 1

    def test_in_a_calm_receipts_must_be_complete(self, told: Told) -> None:
        began = told.now
        told.revoked()["receipt"]["complete"] = False
        told.tell("calm", lasts=0.0)
        told.records[-1]["t"] = began - 0.001
        assert told.verdict("I7").violated == 1
