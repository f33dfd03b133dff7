"""The checker on operation logs built by hand: it finds what breaks a promise, and reports nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.log_builder import OperationLogBuilder


@pytest.fixture
def log() -> OperationLogBuilder:
    return OperationLogBuilder()


class TestAcceptingWhatWasRevoked:
    def test_it_is_a_violation_on_every_method_of_a_node_that_a_receipt_names(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.called(alice["cred"])
        log.revoked()
        log.called(alice["cred"], method="Plain")
        assert log.verdict("I1").violated == 1

    def test_it_is_a_violation_on_strict_methods_of_other_nodes_after_the_bound(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.revoked()
        log.called(alice["cred"], node="n2")
        log.after(2.5).called(alice["cred"], node="n2", method="Plain")
        assert log.verdict("I1").kept
        log.called(alice["cred"], node="n2")
        assert log.verdict("I1").violated == 1

    def test_without_a_receipt_the_bound_is_a_freshness_after_the_commit(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.revoked(receipt=False)
        log.after(2.4).called(alice["cred"])
        assert log.verdict("I1").kept
        log.after(0.2).called(alice["cred"])
        assert log.verdict("I1").violated == 1

    def test_an_unanswered_revocation_counts_if_the_observer_saw_it(self, log: OperationLogBuilder) -> None:
        """The answer to the operator was lost."""
        alice = log.issued()
        log.etcd("epoch", scope="sid/s1", gone=False)
        log.after(2.6).called(alice["cred"])
        assert log.verdict("I1").violated == 1

    def test_a_revocation_holds_across_every_restore(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.revoked()
        log.after(3).add("restore", lasts=1.0, incarnation=1)
        log.revision = 5
        log.after(5).called(alice["cred"])
        assert log.verdict("I1").violated == 1

    def test_a_credential_issued_after_the_revocation_may_be_accepted(self, log: OperationLogBuilder) -> None:
        log.issued()
        log.revoked()
        again = log.issued(sid="s2")
        log.after(5).called(again["cred"])
        assert log.verdict("I1").kept

    def test_a_credential_of_another_subject_may_be_accepted(self, log: OperationLogBuilder) -> None:
        log.revoked("sub/alice")
        bob = log.issued(subject="bob")
        log.revoked("sub/alice")
        log.after(5).called(bob["cred"])
        assert log.verdict("I1").kept

    @pytest.mark.parametrize("scope", ["all", "client/password", "aud/chaos", "sid/s1", "sub/alice"])
    def test_every_scope_counts(self, log: OperationLogBuilder, scope: str) -> None:
        alice = log.issued()
        log.revoked(scope)
        log.called(alice["cred"])
        assert log.verdict("I1").violated == 1

    def test_a_stream_that_goes_on_at_a_named_node_is_a_violation(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        begun = log.now
        log.revoked()
        stream = {"at": "node-1", "cred": alice["cred"], "answer": "refused", "reason": "CREDENTIAL_REVOKED"}
        log.add("stream", **stream, node="n1", mono=begun, seen=log.now, messages=3)
        assert log.verdict("I1").kept
        log.add("stream", **stream, node="n1", mono=log.now, seen=log.now, messages=4)
        assert log.verdict("I1").violated == 1

    @pytest.mark.parametrize(("method", "violated"), [("Stream", 0), ("StrictStream", 1)])
    def test_a_strict_stream_must_not_go_on_beyond_the_bound(
        self, log: OperationLogBuilder, method: str, violated: int
    ) -> None:
        alice = log.issued()
        log.revoked()
        stream = {"at": "node-1", "cred": alice["cred"], "method": method, "answer": "ok", "node": "n2"}
        for after in (2.3, 1.2):
            assert log.verdict("I1").kept
            began = log.after(after).now
            trail = [[began + tick, began] for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
            log.after(1).add("stream", **stream, mono=trail[-1][0], seen=log.now, messages=9, trail=trail)
        assert log.verdict("I1").violated == violated

    def test_removing_a_key_revokes_what_it_has_signed(self, log: OperationLogBuilder) -> None:
        alice, bob = log.issued(kid="k1"), log.issued(kid="k2", sid="s2")
        log.removed("k1")
        log.after(3).called(bob["cred"])
        log.called(alice["cred"], node="n2", method="Plain")
        assert log.verdict("I1").kept
        log.called(alice["cred"], node="n2")
        log.called(alice["cred"], node="n1", method="Plain")
        assert log.verdict("I1").violated == 2

    def test_an_unanswered_revocation_of_a_key_alone_revokes_nothing(self, log: OperationLogBuilder) -> None:
        """The request can have been lost, too."""
        alice = log.issued(kid="k1")
        log.removed("k1", answer="none", receipt=None)
        log.after(3).called(alice["cred"])
        assert log.verdict("I1").kept

    def test_an_unanswered_revocation_of_a_key_counts_if_it_was_observed(self, log: OperationLogBuilder) -> None:
        alice = log.issued(kid="k1")
        log.removed("k1", answer="none", receipt=None)
        log.etcd("epoch", scope="kid/k1", gone=False)
        log.after(3).called(alice["cred"])
        assert log.verdict("I1").violated == 1


class TestReceipts:
    @pytest.fixture(autouse=True)
    def two_nodes(self, log: OperationLogBuilder) -> None:
        log.etcd("node", id="n2", name="node-1", gone=False)

    def revoked(self, log: OperationLogBuilder, **receipt: Any) -> None:
        """Adds a receipt, and a later revocation that shows which nodes were still registered."""
        known = {"complete": True, "strict_in": 2.4, "applied": ["n1", "n2"], "lagging": [], "left": []}
        log.revoked(receipt=True)["receipt"] = {**known, **receipt}
        log.revoked("sub/bob")

    def test_a_receipt_that_lists_every_node_is_right(self, log: OperationLogBuilder) -> None:
        self.revoked(log)
        verdict = log.verdict("I1")
        assert verdict.kept
        assert verdict.checked["nodes to be listed"] == 2

    def test_a_complete_receipt_that_lacks_a_node_is_a_violation(self, log: OperationLogBuilder) -> None:
        self.revoked(log, applied=["n1"])
        assert log.verdict("I1").violated == 1

    def test_an_incomplete_receipt_that_lacks_a_node_is_undecided(self, log: OperationLogBuilder) -> None:
        """Its list could not be read."""
        self.revoked(log, applied=["n1"], complete=False)
        verdict = log.verdict("I1")
        assert verdict.kept
        assert verdict.undecided == {"a receipt that is not complete lacks a node": 1}

    def test_a_node_that_may_have_left_before_the_receipt_need_not_be_listed(self, log: OperationLogBuilder) -> None:
        log.revoked()
        log.etcd("node", id="n2", name="", gone=True)
        log.revoked("sub/bob")
        assert log.verdict("I1").kept

    def test_a_node_that_came_after_the_revocation_need_not_be_listed(self, log: OperationLogBuilder) -> None:
        log.revoked(receipt=False)
        log.etcd("node", id="n3", name="node-1", gone=False)
        log.records[-2]["receipt"] = {"complete": True, "strict_in": 2.4, "applied": ["n1", "n2"], "lagging": []}
        log.revoked("sub/bob")
        assert log.verdict("I1").kept

    def test_a_complete_receipt_names_no_registered_node_as_lagging(self, log: OperationLogBuilder) -> None:
        self.revoked(log, applied=["n1"], lagging=["n2"])
        assert log.verdict("I1").violated == 1

    def test_a_node_that_a_receipt_calls_left_must_have_left(self, log: OperationLogBuilder) -> None:
        self.revoked(log, applied=["n1"], lagging=["n2"], left=["n2"])
        assert log.verdict("I1").violated == 1

    def test_a_gap_of_the_observer_proves_nothing_about_a_node(self, log: OperationLogBuilder) -> None:
        """A node that is logged again after a gap was registered all along, since the revision of that record."""
        since = log.revision
        log.revoked()
        log.add("etcd", lasts=0.0, what="gap", revision=0, incarnation=0)
        log.add("etcd", lasts=0.0, what="node", revision=12, incarnation=0, id="n1", name="node-1", gone=False)
        log.revoked("sub/bob")
        assert log.verdict("I1").kept
        log.add("etcd", lasts=0.0, what="node", revision=since, incarnation=0, id="n2", name="node-1", gone=False)
        assert log.verdict("I1").violated == 1

    def test_a_receipt_across_a_restore_is_undecided(self, log: OperationLogBuilder) -> None:
        log.add("restore", lasts=1.0, incarnation=1)
        log.records[-1]["t"] = 200.0
        log.records[-1]["u"] = 201.0
        log.now = 199.9
        log.revoked(lasts=2.0)
        verdict = log.verdict("I1")
        assert verdict.kept
        assert verdict.undecided == {"etcd was restored while a receipt was waited for": 1}

    @pytest.mark.parametrize("answer", ["ok", "none"])
    @pytest.mark.parametrize(("seconds", "quiet", "violated"), [(4.4, 6.0, 0), (4.6, 6.0, 1), (9.0, 4.0, 0)])
    def test_in_a_calm_a_receipt_comes_within_its_bound(
        self, log: OperationLogBuilder, answer: str, seconds: float, quiet: float, violated: int
    ) -> None:
        """A receipt whose bound is later than the quiet time is not checked: faults after the calm can delay it."""
        calm = log.add("calm", lasts=0.0, quiet=log.now + quiet)
        log.revoked(lasts=seconds, answer=answer)["receipt"]["applied"] = ["n1", "n2"]
        calm["u"] = calm["t"] + 4.0
        assert log.verdict("I1").violated == violated


class TestRotating:
    def test_a_registered_node_that_does_not_know_a_key_is_a_violation(self, log: OperationLogBuilder) -> None:
        log.rotated("k2")
        alice = log.issued(kid="k2")
        log.called(alice["cred"], "KEY_UNKNOWN")
        assert log.verdict("I2").violated == 1

    def test_a_node_that_registered_after_the_activation_is_undecided(self, log: OperationLogBuilder) -> None:
        log.etcd("node", id="n1", name="", gone=True)
        log.rotated("k2", acked=False)
        alice = log.issued(kid="k2")
        log.called(alice["cred"], "KEY_UNKNOWN")
        verdict = log.verdict("I2")
        assert verdict.kept
        assert verdict.undecided == {"the node was not registered when the key began to sign": 1}

    def test_a_revoked_key_may_be_unknown(self, log: OperationLogBuilder) -> None:
        log.rotated("k2")
        alice = log.issued(kid="k2")
        log.add("revoke-key", at="auth-1", kid="k2", answer="none")
        log.called(alice["cred"], "KEY_UNKNOWN")
        assert log.verdict("I2").kept

    def test_signing_before_a_registered_node_has_acknowledged_is_a_violation(self, log: OperationLogBuilder) -> None:
        log.rotated("k2", acked=False)
        assert log.verdict("I2").violated == 1

    def test_an_acknowledgement_of_an_earlier_key_does_not_count(self, log: OperationLogBuilder) -> None:
        log.etcd("ack", id="n1", applied=log.revision)
        log.rotated("k2", acked=False)
        assert log.verdict("I2").violated == 1

    def test_a_rotation_need_not_wait_for_a_node_that_registered_later(self, log: OperationLogBuilder) -> None:
        log.etcd("key", kid="k2", state=1, gone=False)
        log.etcd("ack", id="n1", applied=log.revision)
        log.etcd("node", id="n2", name="node-1", gone=False)
        log.etcd("signing", kid="k2", gone=False)
        assert log.verdict("I2").kept

    @pytest.mark.parametrize("what", [{"what": "key", "state": 1}, {"what": "signing"}])
    def test_a_key_written_while_no_replica_leads_is_a_violation(
        self, log: OperationLogBuilder, what: dict[str, Any]
    ) -> None:
        log.etcd("leader", id="auth-1", gone=False)
        log.etcd(**what, kid="k1", gone=False)
        log.etcd("leader", id="", gone=True)
        log.etcd(**what, kid="k1", gone=True)
        assert log.verdict("I2").kept
        log.etcd(**what, kid="k1", gone=False)
        assert log.verdict("I2").violated == 1

    def test_a_key_written_after_a_gap_is_no_violation(self, log: OperationLogBuilder) -> None:
        log.etcd("leader", id="", gone=True)
        log.add("etcd", lasts=0.0, what="gap", revision=0, incarnation=0)
        log.etcd("signing", kid="k1", gone=False)
        assert log.verdict("I2").kept

    def test_a_key_written_before_the_leader_is_known_is_no_violation(self, log: OperationLogBuilder) -> None:
        log.add("restore", lasts=1.0, incarnation=1)
        log.etcd("key", kid="k0", state=1, gone=False)
        log.etcd("leader", id="auth-1", gone=False)
        assert log.verdict("I2").kept

    def test_without_an_active_key_a_silent_node_may_be_passed_over(self, log: OperationLogBuilder) -> None:
        log.etcd("signing", kid="", gone=True)
        log.rotated("k2", acked=False)
        assert log.verdict("I2").kept

    def test_refusing_a_valid_credential_as_expired_needs_a_wrong_clock(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.called(alice["cred"], "CREDENTIAL_EXPIRED")
        assert log.verdict("I2").violated == 1
        log.add("clock", who="node-1", ahead=300.0, before=0.0)
        log.add("clock", who="node-1", ahead=300.0, before=300.0)
        log.called(alice["cred"], "CREDENTIAL_EXPIRED")
        verdict = log.verdict("I2")
        assert verdict.violated == 1
        assert verdict.undecided == {"a clock was wrong": 1}


class TestIssuingAcrossARevocation:
    def test_a_refresh_of_a_revoked_session_is_a_violation(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.revoked()
        log.refreshed(alice["refresh"])
        assert log.verdict("I3").violated == 1

    def test_a_concurrent_refresh_must_not_have_a_later_epoch(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.refreshed(alice["refresh"], lasts=0.1)
        log.now -= 0.05
        log.revoked()
        assert log.verdict("I3").kept
        log.records[-3]["epoch"] = log.revision
        assert log.verdict("I3").violated == 1

    def test_accepting_a_concurrent_refresh_of_earlier_epoch_breaks_i1(self, log: OperationLogBuilder) -> None:
        """It was issued correctly; the node ignores the revocation."""
        alice = log.issued()
        renewed = log.refreshed(alice["refresh"], lasts=0.1)
        log.now -= 0.05
        log.revoked()
        log.after(5).called(renewed["cred"], node="n2")
        assert log.verdict("I1").violated == 1

    def test_a_login_after_the_revocation_begins_another_session(self, log: OperationLogBuilder) -> None:
        log.issued()
        log.revoked()
        again = log.issued(sid="s2")
        log.refreshed(again["refresh"], sid="s2", session="s2")
        assert log.verdict("I3").kept


class TestRefreshing:
    def test_a_retry_within_grace_gets_the_successor_or_a_later_one(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        first = log.refreshed(alice["refresh"])
        log.refreshed(alice["refresh"], refresh=first["refresh"])
        second = log.refreshed(first["refresh"])
        log.refreshed(alice["refresh"], refresh=second["refresh"])
        assert log.verdict("I4").kept

    def test_two_successors_that_are_not_on_one_chain_are_a_violation(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.refreshed(alice["refresh"])
        log.refreshed(alice["refresh"])
        assert log.verdict("I4").violated == 1

    def test_a_reuse_after_grace_must_be_refused(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        first = log.refreshed(alice["refresh"])
        log.after(4).refreshed(alice["refresh"], refresh=first["refresh"])
        assert log.verdict("I4").violated == 1

    def test_a_late_reuse_is_undecided_if_a_clock_was_wrong(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        first = log.refreshed(alice["refresh"])
        for ahead, before in ((-60.0, 0.0), (-60.0, -60.0), (0.0, -60.0), (0.0, 0.0)):
            log.after(1).add("clock", who="auth-1", ahead=ahead, before=before)
        log.refreshed(alice["refresh"], refresh=first["refresh"])
        verdict = log.verdict("I4")
        assert verdict.kept
        assert verdict.undecided == {"a replica's clock was wrong": 1}

    def test_a_retry_within_grace_must_not_be_refused(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.refreshed(alice["refresh"])
        log.refused(alice["refresh"])
        assert log.verdict("I4").violated == 1

    def test_a_retry_may_be_refused_after_a_revocation_of_the_session(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.refreshed(alice["refresh"])
        log.revoked()
        log.refused(alice["refresh"])
        assert log.verdict("I4").kept

    @pytest.mark.parametrize(("answer", "violated"), [("none", 0), ("refused", 1)])
    def test_a_retry_may_be_refused_after_a_revocation_without_an_answer(
        self, log: OperationLogBuilder, answer: str, violated: int
    ) -> None:
        """The replica that revoked was killed before it could answer."""
        alice = log.issued()
        log.refreshed(alice["refresh"])
        log.add("revoke", at="auth-1", how="kick", scope="sid/s1", wait=True, answer=answer, code="UNAVAILABLE")
        log.etcd("epoch", scope="sid/s1", gone=False)
        log.refused(alice["refresh"])
        assert log.verdict("I4").violated == violated

    def test_after_a_reuse_the_session_must_have_ended(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        first = log.refreshed(alice["refresh"])
        log.after(4).refused(alice["refresh"])
        log.refreshed(first["refresh"])
        assert log.verdict("I4").violated == 1


class TestSurviving:
    def test_an_acknowledged_revocation_must_be_in_etcd(self, log: OperationLogBuilder) -> None:
        log.revoked(seen=False)
        assert log.verdict("I5").violated == 1

    def test_an_acknowledged_key_must_have_signed(self, log: OperationLogBuilder) -> None:
        log.add("rotate", at="auth-1", answer="ok", kid="k9")
        assert log.verdict("I5").violated == 1

    @pytest.mark.parametrize("reason", ["CREDENTIAL_REVOKED", "CREDENTIAL_INVALID"])
    def test_a_session_that_was_not_ended_must_go_on(self, log: OperationLogBuilder, reason: str) -> None:
        alice = log.issued()
        log.refused(alice["refresh"], reason)
        assert log.verdict("I5").violated == 1

    def test_an_unrevoked_credential_must_not_be_refused_as_revoked(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.called(alice["cred"], "CREDENTIAL_REVOKED")
        assert log.verdict("I5").violated == 1

    def test_a_concurrent_revocation_explains_the_refusal(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.revoked(lasts=1.0)
        log.now -= 0.5
        log.called(alice["cred"], "CREDENTIAL_REVOKED")
        log.refused(alice["refresh"])
        assert log.verdict("I5").kept

    def test_a_revocation_before_the_issuing_does_not_explain_the_refusal(self, log: OperationLogBuilder) -> None:
        log.revoked()
        alice = log.issued()
        log.called(alice["cred"], "CREDENTIAL_REVOKED")
        assert log.verdict("I5").violated == 1

    def test_a_restore_explains_the_refusal_until_the_mesh_has_recovered(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.etcd("history", id="h1")
        log.add("restore", lasts=1.0, incarnation=1)
        early = log.issued(sid="s2")
        log.etcd("history", id="h2")
        late = log.issued(sid="s3", lasts=0.1)
        for one in (alice, early):
            log.called(one["cred"], "CREDENTIAL_REVOKED")
        assert log.verdict("I5").kept
        log.called(late["cred"], "CREDENTIAL_REVOKED")
        assert log.verdict("I5").violated == 1

    def test_a_right_password_must_stay_right(self, log: OperationLogBuilder) -> None:
        log.add("login", at="auth-1", answer="refused", reason="CREDENTIAL_INVALID", subject="a", client="password")
        assert log.verdict("I5").violated == 1


class TestForging:
    def test_an_accepted_forgery_is_a_violation(self, log: OperationLogBuilder) -> None:
        log.add("forged", at="node-1", kind="unsigned", answer="refused", reason="CREDENTIAL_INVALID")
        log.add("forged", at="node-1", kind="unsigned", answer="ok")
        assert log.verdict("I6").violated == 1

    def test_an_expired_credential_is_judged_by_the_clock_of_the_node(self, log: OperationLogBuilder) -> None:
        alice = log.issued(exp=200)
        log.called(alice["cred"], wall=204.9)
        log.called(alice["cred"], wall=205.1)
        assert log.verdict("I6").violated == 1

    def test_a_stream_ends_when_its_token_expires_by_the_clock_of_the_node(self, log: OperationLogBuilder) -> None:
        alice = log.issued(exp=200)
        stream = {"at": "node-1", "cred": alice["cred"], "method": "Stream", "answer": "ok"}
        for begins in (204.9, 205.0):
            trail = [[log.now + tick, begins + tick] for tick in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
            log.add("stream", **stream, node="n1", mono=trail[-1][0], seen=log.now, messages=9, trail=trail)
            assert log.verdict("I6").violated == (begins >= 205.0)

    def test_the_first_messages_after_a_stop_do_not_count(self, log: OperationLogBuilder) -> None:
        alice = log.issued(exp=200)
        trail = [[log.now, wall] for wall in (203.0, 203.2, 203.4, 209.0, 209.1)]
        stream = {"at": "node-1", "cred": alice["cred"], "method": "Stream", "answer": "ok"}
        log.add("stream", **stream, node="n1", mono=log.now, seen=log.now, messages=9, trail=trail)
        assert log.verdict("I6").kept

    def test_a_late_stream_is_undecided_if_the_clock_was_set_meanwhile(self, log: OperationLogBuilder) -> None:
        alice = log.issued(exp=200)
        began = log.now
        log.add("clock", who="node-1", ahead=300.0, before=0.0)
        log.add("clock", who="node-1", ahead=300.0, before=300.0)
        trail = [[log.now, 400.0]] * 6
        stream = {"at": "node-1", "cred": alice["cred"], "method": "Stream", "answer": "ok"}
        log.add("stream", **stream, node="n1", mono=log.now, seen=log.now, messages=9, trail=trail)["t"] = began
        verdict = log.verdict("I6")
        assert verdict.kept
        assert verdict.undecided == {"the node's clock was set meanwhile": 1}

    def test_a_process_that_ends_by_itself_is_a_violation(self, log: OperationLogBuilder) -> None:
        log.add("exit", who="node-1", code=-11, log=[])
        assert log.verdict("I6").violated == 1

    def test_a_member_of_etcd_that_ends_by_itself_is_undecided(self, log: OperationLogBuilder) -> None:
        """It is reported, because a run in which etcd crashed proves less."""
        log.add("exit", who="etcd-1", code=2, log=[])
        verdict = log.verdict("I6")
        assert verdict.kept
        assert verdict.undecided == {"a member of etcd ended by itself": 1}


class TestRecovering:
    def test_a_plain_method_must_not_refuse_for_being_stale(self, log: OperationLogBuilder) -> None:
        alice = log.issued()
        log.called(alice["cred"], "MESH_STALE")
        assert log.verdict("I7").kept
        log.called(alice["cred"], "MESH_STALE", method="Plain")
        assert log.verdict("I7").violated == 1

    def test_after_a_restore_it_may_refuse_until_the_next_calm(self, log: OperationLogBuilder) -> None:
        log.add("restore", lasts=1.0, incarnation=1)
        alice = log.issued()
        log.after(30).called(alice["cred"], "MESH_STALE", method="Plain")
        assert log.verdict("I7").kept
        log.add("calm", lasts=4.0)
        log.called(alice["cred"], "MESH_STALE", method="Plain")
        assert log.verdict("I7").violated == 1

    @pytest.mark.parametrize("method", ["Strict", "Plain"])
    def test_in_a_calm_every_node_must_serve(self, log: OperationLogBuilder, method: str) -> None:
        alice = log.issued()
        began = log.now
        for _ in range(2):
            log.add("call", at="node-1", cred=alice["cred"], method=method, answer="none", code="UNAVAILABLE")
        log.add("calm", lasts=0.0)
        log.records[-1]["t"] = began
        assert log.verdict("I7").violated == 1

    def test_a_calm_in_which_the_members_of_etcd_disagree_does_not_count(self, log: OperationLogBuilder) -> None:
        began = log.now
        for _ in range(2):
            log.add("login", at="auth-1", answer="none", code="UNAVAILABLE", subject="alice", client="password")
        calm = log.add("calm", lasts=0.0, disagreement="etcd-3 is at revision 1, and etcd-2 had been at 2")
        calm["t"] = began
        verdict = log.verdict("I7")
        assert verdict.kept
        assert any("disagreed" in why for why in verdict.undecided)
        calm["disagreement"] = ""
        assert log.verdict("I7").violated == 1

    def test_violations_on_an_etcd_whose_members_disagree_are_undecided(self, log: OperationLogBuilder) -> None:
        """Only from the last calm in which the members agreed until etcd is restored; all others still count."""

        def refuse_right_password() -> None:
            log.add("login", at="auth-1", answer="refused", reason="CREDENTIAL_INVALID", subject="a", client="password")

        refuse_right_password()
        log.add("calm")
        log.after(1)
        refuse_right_password()
        assert log.verdict("I5").violated == 2
        disagreement = log.add("calm", disagreement="etcd-3 is at revision 1, and etcd-2 had been at 2")
        verdict = log.verdict("I5")
        assert verdict.violated == 1
        assert any("disagreed" in why for why in verdict.undecided)
        disagreement["disagreement"] = ""
        assert log.verdict("I5").violated == 2

    @pytest.mark.parametrize("op", ["login", "rotate", "revoke"])
    def test_in_a_calm_every_replica_must_serve(self, log: OperationLogBuilder, op: str) -> None:
        began = log.now
        fields: dict[str, Any] = {"scope": "all", "wait": True, "subject": "alice", "client": "password"}
        log.add(op, at="auth-1", answer="none", code="UNAVAILABLE", **fields)
        calm = log.add("calm", lasts=0.0)
        calm["t"] = began
        verdict = log.verdict("I7")
        assert verdict.kept
        assert any(why.startswith("only one attempt") for why in verdict.undecided)
        log.add(op, at="auth-1", answer="none", code="UNAVAILABLE", **fields)
        calm["u"] = log.now
        assert log.verdict("I7").violated == 1

    def test_in_a_calm_receipts_must_be_complete(self, log: OperationLogBuilder) -> None:
        began = log.now
        log.revoked()["receipt"]["complete"] = False
        log.add("calm", lasts=0.0)
        log.records[-1]["t"] = began - 0.001
        assert log.verdict("I7").violated == 1
