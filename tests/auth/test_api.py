"""AuthService, SessionService and RevocationService over a real server: every field, every answer, every audit line."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import jwt
import pytest
from google.rpc import error_details_pb2, status_pb2

from authsvc.api.auth import AuthServicer
from authsvc.api.errors import AnswerErrors
from authsvc.api.revocation import RevocationServicer
from authsvc.api.sessions import SessionServicer
from authsvc.directory import SessionDirectory
from authsvc.introspection import Introspection
from authsvc.passwords import Passwords
from authsvc.sessions import LocalSessionResolver
from authsvc.settings import AuthSettings
from authsvc.throttle import LoginThrottle
from credmesh.admin.v1 import revocation_pb2, revocation_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.errors import Reason, reason_of
from interceptors.etcd.client import EtcdClient
from interceptors.etcd.layout import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from interceptors.node import MeshNode
from interceptors.opaque import OpaqueKind, OpaqueToken
from interceptors.server import ServerInterceptor
from interceptors.settings import MeshSettings, ServerSettings
from localmesh.etcd import EtcdProcess
from tests.auth.replica import ALICE_PASSWORD, SCOPES, Clock, Replica, claims_of
from tests.processes import ISSUER, KEK
from tests.support import wait_until

ADMIN = ["credmesh.introspect", "credmesh.revoke", "credmesh.sessions.read", "credmesh.sessions.write"]
SERVICES = {
    auth_pb2_grpc.AuthServiceStub: (
        "Login",
        "Refresh",
        "Logout",
        "Introspect",
        "ResolveSession",
        "WhoAmI",
        "GetKeySet",
    ),
    sessions_pb2_grpc.SessionServiceStub: ("ListSessions", "KickSession"),
    revocation_pb2_grpc.RevocationServiceStub: ("Revoke",),
}
LONG = "x" * 257
HUGE = "x" * 20_000


@dataclass(frozen=True)
class Api:
    """A server, the replica behind it, and a client that may do everything in it."""

    replica: Replica
    node: MeshNode
    calls: dict[str, Any]
    operator_secret: str

    def call(self, method: str, request: Any, *, token: str | None = None) -> Any:
        """Calls a method, as the operator unless a token is given."""
        token = self.operator() if token is None else token
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return self.calls[method](request, metadata=metadata, timeout=10)

    def failure(self, method: str, request: Any, *, token: str | None = None) -> grpc.Call:
        """Calls a method that must fail; how it does."""
        with pytest.raises(grpc.RpcError) as failed:
            self.call(method, request, token=token)
        assert isinstance(failed.value, grpc.Call)
        return failed.value

    def reason(self, method: str, request: Any, *, token: str | None = None) -> Reason | None:
        """Calls a method that must be refused; why."""
        return reason_of(self.failure(method, request, token=token).trailing_metadata())

    def operator(self) -> str:
        """The operator's access token."""
        grant = auth_pb2.ClientCredentialsGrant(client_id="operator", client_secret=self.operator_secret)
        request = auth_pb2.LoginRequest(client_credentials=grant)
        token: str = self.call("Login", request, token="").credentials.access_token
        return token

    def login(self, subject: str = "alice", **fields: Any) -> auth_pb2.Credentials:
        """Signs a user in."""
        response = self.call("Login", _login(subject, **fields), token="")
        assert isinstance(response, auth_pb2.LoginResponse)
        return response.credentials

    def caught_up(self) -> None:
        """Waits until the server's own node knows all that was committed."""
        revision = self.replica.revoke(session_scope("nobody's"))
        wait_until(lambda: self.node.bundle.revision >= revision, what="the node to catch up")


