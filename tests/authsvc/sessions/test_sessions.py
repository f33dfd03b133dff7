"""Sessions on a real etcd: refreshing (I4), resolving, timing out, ending."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from authsvc.sessions.sessions import LocalSessionResolver
from authsvc.store.timestamps import seconds
from credmesh.auth.v1 import auth_pb2
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import EtcdClient, EtcdUnavailable, Put
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from tests.support.replica import Clock, InterruptedEtcdClient, Replica, claims_of
from tests.support.waiting import wait_until

SCOPES_OF_ALICE = [
    EVERYONE,
    subject_scope("alice"),
    client_scope("password"),
    audience_scope("inventory"),
    audience_scope("storefront"),
]


def _refused(call: Callable[[], object]) -> Reason:
    with pytest.raises(Refusal) as refused:
        call()
    return refused.value.reason


def _opaque(replica: Replica, **options: Any) -> OpaqueToken:
    credentials = replica.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION, **options)
    return OpaqueToken.parse(credentials.session_token)


def _resolve(replica: Replica, token: OpaqueToken) -> auth_pb2.ResolveSessionResponse:
    return replica.sessions.resolve(
        auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
    )


class TestRefreshing:
    """Refresh tokens: single use, retries, and reuse."""

    @pytest.fixture
    def replica(self, refreshing: Replica) -> Replica:
        """A replica of either kind."""
        return refreshing

    def test_a_refresh_token_gives_the_next_one_and_a_new_access_token(self, replica: Replica, node: MeshNode) -> None:
        first = replica.login()
        second = replica.refresh(first.refresh_token)
        third = replica.refresh(second.refresh_token)
        assert len({first.refresh_token, second.refresh_token, third.refresh_token}) == 3
        assert len({first.access_token, second.access_token, third.access_token}) == 3
        assert first.session_id == second.session_id == third.session_id
        assert third.session_expires_at == first.session_expires_at
        assert node.verify(third.access_token).session_id == first.session_id

    def test_a_refresh_raises_the_epoch_of_the_session_and_of_its_next_token(self, replica: Replica) -> None:
        first = replica.login()
        replica.login()
        second = replica.refresh(first.refresh_token)
        assert claims_of(second.access_token)["epoch"] > claims_of(first.access_token)["epoch"]

    def test_a_retry_within_the_grace_window_gets_the_same_successor(self, replica: Replica, clock: Clock) -> None:
        first = replica.login()
        second = replica.refresh(first.refresh_token)
        clock.ahead += 9
        retried = replica.refresh(first.refresh_token)
        assert retried.refresh_token == second.refresh_token
        assert retried.access_token != second.access_token
        assert claims_of(retried.access_token)["epoch"] == claims_of(second.access_token)["epoch"]

    def test_a_retry_after_further_refreshes_gets_the_current_token(self, replica: Replica) -> None:
        """Two processes share a session, and one refreshes twice: the other must get the current token too."""
        first = replica.login()
        second = replica.refresh(first.refresh_token)
        third = replica.refresh(second.refresh_token)
        assert replica.refresh(first.refresh_token).refresh_token == third.refresh_token

    def test_a_retry_writes_nothing(self, replica: Replica) -> None:
        first = replica.login()
        replica.refresh(first.refresh_token)
        before = replica.etcd.read(replica.layout.signing).revision
        replica.refresh(first.refresh_token)
        assert replica.etcd.read(replica.layout.signing).revision == before

    def test_another_replica_answers_a_retry_in_the_same_way(self, replica: Replica) -> None:
        """A client that lost the answer asks another replica."""
        first = replica.login()
        second = replica.refresh(first.refresh_token)
        assert replica.another().refresh(first.refresh_token).refresh_token == second.refresh_token

    def test_reuse_outside_the_grace_window_ends_the_session(
        self, replica: Replica, clock: Clock, node: MeshNode, caplog: pytest.LogCaptureFixture
    ) -> None:
        first = replica.login()
        second = replica.refresh(first.refresh_token)
        clock.ahead += 11
        with caplog.at_level("INFO", "credmesh.audit"):
            assert _refused(lambda: replica.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED
        assert replica.record(first.session_id) is None
        epoch = replica.epoch(session_scope(first.session_id))
        assert epoch > claims_of(second.access_token)["epoch"]
        assert _refused(lambda: replica.refresh(second.refresh_token)) is Reason.CREDENTIAL_INVALID
        wait_until(lambda: node.bundle.revision >= epoch)
        assert _refused(lambda: node.verify(second.access_token)) is Reason.CREDENTIAL_REVOKED
        reused = [record for record in caplog.records if record.message == "refresh.reuse"]
        assert [(record.subject, record.session_id) for record in reused] == [("alice", first.session_id)]  # type: ignore[attr-defined]

    def test_reuse_of_a_token_from_long_ago_ends_the_session_too(self, replica: Replica, clock: Clock) -> None:
        first = replica.login()
        current = first
        for _ in range(5):
            clock.ahead += 300
            current = replica.refresh(current.refresh_token)
        assert _refused(lambda: replica.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED
        assert replica.record(first.session_id) is None

    def test_a_guessed_token_with_the_right_session_id_ends_nothing(self, replica: Replica) -> None:
        """Session ids are not secret: every service sees them."""
        credentials = replica.login()
        guess = OpaqueToken.generate(OpaqueKind.REFRESH, credentials.session_id).text()
        assert _refused(lambda: replica.refresh(guess)) is Reason.CREDENTIAL_INVALID
        assert replica.refresh(credentials.refresh_token).refresh_token

    def test_a_token_of_no_session_is_invalid(self, replica: Replica) -> None:
        stranger = OpaqueToken.generate(OpaqueKind.REFRESH).text()
        assert _refused(lambda: replica.refresh(stranger)) is Reason.CREDENTIAL_INVALID

    def test_an_opaque_session_cannot_be_refreshed(self, replica: Replica) -> None:
        token = _opaque(replica)
        disguised = OpaqueToken(OpaqueKind.REFRESH, token.session_id, token.secret).text()
        assert _refused(lambda: replica.refresh(disguised)) is Reason.CREDENTIAL_INVALID
        assert not _resolve(replica, token).refusal

    def test_many_concurrent_refreshes_all_get_the_same_successor(self, replica: Replica) -> None:
        """Browser tabs, or threads of a process, must not log each other out."""
        first = replica.login()
        replicas = [replica, replica.another()]
        start = threading.Barrier(12, timeout=20)

        def refresh(number: int) -> str:
            start.wait()
            return replicas[number % 2].refresh(first.refresh_token).refresh_token

        with ThreadPoolExecutor(12) as pool:
            successors = set(pool.map(refresh, range(12)))
        assert len(successors) == 1
        assert replica.refresh(successors.pop()).refresh_token

    def test_a_retry_completes_a_refresh_whose_answer_was_lost(
        self, replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
    ) -> None:
        crossed, etcd = interrupted
        first = replica.login()
        done: list[str] = []

        def lose() -> None:
            # Another replica commits its refresh first. For this replica that is as if its own answer was lost.
            done.append(replica.refresh(first.refresh_token).refresh_token)

        etcd.before_commit = lose
        assert crossed.refresh(first.refresh_token).refresh_token == done[0]

    def test_a_refresh_narrows_to_what_the_account_holds_now(self, replica: Replica) -> None:
        first = replica.login()
        _set_account(replica, scopes=["shop.read", "shop.admin"], audiences=["storefront"])
        second = replica.refresh(first.refresh_token)
        claims = claims_of(second.access_token)
        assert (claims["scope"], claims["aud"]) == ("shop.read", ["storefront"])
        record = replica.record(first.session_id)
        assert record is not None
        assert (list(record.scopes), list(record.audiences)) == (["shop.read"], ["storefront"])

    def test_a_scope_removed_from_a_session_does_not_come_back(self, replica: Replica) -> None:
        first = replica.login()
        _set_account(replica, scopes=["shop.read"], audiences=["storefront"])
        second = replica.refresh(first.refresh_token)
        _set_account(replica, scopes=["shop.read", "shop.buy"], audiences=["storefront", "inventory"])
        claims = claims_of(replica.refresh(second.refresh_token).access_token)
        assert (claims["scope"], claims["aud"]) == ("shop.read", ["storefront"])

    def test_the_session_of_a_deleted_account_ends(self, replica: Replica) -> None:
        first = replica.login()
        replica.accounts.delete_user("alice", actor="test")
        assert _refused(lambda: replica.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED
        assert replica.record(first.session_id) is None

    @pytest.mark.parametrize("scope", SCOPES_OF_ALICE)
    def test_a_revoked_session_is_not_refreshed(self, replica: Replica, scope: str) -> None:
        first = replica.login()
        replica.revoke(scope)
        assert _refused(lambda: replica.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED
        assert replica.login().access_token

    def test_a_retry_across_a_revocation_is_refused(self, replica: Replica) -> None:
        first = replica.login()
        replica.refresh(first.refresh_token)
        replica.revoke(subject_scope("alice"))
        assert _refused(lambda: replica.refresh(first.refresh_token)) is Reason.CREDENTIAL_REVOKED


class TestTimeouts:
    """Sessions time out by the replica's clock."""

    def test_a_session_in_use_lives_until_its_lifetime_is_over(self, replica: Replica, clock: Clock) -> None:
        credentials = replica.login()
        lifetime = replica.settings.session_lifetime
        while clock.ahead + 1700 < lifetime:
            clock.ahead += 1700
            credentials = replica.refresh(credentials.refresh_token)
        clock.ahead = lifetime + 1
        assert _refused(lambda: replica.refresh(credentials.refresh_token)) is Reason.CREDENTIAL_EXPIRED

    def test_an_idle_session_times_out_with_an_epoch(self, replica: Replica, clock: Clock) -> None:
        credentials = replica.login()
        clock.ahead += replica.settings.session_idle + 1
        assert _refused(lambda: replica.refresh(credentials.refresh_token)) is Reason.CREDENTIAL_EXPIRED
        assert replica.record(credentials.session_id) is None
        assert replica.epoch(session_scope(credentials.session_id)) > 0

    def test_an_idle_opaque_session_times_out(self, replica: Replica, clock: Clock) -> None:
        token = _opaque(replica)
        clock.ahead += replica.settings.session_idle + 1
        assert _resolve(replica, token).refusal == "CREDENTIAL_EXPIRED"
        assert replica.record(token.session_id) is None


