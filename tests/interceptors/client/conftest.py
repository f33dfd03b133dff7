"""Fixtures of the client's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import grpc
import pytest

from interceptors.client import Credentials, PasswordLogin, channel
from tests.interceptors.client.auth_server import World

Connect = Callable[[Credentials], grpc.Channel]
"""Opens a channel to the service, with credentials. The test's end closes it."""


@pytest.fixture
def world() -> Iterator[World]:
    """A server for one test."""
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


@pytest.fixture(params=["channel", "interceptors"])
def connect(request: pytest.FixtureRequest, world: World) -> Iterator[Connect]:
    """The two ways to attach credentials. Both make the same promises, by different code for blocking calls."""
    ways: dict[str, Callable[[Credentials], AbstractContextManager[grpc.Channel]]] = {
        "channel": lambda credentials: channel(world.target, credentials=credentials, allow_plaintext=True),
        "interceptors": lambda credentials: _intercepted(world.target, credentials),
    }
    with ExitStack() as stack:
        yield lambda credentials: stack.enter_context(ways[request.param](credentials))


@contextmanager
def _intercepted(target: str, credentials: Credentials) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target) as plain:
        yield grpc.intercept_channel(plain, *credentials.interceptors())


@pytest.fixture
def orders(connect: Connect, credentials: Credentials) -> grpc.Channel:
    """A channel to the service, with alice's credentials."""
    return connect(credentials)
