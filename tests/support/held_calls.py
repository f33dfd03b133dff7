"""Calls whose handlers block, so that a test can see how the calls end."""

from __future__ import annotations

from collections.abc import Iterable

from tests.support.probe.clients import Client, Stream, bearer
from tests.support.probe.servers import ProbeServer
from tests.support.waiting import wait_until

__all__ = ["hold"]


def hold(
    client: Client, server: ProbeServer, methods: Iterable[str], token: str, *, timeout: float = 30
) -> dict[str, Stream]:
    """Opens a call of each method, and waits until every handler runs and is blocked. Returns the calls by method."""
    before = server.record.inside
    calls = {method: client.open(method, "hold", metadata=bearer(token), timeout=timeout) for method in methods}
    wait_until(lambda: server.record.inside == before + len(calls), what="every handler runs")
    return calls
