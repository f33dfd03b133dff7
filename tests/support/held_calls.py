"""Calls whose handlers are held, so that a test can watch how they end."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.probe.clients import Client, Stream, bearer
from tests.support.probe.servers import ProbeServer
from tests.support.waiting import wait_until

__all__ = ["hold"]


def hold(
    client: Client, server: ProbeServer, methods: Iterable[str], token: str, *, timeout: float = 30
) -> dict[str, Stream]:
    """A call of each method, by the method; each has its handler inside, and blocked."""
    before = server.record.inside
    calls = {method: client.open(method, "hold", metadata=bearer(token), timeout=timeout) for method in methods}
    wait_until(lambda: server.record.inside == before + len(calls), what="every handler to be inside")
    return calls
