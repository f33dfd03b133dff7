"""AuthService, SessionService and RevocationService over a real server: their answers and audit lines."""

from __future__ import annotations

from typing import Any

import grpc
import jwt
import pytest

from credmesh.admin.v1 import revocation_pb2, sessions_pb2
from credmesh.auth.v1 import auth_pb2
from interceptors.error_details import error_info_in
from interceptors.errors import Reason, reason_of
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from tests.support.auth_api import TOKEN_LOOKUPS_PER_ADDRESS, Api, client_request, password_request
from tests.support.processes import ISSUER
from tests.support.replica import ALICE_PASSWORD, claims_of
from tests.support.waiting import wait_until


class TestLogin:
    """Credentials for passwords and secrets."""

    def test_a_password_gives_tokens(self, api: Api) -> None:
        credentials = api.login(scopes=["shop.read"], audiences=["storefront"])
        claims = claims_of(credentials.access_token)
        assert (claims["sub"], claims["scope"], claims["aud"]) == ("alice", "shop.read", ["storefront"])
        assert credentials.refresh_token.startswith("cmr_")
        assert not credentials.session_token

    def test_a_password_gives_an_opaque_session_on_request(self, api: Api) -> None:
        credentials = api.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION)
        assert credentials.session_token.startswith("cms_")
        assert not credentials.access_token
        who = api.call("WhoAmI", auth_pb2.WhoAmIRequest(), token=credentials.session_token)
        assert who.identity.subject == "alice"
        assert who.identity.session_id == credentials.session_id

    def test_a_wrong_password_and_an_unknown_user_look_the_same(self, api: Api) -> None:
        failures = [
            api.failure("Login", password_request("carol", "wrong")),
            api.failure("Login", password_request("nobody", "wrong")),
        ]
        first, second = ((one.code(), one.details(), one.trailing_metadata()) for one in failures)
        assert first == second
        assert reason_of(first[2]) is Reason.CREDENTIAL_INVALID

    def test_a_wrong_secret_and_an_unknown_client_look_the_same(self, api: Api) -> None:
        secret = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET).text()
        requests = [
            client_request("operator", secret),
            client_request("nobody", secret),
            client_request("operator", "x"),
        ]
        answers = [api.failure("Login", request) for request in requests]
        assert {answer.details() for answer in answers} == {Reason.CREDENTIAL_INVALID.message}
        assert {answer.code() for answer in answers} == {grpc.StatusCode.UNAUTHENTICATED}

    def test_guessing_is_slowed(self, api: Api) -> None:
        reasons = [api.reason("Login", password_request("mallory", f"guess {number}")) for number in range(7)]
        assert reasons == [Reason.CREDENTIAL_INVALID] * 5 + [Reason.RATE_LIMITED] * 2

    def test_strangers_do_not_lock_an_account_from_another_address(self, api: Api) -> None:
        stranger, user = "203.0.113.7", "203.0.113.8"
        wrong, right = password_request("carol", "a guess"), password_request("carol")
        reasons = [api.reason("Login", wrong, token="", address=stranger) for _ in range(6)]
        assert reasons == [Reason.CREDENTIAL_INVALID] * 5 + [Reason.RATE_LIMITED]
        assert api.reason("Login", right, token="", address=stranger) is Reason.RATE_LIMITED
        assert api.call("Login", right, token="", address=user).credentials.access_token

    def test_failures_never_lock_a_client_nor_its_address(self, api: Api) -> None:
        """Or a stranger could take revocation away from the operator."""
        address = "203.0.113.9"
        made_up = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET).text()
        for client_id in ["operator"] * 30 + [f"robot-{number}" for number in range(30)]:
            request = client_request(client_id, made_up)
            assert api.reason("Login", request, token="", address=address) is Reason.CREDENTIAL_INVALID
        right = client_request("operator", api.operator_secret)
        assert api.call("Login", right, token="", address=address).credentials.access_token
        assert api.call("Login", password_request("bob"), token="", address=address).credentials.access_token

    def test_an_unknown_name_is_not_written_into_the_audit_trail(
        self, api: Api, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It may be a password that a user typed into the wrong field."""
        typed = "correct horse battery staple"
        made_up = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET).text()
        with caplog.at_level("DEBUG"):
            for _ in range(6):  # the last one is refused without a check
                api.failure("Login", password_request(typed, "x"), token="", address="203.0.113.10")
            api.failure("Login", client_request(typed, made_up), token="", address="203.0.113.10")
        lines = [record for record in caplog.records if record.message == "login"]
        assert [record.__dict__["address"] for record in lines] == ["203.0.113.10"] * 7
        assert typed not in "\n".join(str(record.__dict__) for record in caplog.records)

    def test_a_request_for_more_than_the_account_holds_is_refused(self, api: Api) -> None:
        assert api.reason("Login", password_request(scopes=["credmesh.revoke"])) is Reason.SCOPE_MISSING
        assert api.reason("Login", password_request(audiences=["vault"])) is Reason.AUDIENCE_MISMATCH

    @pytest.mark.parametrize("length", [30, 60, 250])
    def test_a_refusal_of_many_scopes_reaches_the_client_with_its_reason(
        self, api: Api, length: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A client of gRPC drops a call whose trailing metadata are large: above 8 KB by chance, above 16 KB always."""
        scopes = [f"scope-{number:03}-".ljust(length, "x") for number in range(256)]
        with caplog.at_level("INFO", "credmesh.audit"):
            for _ in range(5):
                failure = api.failure("Login", password_request(scopes=scopes), token="")
                assert reason_of(failure) is Reason.SCOPE_MISSING
        info = error_info_in(failure.trailing_metadata())
        assert info is not None
        named = info.metadata["scope"].split()
        assert named[:-1] == scopes[: len(named) - 1]
        assert named[-1] == "…"
        assert 1500 < len(info.metadata["scope"]) <= 2050
        assert max(len(str(record.__dict__.get("cause", ""))) for record in caplog.records) < 2200

    def test_logins_and_refused_logins_are_audited(self, api: Api, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO", "credmesh.audit"):
            credentials = api.login("bob")
            api.failure("Login", password_request("bob", "wrong"))
        lines = [record.__dict__ for record in caplog.records if record.message == "login"]
        good, bad = (line for line in lines if line.get("subject") == "bob")
        assert (good["outcome"], good["session_id"]) == ("ok", credentials.session_id)
        assert (bad["outcome"], bad["reason"], bad["cause"]) == ("refused", "CREDENTIAL_INVALID", "wrong password")
        assert good["peer"]


class TestRefresh:
    """Credentials for refresh tokens."""

    def test_a_refresh_token_gives_the_next_credentials(self, api: Api) -> None:
        first = api.login()
        second = api.call("Refresh", auth_pb2.RefreshRequest(refresh_token=first.refresh_token), token="").credentials
        assert second.refresh_token != first.refresh_token
        assert second.session_id == first.session_id
        assert api.call("WhoAmI", auth_pb2.WhoAmIRequest(), token=second.access_token).identity.subject == "alice"

    def test_a_token_of_no_session_is_refused_and_audited(self, api: Api, caplog: pytest.LogCaptureFixture) -> None:
        token = OpaqueToken.generate(OpaqueKind.REFRESH)
        with caplog.at_level("INFO", "credmesh.audit"):
            reason = api.reason("Refresh", auth_pb2.RefreshRequest(refresh_token=token.text()), token="")
        assert reason is Reason.CREDENTIAL_INVALID
        lines = [record.__dict__ for record in caplog.records if record.message == "refresh"]
        assert [(line["outcome"], line["session_id"]) for line in lines] == [("refused", token.session_id)]


def _ask(api: Api, method: str, token: str, address: str) -> Reason | None:
    """The reason with which a refresh or logout is refused; None if it is not."""
    refresh, logout = auth_pb2.RefreshRequest(refresh_token=token), auth_pb2.LogoutRequest(token=token)
    try:
        api.call(method, refresh if method == "Refresh" else logout, token="", address=address)
    except grpc.RpcError as error:
        return reason_of(error)
    return None


@pytest.mark.parametrize(("method", "address"), [("Refresh", "203.0.113.20"), ("Logout", "203.0.113.21")])
def test_made_up_tokens_beyond_a_budget_cost_no_read_and_keep_no_user_out(
    api: Api, method: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = api.login()
    wait_until(lambda: api.replica.sessions.knows(OpaqueToken.parse(mine.refresh_token)), what="the login to be known")
    reads: list[tuple[str, ...]] = []
    read = api.replica.etcd.read

    def counted(*keys: str, **options: Any) -> Any:
        if any(key.startswith(api.replica.layout.sessions) for key in keys):
            reads.append(keys)
        return read(*keys, **options)

    monkeypatch.setattr(api.replica.etcd, "read", counted)
    # Made-up sessions, and guesses at the secret of a session that exists.
    sessions = [None, mine.session_id] * TOKEN_LOOKUPS_PER_ADDRESS
    guesses = [OpaqueToken.generate(OpaqueKind.REFRESH, session).text() for session in sessions]
    outcomes = [_ask(api, method, guess, address) for guess in guesses]
    in_budget = Reason.CREDENTIAL_INVALID if method == "Refresh" else None
    assert outcomes == [in_budget] * TOKEN_LOOKUPS_PER_ADDRESS + [Reason.RATE_LIMITED] * TOKEN_LOOKUPS_PER_ADDRESS
    spent = len(reads)
    assert _ask(api, method, OpaqueToken.generate(OpaqueKind.REFRESH).text(), address) is Reason.RATE_LIMITED
    assert len(reads) == spent
    assert _ask(api, method, OpaqueToken.generate(OpaqueKind.REFRESH).text(), "203.0.113.22") is in_budget
    assert _ask(api, method, mine.refresh_token, address) is None


def test_an_ended_session_is_answered_like_one_that_never_existed(api: Api) -> None:
    """Session ids are no secret: without the record, a token that names one may be a guess."""
    ended = api.login()
    api.call("Logout", auth_pb2.LogoutRequest(token=ended.refresh_token), token="")
    tokens = [
        ended.refresh_token,
        OpaqueToken.generate(OpaqueKind.REFRESH, ended.session_id).text(),
        OpaqueToken.generate(OpaqueKind.REFRESH).text(),
    ]
    answers = [api.failure("Refresh", auth_pb2.RefreshRequest(refresh_token=one), token="") for one in tokens]
    assert len({(one.code(), one.details(), tuple(one.trailing_metadata())) for one in answers}) == 1
    assert reason_of(answers[0]) is Reason.CREDENTIAL_INVALID


class TestLogout:
    """Ending the caller's own session."""

    @pytest.mark.parametrize("name", ["access_token", "refresh_token"])
    def test_every_token_of_a_session_ends_it(self, api: Api, name: str, caplog: pytest.LogCaptureFixture) -> None:
        credentials = api.login()
        with caplog.at_level("INFO", "credmesh.audit"):
            request = auth_pb2.LogoutRequest(token=getattr(credentials, name))
            revision = api.call("Logout", request, token="").revision
        assert revision == api.replica.epoch(session_scope(credentials.session_id)) > 0
        lines = [record.__dict__ for record in caplog.records if record.message == "logout"]
        assert [(line["subject"], line["session_id"]) for line in lines] == [("alice", credentials.session_id)]
        again = api.call("Logout", auth_pb2.LogoutRequest(token=credentials.refresh_token), token="")
        assert again.revision == 0
        wait_until(lambda: api.node.bundle.revision >= revision)
        who = auth_pb2.WhoAmIRequest()
        assert api.reason("WhoAmI", who, token=credentials.access_token) is Reason.CREDENTIAL_REVOKED

    def test_an_opaque_session_ends(self, api: Api) -> None:
        token = api.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION).session_token
        api.call("WhoAmI", auth_pb2.WhoAmIRequest(), token=token)
        revision = api.call("Logout", auth_pb2.LogoutRequest(token=token), token="").revision
        wait_until(lambda: api.node.bundle.revision >= revision > 0)
        assert api.reason("WhoAmI", auth_pb2.WhoAmIRequest(), token=token) is Reason.CREDENTIAL_REVOKED

    def test_a_foreign_token_ends_nothing_and_is_no_error(self, api: Api) -> None:
        forged = jwt.encode(claims_of(api.login().access_token), "x" * 32, algorithm="HS256")
        strangers = ["garbage", "a.b.c", "ü", forged, *(OpaqueToken.generate(kind).text() for kind in OpaqueKind)]
        for stranger in strangers:
            assert api.call("Logout", auth_pb2.LogoutRequest(token=stranger), token="").revision == 0
        assert api.call("Logout", auth_pb2.LogoutRequest(token=api.operator()), token="").revision == 0


class TestIntrospect:
    """Introspection of credentials."""

    def _introspect(self, api: Api, token: str) -> auth_pb2.IntrospectResponse:
        response = api.call("Introspect", auth_pb2.IntrospectRequest(token=token))
        assert isinstance(response, auth_pb2.IntrospectResponse)
        return response

    def test_valid_credentials_of_every_kind_are_active(self, api: Api) -> None:
        tokens = api.login(scopes=["shop.read"])
        opaque = api.login(scopes=["shop.read"], kind=auth_pb2.CREDENTIAL_KIND_SESSION)
        for token in (tokens.access_token, tokens.refresh_token, opaque.session_token):
            answer = self._introspect(api, token)
            assert answer.active
            assert answer.identity.subject == "alice"
            assert answer.identity.client_id == "password"
            assert answer.identity.session_id in (tokens.session_id, opaque.session_id)
            assert list(answer.identity.scopes) == ["shop.read"]
            assert list(answer.identity.audiences) == ["credmesh.auth", "storefront"]
            assert answer.identity.epoch > 0
            assert answer.expires_at.seconds > api.replica.clock()
        # The introspection has not used it up.
        api.call("Refresh", auth_pb2.RefreshRequest(refresh_token=tokens.refresh_token), token="")

    def test_a_revoked_credential_is_inactive_from_the_commit_on(self, api: Api) -> None:
        """However far behind the node of the replica is."""
        tokens = api.login("bob")
        opaque = api.login("bob", kind=auth_pb2.CREDENTIAL_KIND_SESSION)
        api.replica.revoke(subject_scope("bob"))
        for token in (tokens.access_token, tokens.refresh_token, opaque.session_token):
            assert self._introspect(api, token) == auth_pb2.IntrospectResponse()

    def test_any_other_text_is_inactive_without_a_reason(self, api: Api) -> None:
        for token in ("garbage", "ü", api.operator_secret, OpaqueToken.generate(OpaqueKind.REFRESH).text()):
            assert self._introspect(api, token) == auth_pb2.IntrospectResponse()

    def test_introspection_requires_its_scope(self, api: Api) -> None:
        request = auth_pb2.IntrospectRequest(token="x")
        assert api.reason("Introspect", request, token=api.login().access_token) is Reason.SCOPE_MISSING
        assert api.reason("Introspect", request, token="") is Reason.CREDENTIAL_MISSING


class TestResolveSession:
    """Resolution of opaque sessions for nodes."""

    def test_a_valid_session_is_resolved_and_a_refusal_is_an_answer(self, api: Api) -> None:
        token = OpaqueToken.parse(api.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION).session_token)
        request = auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
        assert api.call("ResolveSession", request).identity.subject == "alice"
        request.secret_sha256 = b"x" * 32
        assert api.call("ResolveSession", request).refusal == "CREDENTIAL_INVALID"


class TestKeySet:
    """The key set, for verifiers outside the mesh."""

    def test_another_library_verifies_tokens_by_the_key_set(self, api: Api) -> None:
        answer = api.call("GetKeySet", auth_pb2.GetKeySetRequest(), token="")
        token = api.login().access_token
        kid = jwt.get_unverified_header(token)["kid"]
        (found,) = [key for key in answer.keys if key.kid == kid]
        members = {field.name: value for field, value in found.ListFields()}
        claims = jwt.decode(token, jwt.PyJWK(members), algorithms=["ES256"], audience="storefront", issuer=ISSUER)
        assert claims["sub"] == "alice"


class TestSessions:
    """Listing and ending sessions."""

    def _list(self, api: Api, **fields: Any) -> sessions_pb2.ListSessionsResponse:
        response = api.call("ListSessions", sessions_pb2.ListSessionsRequest(**fields))
        assert isinstance(response, sessions_pb2.ListSessionsResponse)
        return response

    def test_pages_hold_every_session_once_and_in_order(self, api: Api) -> None:
        api.replica.revoke(subject_scope("carol"))
        made = sorted(api.login("carol").session_id for _ in range(7))
        wait_until(lambda: self._list(api, subject="carol").total_size == 7, what="the logins to be listed")
        listed: list[str] = []
        token, sizes = "", []
        while True:
            page = self._list(api, subject="carol", page_size=3, page_token=token)
            assert page.total_size == 7
            sizes.append(len(page.sessions))
            listed += [session.session_id for session in page.sessions]
            token = page.next_page_token
            if not token:
                break
        assert listed == made
        assert sizes == [3, 3, 1]

    def test_a_session_is_listed_with_all_of_its_fields(self, api: Api) -> None:
        credentials = api.login("bob", scopes=["shop.read"], kind=auth_pb2.CREDENTIAL_KIND_SESSION)

        def found() -> sessions_pb2.Session | None:
            listed = self._list(api, subject="bob", page_size=1000).sessions
            return next((one for one in listed if one.session_id == credentials.session_id), None)

        session = wait_until(found, what="the login to be listed")
        assert session is not None
        assert (session.subject, session.client_id) == ("bob", "password")
        assert session.kind == sessions_pb2.SESSION_KIND_OPAQUE
        assert list(session.scopes) == ["shop.read"]
        assert session.expires_at == credentials.session_expires_at
        assert session.created_at == session.last_seen_at
        assert session.created_at.seconds < session.idle_expires_at.seconds < session.expires_at.seconds

    def test_a_kicked_session_is_refused_everywhere(self, api: Api, caplog: pytest.LogCaptureFixture) -> None:
        credentials = api.login()
        request = sessions_pb2.KickSessionRequest(session_id=credentials.session_id, reason="lost laptop")
        with caplog.at_level("INFO", "credmesh.audit"):
            revision = api.call("KickSession", request).revision
        assert revision == api.replica.epoch(session_scope(credentials.session_id))
        wait_until(lambda: api.node.bundle.revision >= revision)
        who = auth_pb2.WhoAmIRequest()
        assert api.reason("WhoAmI", who, token=credentials.access_token) is Reason.CREDENTIAL_REVOKED
        refresh = auth_pb2.RefreshRequest(refresh_token=credentials.refresh_token)
        assert api.reason("Refresh", refresh, token="") is Reason.CREDENTIAL_INVALID
        (line,) = [record.__dict__ for record in caplog.records if record.message == "session.kick"]
        assert (line["actor"], line["reason"], line["revision"]) == ("operator", "lost laptop", revision)
        assert api.failure("KickSession", request).code() is grpc.StatusCode.NOT_FOUND


class TestRevoke:
    """Revoking scopes."""

    @pytest.mark.parametrize(
        ("request_", "scope"),
        [
            (revocation_pb2.RevokeRequest(subject="dave"), subject_scope("dave")),
            (revocation_pb2.RevokeRequest(session_id="x" * 22), session_scope("x" * 22)),
            (revocation_pb2.RevokeRequest(client_id="robot"), client_scope("robot")),
            (revocation_pb2.RevokeRequest(audience="vault"), audience_scope("vault")),
            (revocation_pb2.RevokeRequest(everyone=True), EVERYONE),
        ],
    )
    def test_each_scope_gets_its_epoch(
        self,
        api: Api,
        request_: revocation_pb2.RevokeRequest,
        scope: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        request_.reason = "drill"
        with caplog.at_level("INFO", "credmesh.audit"):
            answer = api.call("Revoke", request_)
        assert answer.revision == api.replica.epoch(scope) > 0
        assert abs(answer.committed_at.seconds - api.replica.clock()) < 60
        (line,) = [record.__dict__ for record in caplog.records if record.message == "revoke"]
        assert (line["actor"], line["scope"], line["reason"]) == ("operator", scope, "drill")

    def test_a_credential_issued_after_a_revocation_is_accepted(self, api: Api) -> None:
        before = api.login("carol").access_token
        api.call("Revoke", revocation_pb2.RevokeRequest(subject="carol"))
        after = api.login("carol").access_token
        api.caught_up()
        assert api.reason("WhoAmI", auth_pb2.WhoAmIRequest(), token=before) is Reason.CREDENTIAL_REVOKED
        assert api.call("WhoAmI", auth_pb2.WhoAmIRequest(), token=after).identity.subject == "carol"

    def test_revoking_requires_its_scope(self, api: Api) -> None:
        request = revocation_pb2.RevokeRequest(subject="bob")
        assert api.reason("Revoke", request, token=api.login().access_token) is Reason.SCOPE_MISSING


def test_no_log_line_holds_a_credential(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        credentials = api.login()
        opaque = api.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION).session_token
        second = api.call("Refresh", auth_pb2.RefreshRequest(refresh_token=credentials.refresh_token), token="")
        api.call("Introspect", auth_pb2.IntrospectRequest(token=opaque))
        api.call("Logout", auth_pb2.LogoutRequest(token=opaque), token="")
        api.failure("WhoAmI", auth_pb2.WhoAmIRequest(), token=opaque + "x")
        api.failure("Login", password_request(password="a-wrong-password"))
    everything = "\n".join(str(record.__dict__) for record in caplog.records)
    secrets = [credentials.access_token, credentials.refresh_token, second.credentials.refresh_token, opaque]
    assert everything
    for secret in [*secrets, ALICE_PASSWORD, "a-wrong-password"]:
        assert secret not in everything