class TestResolving:
    """Opaque sessions, as nodes resolve them."""

    def test_a_valid_session_resolves_to_its_identity(self, replica: Replica) -> None:
        token = _opaque(replica, scopes=["shop.read"], audiences=["storefront"])
        answer = _resolve(replica, token)
        assert answer.refusal == ""
        assert answer.identity.subject == "alice"
        assert answer.identity.client_id == "password"
        assert answer.identity.session_id == token.session_id
        assert list(answer.identity.scopes) == ["shop.read"]
        assert list(answer.identity.audiences) == ["storefront"]
        assert seconds(answer.session_expires_at) > replica.clock()
        assert answer.valid_for.ToTimedelta().total_seconds() == replica.settings.resolve_ttl

    def test_the_attributes_of_a_session_are_returned(self, replica: Replica) -> None:
        token = _opaque(replica)
        record = replica.record(token.session_id)
        assert record is not None
        record.attributes.update({"cart": ["shoes"], "theme": "dark"})
        replica.etcd.commit([], [Put(replica.layout.session(token.session_id), record.SerializeToString())])
        assert dict(_resolve(replica, token).attributes)["theme"] == "dark"

    def test_a_wrong_secret_is_invalid_and_ends_nothing(self, replica: Replica) -> None:
        token = _opaque(replica)
        guess = OpaqueToken.generate(OpaqueKind.SESSION, token.session_id)
        answer = _resolve(replica, guess)
        assert answer == auth_pb2.ResolveSessionResponse(refusal="CREDENTIAL_INVALID")
        assert not _resolve(replica, token).refusal

    def test_an_unknown_session_is_invalid(self, replica: Replica) -> None:
        assert _resolve(replica, OpaqueToken.generate(OpaqueKind.SESSION)).refusal == "CREDENTIAL_INVALID"

    def test_a_session_of_tokens_cannot_be_used_as_an_opaque_session(self, replica: Replica) -> None:
        refresh_token = OpaqueToken.parse(replica.login().refresh_token)
        disguised = OpaqueToken(OpaqueKind.SESSION, refresh_token.session_id, refresh_token.secret)
        assert _resolve(replica, disguised).refusal == "CREDENTIAL_INVALID"

    @pytest.mark.parametrize("scope", SCOPES_OF_ALICE)
    def test_a_revoked_session_is_refused_as_revoked(self, replica: Replica, scope: str) -> None:
        token = _opaque(replica)
        replica.revoke(scope)
        assert _resolve(replica, token).refusal == "CREDENTIAL_REVOKED"

    def test_an_ended_session_is_refused_as_revoked(self, replica: Replica) -> None:
        token = _opaque(replica)
        replica.sessions.end(token.session_id, actor="test", reason="test")
        assert _resolve(replica, token).refusal == "CREDENTIAL_REVOKED"

    def test_resolving_narrows_to_what_the_account_holds_now(self, replica: Replica) -> None:
        token = _opaque(replica)
        _set_account(replica, scopes=["shop.read"], audiences=["storefront"])
        identity = _resolve(replica, token).identity
        assert (list(identity.scopes), list(identity.audiences)) == (["shop.read"], ["storefront"])

    def test_resolving_rarely_writes(self, replica: Replica, clock: Clock) -> None:
        """A thousand nodes that resolve a session must not cause a thousand writes to etcd."""
        token = _opaque(replica)
        quarter = replica.settings.session_idle / 4

        def revision() -> int:
            key = replica.layout.session(token.session_id)
            return replica.etcd.read(key).values[key].mod_revision

        begun = revision()
        for _ in range(5):
            _resolve(replica, token)
        assert revision() == begun
        clock.ahead += quarter
        _resolve(replica, token)
        seen = revision()
        assert seen > begun
        _resolve(replica, token)
        assert revision() == seen

    def test_a_session_that_nodes_resolve_does_not_time_out(self, replica: Replica, clock: Clock) -> None:
        """Each answer is valid so briefly that a node that uses the session resolves it again in time."""
        short = replica.another(session_idle=60.0, resolve_ttl=3600.0)
        token = _opaque(short)
        for _ in range(20):
            answer = _resolve(short, token)
            assert not answer.refusal
            assert answer.valid_for.ToTimedelta().total_seconds() == 15
            clock.ahead += 15

    def test_resolving_does_not_raise_the_epoch(self, replica: Replica, clock: Clock) -> None:
        """Otherwise a session that was revoked a moment ago would be valid again."""
        token = _opaque(replica)
        before = replica.record(token.session_id)
        assert before is not None
        clock.ahead += replica.settings.session_idle / 2
        assert _resolve(replica, token).identity.epoch == before.epoch
        after = replica.record(token.session_id)
        assert after is not None
        assert after.epoch == before.epoch
        assert seconds(after.last_seen_at) > seconds(before.last_seen_at)

    def test_a_session_that_ends_while_it_is_resolved_stays_ended(
        self, replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient], clock: Clock
    ) -> None:
        crossed, etcd = interrupted
        token = _opaque(replica)
        clock.ahead += replica.settings.session_idle / 2
        etcd.before_commit = lambda: replica.sessions.end(token.session_id, actor="test", reason="test")
        assert _resolve(crossed, token).refusal == "CREDENTIAL_REVOKED"
        assert replica.record(token.session_id) is None

    def test_an_answer_is_valid_no_longer_than_the_session(self, replica: Replica, clock: Clock) -> None:
        token = _opaque(replica)
        clock.ahead += replica.settings.session_idle - 1
        _resolve(replica, token)
        while clock.ahead < replica.settings.session_lifetime - 30:
            clock.ahead = min(clock.ahead + 1000, replica.settings.session_lifetime - 30)
            answer = _resolve(replica, token)
        assert 0 < answer.valid_for.ToTimedelta().total_seconds() <= 30

    def test_the_local_resolver_serves_a_node(self, replica: Replica) -> None:
        token = _opaque(replica)
        resolver = LocalSessionResolver(replica.sessions)
        with MeshNode(replica.settings.mesh, resolver=resolver) as node:
            caller = node.verify(token.text())
            assert caller.subject == "alice"
            epoch = replica.sessions.end(token.session_id, actor="test", reason="test")
            assert epoch is not None
            wait_until(lambda: node.bundle.revision >= epoch)
            assert _refused(lambda: node.verify(token.text())) is Reason.CREDENTIAL_REVOKED

    def test_without_etcd_the_local_resolver_refuses_as_stale(self, replica: Replica) -> None:
        request = auth_pb2.ResolveSessionRequest(session_id="x" * 22, secret_sha256=b"x" * 32)
        with EtcdClient(replica.settings.mesh.etcd) as closed:
            gone = Replica(closed, replica.settings, replica.passwords, replica.clock)
        assert _refused(lambda: LocalSessionResolver(gone.sessions).resolve(request)) is Reason.MESH_STALE
        with pytest.raises(EtcdUnavailable):
            gone.sessions.resolve(request)


