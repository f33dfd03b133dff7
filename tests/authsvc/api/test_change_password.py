"""Changing the caller's own password: permissions, the end of the sessions, and the limit on guessing."""

from __future__ import annotations

import uuid
from typing import Any

import grpc
import pytest

from credmesh.auth.v1 import auth_pb2
from interceptors.errors import Reason
from interceptors.scopes import subject_scope
from tests.support.auth_api import Api, password_request
from tests.support.waiting import wait_until

OLD, NEW = "the old password", "the new password"


@pytest.fixture
def user(api: Api) -> str:
    """A user that belongs to this test."""
    subject = f"user-{uuid.uuid4().hex[:12]}"
    api.replica.accounts.create_user(subject, OLD, scopes=["a", "b"], audiences=["credmesh.auth", "orders"])
    return subject


def signed_in(api: Api, user: str, password: str = OLD, **fields: object) -> auth_pb2.Credentials:
    credentials: auth_pb2.Credentials = api.call(
        "Login", password_request(user, password, **fields), token=""
    ).credentials
    return credentials


def change(old: str = OLD, new: str = NEW, **fields: Any) -> auth_pb2.ChangePasswordRequest:
    return auth_pb2.ChangePasswordRequest(old_password=old, new_password=new, **fields)


def who(api: Api, token: str) -> auth_pb2.Identity:
    identity: auth_pb2.Identity = api.call("WhoAmI", auth_pb2.WhoAmIRequest(), token=token).identity
    return identity


def test_the_new_password_replaces_the_old_one(api: Api, user: str) -> None:
    api.call("ChangePassword", change(), token=signed_in(api, user).access_token)
    assert api.reason("Login", password_request(user, OLD), token="") is Reason.CREDENTIAL_INVALID
    assert signed_in(api, user, NEW).access_token


def test_it_revokes_all_earlier_sessions_and_gives_the_caller_a_new_one(api: Api, user: str) -> None:
    other, mine = signed_in(api, user), signed_in(api, user, scopes=["a"], audiences=["credmesh.auth"])
    answer = api.call("ChangePassword", change(), token=mine.access_token)
    key = api.replica.layout.user(user)
    stored = api.replica.etcd.read(key).values[key]
    assert answer.revision == api.replica.epoch(subject_scope(user)) == stored.mod_revision
    for before in (other, mine):
        request = auth_pb2.RefreshRequest(refresh_token=before.refresh_token)
        assert api.reason("Refresh", request, token="") is Reason.CREDENTIAL_REVOKED
        wait_until(lambda token=before.access_token: _revoked(api, token))  # type: ignore[misc]
    now = who(api, answer.credentials.access_token)
    assert (now.subject, list(now.scopes), list(now.audiences)) == (user, ["a"], ["credmesh.auth"])
    assert now.session_id not in ("", mine.session_id, other.session_id)
    api.call("Refresh", auth_pb2.RefreshRequest(refresh_token=answer.credentials.refresh_token), token="")


def _revoked(api: Api, token: str) -> bool:
    try:
        who(api, token)
    except grpc.RpcError:
        return api.reason("WhoAmI", auth_pb2.WhoAmIRequest(), token=token) is Reason.CREDENTIAL_REVOKED
    return False


def test_an_opaque_session_is_replaced_by_an_opaque_session(api: Api, user: str) -> None:
    session = auth_pb2.CREDENTIAL_KIND_SESSION
    before = signed_in(api, user, kind=session)
    answer = api.call("ChangePassword", change(kind=session), token=before.session_token)
    assert who(api, answer.credentials.session_token).subject == user


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (change(old=""), "old_password"),
        (change(old="wrong password"), "old_password"),
        (change(new="short"), "new_password"),
        (change(new="x" * 1025), "new_password"),
        (change(new=OLD), "new_password"),
        (change(kind=7), "kind"),
    ],
)
def test_an_invalid_field_changes_nothing_and_ends_nothing(
    api: Api, user: str, request_: auth_pb2.ChangePasswordRequest, field: str
) -> None:
    mine = signed_in(api, user)
    failure = api.failure("ChangePassword", request_, token=mine.access_token)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (failure.details() or "").startswith(f"{field} ")
    api.caught_up()
    assert who(api, mine.access_token).subject == user
    assert signed_in(api, user).access_token


def test_guessing_with_a_stolen_session_is_slowed_like_a_login(api: Api, user: str) -> None:
    stolen = signed_in(api, user).access_token
    codes = [api.failure("ChangePassword", change(old=f"guess {n}"), token=stolen).code() for n in range(7)]
    assert codes == [grpc.StatusCode.INVALID_ARGUMENT] * 5 + [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert api.reason("Login", password_request(user, OLD), token="") is Reason.RATE_LIMITED


def test_a_client_and_a_caller_without_credential_have_no_password(api: Api) -> None:
    failure = api.failure("ChangePassword", change())
    assert failure.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "a client has no password" in (failure.details() or "")
    assert api.reason("ChangePassword", change(), token="") is Reason.CREDENTIAL_MISSING


def test_it_is_audited_without_a_password(api: Api, user: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        mine = signed_in(api, user)
        api.failure("ChangePassword", change(old="a wild guess"), token=mine.access_token)
        answer = api.call("ChangePassword", change(), token=mine.access_token)
    lines = [record.__dict__ for record in caplog.records if record.message == "user.password"]
    assert [(line["actor"], line["user"], line["outcome"]) for line in lines] == [
        (user, user, "refused"),
        (user, user, "ok"),
    ]
    assert lines[1]["revision"] == answer.revision
    everything = "\n".join(str(vars(record)) for record in caplog.records)
    for secret in (OLD, NEW, "a wild guess", answer.credentials.access_token):
        assert secret not in everything
