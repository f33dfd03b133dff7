"""A protected server behaves as without the interceptor, but hides the text of the handlers' exceptions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from interceptors import MeshNode, Reason
from tests.support.held_calls import hold
from tests.support.probe.clients import Client, bearer
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import KINDS, StringValue
from tests.support.probe.servers import ProbeServer
from tests.support.probe.servicers import SECRET
from tests.support.waiting import wait_until


@pytest.mark.parametrize("kind", KINDS)
def test_the_text_of_an_unexpected_exception_does_not_reach_the_caller(
    client: Client, issuer: Issuer, kind: str
) -> None:
    outcome = client.call(kind, "fail", metadata=bearer(issuer.token()))
    assert outcome.code is grpc.StatusCode.UNKNOWN
    assert outcome.details == "internal error"
    assert client.call("Public", "fail").details == "internal error"


@pytest.mark.parametrize("kind", KINDS)
def test_a_handlers_own_status_reaches_the_caller(client: Client, issuer: Issuer, kind: str) -> None:
    outcome = client.call(kind, "abort", metadata=bearer(issuer.token()))
    assert (outcome.code, outcome.details) == (grpc.StatusCode.NOT_FOUND, "no such thing")


@pytest.mark.parametrize("kind", KINDS)
def test_a_status_that_was_set_before_an_exception_is_kept(client: Client, issuer: Issuer, kind: str) -> None:
    outcome = client.call(kind, "code", metadata=bearer(issuer.token()))
    assert SECRET not in outcome.details
    assert (outcome.code, outcome.details) == (grpc.StatusCode.NOT_FOUND, "no such thing")


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_the_servicer_lacks_is_unimplemented_without_a_traceback(
    client: Client, issuer: Issuer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = client.call(kind, "lack", metadata=bearer(issuer.token()))
    assert (outcome.code, outcome.details) == (grpc.StatusCode.UNIMPLEMENTED, "Method not implemented!")
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_handler_may_raise_a_refusal(client: Client, issuer: Issuer, kind: str) -> None:
    outcome = client.call(kind, "refuse", metadata=bearer(issuer.token()))
    assert (outcome.code, outcome.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.RATE_LIMITED)
    assert "cause" not in outcome.details


def test_a_deadline_ends_a_blocked_call_of_every_kind(
    client: Client, server: ProbeServer, issuer: Issuer, node: MeshNode
) -> None:
    for kind, call in hold(client, server, KINDS, issuer.token(), timeout=1).items():
        outcome = call.end()
        assert (outcome.code, outcome.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, None), kind
    if server.kind == "aio-threads":
        server.record.release.set()  # there a call is not over before its handler returns
    wait_until(lambda: len(node.streams) == 0)


def test_an_unknown_method_is_unimplemented_without_a_credential(client: Client, server: ProbeServer) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary("/credmesh.probe.v1.Probe/Nothing", StringValue.SerializeToString)(StringValue(), timeout=5)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_concurrent_callers_are_not_confused(client: Client, node: MeshNode, issuer: Issuer) -> None:
    tokens = {f"user-{number}": issuer.token(sub=f"user-{number}") for number in range(16)}

    def is_seen_as_itself(subject: str) -> bool:
        answers = [client.call(kind, "who", metadata=bearer(tokens[subject])).answers for kind in KINDS * 3]
        return all(answer[0] == subject for answer in answers)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(is_seen_as_itself, tokens))
    accepted = sum(counts.accepted for counts in node.call_counts.values())
    assert accepted == 16 * 3 * len(KINDS)


def test_every_refusal_leaves_an_audit_line_without_the_credential(
    client: Client, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = issuer.token(aud=["elsewhere"])
    client.call("Unary", "who", metadata=bearer(token))
    lines = [record for record in caplog.records if record.name == "credmesh.audit"]
    assert [(line.reason, line.method, line.subject) for line in lines] == [  # type: ignore[attr-defined]
        ("AUDIENCE_MISMATCH", "/credmesh.probe.v1.Probe/Unary", "alice")
    ]
    for record in caplog.records:
        for part in token.split("."):
            assert part not in str(record.__dict__)
