"""A service calls another one with its caller's credential: every client, server and kind of RPC."""

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
def backend(request: pytest.FixtureRequest, node: MeshNode) -> Iterator[ProbeServer]:
    """The service that is called."""
    with ProbeServer(node, request.param) as backend:
        yield backend


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, node: MeshNode, backend: ProbeServer) -> Iterator[ProbeServer]:
    """The service that calls it."""
    with ProbeServer(node, request.param, backend=backend.target) as server:
        yield server


def subjects_at_backend(client: Client, kind: str, token: str) -> tuple[str, ...]:
    """Returns the subject that the backend sees, for each kind of call that a handler of this kind makes to it."""
    # On a request stream the calls are made at the second message, when the handler has read and perhaps responded.
    texts = ("x", "ask") if METHODS[kind][0] else ("ask",)
    outcome = client.call(kind, *texts, metadata=bearer(token))
    assert outcome.code is grpc.StatusCode.OK, (kind, outcome)
    answers = " ".join(outcome.answers).split()
    return tuple(answer for answer in answers if answer not in ("x", "end"))


def test_the_backend_sees_the_caller_of_the_service_that_calls_it(
    client: Client, issuer: Issuer, node: MeshNode
) -> None:
    alice, bob = issuer.token(), issuer.token(sub="bob", sid="session-2")
    for kind in KINDS:
        for subject, token in (("alice", alice), ("bob", bob), ("alice", alice)):
            assert subjects_at_backend(client, kind, token) == (subject,) * len(KINDS), kind
    for kind in KINDS:
        # Three calls by the client, and three by each of the four kinds of handlers.
        assert node.call_counts[f"/{SERVICE}/{kind}"].accepted == 3 + 3 * len(KINDS)


def test_the_backend_does_not_confuse_concurrent_callers(client: Client, issuer: Issuer) -> None:
    tokens = {f"user-{number}": issuer.token(sub=f"user-{number}") for number in range(8)}

    def is_seen_as_itself(subject: str) -> bool:
        return all(subjects_at_backend(client, kind, tokens[subject]) == (subject,) * len(KINDS) for kind in KINDS)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_seen_as_itself, tokens))


def test_a_public_method_has_no_credential_to_propagate(client: Client, issuer: Issuer, node: MeshNode) -> None:
    """Also right after a call of alice in the same thread, and if the caller presents a credential."""
    token = issuer.token()
    assert subjects_at_backend(client, "Unary", token) == ("alice",) * len(KINDS)
    accepted = {kind: node.call_counts[f"/{SERVICE}/{kind}"].accepted for kind in KINDS}
    for metadata in ((), bearer(token)):
        outcome = client.call("Public", "ask", metadata=metadata)
        assert (outcome.code, outcome.details) == (grpc.StatusCode.UNKNOWN, "internal error")
    assert {kind: node.call_counts[f"/{SERVICE}/{kind}"].accepted for kind in KINDS} == accepted