class TestEnding:
    """Logging out, and ending a session."""

    def test_a_refresh_token_logs_out(self, replica: Replica, node: MeshNode) -> None:
        credentials = replica.login()
        revision, subject = replica.sessions.logout(OpaqueToken.parse(credentials.refresh_token))
        assert subject == "alice"
        assert revision == replica.epoch(session_scope(credentials.session_id))
        assert replica.record(credentials.session_id) is None
        wait_until(lambda: node.bundle.revision >= revision)
        assert _refused(lambda: node.verify(credentials.access_token)) is Reason.CREDENTIAL_REVOKED
        assert _refused(lambda: replica.refresh(credentials.refresh_token)) is Reason.CREDENTIAL_INVALID

    def test_a_refresh_token_that_was_used_still_logs_out(self, replica: Replica, clock: Clock) -> None:
        credentials = replica.login()
        replica.refresh(credentials.refresh_token)
        clock.ahead += 100
        assert replica.sessions.logout(OpaqueToken.parse(credentials.refresh_token))[0] > 0

    def test_a_session_token_logs_out(self, replica: Replica) -> None:
        token = _opaque(replica)
        assert replica.sessions.logout(token)[0] == replica.epoch(session_scope(token.session_id)) > 0

    def test_logging_out_twice_is_no_error(self, replica: Replica) -> None:
        token = OpaqueToken.parse(replica.login().refresh_token)
        assert replica.sessions.logout(token)[0] > 0
        assert replica.sessions.logout(token) == (0, "")

    @pytest.mark.parametrize("kind", list(OpaqueKind))
    def test_a_guess_ends_no_session(self, replica: Replica, kind: OpaqueKind) -> None:
        for session_id in (replica.login().session_id, _opaque(replica).session_id):
            assert replica.sessions.logout(OpaqueToken.generate(kind, session_id)) == (0, "")
            assert replica.record(session_id) is not None

    def test_ending_an_unknown_session_changes_nothing(self, replica: Replica) -> None:
        before = replica.etcd.read(replica.layout.signing).revision
        assert replica.sessions.end("x" * 22, actor="test", reason="test") is None
        assert replica.etcd.read(replica.layout.signing).revision == before

    def test_an_ended_session_does_not_come_back_by_a_concurrent_refresh(
        self, replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
    ) -> None:
        crossed, etcd = interrupted
        credentials = replica.login()
        etcd.before_commit = lambda: replica.sessions.end(credentials.session_id, actor="test", reason="test")
        assert _refused(lambda: crossed.refresh(credentials.refresh_token)) is Reason.CREDENTIAL_INVALID
        assert replica.record(credentials.session_id) is None

    def test_a_session_ends_although_it_is_refreshed_meanwhile(
        self, replica: Replica, interrupted: tuple[Replica, InterruptedEtcdClient]
    ) -> None:
        """A session that is refreshed all the time must not delay its end."""
        crossed, etcd = interrupted
        credentials = replica.login()
        etcd.before_commit = lambda: replica.refresh(credentials.refresh_token)
        assert crossed.sessions.end(credentials.session_id, actor="test", reason="test")
        assert replica.record(credentials.session_id) is None


