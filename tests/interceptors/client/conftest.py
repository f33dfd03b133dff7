"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from interceptors.client import Credentials, PasswordLogin
from tests.interceptors.client.auth_server import World


@pytest.fixture
def world() -> Iterator[World]:
    """A server of this test's own."""
    with World() as made:
        yield made


@pytest.fixture
def auth(world: World) -> Iterator[grpc.Channel]:
    """A channel to its auth service."""
    with grpc.insecure_channel(world.target) as made:
        yield made


@pytest.fixture
def credentials(auth: grpc.Channel) -> Iterator[Credentials]:
    """Alice's, by password."""
    with Credentials(PasswordLogin("alice", "alice-password"), auth) as made:
        yield made


@pytest.fixture
def orders(world: World, credentials: Credentials) -> Iterator[grpc.Channel]:
    """A channel to the service, with alice's credentials."""
    with grpc.insecure_channel(world.target) as made:
        yield grpc.intercept_channel(made, *credentials.interceptors())
