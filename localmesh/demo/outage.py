"""Outages: an auth replica is killed, then etcd is stopped. Shows what keeps working, what waits, and the recovery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import grpc
from grpc import aio

from credmesh.samples.orders.v1 import orders_pb2
from interceptors.errors import Reason
from localmesh.demo.demo_mesh import DemoMesh
from localmesh.demo.figures import Figures
from localmesh.demo.load import BackgroundCalls
from localmesh.demo.mesh_client import CALL_TIMEOUT_SECONDS, MeshClient, Metadata, SignedIn, failure_reason, reason_text
from localmesh.demo.narrator import Narrator
from localmesh.demo.revoking import revoke_and_measure
from localmesh.demo.streams import StockStream

__all__ = ["kill_auth_replica", "stop_etcd"]

_MAX_DOWN_SECONDS: Final = 60.0
_STRICT_TIMEOUT_SECONDS: Final = 15.0
_RECOVERY_TIMEOUT_SECONDS: Final = 30.0
_REPLICA_DOWN_SECONDS: Final = 1.5
_CALL_PAUSE_SECONDS: Final = 0.01
_POLL_INTERVAL_SECONDS: Final = 0.05

Outcome = Reason | grpc.StatusCode | None


async def kill_auth_replica(narrator: Narrator, mesh: DemoMesh, client: MeshClient, figures: Figures) -> None:
    """Kills one replica of the auth service (SIGKILL), and checks that the other one serves."""
    narrator.chapter("one replica of the auth service is killed")
    bob = await client.sign_in("bob")
    logins = attempts = 0
    async with BackgroundCalls(client, [lambda: bob.metadata] * 2, pause=_CALL_PAUSE_SECONDS) as calls:
        await mesh.take_part_down("auth-1", kill=True, seconds=_MAX_DOWN_SECONDS)
        down_until = time.monotonic() + _REPLICA_DOWN_SECONDS
        while time.monotonic() < down_until:
            attempts += 1
            logins += await _can_sign_in(client)
            await asyncio.sleep(_POLL_INTERVAL_SECONDS)
        await client.refresh(bob)
        await mesh.bring_part_back("auth-1")
    figures.outage.auth_replica_killed_refused = calls.refused.total()
    figures.calls.ok += calls.ok
    figures.calls.refused += calls.refused.total()
    narrator.check(
        not calls.refused and calls.ok > 0,
        f"{calls.calls:,} calls to services during the outage: {calls.refused.total()} refused",
        otherwise=str(dict(calls.refused)),
    )
    narrator.check(logins == attempts, f"the other replica served {logins} of {attempts} logins")
    narrator.check(True, "the killed replica was restarted and is up")


async def stop_etcd(
    narrator: Narrator, mesh: DemoMesh, client: MeshClient, figures: Figures, stream: StockStream
) -> None:
    """Stops etcd and starts it again while a stream is open."""
    narrator.chapter("etcd is stopped, and started again")
    if not mesh.embedded_etcd:
        narrator.note("ETCD_ENDPOINTS names the etcd of this mesh, so the demo does not stop it")
        figures.outage.recovered = True
        return
    bob = await client.sign_in("bob")
    async with BackgroundCalls(client, [lambda: bob.metadata] * 2, pause=_CALL_PAUSE_SECONDS) as calls:
        await mesh.take_part_down("etcd", kill=False, seconds=_MAX_DOWN_SECONDS)
        down_at = time.monotonic()
        changes = stream.changes
        signing_in = asyncio.create_task(_outcome(client.sign_in("alice", timeout=_STRICT_TIMEOUT_SECONDS)))
        strict = await _repeat_until(
            lambda: _cancel_orders(client, bob.metadata), lambda outcome: outcome is not None, _STRICT_TIMEOUT_SECONDS
        )
        strict_after = time.monotonic() - down_at
        login = await signing_in
        ok_before = calls.ok
        narrator.check(
            login is not None,
            f"a login fails while etcd is down: {reason_text(login)}",
            otherwise="it succeeded",
        )
        narrator.check(
            strict is Reason.MESH_STALE,
            f"a strict method refuses after {strict_after:.1f} s: {reason_text(strict)}",
            otherwise=reason_text(strict),
        )
        stream_is_open = not stream.ended.is_set() and stream.changes > changes
        await mesh.bring_part_back("etcd")
        back_at = time.monotonic()
        figures.outage.recovered = await _check_recovery(narrator, client, bob, back_at)
        calls_continued = calls.ok > ok_before
    figures.outage.etcd_down_refused = calls.refused.total()
    figures.calls.ok += calls.ok
    figures.calls.refused += calls.refused.total()
    narrator.check(
        not calls.refused and calls_continued,
        f"{calls.calls:,} calls of other methods during the outage: {calls.refused.total()} refused",
        otherwise=str(dict(calls.refused)),
    )
    narrator.check(
        stream_is_open,
        "bob's open stream delivered stock changes while etcd was down",
        otherwise=reason_text(stream.reason),
    )


async def _check_recovery(narrator: Narrator, client: MeshClient, bob: SignedIn, back_at: float) -> bool:
    login = await _repeat_until(
        lambda: _outcome(client.sign_in("alice")), lambda outcome: outcome is None, _RECOVERY_TIMEOUT_SECONDS
    )
    login_after = time.monotonic() - back_at
    strict = await _repeat_until(
        lambda: _cancel_orders(client, bob.metadata), lambda outcome: outcome is None, _RECOVERY_TIMEOUT_SECONDS
    )
    strict_after = time.monotonic() - back_at
    recovered = narrator.check(
        login is None and strict is None,
        f"etcd is up again: logins work after {login_after:.1f} s, strict methods after {strict_after:.1f} s",
        otherwise=f"{reason_text(login)}, {reason_text(strict)}",
    )
    revocation = await revoke_and_measure(client, await client.sign_in("alice"), await client.sign_in_operator())
    slowest = max(revocation.refused_ms.values())
    return (
        narrator.check(
            not revocation.problems(),
            f"a revocation reaches every node again, in {slowest:.1f} ms",
            otherwise="; ".join(revocation.problems()),
        )
        and recovered
    )


async def _cancel_orders(client: MeshClient, metadata: Metadata) -> Outcome:
    """Calls a strict method."""
    request = orders_pb2.CancelOrdersRequest()
    return await _outcome(client.orders.CancelOrders(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS))


async def _can_sign_in(client: MeshClient) -> bool:
    """Signs bob in, with one retry as a client does: the first attempt may have been sent to the killed replica."""
    outcome = await _outcome(client.sign_in("bob"))
    if outcome is grpc.StatusCode.UNAVAILABLE:
        outcome = await _outcome(client.sign_in("bob"))
    return outcome is None


async def _outcome(call: Awaitable[object]) -> Outcome:
    try:
        await call
    except aio.AioRpcError as error:
        return failure_reason(error)
    return None


async def _repeat_until(
    attempt: Callable[[], Awaitable[Outcome]], is_enough: Callable[[Outcome], bool], timeout: float
) -> Outcome:
    """Repeats an attempt until its outcome is enough, or until the timeout. Returns the last outcome."""
    deadline = time.monotonic() + timeout
    while True:
        outcome = await attempt()
        if is_enough(outcome) or time.monotonic() > deadline:
            return outcome
        await asyncio.sleep(_POLL_INTERVAL_SECONDS)