class TestAcceptedSession:
    """Reading a session without changing it."""

    def test_introspection_uses_no_token_up(self, replica: Replica) -> None:
        credentials = replica.login()
        before = replica.etcd.read(replica.layout.signing).revision
        record, granted = replica.sessions.accepted_session(OpaqueToken.parse(credentials.refresh_token))
        assert record.subject == "alice"
        assert granted.scopes == ("shop.buy", "shop.read")
        assert replica.etcd.read(replica.layout.signing).revision == before
        assert replica.refresh(credentials.refresh_token).refresh_token

    def test_introspection_of_a_used_token_ends_nothing(self, replica: Replica, clock: Clock) -> None:
        """A leaked token must be introspected without ending its session."""
        credentials = replica.login()
        replica.refresh(credentials.refresh_token)
        token = OpaqueToken.parse(credentials.refresh_token)
        assert replica.sessions.accepted_session(token)[0].subject == "alice"
        clock.ahead += 100
        assert _refused(lambda: replica.sessions.accepted_session(token)) is Reason.CREDENTIAL_REVOKED
        assert replica.record(credentials.session_id) is not None

    def test_a_session_that_timed_out_is_not_accepted(self, replica: Replica, clock: Clock) -> None:
        token = _opaque(replica)
        clock.ahead += replica.settings.session_idle + 1
        assert _refused(lambda: replica.sessions.accepted_session(token)) is Reason.CREDENTIAL_EXPIRED


def _set_account(replica: Replica, *, scopes: list[str], audiences: list[str]) -> None:
    key = replica.layout.user("alice")
    record = store_pb2.UserRecord.FromString(replica.etcd.read(key).values[key].value)
    record.scopes[:] = scopes
    record.audiences[:] = audiences
    replica.etcd.commit([], [Put(key, record.SerializeToString())])
