"""One renewal, driven step by step: without a network, a clock or threads."""

from __future__ import annotations

import math
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from credmesh.auth.v1 import auth_pb2
from interceptors.client.renewal import (
    Granted,
    HeldCredential,
    NoCredential,
    Pause,
    RenewalFailure,
    RenewalFlow,
    renew,
)
from interceptors.client.sources import ClientSecret, PasswordLogin, RefreshTokenLogin
from interceptors.errors import Reason, trailing_metadata

ALICE = PasswordLogin("alice", "alice-password", audiences=("orders",), scopes=("shop.read",))
UNAVAILABLE = RenewalFailure(grpc.StatusCode.UNAVAILABLE, "connection refused")


def refused(reason: Reason) -> RenewalFailure:
    return RenewalFailure.of(reason.status, reason.message, trailing_metadata(reason))


def credentials(text: str = "token", *, expires_in: float = 300, **fields: Any) -> auth_pb2.Credentials:
    duration = Duration()
    duration.FromNanoseconds(round(expires_in * 1e9))
    return auth_pb2.Credentials(access_token=text, expires_in=duration, **fields)


def granted(text: str = "token", *, sent_at: float = 1000.0, received_at: float = 1001.0, **fields: Any) -> Granted:
    return Granted(credentials(text, **fields), sent_at=sent_at, received_at=received_at)


def half() -> float:
    return 0.5


def ended(flow: RenewalFlow, reply: Granted | RenewalFailure | None) -> HeldCredential:
    """Sends the last outcome, and returns what the flow returns."""
    with pytest.raises(StopIteration) as stop:
        flow.send(reply)
    held = stop.value.value
    assert isinstance(held, HeldCredential)
    return held


def session(source: Any = ALICE, **fields: Any) -> HeldCredential:
    fields.setdefault("refresh_token", "refresh-1")
    flow = renew(source, None, random=half)
    next(flow)
    return ended(flow, granted("token-1", **fields))


def test_the_first_renewal_signs_in_with_the_sources_options() -> None:
    request = next(renew(ALICE, None, random=half))
    assert isinstance(request, auth_pb2.LoginRequest)
    assert request.password == auth_pb2.PasswordGrant(subject="alice", password="alice-password")
    assert list(request.audiences) == ["orders"]
    assert list(request.scopes) == ["shop.read"]
    assert request.kind == auth_pb2.CREDENTIAL_KIND_TOKENS


def test_a_client_signs_in_with_its_secret() -> None:
    request = next(renew(ClientSecret("services", "s3cret", opaque=True), None, random=half))
    assert isinstance(request, auth_pb2.LoginRequest)
    assert request.client_credentials.client_id == "services"
    assert request.client_credentials.client_secret == "s3cret"
    assert request.kind == auth_pb2.CREDENTIAL_KIND_SESSION


def test_a_refresh_token_is_used_once_and_then_its_successor() -> None:
    source = RefreshTokenLogin("refresh-0")
    flow = renew(source, None, random=half)
    assert next(flow) == auth_pb2.RefreshRequest(refresh_token="refresh-0")
    held = ended(flow, granted(refresh_token="refresh-1", session_id="s1"))
    assert held.session_id == "s1"
    assert next(renew(source, held, random=half)) == auth_pb2.RefreshRequest(refresh_token="refresh-1")


def test_a_session_is_refreshed_rather_than_replaced_by_a_login() -> None:
    flow = renew(ALICE, session(), random=half)
    assert next(flow) == auth_pb2.RefreshRequest(refresh_token="refresh-1")
    held = ended(flow, granted("token-2", refresh_token="refresh-2"))
    assert (held.token, held.refresh_token) == ("token-2", "refresh-2")
    assert held.metadata == (("authorization", "Bearer token-2"),)


def test_a_client_without_a_session_signs_in_again() -> None:
    source = ClientSecret("services", "s3cret")
    assert isinstance(next(renew(source, session(source, refresh_token=""), random=half)), auth_pb2.LoginRequest)


@pytest.mark.parametrize(
    "reason", [Reason.CREDENTIAL_INVALID, Reason.CREDENTIAL_EXPIRED, Reason.CREDENTIAL_REVOKED], ids=lambda r: r.name
)
def test_a_password_signs_in_once_after_its_session_has_ended(reason: Reason) -> None:
    flow = renew(ALICE, session(), random=half)
    next(flow)
    assert isinstance(flow.send(refused(reason)), auth_pb2.LoginRequest)
    with pytest.raises(NoCredential) as error:
        flow.send(refused(Reason.CREDENTIAL_INVALID))
    assert error.value.failure.reason is Reason.CREDENTIAL_INVALID


def test_a_refresh_token_alone_never_signs_in() -> None:
    flow = renew(RefreshTokenLogin("refresh-0"), None, random=half)
    next(flow)
    with pytest.raises(NoCredential) as error:
        flow.send(refused(Reason.CREDENTIAL_REVOKED))
    assert error.value.failure == refused(Reason.CREDENTIAL_REVOKED)


