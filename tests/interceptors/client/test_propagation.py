"""CallerToken sends on the credential of the call that is being served, wherever context variables reach."""

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


@dataclass
class Presented:
    """What a server interceptor leaves for the handler."""

    caller: Caller
    credential: str


def serving(subject: str) -> contextvars.Context:
    """The context of a handler that serves this caller."""
    caller = Caller(subject, "app", None, frozenset(), frozenset(), 0.0, 0)
    context = contextvars.copy_context()
    context.run(set_caller, Presented(caller, f"{subject}-token"))
    return context


def test_each_handlers_calls_carry_its_own_callers_credential(world: World) -> None:
    with grpc.insecure_channel(world.target) as plain:
        unary, stream, client_stream, bidi = methods(
            grpc.intercept_channel(plain, *Credentials(CallerToken()).interceptors())
        )
        for subject in ("alice", "bob"):
            context = serving(subject)
            token = f"{subject}-token".encode()
            assert context.run(unary, b"x") == token + b": x"
            assert context.run(unary.future, b"x").result(10) == token + b": x"
            assert next(context.run(stream, b"x")) == token + b": x"
            assert context.run(client_stream, iter([b"x"])) == token + b": x"
            assert next(context.run(bidi, iter([b"x"]))) == token + b": x"


def test_each_aio_handlers_calls_carry_its_own_callers_credential(world: World) -> None:
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


def test_a_refused_propagated_credential_is_the_callers_to_renew(world: World) -> None:
    world.refuse("alice-token", Reason.CREDENTIAL_EXPIRED)
    with grpc.insecure_channel(world.target) as plain:
        unary = methods(grpc.intercept_channel(plain, *Credentials(CallerToken()).interceptors()))[0]
        with pytest.raises(grpc.RpcError) as error:
            serving("alice").run(unary, b"x")
    assert reason_in(error.value) is Reason.CREDENTIAL_EXPIRED
    assert len(world.calls) == 1
