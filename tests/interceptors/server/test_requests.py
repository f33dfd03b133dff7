"""Requests that do not come, come late, or cannot be parsed. Each is decided by the credential first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack

import grpc
import pytest
from opentelemetry.instrumentation.grpc import server_interceptor

from credmesh.auth.v1 import auth_pb2
from interceptors import EtcdSettings, MeshNode, MeshSettings, Reason
from interceptors.scopes import subject_scope
from interceptors.server import CallPool
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from tests.interceptors.server.conftest import NewNode
from tests.support.probe.clients import bearer, make_client
from tests.support.probe.issuer import ISSUER, Issuer
from tests.support.probe.schema import KINDS, SERVICE, StringValue
from tests.support.probe.servers import SERVERS, ProbeServer
from tests.support.raw_calls import RawCall, RawConnection
from tests.support.waiting import wait_until

WHO = StringValue(value="who").SerializeToString()
AWAITING = ("sync", "aio", "aio-by-context")
"""The servers that let a call wait for its request. Before a plain function, grpc.aio itself waits."""

UNPARSABLE = b"\xff\xff\xff"
STATUS = {code: code.value[0] for code in grpc.StatusCode}


@pytest.fixture
def raw(server: ProbeServer) -> Iterator[RawConnection]:
    """A connection to the probe, frame by frame."""
    with RawConnection(server.port) as connection:
        yield connection


def begin(connection: RawConnection, method: str, token: str | None) -> RawCall:
    """Begins a call of the probe, without a message."""
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    return connection.begin(f"/{SERVICE}/{method}", *metadata)


def audited(caplog: pytest.LogCaptureFixture, reason: Reason) -> int:
    """How many refusals for a reason are in the audit trail."""
    return len([line for line in caplog.records if getattr(line, "reason", None) == reason.name])


@pytest.mark.parametrize("method", KINDS)
def test_a_call_without_a_credential_is_refused_before_its_message(
    server: ProbeServer, raw: RawConnection, method: str
) -> None:
    call = raw.wait_until_ended(begin(raw, method, None))
    assert call.status == STATUS[grpc.StatusCode.UNAUTHENTICATED]
    assert server.awaited == 0


@pytest.mark.parametrize("method", KINDS)
def test_a_forged_credential_is_refused_before_its_message(raw: RawConnection, issuer: Issuer, method: str) -> None:
    published = issuer.kid
    issuer.rotate(publish=False)
    call = raw.wait_until_ended(begin(raw, method, issuer.token(header={"kid": published})))
    assert call.status == STATUS[grpc.StatusCode.UNAUTHENTICATED]


def test_a_credential_that_is_not_utf_8_reaches_no_log(
    raw: RawConnection, issuer: Issuer, node: MeshNode, caplog: pytest.LogCaptureFixture
) -> None:
    token = issuer.token()
    for metadata in (("authorization", f"Bearer {token}".encode() + b"\xff"), ("x-copy", token.encode() + b"\xff")):
        call = raw.begin(f"/{SERVICE}/Unary", metadata)
        assert raw.wait_until_ended(call).status == STATUS[grpc.StatusCode.UNAUTHENTICATED]
    reasons = node.call_counts[f"/{SERVICE}/Unary"].refused
    assert reasons == {"CREDENTIAL_MALFORMED": 1, "CREDENTIAL_MISSING": 1}
    wait_until(lambda: audited(caplog, Reason.CREDENTIAL_MALFORMED) == 1)
    signature = token.rpartition(".")[2]
    assert [record.name for record in caplog.records if signature in str(record.__dict__)] == []


@pytest.mark.parametrize("kind", AWAITING)
def test_a_thousand_calls_without_a_message_stop_no_other_call(node: MeshNode, issuer: Issuer, kind: str) -> None:
    token = issuer.token()
    with ProbeServer(node, kind, threads=4) as server, ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(RawConnection(server.port))
            for _ in range(25):
                for method in ("Unary", "ServerStream", "Public"):
                    begin(connection, method, token)
                begin(connection, "Unary", None)
        wait_until(lambda: server.awaited == 750, what="all calls are open that have a credential or need none")
        for client_kind in ("sync", "aio"):
            with make_client(client_kind, server.target) as client:
                for method in KINDS:
                    assert client.call(method, "who", metadata=bearer(token)).answers[0] == "alice"
                assert client.call("Public", "anonymous").answers == ("anonymous",)


@pytest.mark.parametrize("method", ["Unary", "ServerStream", "Public"])
@pytest.mark.parametrize("kind", AWAITING)
def test_a_call_whose_message_does_not_come_ends(
    node: MeshNode, issuer: Issuer, kind: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    with ProbeServer(node, kind, message_timeout=0.2) as server, RawConnection(server.port) as raw:
        call = raw.wait_until_ended(begin(raw, method, issuer.token()))
        assert call.status == STATUS[grpc.StatusCode.DEADLINE_EXCEEDED]
        assert server.awaited == 0
    wait_until(lambda: audited(caplog, Reason.REQUEST_MISSING) == 1)
    wait_until(lambda: node.call_counts[f"/{SERVICE}/{method}"].refused == {"REQUEST_MISSING": 1})


@pytest.mark.parametrize("kind", AWAITING)
def test_a_handler_may_take_longer_than_the_message(node: MeshNode, issuer: Issuer, kind: str) -> None:
    with ProbeServer(node, kind, message_timeout=0.2) as server, RawConnection(server.port) as raw:
        held = begin(raw, "ServerStream", issuer.token())
        raw.send(held, StringValue(value="hold").SerializeToString())
        wait_until(lambda: server.record.inside == 1)
        raw.wait_until_ended(begin(raw, "Public", None))  # it waits as long, and longer than the other's message
        assert not held.ended


@pytest.mark.parametrize("method", ["Unary", "ServerStream"])
@pytest.mark.parametrize("kind", AWAITING)
def test_a_credential_that_is_revoked_before_the_message_comes_is_refused(
    issuer: Issuer, node: MeshNode, kind: str, method: str
) -> None:
    with ProbeServer(node, kind) as server, RawConnection(server.port) as raw:
        call = begin(raw, method, issuer.token())
        wait_until(lambda: server.awaited == 1)
        epoch = issuer.revoke(subject_scope("alice"))
        wait_until(lambda: node.bundle.revision >= epoch)
        raw.send(call, WHO)
        assert raw.wait_until_ended(call).status == STATUS[grpc.StatusCode.UNAUTHENTICATED]
        wait_until(lambda: node.call_counts[f"/{SERVICE}/{method}"].refused == {"CREDENTIAL_REVOKED": 1})


@pytest.mark.parametrize("method", ["Unary", "ServerStream"])
@pytest.mark.parametrize("kind", AWAITING)
def test_a_message_that_comes_late_is_served(node: MeshNode, issuer: Issuer, kind: str, method: str) -> None:
    with ProbeServer(node, kind) as server, RawConnection(server.port) as raw:
        call = begin(raw, method, issuer.token())
        wait_until(lambda: server.awaited == 1)
        raw.send(call, WHO)
        assert StringValue.FromString(raw.wait_until_ended(call).messages[0]).value == "alice"
        assert server.awaited == 0


@pytest.mark.parametrize("kind", AWAITING)
def test_a_call_that_is_closed_without_a_message_ends(node: MeshNode, issuer: Issuer, kind: str) -> None:
    with ProbeServer(node, kind) as server, RawConnection(server.port) as raw:
        call = begin(raw, "Unary", issuer.token())
        raw.close_requests(call)
        assert raw.wait_until_ended(call).status == STATUS[grpc.StatusCode.UNIMPLEMENTED]
        assert server.awaited == 0


@pytest.mark.parametrize("kind", AWAITING)
def test_a_cancelled_call_is_not_awaited(node: MeshNode, issuer: Issuer, kind: str) -> None:
    with ProbeServer(node, kind) as server:
        with RawConnection(server.port) as raw:
            for _ in range(10):
                begin(raw, "Unary", issuer.token())
            wait_until(lambda: server.awaited == 10)
        wait_until(lambda: server.awaited == 0)


def test_streams_that_await_their_first_message_take_half_of_the_threads_of_a_sync_server(
    node: MeshNode, issuer: Issuer
) -> None:
    token = issuer.token()
    with ProbeServer(node, "sync", threads=8) as server, RawConnection(server.port) as raw:
        for _ in range(4):
            begin(raw, "Bidi", token)
        wait_until(lambda: server.awaited == 4)
        refused = raw.wait_until_ended(begin(raw, "ClientStream", token))
        assert refused.status == STATUS[grpc.StatusCode.RESOURCE_EXHAUSTED]
        with make_client("sync", server.target) as client:
            for method in ("Unary", "ServerStream"):
                assert client.call(method, "who", metadata=bearer(token)).answers[0] == "alice"


def test_a_stream_of_a_sync_server_whose_first_message_does_not_come_ends(node: MeshNode, issuer: Issuer) -> None:
    with ProbeServer(node, "sync", message_timeout=0.2) as server, RawConnection(server.port) as raw:
        ended = raw.wait_until_ended(begin(raw, "Bidi", issuer.token()))
        assert ended.status == STATUS[grpc.StatusCode.DEADLINE_EXCEEDED]
        late = begin(raw, "Bidi", issuer.token())
        raw.send(late, WHO, last=False)
        raw.wait_for_messages(late, 1)
        raw.wait_until_ended(begin(raw, "Bidi", issuer.token()))
        assert not late.ended, "only the first message has a time limit"


@pytest.mark.parametrize("method", [*KINDS, "Public"])
def test_a_request_that_cannot_be_parsed_is_refused_and_counted(
    raw: RawConnection, issuer: Issuer, node: MeshNode, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    call = begin(raw, method, issuer.token())
    raw.send(call, UNPARSABLE)
    assert raw.wait_until_ended(call).status == STATUS[grpc.StatusCode.INVALID_ARGUMENT]
    assert (call.trailers or {})["grpc-message"] == Reason.REQUEST_MALFORMED.message
    wait_until(lambda: node.call_counts[f"/{SERVICE}/{method}"].refused == {"REQUEST_MALFORMED": 1})
    wait_until(lambda: audited(caplog, Reason.REQUEST_MALFORMED) == 1)
    assert [record.getMessage() for record in caplog.records if record.exc_info] == []


def test_an_unparsable_request_without_a_credential_is_refused_for_the_credential(
    raw: RawConnection, node: MeshNode
) -> None:
    for method in KINDS:
        call = begin(raw, method, None)
        raw.send(call, UNPARSABLE)
        assert raw.wait_until_ended(call).status == STATUS[grpc.StatusCode.UNAUTHENTICATED]
        assert node.call_counts[f"/{SERVICE}/{method}"].refused.keys() <= {"CREDENTIAL_MISSING"}


def test_a_later_request_of_a_stream_that_cannot_be_parsed_ends_it(
    server: ProbeServer, raw: RawConnection, issuer: Issuer, node: MeshNode
) -> None:
    call = begin(raw, "Bidi", issuer.token())
    raw.send(call, WHO, last=False)
    raw.wait_for_messages(call, 1)
    raw.send(call, UNPARSABLE, last=False)
    assert raw.wait_until_ended(call).status == STATUS[grpc.StatusCode.INVALID_ARGUMENT]
    wait_until(lambda: len(node.streams) == 0)


class Unanswered:
    """An auth service that answers no lookup until `go_on` is set."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.asked = 0

    def resolve(self, request: auth_pb2.ResolveSessionRequest) -> auth_pb2.ResolveSessionResponse:
        """See SessionResolver."""
        del request
        self.asked += 1
        self.go_on.wait(30)
        return auth_pb2.ResolveSessionResponse(refusal=Reason.CREDENTIAL_INVALID.name)