@pytest.fixture(scope="module")
def api(etcd: EtcdProcess, passwords: Passwords) -> Iterator[Api]:
    """One server for all of these tests: each signs somebody in of its own, or looks at what is its own."""
    settings = AuthSettings(
        mesh=MeshSettings(etcd=etcd.settings(f"/{uuid.uuid4().hex}/"), service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )
    with EtcdClient(settings.mesh.etcd) as client:
        replica = Replica(client, settings, passwords, Clock())
        replica.rotate()
        audiences = ["credmesh.auth", "storefront"]
        for subject in ("alice", "bob", "carol"):
            replica.accounts.create_user(subject, ALICE_PASSWORD, scopes=SCOPES, audiences=audiences)
        _, secret = replica.accounts.create_client("operator", scopes=ADMIN, audiences=["credmesh.auth"])
        yield from _serve(replica, secret)


def _serve(replica: Replica, operator_secret: str) -> Iterator[Api]:
    directory = SessionDirectory(replica.settings.mesh.etcd, replica.layout)
    directory.start()
    with MeshNode(replica.settings.mesh, resolver=LocalSessionResolver(replica.sessions)) as node:
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[ServerInterceptor(node), AnswerErrors()])
        auth = AuthServicer(
            accounts=replica.accounts,
            throttle=LoginThrottle(per_account=5, per_address=0),
            issuer=replica.issuer,
            sessions=replica.sessions,
            introspection=Introspection(node=node, sessions=replica.sessions),
            node=node,
        )
        auth_pb2_grpc.add_AuthServiceServicer_to_server(auth, server)
        sessions = SessionServicer(directory=directory, sessions=replica.sessions)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(sessions, server)
        revocation = RevocationServicer(revocation=replica.revocation)
        revocation_pb2_grpc.add_RevocationServiceServicer_to_server(revocation, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert directory.wait_ready(10)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = {name: getattr(stub(channel), name) for stub, names in SERVICES.items() for name in names}
            yield Api(replica, node, calls, operator_secret)
        server.stop(0).wait()
    directory.stop()


def _login(subject: str = "alice", password: str = ALICE_PASSWORD, **fields: Any) -> auth_pb2.LoginRequest:
    return auth_pb2.LoginRequest(password=auth_pb2.PasswordGrant(subject=subject, password=password), **fields)


def _client_login(client_id: str = "operator", secret: str = "") -> auth_pb2.LoginRequest:
    grant = auth_pb2.ClientCredentialsGrant(client_id=client_id, client_secret=secret)
    return auth_pb2.LoginRequest(client_credentials=grant)


BAD_FIELDS = [
    ("Login", auth_pb2.LoginRequest(), "grant"),
    ("Login", _login(subject=""), "password.subject"),
    ("Login", _login(subject=LONG), "password.subject"),
    ("Login", _login(subject="al\nice"), "password.subject"),
    ("Login", _login(password=""), "password.password"),
    ("Login", _login(password=HUGE), "password.password"),
    ("Login", _login(scopes=["two words"]), "scopes"),
    ("Login", _login(scopes=[""]), "scopes"),
    ("Login", _login(scopes=[f"s{number}" for number in range(257)]), "scopes"),
    ("Login", _login(audiences=[""]), "audiences"),
    ("Login", _login(audiences=[LONG]), "audiences"),
    ("Login", _login(audiences=[f"a{number}" for number in range(33)]), "audiences"),
    ("Login", _login(kind=77), "kind"),
    ("Login", _client_login(client_id="", secret="x"), "client_credentials.client_id"),
    ("Login", _client_login(secret=""), "client_credentials.client_secret"),
    ("Login", _client_login(secret=HUGE), "client_credentials.client_secret"),
    ("Refresh", auth_pb2.RefreshRequest(), "refresh_token"),
    ("Refresh", auth_pb2.RefreshRequest(refresh_token=HUGE), "refresh_token"),
    ("Refresh", auth_pb2.RefreshRequest(refresh_token="garbage"), "refresh_token"),
    ("Refresh", auth_pb2.RefreshRequest(refresh_token="cmr_" + "A" * 70), "refresh_token"),
    ("Refresh", auth_pb2.RefreshRequest(refresh_token="\x00"), "refresh_token"),
    (
        "Refresh",
        auth_pb2.RefreshRequest(refresh_token=OpaqueToken.generate(OpaqueKind.SESSION).text()),
        "refresh_token",
    ),
    ("Logout", auth_pb2.LogoutRequest(), "token"),
    ("Logout", auth_pb2.LogoutRequest(token=HUGE), "token"),
    ("Introspect", auth_pb2.IntrospectRequest(), "token"),
    ("Introspect", auth_pb2.IntrospectRequest(token=HUGE), "token"),
    ("ResolveSession", auth_pb2.ResolveSessionRequest(secret_sha256=b"x" * 32), "session_id"),
    ("ResolveSession", auth_pb2.ResolveSessionRequest(session_id="../x", secret_sha256=b"x" * 32), "session_id"),
    ("ResolveSession", auth_pb2.ResolveSessionRequest(session_id=HUGE, secret_sha256=b"x" * 32), "session_id"),
    ("ResolveSession", auth_pb2.ResolveSessionRequest(session_id="x" * 22), "secret_sha256"),
    ("ResolveSession", auth_pb2.ResolveSessionRequest(session_id="x" * 22, secret_sha256=b"x" * 33), "secret_sha256"),
    ("ListSessions", sessions_pb2.ListSessionsRequest(subject=LONG), "subject"),
    ("ListSessions", sessions_pb2.ListSessionsRequest(page_size=-1), "page_size"),
    ("ListSessions", sessions_pb2.ListSessionsRequest(page_size=1001), "page_size"),
    ("ListSessions", sessions_pb2.ListSessionsRequest(page_token="garbage"), "page_token"),
    ("ListSessions", sessions_pb2.ListSessionsRequest(page_token=HUGE), "page_token"),
    ("KickSession", sessions_pb2.KickSessionRequest(), "session_id"),
    ("KickSession", sessions_pb2.KickSessionRequest(session_id=LONG), "session_id"),
    ("KickSession", sessions_pb2.KickSessionRequest(session_id="x", reason="x" * 1025), "reason"),
    ("Revoke", revocation_pb2.RevokeRequest(), "scope"),
    ("Revoke", revocation_pb2.RevokeRequest(everyone=False), "everyone"),
    ("Revoke", revocation_pb2.RevokeRequest(subject=""), "subject"),
    ("Revoke", revocation_pb2.RevokeRequest(subject=LONG), "subject"),
    ("Revoke", revocation_pb2.RevokeRequest(session_id=""), "session_id"),
    ("Revoke", revocation_pb2.RevokeRequest(client_id="\x1b[2J"), "client_id"),
    ("Revoke", revocation_pb2.RevokeRequest(audience=""), "audience"),
    ("Revoke", revocation_pb2.RevokeRequest(subject="alice", reason="two\nlines"), "reason"),
]


@pytest.mark.parametrize(("method", "request_", "field"), BAD_FIELDS)
def test_a_bad_field_is_named(api: Api, method: str, request_: Any, field: str) -> None:
    failure = api.failure(method, request_)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (failure.details() or "").startswith(f"{field} ")
    assert _violations(failure) == [field]


def _violations(failure: grpc.Call) -> list[str]:
    for key, value in failure.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            assert isinstance(value, bytes)
            bad = error_details_pb2.BadRequest()
            assert status_pb2.Status.FromString(value).details[0].Unpack(bad)
            return [violation.field for violation in bad.field_violations]
    return []


class TestLogin:
    """Trading passwords and secrets for credentials."""

    def test_a_password_gives_tokens(self, api: Api) -> None:
        credentials = api.login(scopes=["shop.read"], audiences=["storefront"])
        claims = claims_of(credentials.access_token)
        assert (claims["sub"], claims["scope"], claims["aud"]) == ("alice", "shop.read", ["storefront"])
        assert credentials.refresh_token.startswith("cmr_")
        assert not credentials.session_token

    def test_a_password_gives_an_opaque_session_to_who_asks_for_one(self, api: Api) -> None:
        credentials = api.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION)
        assert credentials.session_token.startswith("cms_")
        assert not credentials.access_token
        who = api.call("WhoAmI", auth_pb2.WhoAmIRequest(), token=credentials.session_token)
        assert who.identity.subject == "alice"
        assert who.identity.session_id == credentials.session_id

    def test_a_wrong_password_and_an_unknown_user_look_the_same(self, api: Api) -> None:
        failures = [api.failure("Login", _login("carol", "wrong")), api.failure("Login", _login("nobody", "wrong"))]
        first, second = ((one.code(), one.details(), one.trailing_metadata()) for one in failures)
        assert first == second
        assert reason_of(first[2]) is Reason.CREDENTIAL_INVALID

    def test_a_wrong_secret_and_an_unknown_client_look_the_same(self, api: Api) -> None:
        secret = OpaqueToken.generate(OpaqueKind.CLIENT_SECRET).text()
        requests = [_client_login("operator", secret), _client_login("nobody", secret), _client_login("operator", "x")]
        answers = [api.failure("Login", request) for request in requests]
        assert {answer.details() for answer in answers} == {Reason.CREDENTIAL_INVALID.message}
        assert {answer.code() for answer in answers} == {grpc.StatusCode.UNAUTHENTICATED}

    def test_guessing_is_slowed(self, api: Api) -> None:
        reasons = [api.reason("Login", _login("mallory", f"guess {number}")) for number in range(7)]
        assert reasons == [Reason.CREDENTIAL_INVALID] * 5 + [Reason.RATE_LIMITED] * 2

    def test_asking_for_more_than_is_held_is_refused(self, api: Api) -> None:
        assert api.reason("Login", _login(scopes=["credmesh.revoke"])) is Reason.SCOPE_MISSING
        assert api.reason("Login", _login(audiences=["vault"])) is Reason.AUDIENCE_MISMATCH

    def test_signing_in_and_being_refused_are_audited(self, api: Api, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level("INFO", "credmesh.audit"):
            credentials = api.login("bob")
            api.failure("Login", _login("bob", "wrong"))
        lines = [record.__dict__ for record in caplog.records if record.message == "login"]
        good, bad = (line for line in lines if line["subject"] == "bob")
        assert (good["outcome"], good["session_id"]) == ("ok", credentials.session_id)
        assert (bad["outcome"], bad["reason"], bad["cause"]) == ("refused", "CREDENTIAL_INVALID", "wrong password")
        assert good["peer"]


class TestRefresh:
    """Trading refresh tokens."""

    def test_a_refresh_token_buys_the_next_credentials(self, api: Api) -> None:
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


class TestLogout:
    """Ending one's own session."""

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

    def test_a_token_that_is_none_of_ours_ends_nothing_and_is_no_error(self, api: Api) -> None:
        forged = jwt.encode(claims_of(api.login().access_token), "x" * 32, algorithm="HS256")
        strangers = ["garbage", "a.b.c", "ü", forged, *(OpaqueToken.generate(kind).text() for kind in OpaqueKind)]
        for stranger in strangers:
            assert api.call("Logout", auth_pb2.LogoutRequest(token=stranger), token="").revision == 0
        assert api.call("Logout", auth_pb2.LogoutRequest(token=api.operator()), token="").revision == 0


class TestIntrospect:
    """Asking what a credential is."""

    def _introspect(self, api: Api, token: str) -> auth_pb2.IntrospectResponse:
        response = api.call("Introspect", auth_pb2.IntrospectRequest(token=token))
        assert isinstance(response, auth_pb2.IntrospectResponse)
        return response

    def test_good_credentials_of_every_kind_are_active(self, api: Api) -> None:
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
        # Looking at it has not used it up.
        api.call("Refresh", auth_pb2.RefreshRequest(refresh_token=tokens.refresh_token), token="")

    def test_what_is_revoked_is_inactive_from_the_very_commit_on(self, api: Api) -> None:
        """No matter how far behind the node of the asked replica may be."""
        tokens = api.login("bob")
        opaque = api.login("bob", kind=auth_pb2.CREDENTIAL_KIND_SESSION)
        api.replica.revoke(subject_scope("bob"))
        for token in (tokens.access_token, tokens.refresh_token, opaque.session_token):
            assert self._introspect(api, token) == auth_pb2.IntrospectResponse()

    def test_everything_else_is_inactive_and_says_nothing(self, api: Api) -> None:
        for token in ("garbage", "ü", api.operator_secret, OpaqueToken.generate(OpaqueKind.REFRESH).text()):
            assert self._introspect(api, token) == auth_pb2.IntrospectResponse()

    def test_only_who_may_ask_is_answered(self, api: Api) -> None:
        request = auth_pb2.IntrospectRequest(token="x")
        assert api.reason("Introspect", request, token=api.login().access_token) is Reason.SCOPE_MISSING
        assert api.reason("Introspect", request, token="") is Reason.CREDENTIAL_MISSING


class TestResolveSession:
    """What nodes ask about opaque sessions."""

    def test_a_good_session_is_resolved_and_a_bad_one_is_an_answer_too(self, api: Api) -> None:
        token = OpaqueToken.parse(api.login(kind=auth_pb2.CREDENTIAL_KIND_SESSION).session_token)
        request = auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
        assert api.call("ResolveSession", request).identity.subject == "alice"
        request.secret_sha256 = b"x" * 32
        assert api.call("ResolveSession", request).refusal == "CREDENTIAL_INVALID"


class TestKeySet:
    """The keys, for verifiers that are not ours."""

    def test_another_library_verifies_our_tokens_by_them(self, api: Api) -> None:
        answer = api.call("GetKeySet", auth_pb2.GetKeySetRequest(), token="")
        token = api.login().access_token
        kid = jwt.get_unverified_header(token)["kid"]
        (found,) = [key for key in answer.keys if key.kid == kid]
        members = {field.name: value for field, value in found.ListFields()}
        claims = jwt.decode(token, jwt.PyJWK(members), algorithms=["EdDSA"], audience="storefront", issuer=ISSUER)
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

    def test_a_session_is_listed_with_all_that_an_operator_asks_about(self, api: Api) -> None:
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
        assert api.reason("Refresh", refresh, token="") is Reason.CREDENTIAL_REVOKED
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

    def test_what_is_issued_after_a_revocation_is_good(self, api: Api) -> None:
        before = api.login("carol").access_token
        api.call("Revoke", revocation_pb2.RevokeRequest(subject="carol"))
        after = api.login("carol").access_token
        api.caught_up()
        assert api.reason("WhoAmI", auth_pb2.WhoAmIRequest(), token=before) is Reason.CREDENTIAL_REVOKED
        assert api.call("WhoAmI", auth_pb2.WhoAmIRequest(), token=after).identity.subject == "carol"

    def test_only_who_may_revoke_does(self, api: Api) -> None:
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
        api.failure("Login", _login(password="a-wrong-password"))
    everything = "\n".join(str(record.__dict__) for record in caplog.records)
    secrets = [credentials.access_token, credentials.refresh_token, second.credentials.refresh_token, opaque]
    assert everything
    for secret in [*secrets, ALICE_PASSWORD, "a-wrong-password"]:
        assert secret not in everything
