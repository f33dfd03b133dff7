"""When a renewal is due, and which credential a call gets, at given times."""

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


def empty_state(source: PasswordLogin | RefreshTokenLogin = ALICE) -> CredentialState:
    return CredentialState(source, random=lambda: 1.0)  # no jitter: each delay is as long as it can be


def state_with_credential(*, used: bool = True) -> CredentialState:
    state = empty_state()
    state.record_outcome(held(), 100)
    state.used = used
    return state


def test_nothing_is_due_before_the_first_call() -> None:
    assert empty_state().seconds_until_renewal(0) is None
    assert empty_state().usable_credential(0) is None


def test_a_used_credential_is_renewed_ahead_of_its_expiry() -> None:
    state = state_with_credential()
    assert state.seconds_until_renewal(50) == 150
    assert state.seconds_until_renewal(200) == 0


def test_an_unused_credential_lapses_so_that_an_idle_session_can_time_out() -> None:
    assert state_with_credential(used=False).seconds_until_renewal(200) is None


def test_a_credential_must_be_used_before_it_is_renewed_again() -> None:
    state = state_with_credential()
    state.record_outcome(held("next", refresh_at=400, expires_at=500), 100)
    assert state.seconds_until_renewal(300) == 100
    assert state.seconds_until_renewal(400) is None


def test_an_open_stream_keeps_its_session_alive() -> None:
    state = state_with_credential(used=False)
    state.stream_began()
    assert state.seconds_until_renewal(200) == 0
    assert state.seconds_until_renewal(301) == 0


def test_an_expired_credential_waits_for_the_next_call() -> None:
    assert state_with_credential().seconds_until_renewal(300) is None


def test_a_call_gets_a_good_credential_and_never_an_expired_one() -> None:
    state = state_with_credential()
    assert state.usable_credential(299) is state.held
    assert state.usable_credential(300) is None


def test_a_refused_call_never_gets_the_refused_credential_again() -> None:
    state = state_with_credential()
    old = state.held
    assert state.usable_credential(10, other_than=old) is None
    state.record_outcome(held("next"), 100)
    assert state.usable_credential(10, other_than=old) is state.held


def test_failed_renewals_back_off_while_the_credential_stays_in_use() -> None:
    state = state_with_credential()
    waits = []
    for _ in range(8):
        state.record_outcome(NoCredential(UNAVAILABLE), 250)
        waits.append(state.seconds_until_renewal(250))
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    assert state.usable_credential(250) is state.held


def test_a_call_retries_at_once_when_the_auth_service_was_unavailable() -> None:
    state = empty_state()
    state.record_outcome(NoCredential(UNAVAILABLE), 100)
    assert state.usable_credential(100) is None


@pytest.mark.parametrize("failure", [REFUSED, RenewalFailure(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many attempts")])
def test_a_refused_login_is_not_repeated_with_every_call(failure: RenewalFailure) -> None:
    state = empty_state()
    state.record_outcome(NoCredential(failure), 100)
    with pytest.raises(NoCredential) as error:
        state.usable_credential(100.9)
    assert error.value.failure is failure
    assert state.usable_credential(101) is None


def test_a_success_ends_a_series_of_failures() -> None:
    state = empty_state()
    assert state.record_outcome(NoCredential(REFUSED), 100)
    assert not state.record_outcome(NoCredential(REFUSED), 110)
    assert state.record_outcome(held(), 100)
    assert not state.record_outcome(held(), 100)
    assert state.record_outcome(NoCredential(REFUSED), 120)
    with pytest.raises(NoCredential):
        state.usable_credential(120.9, other_than=state.held)
    assert state.usable_credential(121, other_than=state.held) is None


def test_closed_credentials_stay_closed_when_a_renewal_succeeds() -> None:
    state = state_with_credential()
    state.close()
    assert not state.record_outcome(held("next"), 100)
    assert state.held is None
    with pytest.raises(NoCredential, match="closed"):
        state.usable_credential(100)


def test_an_ended_session_is_not_refreshed_again() -> None:
    state = empty_state(RefreshTokenLogin("refresh-0"))
    state.record_outcome(NoCredential(REFUSED), 100)
    with pytest.raises(NoCredential):
        state.usable_credential(1e9)


def test_a_server_that_refuses_every_call_causes_few_renewals() -> None:
    state = state_with_credential()
    assert sum(state.spend_refusal_allowance(100) for _ in range(1000)) == 20
    assert sum(state.spend_refusal_allowance(105) for _ in range(1000)) == 5
    assert sum(state.spend_refusal_allowance(1e6) for _ in range(1000)) == 20


def test_a_forked_child_never_uses_its_parents_refresh_token() -> None:
    state = state_with_credential()
    state.reset_after_fork()
    assert state.usable_credential(100) is state.held
    assert isinstance(next(state.renewal_flow()), auth_pb2.LoginRequest)


def test_a_forked_child_without_a_login_is_told_what_to_do() -> None:
    state = empty_state(RefreshTokenLogin("refresh-0"))
    state.record_outcome(held(), 100)
    state.reset_after_fork()
    assert state.usable_credential(100) is state.held
    with pytest.raises(NoCredential, match="after the fork"):
        state.usable_credential(300)


def test_a_credential_without_expiry_is_never_renewed_in_the_background() -> None:
    state = empty_state()
    state.record_outcome(held(refresh_at=math.inf, expires_at=math.inf), 100)
    state.used = True
    assert state.seconds_until_renewal(1e9) is None


def test_the_call_after_a_refused_stream_waits_for_a_new_credential() -> None:
    state = state_with_credential()
    refused = state.held
    assert refused is not None
    state.mark_refused(refused, 150, renewing=False)
    assert state.usable_credential(150) is None
    state.record_outcome(held("next"), 151)
    state.mark_refused(refused, 152, renewing=False)
    assert state.usable_credential(152) is state.held, "a late refusal of the old one leaves the new one in use"


def test_an_open_stream_renews_a_refused_credential_without_a_call() -> None:
    state = state_with_credential()
    state.stream_began()
    assert state.held is not None
    state.mark_refused(state.held, 150, renewing=False)
    assert state.seconds_until_renewal(150) == 0


def test_refused_streams_cause_no_more_renewals_than_refused_calls() -> None:
    state = state_with_credential()
    while state.spend_refusal_allowance(150):
        pass
    refused = state.held
    assert refused is not None
    state.mark_refused(refused, 150, renewing=False)
    assert state.usable_credential(150) is refused
    state.mark_refused(refused, 150, renewing=True)
    assert state.usable_credential(150) is None, "this renewal is under way already"


def test_a_refused_credential_is_used_again_if_the_auth_service_does_not_answer() -> None:
    """One server may refuse what others accept. A call that they refuse costs less than no call."""
    state = state_with_credential()
    refused = state.held
    assert refused is not None
    state.mark_refused(refused, 150, renewing=False)
    state.record_outcome(NoCredential(UNAVAILABLE), 151)
    assert state.usable_credential(151) is refused
    state.mark_refused(refused, 152, renewing=False)
    state.record_outcome(NoCredential(REFUSED), 153)
    with pytest.raises(NoCredential):
        state.usable_credential(153)


def test_a_forked_child_does_not_get_a_refused_credentials_refresh_token() -> None:
    state = state_with_credential()
    assert state.held is not None
    state.mark_refused(state.held, 150, renewing=False)
    state.reset_after_fork()
    state.record_outcome(NoCredential(UNAVAILABLE), 151)
    assert state.held.refresh_token == ""