@pytest.mark.parametrize(("kind", "before"), [*((kind, []) for kind in SERVERS), ("sync", [server_interceptor()])])
def test_invented_sessions_occupy_no_thread_and_are_limited(
    etcd_settings: EtcdSettings, issuer: Issuer, kind: str, before: list[grpc.ServerInterceptor]
) -> None:
    """Also with OpenTelemetry's interceptor before ours, which wraps the handlers that ours returns."""
    resolver = Unanswered()
    settings = MeshSettings(etcd=etcd_settings, service="probe", issuer=ISSUER)
    with (
        MeshNode(settings, resolver=resolver) as node,
        ProbeServer(node, kind, threads=4, before=before) as server,
        RawConnection(server.port) as raw,
        make_client("sync", server.target) as client,
    ):
        calls = [begin(raw, "Unary", OpaqueToken.generate(OpaqueKind.SESSION).text()) for _ in range(256)]
        for call in calls:
            raw.send(call, WHO)
        wait_until(lambda: resolver.asked == 8, what="every thread of the lookups waits")
        for method in KINDS:
            assert client.call(method, "who", metadata=bearer(issuer.token())).answers[0] == "alice"
        further = begin(raw, "Unary", OpaqueToken.generate(OpaqueKind.SESSION).text())
        raw.send(further, WHO)
        assert raw.wait_until_ended(further).status == STATUS[grpc.StatusCode.RESOURCE_EXHAUSTED]
        assert not any(call.ended for call in calls)
        resolver.go_on.set()
        for call in calls:
            assert raw.wait_until_ended(call).status == STATUS[grpc.StatusCode.UNAUTHENTICATED]


def test_a_call_pool_has_all_its_threads_before_the_first_call() -> None:
    with CallPool(8, thread_name_prefix="before-the-first-call"):
        names = [thread.name for thread in threading.enumerate()]
        assert len([name for name in names if name.startswith("before-the-first-call")]) == 8


def test_a_call_pool_runs_other_functions_too() -> None:
    with CallPool(2) as pool:
        assert pool.submit(pow, 2, 10).result(10) == 1024


def test_a_pool_that_is_shut_down_does_not_stop_the_server(new_node: NewNode, issuer: Issuer) -> None:
    node = new_node()
    with ProbeServer(node, "sync") as server, make_client("sync", server.target) as client:
        server.pool.shutdown()
        for method in KINDS:
            outcome = client.call(method, "who", metadata=bearer(issuer.token()))
            assert (outcome.code, outcome.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.MESH_NOT_READY), method
