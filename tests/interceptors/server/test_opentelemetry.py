"""Our server interceptors work before and after those of OpenTelemetry, on sync and aio servers, all kinds of calls."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.instrumentation.grpc import aio_server_interceptor, server_interceptor

from interceptors import MeshNode, Reason
from interceptors.scopes import subject_scope
from tests.support.probe.clients import Client, bearer
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import KINDS, SERVICE
from tests.support.probe.servers import ProbeServer
from tests.support.probe.servicers import SECRET
from tests.support.waiting import wait_until


@pytest.fixture
def seen() -> list[str]:
    """The methods of the calls that OpenTelemetry's interceptor saw."""
    return []


# OpenTelemetry's own interceptor cannot serve aio streams by coroutines (`context.write`), nor plain functions on aio.
@pytest.fixture(params=["sync", "aio"])
def kind(request: pytest.FixtureRequest) -> str:
    made: str = request.param
    return made


@pytest.fixture(params=["before", "after"])
def server(request: pytest.FixtureRequest, node: MeshNode, seen: list[str], kind: str) -> Iterator[ProbeServer]:
    """A probe with OpenTelemetry's interceptor before or after ours."""

    def see(details: Any) -> bool:
        seen.append(details.method)
        return True

    theirs: Any = server_interceptor(filter_=see) if kind == "sync" else aio_server_interceptor(filter_=see)
    before, after = ([theirs], []) if request.param == "before" else ([], [theirs])
    with ProbeServer(node, kind, before=before, after=after) as server:
        yield server


def test_calls_are_served_as_their_caller_with_opentelemetry(client: Client, issuer: Issuer, seen: list[str]) -> None:
    for method in KINDS:
        outcome = client.call(method, "who", metadata=bearer(issuer.token()))
        assert outcome.code is grpc.StatusCode.OK, (method, outcome)
        assert f"/{SERVICE}/{method}" in seen


def test_calls_without_a_good_credential_are_refused_with_opentelemetry(
    client: Client, issuer: Issuer, node: MeshNode
) -> None:
    for method in KINDS:
        assert client.call(method, "who").reason is Reason.CREDENTIAL_MISSING, method
        expired = client.call(method, "who", metadata=bearer(issuer.token(exp=1)))
        assert expired.reason is Reason.CREDENTIAL_EXPIRED, method
        assert node.call_counts[f"/{SERVICE}/{method}"].accepted == 0


@pytest.mark.parametrize("method", ["ServerStream", "ClientStream", "Bidi"])
def test_a_revocation_ends_a_stream_with_opentelemetry(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode, method: str
) -> None:
    stream = client.open(method, "hold", metadata=bearer(issuer.token()))
    wait_until(lambda: server.record.inside == 1)
    issuer.revoke(subject_scope("alice"))
    assert stream.end().reason is Reason.CREDENTIAL_REVOKED
    wait_until(server.record.noticed.is_set, what="the handler learned of it")
    wait_until(lambda: len(node.streams) == 0)


def test_the_status_of_a_handler_is_kept_with_opentelemetry(client: Client, issuer: Issuer) -> None:
    for method in KINDS:
        assert client.call(method, "abort", metadata=bearer(issuer.token())).code is grpc.StatusCode.NOT_FOUND, method
        assert client.call(method, "refuse", metadata=bearer(issuer.token())).reason is Reason.RATE_LIMITED, method
        failed = client.call(method, "fail", metadata=bearer(issuer.token()))
        assert failed.code is grpc.StatusCode.UNKNOWN, method
        assert SECRET not in failed.details, method
