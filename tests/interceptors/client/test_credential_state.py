"""When a renewal is due, and when it is not, at chosen moments."""

from __future__ import annotations

import math

import grpc
import pytest

from credmesh.auth.v1 import auth_pb2
from interceptors.client.credential_state import CredentialState
from interceptors.client.renewal import HeldCredential, NoCredential, RenewalFailure
from interceptors.client.sources import PasswordLogin, RefreshTokenLogin

ALICE = PasswordLogin("alice", "alice-password")
REFUSED = RenewalFailure(grpc.StatusCode.UNAUTHENTICATED, "not valid")
UNAVAILABLE = RenewalFailure(grpc.StatusCode.UNAVAILABLE, "connection refused")


def held(text: str = "token", *, refresh_at: float = 200, expires_at: float = 300) -> HeldCredential:
    return HeldCredential(text, (), refresh_at=refresh_at, expires_at=expires_at, refresh_token="refresh")


def keeping(source: PasswordLogin | RefreshTokenLogin = ALICE) -> CredentialState:
    return CredentialState(source, random=lambda: 0.5)


def holding(*, used: bool = True) -> CredentialState:
    made = keeping()
    made.succeeded(held())
    made.used = used
    return made


def test_nothing_is_due_before_the_first_call() -> None:
    assert keeping().due(0) is None
    assert keeping().settled(None, 0) is None


def test_a_used_credential_is_renewed_ahead_of_its_expiry() -> None:
    made = holding()
    assert made.due(50) == 150
    assert made.due(200) == 0


def test_an_unused_credential_lapses_so_that_an_idle_session_can_time_out() -> None:
    assert holding(used=False).due(200) is None


def test_each_renewal_needs_a_use_of_its_own() -> None:
    made = holding()
    made.succeeded(held("next", refresh_at=400, expires_at=500))
    assert made.due(300) == 100
    assert made.due(400) is None


def test_an_open_stream_keeps_its_session_alive() -> None:
    made = holding(used=False)
    made.streams = 1
    assert made.due(200) == 0
    assert made.due(301) == 0


def test_an_expired_credential_waits_for_the_next_call() -> None:
    assert holding().due(300) is None


def test_a_good_credential_is_given_and_an_expired_one_is_not() -> None:
    made = holding()
    assert made.settled(None, 299) is made.held
    assert made.settled(None, 300) is None


def test_whoever_was_refused_gets_only_another_credential() -> None:
    made = holding()
    old = made.held
    assert made.settled(old, 10) is None
    made.succeeded(held("next"))
    assert made.settled(old, 10) is made.held


def test_a_failed_renewal_is_tried_again_ever_more_slowly_while_the_credential_goes_on() -> None:
    made = holding()
    waits = []
    for _ in range(8):
        made.failed(UNAVAILABLE, 250)
        waits.append(made.due(250))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert made.settled(None, 250) is made.held


def test_a_call_asks_again_at_once_where_the_auth_service_was_only_away() -> None:
    made = keeping()
    made.failed(UNAVAILABLE, 100)
    assert made.settled(None, 100) is None


@pytest.mark.parametrize("failure", [REFUSED, RenewalFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many attempts")])
def test_a_refused_login_is_not_repeated_with_every_call(failure: RenewalFailure) -> None:
    made = keeping()
    made.failed(failure, 100)
    with pytest.raises(NoCredential) as unobtained:
        made.settled(None, 100.9)
    assert unobtained.value.failure is failure
    assert made.settled(None, 101) is None


def test_success_forgets_the_failures_before_it() -> None:
    made = keeping()
    assert made.failed(REFUSED, 100)
    assert not made.failed(REFUSED, 110)
    assert made.succeeded(held())
    assert not made.succeeded(held())
    assert made.failed(REFUSED, 120)
    with pytest.raises(NoCredential):
        made.settled(made.held, 120.9)
    assert made.settled(made.held, 121) is None


def test_a_session_that_is_over_is_over() -> None:
    made = keeping(RefreshTokenLogin("refresh-0"))
    made.failed(REFUSED, 100)
    with pytest.raises(NoCredential):
        made.settled(None, 1e9)


def test_a_server_that_refuses_everything_does_not_set_off_a_renewal_per_call() -> None:
    made = holding()
    assert sum(made.may_follow_refusal(100) for _ in range(1000)) == 20
    assert sum(made.may_follow_refusal(105) for _ in range(1000)) == 5
    assert sum(made.may_follow_refusal(1e6) for _ in range(1000)) == 20


def test_a_forked_child_never_uses_its_parents_refresh_token() -> None:
    made = holding()
    made.forked()
    assert made.settled(None, 100) is made.held
    assert isinstance(next(made.renewal()), auth_pb2.LoginRequest)


def test_a_forked_child_of_a_refresh_token_says_what_to_do() -> None:
    made = keeping(RefreshTokenLogin("refresh-0"))
    made.succeeded(held())
    made.forked()
    assert made.settled(None, 100) is made.held
    with pytest.raises(NoCredential, match="after the fork"):
        made.settled(None, 300)


def test_a_credential_without_an_end_is_never_renewed_ahead() -> None:
    made = keeping()
    made.succeeded(held(refresh_at=math.inf, expires_at=math.inf))
    made.used = True
    assert made.due(1e9) is None
