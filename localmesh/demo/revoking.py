"""Alice is revoked: how long until every node refuses her, and until her open stream ends."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

import grpc
from grpc import aio

from credmesh.admin.v1 import revocation_pb2
from interceptors.errors import Reason
from localmesh.demo.figures import Figures, Milliseconds
from localmesh.demo.load import BackgroundCalls
from localmesh.demo.mesh_client import (
    CALL_TIMEOUT_SECONDS,
    CalledNode,
    MeshClient,
    Metadata,
    SignedIn,
    failure_reason,
    reason_text,
)
from localmesh.demo.narrator import DemoFailed, Narrator
from localmesh.demo.streams import StockStream

__all__ = ["RevocationRound", "call_node", "revoke_alice", "revoke_and_measure"]

_ROUNDS: Final = 5
_REFUSED_TIMEOUT_SECONDS: Final = 15.0
_CALLS_AFTER_REFUSAL: Final = 5
_WARM_UP_SECONDS: Final = 0.15


@dataclass(slots=True)
class RevocationRound:
    """One revocation, measured in milliseconds from its commit to each node's first refusal and to the stream's end.

    requested_ms  the same, from the operator's request: measured by the caller's clock only
    reasons       the reason of each node's first refusal
    relapses      the nodes that accepted the credential after they had refused it
    """

    refused_ms: dict[str, float] = field(default_factory=dict)
    requested_ms: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, Reason | grpc.StatusCode] = field(default_factory=dict)
    relapses: list[str] = field(default_factory=list)
    stream_ended_ms: float | None = None
    stream_reason: Reason | grpc.StatusCode | None = None

    def problems(self) -> list[str]:
        """The deviations from what a revocation promises, one text for each node."""
        others = {name: reason for name, reason in self.reasons.items() if reason is not Reason.CREDENTIAL_REVOKED}
        return [
            *(f"{name} refused with {reason_text(reason)}" for name, reason in others.items()),
            *(f"{name} accepted the credential again" for name in self.relapses),
        ]


async def revoke_alice(narrator: Narrator, client: MeshClient, figures: Figures) -> None:
    """Revokes alice several times while bob calls."""
    narrator.chapter("alice is revoked, and bob is not affected")
    operator = await client.sign_in_operator()
    bob = await client.sign_in("bob")
    async with BackgroundCalls(client, [lambda: bob.metadata] * 2, pause=0.005) as calls:
        rounds = [await revoke_and_measure(client, await client.sign_in("alice"), operator) for _ in range(_ROUNDS)]
    _record(figures, rounds, len(client.nodes))
    _print_first_round(narrator, rounds[0])
    times = figures.revocation.commit_to_refused_ms
    problems = [text for one in rounds for text in one.problems()]
    narrator.check(
        not problems,
        f"in {_ROUNDS} rounds on {len(client.nodes)} nodes: {times.p50:.1f} ms in the median, {times.max:.1f} ms at "
        "most, and never accepted again",
        otherwise="; ".join(problems),
    )
    figures.calls.ok += calls.ok
    figures.calls.refused += calls.refused.total()
    narrator.check(
        not calls.refused and calls.ok > 0,
        f"bob made {calls.calls:,} calls during the revocations: {calls.refused.total()} refused",
        otherwise=str(dict(calls.refused)),
    )
    alice = await client.sign_in("alice")
    for node in client.nodes:
        await node.call(alice.metadata)
        figures.calls.ok += 1
    narrator.check(True, "alice signs in again, and every node accepts her new token")


async def revoke_and_measure(client: MeshClient, caller: SignedIn, operator: SignedIn) -> RevocationRound:
    """Revokes a user who has a stream open and calls every node as fast as it answers."""
    result = RevocationRound()
    async with StockStream.open(client, caller) as stream:
        first_refusals = [asyncio.create_task(_first_refusal(node, caller.metadata)) for node in client.nodes]
        await asyncio.sleep(_WARM_UP_SECONDS)
        request = revocation_pb2.RevokeRequest(subject=caller.subject, reason="the demo measures how fast this is")
        sent_at = time.time()
        answer = await client.revocation.Revoke(request, metadata=operator.metadata, timeout=CALL_TIMEOUT_SECONDS)
        committed_at = answer.committed_at.ToNanoseconds() / 1e9
        try:
            async with asyncio.timeout(_REFUSED_TIMEOUT_SECONDS):
                refusals = await asyncio.gather(*first_refusals)
                await stream.ended.wait()
        except TimeoutError:
            refusing = [
                node.name for node, task in zip(client.nodes, first_refusals, strict=True) if not task.cancelled()
            ]
            raise DemoFailed(
                f"{_REFUSED_TIMEOUT_SECONDS:g} s after {caller.subject} was revoked, these nodes refuse her: "
                f"{', '.join(refusing) or 'none'}; her stream {'has ended' if stream.ended.is_set() else 'is open'}"
            ) from None
    for node, (refused_at, reason) in zip(client.nodes, refusals, strict=True):
        # A node may see the commit, and refuse, before the auth service has etcd's answer and reads its clock.
        result.refused_ms[node.name] = max(0.0, (refused_at - committed_at) * 1000)
        result.requested_ms[node.name] = (refused_at - sent_at) * 1000
        result.reasons[node.name] = reason
    result.stream_ended_ms = max(0.0, (stream.ended_at - committed_at) * 1000)
    result.stream_reason = stream.reason
    for node in client.nodes:
        for _ in range(_CALLS_AFTER_REFUSAL):
            if await call_node(node, caller.metadata) is not Reason.CREDENTIAL_REVOKED:
                result.relapses.append(node.name)
    return result


async def call_node(node: CalledNode, metadata: Metadata) -> Reason | grpc.StatusCode | None:
    """Calls a node. Returns the reason of its refusal, or None if it serves the call."""
    try:
        await node.call(metadata)
    except aio.AioRpcError as error:
        return failure_reason(error)
    return None


async def _first_refusal(node: CalledNode, metadata: Metadata) -> tuple[float, Reason]:
    while True:
        reason = await call_node(node, metadata)
        if isinstance(reason, Reason):  # a node that does not answer has not decided
            return time.time(), reason


def _record(figures: Figures, rounds: list[RevocationRound], nodes: int) -> None:
    figures.revocation.nodes = nodes
    figures.revocation.commit_to_refused_ms = Milliseconds.of([ms for one in rounds for ms in one.refused_ms.values()])
    ended = [one.stream_ended_ms for one in rounds if one.stream_ended_ms is not None]
    figures.revocation.stream_ended_ms = round(max(ended), 2) if ended else None


def _print_first_round(narrator: Narrator, first: RevocationRound) -> None:
    rows: list[tuple[str, ...]] = [
        (name, _ms(ms), _ms(first.requested_ms[name]), reason_text(first.reasons[name]))
        for name, ms in first.refused_ms.items()
    ]
    rows.append(("her open stream", _ms(first.stream_ended_ms or 0.0), "", reason_text(first.stream_reason)))
    narrator.table(("first refusal", "after the commit", "after the request", "reason"), rows)
    if 0.0 in first.refused_ms.values():
        narrator.note("[dim]0.0 ms: the node refused before the auth service had etcd's answer to the commit[/]")
    narrator.check(
        first.stream_reason is Reason.CREDENTIAL_REVOKED,
        "her open stream of stock changes ended with the same reason",
        otherwise=reason_text(first.stream_reason),
    )


def _ms(value: float) -> str:
    return f"{value:.1f} ms"
