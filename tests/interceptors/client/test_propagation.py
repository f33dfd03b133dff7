"""CallerToken sends the credential of the call that is being served, wherever its context variables reach."""

from __future__ import annotations

import asyncio
import contextvars
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import pytest

from interceptors.caller import Caller, set_caller
from interceptors.client import AioCredentials, CallerToken, Credentials
from interceptors.errors import Reason
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.interceptors.client.conftest import Connect


@dataclass
class Presented:
    """Stands in for the caller that a server interceptor sets for the handler."""

    caller: Caller
    credential: str


def serving(subject: str) -> contextvars.Context:
    """Returns the context of a handler that serves this caller."""
    caller = Caller(subject, "app", None, frozenset(), frozenset(), 0.0, 0)
    context = contextvars.copy_context()
    context.run(set_caller, Presented(caller, f"{subject}-token"))
    return context


def test_each_handlers_calls_carry_the_credential_of_its_caller(connect: Connect) -> None:
    unary, stream, client_stream, bidi = methods(connect(Credentials(CallerToken())))
    for subject in ("alice", "bob"):
        context = serving(subject)
        token = f"{subject}-token".encode()
        assert context.run(unary, b"x") == token + b": x"
        assert context.run(unary.future, b"x").result(10) == token + b": x"
        assert next(context.run(stream, b"x")) == token + b": x"
        assert context.run(client_stream, iter([b"x"])) == token + b": x"
        assert next(context.run(bidi, iter([b"x"]))) == token + b": x"


def test_each_aio_handlers_calls_carry_the_credential_of_its_caller(world: World) -> None:
    async def handle(channel: Any) -> list[bytes]:
        unary, stream, client_stream, bidi = methods(channel)
        return [
            await unary(b"x"),
            await anext(aiter(stream(b"x"))),
            await client_stream(iter([b"x"])),
            await anext(aiter(bidi(iter([b"x"])))),
        ]

    async def test() -> None:
        interceptors = list(AioCredentials(CallerToken()).interceptors())
        async with grpc.aio.insecure_channel(world.target, interceptors=interceptors) as channel:
            subjects = ["alice", "bob"] * 20
            handlers = [asyncio.create_task(handle(channel), context=serving(subject)) for subject in subjects]
            for subject, answers in zip(subjects, await asyncio.gather(*handlers), strict=True):
                assert answers == [f"{subject}-token: x".encode()] * 4

    asyncio.run(test())


def test_a_refused_propagated_credential_is_not_renewed(world: World, connect: Connect) -> None:
    world.refuse("alice-token", Reason.CREDENTIAL_EXPIRED)
    unary = methods(connect(Credentials(CallerToken())))[0]
    with pytest.raises(grpc.RpcError) as error:
        serving("alice").run(unary, b"x")
    assert reason_in(error.value) is Reason.CREDENTIAL_EXPIRED
    assert len(world.calls) == 1
