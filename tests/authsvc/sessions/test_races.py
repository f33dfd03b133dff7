"""Concurrent logins, refreshes and revocations (I3, I4), and an etcd that crashes meanwhile (I5).

The checks rest on revisions, not on the order in which threads ran: a credential that was authenticated at revision A
and has epoch E must not have been revoked at a revision in (A, E], since it would survive that revocation.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

import pytest

from authsvc.accounts.passwords import Passwords
from authsvc.accounts.principal import Account
from authsvc.settings import AuthSettings
from credmesh.auth.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import EtcdClient, EtcdUnavailable
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import EVERYONE, audience_scope, client_scope, session_scope, subject_scope
from localmesh.etcd.process import EtcdProcess
from tests.support.replica import ALICE_PASSWORD, AUDIENCES, SCOPES, Clock, Replica, claims_of
from tests.support.waiting import wait_until

SCOPES_OF_ALICE = [
    EVERYONE,
    subject_scope("alice"),
    client_scope("password"),
    audience_scope("inventory"),
    audience_scope("storefront"),
]


@dataclass
class Observed:
    """What the threads have observed. They append to the lists without a lock, which is safe in CPython."""

    revoked: list[int] = field(default_factory=list)
    issued: list[tuple[int, int, str]] = field(default_factory=list)  # revision before the authentication, epoch, token
    refused: int = 0

    def survivors(self) -> list[tuple[int, int, int]]:
        """Tokens that survived a revocation: the revisions of authentication and revocation, and the epoch."""
        return [
            (since, revision, epoch)
            for since, epoch, _ in self.issued
            for revision in self.revoked
            if since < revision <= epoch
        ]


def _together(*works: Callable[[], None]) -> None:
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result()


def _revision(replica: Replica) -> int:
    return replica.etcd.read(replica.layout.signing).revision


@pytest.fixture
def replica(refreshing: Replica) -> Replica:
    """A replica of either kind."""
    return refreshing


def test_no_login_survives_a_revocation_that_it_crossed(replica: Replica, node: MeshNode) -> None:
    observed = Observed()
    replicas = [replica, replica.another()]
    logins_left = threading.Semaphore(60)
    done = threading.Event()

    def sign_in(mine: Replica, kind: auth_pb2.CredentialKind.ValueType) -> Callable[[], None]:
        def work() -> None:
            while logins_left.acquire(blocking=False):
                since = 0

                def authenticate() -> Account:
                    nonlocal since
                    since = _revision(mine)
                    return mine.alice()

                try:
                    credentials = mine.login(authenticate, kind=kind)
                except Refusal as refusal:
                    assert refusal.reason is Reason.MESH_NOT_READY  # noqa: PT017 -- revocations never stop: retry
                    observed.refused += 1
                    continue
                if credentials.access_token:
                    observed.issued.append(
                        (since, claims_of(credentials.access_token)["epoch"], credentials.access_token)
                    )
                else:
                    record = mine.record(credentials.session_id)
                    if record is not None:
                        observed.issued.append((since, record.epoch, ""))
            done.set()

        return work

    def revoke() -> None:
        while not done.is_set():
            observed.revoked.append(replica.revoke(random.choice(SCOPES_OF_ALICE)))  # noqa: S311
            done.wait(random.uniform(0, 0.02))  # noqa: S311

    tokens, session = auth_pb2.CREDENTIAL_KIND_TOKENS, auth_pb2.CREDENTIAL_KIND_SESSION
    _together(*(sign_in(mine, kind) for mine in replicas for kind in (tokens, session)), revoke)
    assert len(observed.revoked) > 5
    assert len(observed.issued) > 10, "the race did not happen: every login was refused"
    assert observed.survivors() == []
    # Nodes agree: after a last revocation no token is accepted.
    last = replica.revoke(EVERYONE)
    wait_until(lambda: node.bundle.revision >= last)
    for token in filter(None, (token for _, _, token in observed.issued)):
        with pytest.raises(Refusal):
            node.verify(token)


def test_no_session_survives_a_revocation_by_being_refreshed(replica: Replica) -> None:
    observed = Observed()
    replicas = [replica, replica.another()]
    refreshes_left = threading.Semaphore(150)
    done = threading.Event()

    def refresh(mine: Replica) -> None:
        while not done.is_set():
            try:
                credentials = mine.login()
            except Refusal as refusal:
                assert refusal.reason is Reason.MESH_NOT_READY  # noqa: PT017 -- revocations never stop: retry
                continue
            while refreshes_left.acquire(blocking=False):
                # The epochs of the session form a chain, of which no link may cross a revocation.
                since = claims_of(credentials.access_token)["epoch"]
                try:
                    credentials = mine.refresh(credentials.refresh_token)
                except Refusal as refusal:
                    assert refusal.reason in (Reason.CREDENTIAL_REVOKED, Reason.MESH_NOT_READY)  # noqa: PT017
                    observed.refused += 1
                    break
                observed.issued.append((since, claims_of(credentials.access_token)["epoch"], credentials.access_token))
            else:
                done.set()

    def revoke() -> None:
        while not done.is_set():
            observed.revoked.append(replica.revoke(random.choice(SCOPES_OF_ALICE)))  # noqa: S311
            done.wait(random.uniform(0, 0.03))  # noqa: S311

    _together(*(partial(refresh, mine) for mine in replicas * 2), revoke)
    assert observed.refused > 0, "no revocation ever crossed a refresh"
    assert len(observed.issued) > 10
    assert observed.survivors() == []


def test_a_shared_session_ends_for_all_of_its_holders_or_for_none(replica: Replica) -> None:
    """Eight threads refresh one session concurrently; then it is ended while they do."""
    replicas = [replica, replica.another()]
    first = replica.login()
    kicked = threading.Event()
    rounds = threading.Barrier(9, timeout=20)
    outcomes: list[set[str]] = [set() for _ in range(20)]

    def hold(number: int) -> None:
        token = first.refresh_token
        for outcome in outcomes:
            rounds.wait()
            try:
                token = replicas[number % 2].refresh(token).refresh_token
                outcome.add(token)
            except Refusal as refusal:
                outcome.add(refusal.reason.name)
            rounds.wait()

    def kick() -> None:
        for number in range(len(outcomes)):
            rounds.wait()
            if number == 12:
                assert replica.sessions.end(first.session_id, actor="test", reason="test")
                kicked.set()
            rounds.wait()

    _together(*(partial(hold, number) for number in range(8)), kick)
    for outcome in outcomes[:12]:
        assert len(outcome) == 1, "threads of one session got different tokens"
        assert outcome.pop().startswith("cmr_")
    for outcome in outcomes[13:]:
        assert outcome == {"CREDENTIAL_INVALID"}
    assert replica.record(first.session_id) is None
    assert replica.epoch(session_scope(first.session_id)) > 0


def test_a_thief_and_the_owner_cannot_both_continue(replica: Replica, clock: Clock) -> None:
    """The second of them to refresh, outside the grace window, ends the session for both."""
    stolen = replica.login()
    owner = replica.refresh(stolen.refresh_token)
    clock.ahead += replica.settings.refresh_grace + 1
    barrier = threading.Barrier(2, timeout=20)
    outcomes: list[str] = []

    def use(token: str) -> None:
        barrier.wait()
        try:
            replica.refresh(token)
            outcomes.append("refreshed")
        except Refusal as refusal:
            outcomes.append(refusal.reason.name)

    _together(lambda: use(stolen.refresh_token), lambda: use(owner.refresh_token))
    assert "CREDENTIAL_REVOKED" in outcomes
    assert replica.record(stolen.session_id) is None


def test_a_refresh_survives_a_crash_of_etcd(
    own_etcd: EtcdProcess, passwords: Passwords, settings: AuthSettings
) -> None:
    """I5: a client without an answer retries, and is neither logged out nor treated as a thief."""
    mesh = replace(settings.mesh, etcd=replace(own_etcd.settings("/mesh/"), timeout=0.5))
    with EtcdClient(mesh.etcd) as etcd:
        replica = Replica(etcd, replace(settings, mesh=mesh), passwords, Clock())
        replica.rotate()
        replica.accounts.create_user("alice", ALICE_PASSWORD, scopes=SCOPES, audiences=AUDIENCES)
        first = replica.login()
        second = replica.refresh(first.refresh_token)
        own_etcd.kill()
        with pytest.raises(EtcdUnavailable):
            replica.login()
        with pytest.raises(EtcdUnavailable):
            replica.refresh(second.refresh_token)
        own_etcd.start()
        wait_until(lambda: _answers(replica), what="etcd to answer again")
        assert replica.refresh(first.refresh_token).refresh_token == second.refresh_token
        assert replica.refresh(second.refresh_token).access_token
        assert replica.login().access_token


def _answers(replica: Replica) -> bool:
    try:
        return _revision(replica) > 0
    except EtcdUnavailable:
        return False
