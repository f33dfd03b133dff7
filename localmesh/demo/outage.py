"""Parts fail: one replica of the auth service, then etcd. What goes on, what waits, and how it recovers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import grpc
from grpc import aio

from credmesh.samples.orders.v1 import orders_pb2
from interceptors.errors import Reason
from localmesh.demo.actors import Metadata, Nodes, Person, reason_text, why
from localmesh.demo.figures import Figures
from localmesh.demo.load import Callers
from localmesh.demo.narrator import Teller
from localmesh.demo.revoking import revoke_and_measure
from localmesh.demo.stage import Stage
from localmesh.demo.streams import StockStream

__all__ = ["kill_a_replica", "stop_etcd"]

_AT_MOST: Final = 60.0
_STRICT_WITHIN: Final = 15.0
_RECOVER_WITHIN: Final = 30.0
_REPLICA_AWAY: Final = 1.5
_GENTLE: Final = 0.01

Outcome = Reason | grpc.StatusCode | None


async def kill_a_replica(teller: Teller, stage: Stage, nodes: Nodes, figures: Figures) -> None:
    """Kills one of the auth service's replicas with SIGKILL, and lets the other one carry on."""
    teller.chapter("one replica of the auth service is killed")
    bob = await nodes.sign_in("bob")
    logins = attempts = 0
    async with Callers(nodes, [lambda: bob.metadata] * 2, pause=_GENTLE) as callers:
        await stage.take_down("auth-1", kill=True, seconds=_AT_MOST)
        away_until = time.monotonic() + _REPLICA_AWAY
        while time.monotonic() < away_until:
            attempts += 1
            logins += await _signs_in(nodes)
            await asyncio.sleep(0.05)
        await nodes.refresh(bob)
        await stage.bring_back("auth-1")
    figures.outage.auth_replica_killed_refused = callers.refused.total()
    figures.calls.ok += callers.ok
    figures.calls.refused += callers.refused.total()
    teller.check(
        not callers.refused and callers.ok > 0,
        f"{callers.calls:,} calls to services went on: {callers.refused.total()} refused",
        otherwise=str(dict(callers.refused)),
    )
    teller.check(logins == attempts, f"{logins} of {attempts} logins meanwhile were served by the other replica")
    teller.check(True, "the replica was started again and is back")


async def stop_etcd(teller: Teller, stage: Stage, nodes: Nodes, figures: Figures, stream: StockStream) -> None:
    """Stops etcd and starts it again, while somebody's stream is open."""
    teller.chapter("etcd is stopped, and started again")
    if not stage.embedded_etcd:
        teller.tell("this mesh uses an etcd that is not ours to stop; left alone")
        figures.outage.recovered = True
        return
    bob = await nodes.sign_in("bob")
    async with Callers(nodes, [lambda: bob.metadata] * 2, pause=_GENTLE) as callers:
        await stage.take_down("etcd", kill=False, seconds=_AT_MOST)
        down_at = time.monotonic()
        changes = stream.changes
        signing_in = asyncio.create_task(_outcome(nodes.sign_in("alice", timeout=_STRICT_WITHIN)))
        strict = await _until(lambda: _cancel(nodes, bob.metadata), lambda seen: seen is not None, _STRICT_WITHIN)
        strict_after = time.monotonic() - down_at
        login = await signing_in
        ok_before = callers.ok
        teller.check(
            login is not None,
            f"signing in has to wait for etcd, and says so: {reason_text(login)}",
            otherwise="it went",
        )
        teller.check(
            strict is Reason.MESH_STALE,
            f"a method that asks for fresh knowledge refuses after {strict_after:.1f} s: {reason_text(strict)}",
            otherwise=reason_text(strict),
        )
        stream_lives = not stream.ended.is_set() and stream.changes > changes
        await stage.bring_back("etcd")
        back_at = time.monotonic()
        figures.outage.recovered = await _recovers(teller, nodes, bob, back_at)
        calls_go_on = callers.ok > ok_before
    figures.outage.etcd_down_refused = callers.refused.total()
    figures.calls.ok += callers.ok
    figures.calls.refused += callers.refused.total()
    teller.check(
        not callers.refused and calls_go_on,
        f"{callers.calls:,} calls of other methods went on all along: {callers.refused.total()} refused",
        otherwise=str(dict(callers.refused)),
    )
    teller.check(
        stream_lives,
        "changes of stock came through bob's stream while etcd was away",
        otherwise=reason_text(stream.reason),
    )


async def _recovers(teller: Teller, nodes: Nodes, bob: Person, back_at: float) -> bool:
    signed_in = await _until(lambda: _outcome(nodes.sign_in("alice")), lambda seen: seen is None, _RECOVER_WITHIN)
    login_after = time.monotonic() - back_at
    strict = await _until(lambda: _cancel(nodes, bob.metadata), lambda seen: seen is None, _RECOVER_WITHIN)
    strict_after = time.monotonic() - back_at
    well = teller.check(
        signed_in is None and strict is None,
        f"etcd is back: signing in works after {login_after:.1f} s, strict methods after {strict_after:.1f} s",
        otherwise=f"{reason_text(signed_in)}, {reason_text(strict)}",
    )
    again = await revoke_and_measure(nodes, await nodes.sign_in("alice"), await nodes.operator())
    slowest = max(again.refused_ms.values())
    return (
        teller.check(
            not again.wrong(),
            f"and a revocation reaches every node again, in {slowest:.1f} ms",
            otherwise="; ".join(again.wrong()),
        )
        and well
    )


async def _cancel(nodes: Nodes, metadata: Metadata) -> Outcome:
    return await _outcome(nodes.orders.CancelOrders(orders_pb2.CancelOrdersRequest(), metadata=metadata, timeout=5))


async def _signs_in(nodes: Nodes) -> bool:
    """Signs bob in as a client does: who was on the way to the replica that just died has to ask once more."""
    outcome = await _outcome(nodes.sign_in("bob"))
    if outcome is grpc.StatusCode.UNAVAILABLE:
        outcome = await _outcome(nodes.sign_in("bob"))
    return outcome is None


async def _outcome(call: Awaitable[object]) -> Outcome:
    try:
        await call
    except aio.AioRpcError as error:
        return why(error)
    return None


async def _until(
    attempt: Callable[[], Awaitable[Outcome]], enough: Callable[[Outcome], bool], seconds: float
) -> Outcome:
    deadline = time.monotonic() + seconds
    while True:
        seen = await attempt()
        if enough(seen) or time.monotonic() > deadline:
            return seen
        await asyncio.sleep(0.05)
