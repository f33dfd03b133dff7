"""A service that calls another one with its caller's own credential: every client, server and kind of RPC."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from interceptors import MeshNode
from tests.support.probe.clients import Client, bearer
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import KINDS, METHODS, SERVICE
from tests.support.probe.servers import SERVERS, ProbeServer


@pytest.fixture(params=["sync", "aio"])
def back(request: pytest.FixtureRequest, node: MeshNode) -> Iterator[ProbeServer]:
    """The service behind."""
    with ProbeServer(node, request.param) as back:
        yield back


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, node: MeshNode, back: ProbeServer) -> Iterator[ProbeServer]:
    """The service in front."""
    with ProbeServer(node, request.param, back=back.target) as server:
        yield server


def seen_behind(client: Client, kind: str, token: str) -> tuple[str, ...]:
    """Whom the service behind takes for the caller, by each kind of call that a handler of this kind makes to it."""
    # On a request stream the question comes second: by then the handler has read, and perhaps answered.
    texts = ("x", "ask") if METHODS[kind][0] else ("ask",)
    outcome = client.call(kind, *texts, metadata=bearer(token))
    assert outcome.code is grpc.StatusCode.OK, (kind, outcome)
    answers = " ".join(outcome.answers).split()
    return tuple(answer for answer in answers if answer not in ("x", "end"))


def test_the_service_behind_sees_the_caller_of_the_one_in_front(client: Client, issuer: Issuer, node: MeshNode) -> None:
    alice, bob = issuer.token(), issuer.token(sub="bob", sid="session-2")
    for kind in KINDS:
        for subject, token in (("alice", alice), ("bob", bob), ("alice", alice)):
            assert seen_behind(client, kind, token) == (subject,) * len(KINDS), kind
    for kind in KINDS:
        # Three times by the client itself, and three times by each of the four kinds of handlers in front.
        assert node.counts[f"/{SERVICE}/{kind}"].accepted == 3 + 3 * len(KINDS)


def test_callers_at_the_same_time_are_each_seen_as_themselves_by_the_service_behind(
    client: Client, issuer: Issuer
) -> None:
    tokens = {f"user-{number}": issuer.token(sub=f"user-{number}") for number in range(8)}

    def is_seen(subject: str) -> bool:
        return all(seen_behind(client, kind, tokens[subject]) == (subject,) * len(KINDS) for kind in KINDS)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_seen, tokens))


def test_a_public_method_has_no_credential_to_send_on_and_borrows_nobodys(
    client: Client, issuer: Issuer, node: MeshNode
) -> None:
    """Also right after a call of alice in the same thread. What a caller presents unasked is not sent on either."""
    token = issuer.token()
    assert seen_behind(client, "Unary", token) == ("alice",) * len(KINDS)
    accepted = {kind: node.counts[f"/{SERVICE}/{kind}"].accepted for kind in KINDS}
    for metadata in ((), bearer(token)):
        outcome = client.call("Anybody", "ask", metadata=metadata)
        assert (outcome.code, outcome.details) == (grpc.StatusCode.UNKNOWN, "internal error")
    assert {kind: node.counts[f"/{SERVICE}/{kind}"].accepted for kind in KINDS} == accepted
