"""A client whose secret is in a file: it takes a new secret without a restart. Sync and aio."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from credmesh.auth.v1 import auth_pb2
from interceptors.client import AioCredentials, ClientSecret, Credentials
from interceptors.client.renewal import Granted, NoCredential, ReadSecret, RenewalFailure, SecretRead, renew
from interceptors.errors import Reason
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.interceptors.client.conftest import Connect


@pytest.fixture
def file(world: World, tmp_path: Path) -> Path:
    """The file of a client. The auth service knows the secret that it holds at first."""
    made = tmp_path / "secret"
    made.write_text("first\n")
    world.client_secret = "first"
    return made


@pytest.fixture
def source(file: Path) -> ClientSecret:
    return ClientSecret("orders", client_secret_file=file, opaque=True)


def secrets_sent(world: World) -> list[str]:
    return [login.client_credentials.client_secret for login in world.logins]


def test_a_new_secret_in_the_file_is_used_without_a_restart(
    world: World, auth: grpc.Channel, connect: Connect, file: Path, source: ClientSecret
) -> None:
    with Credentials(source, auth) as credentials:
        unary = methods(connect(credentials))[0]
        assert unary(b"x") == b"token-1: x"
        file.write_text("second\n")
        world.client_secret = "second"
        world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
        assert unary(b"x") == b"token-2: x"
    assert secrets_sent(world) == ["first", "second"]


def test_a_new_secret_in_the_file_is_used_without_a_restart_in_aio(
    world: World, file: Path, source: ClientSecret
) -> None:
    async def test() -> None:
        async with grpc.aio.insecure_channel(world.target) as auth, AioCredentials(source, auth) as credentials:
            interceptors = list(credentials.interceptors())
            async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
                unary = methods(channel)[0]
                assert await unary(b"x") == b"token-1: x"
                await asyncio.to_thread(file.write_text, "second\n")
                world.client_secret = "second"
                world.refuse("token-1", Reason.CREDENTIAL_REVOKED)
                assert await unary(b"x") == b"token-2: x"

    asyncio.run(test())
    assert secrets_sent(world) == ["first", "second"]


def test_a_file_that_still_holds_the_refused_secret_costs_one_login(
    world: World, auth: grpc.Channel, connect: Connect, source: ClientSecret
) -> None:
    world.client_secret = "second"
    with Credentials(source, auth) as credentials, pytest.raises(grpc.RpcError) as error:
        methods(connect(credentials))[0](b"x")
    assert reason_in(error.value) is Reason.CREDENTIAL_INVALID
    assert secrets_sent(world) == ["first"]


def test_a_file_that_has_gone_is_the_callers_error(
    auth: grpc.Channel, connect: Connect, file: Path, source: ClientSecret
) -> None:
    file.unlink()
    with Credentials(source, auth) as credentials, pytest.raises(grpc.RpcError) as error:
        methods(connect(credentials))[0](b"x")
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    details = str(error.value.details())
    assert "the client's secret cannot be read" in details
    assert str(file) in details


def test_a_secret_that_is_replaced_during_the_login_is_read_again(source: ClientSecret) -> None:
    """Step by step: the file changes between the read and the auth service's answer."""
    refused = RenewalFailure(Reason.CREDENTIAL_INVALID.status, "the secret is wrong")
    flow = renew(source, None, random=lambda: 0.5)
    assert isinstance(next(flow), ReadSecret)
    assert secret_in(flow.send(SecretRead("first"))) == "first"
    assert isinstance(flow.send(refused), ReadSecret)
    assert secret_in(flow.send(SecretRead("second"))) == "second"
    with pytest.raises(StopIteration) as end:
        flow.send(Granted(auth_pb2.Credentials(session_token="token"), 0, 0))
    assert end.value.value.token == "token"


def test_a_file_that_changes_all_the_time_is_read_twice(source: ClientSecret) -> None:
    refused = RenewalFailure(Reason.CREDENTIAL_INVALID.status, "the secret is wrong")
    flow = renew(source, None, random=lambda: 0.5)
    next(flow)
    for secret in ("first", "second"):
        assert secret_in(flow.send(SecretRead(secret))) == secret
        if secret == "first":
            assert isinstance(flow.send(refused), ReadSecret)
    with pytest.raises(NoCredential, match="the secret is wrong"):
        flow.send(refused)


def secret_in(step: object) -> str:
    assert isinstance(step, auth_pb2.LoginRequest)
    return step.client_credentials.client_secret