def test_an_unanswered_refresh_is_repeated_and_never_becomes_a_login() -> None:
    flow = renew(ALICE, session(), random=lambda: 1.0)
    request = next(flow)
    assert flow.send(UNAVAILABLE) == Pause(0.15)
    assert flow.send(None) == request
    assert flow.send(UNAVAILABLE) == Pause(0.3)
    assert flow.send(None) == request
    with pytest.raises(NoCredential) as error:
        flow.send(UNAVAILABLE)
    assert error.value.failure == UNAVAILABLE


def test_a_lost_response_costs_one_more_request() -> None:
    flow = renew(ALICE, session(), random=half)
    request = next(flow)
    flow.send(RenewalFailure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))
    assert flow.send(None) == request
    assert ended(flow, granted("token-2")).token == "token-2"


def test_a_rate_limit_is_neither_retried_nor_the_end_of_the_session() -> None:
    flow = renew(ALICE, session(), random=half)
    next(flow)
    with pytest.raises(NoCredential) as error:
        flow.send(refused(Reason.RATE_LIMITED))
    assert error.value.failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_expiry_is_counted_from_the_sending_of_the_request() -> None:
    held = session(sent_at=1000.0, received_at=1060.0)
    assert held.expires_at == 1300.0
    assert held.lifetime == 300.0


@given(
    lifetime=st.floats(1, 86400),
    delay=st.floats(0, 30),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_a_renewal_is_due_with_a_fifth_of_the_lifetime_left(lifetime: float, delay: float, chance: float) -> None:
    flow = renew(ALICE, None, random=lambda: chance)
    next(flow)
    held = ended(flow, granted(sent_at=1000.0, received_at=1000.0 + delay, expires_in=lifetime))
    assert held.refresh_at > 1000.0 + delay
    if delay < lifetime / 2 - 0.2:
        assert 1000 + 0.59 * lifetime <= held.refresh_at <= 1000 + 0.81 * lifetime


def test_clients_that_signed_in_together_do_not_renew_together() -> None:
    due = set()
    for chance in (0.0, 0.25, 0.5, 0.75):
        flow = renew(ALICE, None, random=lambda chance=chance: chance)  # type: ignore[misc]
        next(flow)
        due.add(ended(flow, granted()).refresh_at)
    assert due == {1180.0, 1195.0, 1210.0, 1225.0}


def test_an_opaque_session_is_sent_until_a_server_refuses_it() -> None:
    flow = renew(PasswordLogin("alice", "alice-password", opaque=True), None, random=half)
    next(flow)
    held = ended(flow, Granted(auth_pb2.Credentials(session_token="cms_x", session_id="s1"), 1000.0, 1001.0))
    assert held.token == "cms_x"
    assert math.isinf(held.refresh_at)
    assert math.isinf(held.expires_at)


def test_a_session_that_ends_soon_is_replaced_while_its_token_is_good() -> None:
    flow = renew(ALICE, session(), random=half)
    next(flow)
    last = ended(flow, granted("token-2", refresh_token="refresh-2", expires_in=100))
    assert last.session_ending
    assert isinstance(next(renew(ALICE, last, random=half)), auth_pb2.LoginRequest)


def test_without_a_login_a_session_is_refreshed_to_its_end() -> None:
    source = RefreshTokenLogin("refresh-0")
    flow = renew(source, session(source), random=half)
    next(flow)
    last = ended(flow, granted("token-2", refresh_token="refresh-2", expires_in=100))
    assert next(renew(source, last, random=half)) == auth_pb2.RefreshRequest(refresh_token="refresh-2")


def test_a_response_without_a_credential_is_a_failure() -> None:
    flow = renew(ALICE, None, random=half)
    next(flow)
    with pytest.raises(NoCredential, match="without a credential"):
        flow.send(granted(""))


def test_the_details_of_a_refusal_are_passed_on_unchanged() -> None:
    metadata = trailing_metadata(Reason.CREDENTIAL_REVOKED)
    failure = RenewalFailure.of(grpc.StatusCode.UNAUTHENTICATED, "was revoked", metadata)
    assert failure == RenewalFailure(grpc.StatusCode.UNAUTHENTICATED, "was revoked", metadata)


def test_the_details_of_any_other_failure_name_the_auth_service() -> None:
    failure = RenewalFailure.of(grpc.StatusCode.UNAVAILABLE, "connection refused", None)
    assert failure.details == "the auth service gave no credential: connection refused"


@pytest.mark.parametrize(
    "secret",
    [
        ALICE,
        ClientSecret("services", "alice-password"),
        RefreshTokenLogin("alice-password"),
        HeldCredential.of("alice-password"),
        Granted(credentials("alice-password", refresh_token="alice-password"), 0, 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_repr_shows_a_secret(secret: object) -> None:
    assert "alice-password" not in repr(secret)
