"""For every field of the auth service's requests: an unknown, empty, huge or malformed value is named."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from credmesh.admin.v1 import revocation_pb2, sessions_pb2
from credmesh.auth.v1 import auth_pb2
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from tests.support.auth_api import Api, client_request, password_request

LONG = "x" * 257
HUGE = "x" * 20_000

BAD_FIELDS = [
    ("Login", auth_pb2.LoginRequest(), "grant"),
    ("Login", password_request(subject=""), "password.subject"),
    ("Login", password_request(subject=LONG), "password.subject"),
    ("Login", password_request(subject="al\nice"), "password.subject"),
    ("Login", password_request(password=""), "password.password"),
    ("Login", password_request(password=HUGE), "password.password"),
    ("Login", password_request(scopes=["two words"]), "scopes"),
    ("Login", password_request(scopes=[""]), "scopes"),
    ("Login", password_request(scopes=[f"s{number}" for number in range(257)]), "scopes"),
    ("Login", password_request(audiences=[""]), "audiences"),
    ("Login", password_request(audiences=[LONG]), "audiences"),
    ("Login", password_request(audiences=[f"a{number}" for number in range(33)]), "audiences"),
    ("Login", password_request(kind=77), "kind"),
    ("Login", client_request(client_id="", secret="x"), "client_credentials.client_id"),
    ("Login", client_request(secret=""), "client_credentials.client_secret"),
    ("Login", client_request(secret=HUGE), "client_credentials.client_secret"),
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
def test_an_invalid_field_is_named(api: Api, method: str, request_: Any, field: str) -> None:
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
