"""Credentials with real replicas of the auth service: logins, refreshes and revocations."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
import pytest

from credmesh.admin.v1 import revocation_pb2, revocation_pb2_grpc
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.client import (
    AioCredentials,
    ClientSecret,
    Credentials,
    PasswordLogin,
    RefreshTokenLogin,
    aio_channel,
    channel,
)
from localmesh.certs import Certificates, development_certificates
from localmesh.etcd.process import EtcdProcess
from tests.interceptors.client.auth_server import reason_in
from tests.support.processes import AuthProcess, seed
from tests.support.waiting import wait_until

ALICE = PasswordLogin("alice", "alice-password", audiences=("credmesh.auth",))


@dataclass(frozen=True)
class Auth:
    """Two replicas that serve over TLS."""

    first: AuthProcess
    second: AuthProcess
    certificates: Certificates
    secrets: dict[str, str]

    @property
    def target(self) -> str:
        return f"{self.first.target},{self.second.target}"

    def channel(self, credentials: Credentials | None = None) -> grpc.Channel:
        return channel(self.target, ca_file=self.certificates.ca_file, credentials=credentials)

    def revoke(self, subject: str) -> None:
        """Revokes a subject, as an operator does."""
        operator = ClientSecret("operator", self.secrets["operator"])
        with (
            self.channel() as login,
            Credentials(operator, login) as credentials,
            self.channel(credentials) as made,
        ):
            revocation_pb2_grpc.RevocationServiceStub(made).Revoke(
                revocation_pb2.RevokeRequest(subject=subject, reason="test"), timeout=20
            )


@pytest.fixture(scope="module")
def replicas(etcd: EtcdProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Auth]:
    certificates = development_certificates(tmp_path_factory.mktemp("tls"))
    settings = etcd.settings(f"/{uuid.uuid4().hex}/")
    secrets = seed(settings)
    environ = {"CREDMESH_TOKEN_LIFETIME": "2"}
    with (
        AuthProcess(settings, tls=certificates, environ=environ) as first,
        AuthProcess(settings, tls=certificates, environ=environ) as second,
    ):
        yield Auth(first, second, certificates, secrets)


@pytest.fixture
def auth(replicas: Auth) -> Auth:
    """The replicas that this worker's tests share. One that a test has killed is started again."""
    for replica in (replicas.first, replicas.second):
        if not replica.alive:
            replica.start()
    return replicas


def who(made: grpc.Channel) -> str:
    answer = auth_pb2_grpc.AuthServiceStub(made).WhoAmI(auth_pb2.WhoAmIRequest(), timeout=20)
    return answer.identity.subject


def answers(made: grpc.Channel) -> bool:
    try:
        return who(made) == "alice"
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
        return False  # the connection to a killed replica breaks under a call once


def test_calls_survive_refreshes_a_revocation_and_a_dead_replica(auth: Auth) -> None:
    kept: list[auth_pb2.Credentials] = []
    with (
        auth.channel() as login,
        Credentials(ALICE, login, on_rotate=kept.append) as alice,
        auth.channel(alice) as made,
        ThreadPoolExecutor(4) as pool,
    ):
        done = threading.Event()

        def call_on() -> int:
            calls = 0
            while not done.is_set():
                assert who(made) == "alice"
                calls += 1
            return calls

        callers = [pool.submit(call_on) for _ in range(4)]
        try:
            wait_until(lambda: len(kept) >= 3 or any(caller.done() for caller in callers), what="two refreshes")
            assert len({one.session_id for one in kept}) == 1
            assert alice.session_id == kept[0].session_id
            # The revocation ends her session. Her client has the password, so the refused calls sign in and go on.
            auth.revoke("alice")
            wait_until(lambda: alice.session_id != kept[0].session_id)
        finally:
            done.set()
        assert sum(caller.result(20) for caller in callers) > 10

        auth.first.kill()
        before = len(kept)

        def use() -> bool:
            # A token in use is refreshed, even if the replica that issued it is dead.
            alice.token()
            return len(kept) > before

        wait_until(use, timeout=20, what="a refresh by the other replica")
        assert kept[-1].session_id == kept[before - 1].session_id
        wait_until(lambda: answers(made), what="a call to the other replica")


def test_a_refresh_token_continues_a_session_until_its_revocation(auth: Auth) -> None:
    kept: list[auth_pb2.Credentials] = []
    with auth.channel() as login:
        with Credentials(ALICE, login, on_rotate=kept.append) as alice:
            alice.token()
        with (
            Credentials(RefreshTokenLogin(kept[-1].refresh_token), login, on_rotate=kept.append) as resumed,
            auth.channel(resumed) as made,
        ):
            assert who(made) == "alice"
            assert resumed.session_id == kept[0].session_id
            auth.revoke("alice")

            def refused() -> grpc.RpcError | None:
                try:
                    who(made)
                except grpc.RpcError as error:
                    return error
                return None

            error = wait_until(refused)
            assert error is not None
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
            assert reason_in(error) is not None


def test_an_opaque_session_serves_aio_calls_and_survives_a_revocation(auth: Auth) -> None:
    async def test() -> None:
        ca_file = auth.certificates.ca_file
        opaque = PasswordLogin("bob", "bob-password", audiences=("credmesh.auth",), opaque=True)
        async with (
            aio_channel(auth.target, ca_file=ca_file) as login,
            AioCredentials(opaque, login) as bob,
            aio_channel(auth.target, ca_file=ca_file, credentials=bob) as made,
        ):
            stub = auth_pb2_grpc.AuthServiceStub(made)
            answers = await asyncio.gather(*(stub.WhoAmI(auth_pb2.WhoAmIRequest(), timeout=20) for _ in range(50)))
            assert {answer.identity.subject for answer in answers} == {"bob"}
            assert {answer.identity.session_id for answer in answers} == {bob.session_id}
            assert (await bob.token()).startswith("cms_")
            await asyncio.to_thread(auth.revoke, "bob")
            answer = await stub.WhoAmI(auth_pb2.WhoAmIRequest(), timeout=20)
            assert answer.identity.subject == "bob"

    asyncio.run(test())


def test_a_wrong_password_is_the_callers_error(auth: Auth) -> None:
    with (
        auth.channel() as login,
        Credentials(PasswordLogin("alice", "wrong"), login) as alice,
        auth.channel(alice) as made,
    ):
        with pytest.raises(grpc.RpcError) as error:
            who(made)
        assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
        reason = reason_in(error.value)
        assert reason is not None
        assert error.value.details() == reason.message
