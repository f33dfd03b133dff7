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
from localmesh.demo.actors import TIMEOUT, Metadata, Node, Nodes, Person, reason_text, why
from localmesh.demo.figures import Figures, Milliseconds
from localmesh.demo.load import Callers
from localmesh.demo.narrator import Misbehaved, Teller
from localmesh.demo.streams import StockStream

__all__ = ["Round", "refusal", "revoke_alice", "revoke_and_measure"]

_ROUNDS: Final = 5
_NOTICED_WITHIN: Final = 15.0
_ASKED_AGAIN: Final = 5
_WARM_UP: Final = 0.15


@dataclass(slots=True)
class Round:
    """One revocation: milliseconds from its commit until each node's first refusal and until the stream's end.

    requested_ms  the same from when the operator asked for it: no clock but the caller's takes part
    reasons       what each node gave as the reason
    relapses      nodes that accepted the credential after they had refused it
    """

    refused_ms: dict[str, float] = field(default_factory=dict)
    requested_ms: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, Reason | grpc.StatusCode] = field(default_factory=dict)
    relapses: list[str] = field(default_factory=list)
    stream_ended_ms: float | None = None
    stream_reason: Reason | grpc.StatusCode | None = None

    def wrong(self) -> list[str]:
        """What was not as it should be, on which node."""
        others = {name: reason for name, reason in self.reasons.items() if reason is not Reason.CREDENTIAL_REVOKED}
        return [
            *(f"{name} said {reason_text(reason)}" for name, reason in others.items()),
            *(f"{name} did not go on refusing" for name in self.relapses),
        ]


async def revoke_alice(teller: Teller, nodes: Nodes, figures: Figures) -> None:
    """Revokes alice a few times, with bob calling all along."""
    teller.chapter("alice is revoked, and bob notices nothing")
    operator = await nodes.operator()
    bob = await nodes.sign_in("bob")
    async with Callers(nodes, [lambda: bob.metadata] * 2, pause=0.005) as callers:
        rounds = [await revoke_and_measure(nodes, await nodes.sign_in("alice"), operator) for _ in range(_ROUNDS)]
    _note(figures, rounds, len(nodes.all))
    _tell_first(teller, rounds[0])
    times = figures.revocation.commit_to_refused_ms
    wrong = [text for one in rounds for text in one.wrong()]
    teller.check(
        not wrong,
        f"in {_ROUNDS} rounds on {len(nodes.all)} nodes: {times.p50:.1f} ms in the median, {times.max:.1f} ms at most, "
        "and never accepted again",
        otherwise="; ".join(wrong),
    )
    figures.calls.ok += callers.ok
    figures.calls.refused += callers.refused.total()
    teller.check(
        not callers.refused and callers.ok > 0,
        f"bob made {callers.calls:,} calls meanwhile: {callers.refused.total()} refused",
        otherwise=str(dict(callers.refused)),
    )
    alice = await nodes.sign_in("alice")
    for node in nodes.all:
        await node.call(alice.metadata)
        figures.calls.ok += 1
    teller.check(True, "alice signs in again and is back on every node")


async def revoke_and_measure(nodes: Nodes, person: Person, operator: Person) -> Round:
    """Revokes a person who has a stream open and calls every node as fast as it answers."""
    result = Round()
    async with StockStream.of(nodes, person) as stream:
        watching = [asyncio.create_task(_first_refusal(node, person.metadata)) for node in nodes.all]
        await asyncio.sleep(_WARM_UP)
        request = revocation_pb2.RevokeRequest(subject=person.subject, reason="the demo shows how fast this is")
        sent_at = time.time()
        answer = await nodes.revocation.Revoke(request, metadata=operator.metadata, timeout=TIMEOUT)
        committed_at = answer.committed_at.ToNanoseconds() / 1e9
        try:
            async with asyncio.timeout(_NOTICED_WITHIN):
                refusals = await asyncio.gather(*watching)
                await stream.ended.wait()
        except TimeoutError:
            refused = [node.name for node, task in zip(nodes.all, watching, strict=True) if not task.cancelled()]
            raise Misbehaved(
                f"{_NOTICED_WITHIN:g} s after {person.subject} was revoked she is refused by "
                f"{', '.join(refused) or 'nobody'}; her stream is {'over' if stream.ended.is_set() else 'open'}"
            ) from None
    for node, (refused_at, reason) in zip(nodes.all, refusals, strict=True):
        # A node may learn of it, and refuse, before the auth service has etcd's answer and looks at its clock.
        result.refused_ms[node.name] = max(0.0, (refused_at - committed_at) * 1000)
        result.requested_ms[node.name] = (refused_at - sent_at) * 1000
        result.reasons[node.name] = reason
    result.stream_ended_ms = max(0.0, (stream.ended_at - committed_at) * 1000)
    result.stream_reason = stream.reason
    for node in nodes.all:
        for _ in range(_ASKED_AGAIN):
            if await refusal(node, person.metadata) is not Reason.CREDENTIAL_REVOKED:
                result.relapses.append(node.name)
    return result


async def refusal(node: Node, metadata: Metadata) -> Reason | grpc.StatusCode | None:
    """Why a node refuses a call; None if it serves it."""
    try:
        await node.call(metadata)
    except aio.AioRpcError as error:
        return why(error)
    return None


async def _first_refusal(node: Node, metadata: Metadata) -> tuple[float, Reason | grpc.StatusCode]:
    while True:
        found = await refusal(node, metadata)
        if found is not None:
            return time.time(), found


def _note(figures: Figures, rounds: list[Round], nodes: int) -> None:
    figures.revocation.nodes = nodes
    figures.revocation.commit_to_refused_ms = Milliseconds.of([ms for one in rounds for ms in one.refused_ms.values()])
    ended = [one.stream_ended_ms for one in rounds if one.stream_ended_ms is not None]
    figures.revocation.stream_ended_ms = round(max(ended), 2) if ended else None


def _tell_first(teller: Teller, first: Round) -> None:
    rows: list[tuple[str, ...]] = [
        (name, _ms(ms), _ms(first.requested_ms[name]), reason_text(first.reasons[name]))
        for name, ms in first.refused_ms.items()
    ]
    rows.append(("her open stream", _ms(first.stream_ended_ms or 0.0), "", reason_text(first.stream_reason)))
    teller.table(("first refusal", "after the commit", "after the request", "the reason that she sees"), rows)
    if 0.0 in first.refused_ms.values():
        teller.tell("[dim]0.0 ms: refused before the auth service itself had etcd's answer[/]")
    teller.check(
        first.stream_reason is Reason.CREDENTIAL_REVOKED,
        "her open stream of stock changes ended with the reason",
        otherwise=reason_text(first.stream_reason),
    )


def _ms(value: float) -> str:
    return f"{value:.1f} ms"
