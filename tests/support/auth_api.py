"""A replica's API on a real server in this process, and a client that has all of its scopes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from authsvc.accounts.address_budget import AddressBudget
from authsvc.accounts.caller_address import CallerAddresses
from authsvc.accounts.login_throttle import LoginThrottle
from authsvc.api.auth_service import AuthServicer
from authsvc.api.revocation_service import RevocationServicer
from authsvc.api.session_service import SessionServicer
from authsvc.api.status_mapping import StatusMappingInterceptor
from authsvc.coordination.acknowledgements import AckTracker
from authsvc.revocation.receipts import Receipts
from authsvc.sessions.directory import SessionDirectory
from authsvc.sessions.introspection import Introspection
from authsvc.sessions.sessions import LocalSessionResolver
from credmesh.admin.v1 import revocation_pb2_grpc, sessions_pb2_grpc
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.errors import Reason, reason_of
from interceptors.node.mesh_node import MeshNode
from interceptors.scopes import session_scope
from interceptors.server import ServerInterceptor
from tests.support.replica import ALICE_PASSWORD, Replica
from tests.support.waiting import wait_until

__all__ = ["ADMIN", "TOKEN_LOOKUPS_PER_ADDRESS", "Api", "client_request", "password_request", "serve"]

ADMIN = ["credmesh.introspect", "credmesh.revoke", "credmesh.sessions.read", "credmesh.sessions.write"]
TOKEN_LOOKUPS_PER_ADDRESS = 50
SERVICES = {
    auth_pb2_grpc.AuthServiceStub: (
        "Login",
        "Refresh",
        "Logout",
        "Introspect",
        "ResolveSession",
        "WhoAmI",
        "ChangePassword",
        "GetKeySet",
    ),
    sessions_pb2_grpc.SessionServiceStub: ("ListSessions", "KickSession"),
    revocation_pb2_grpc.RevocationServiceStub: ("Revoke",),
}


@dataclass(frozen=True)
class Api:
    """A server, the replica behind it, and a client that has all of its scopes."""

    replica: Replica
    node: MeshNode
    calls: dict[str, Any]
    operator_secret: str

    def call(self, method: str, request: Any, *, token: str | None = None, address: str = "") -> Any:
        """Calls a method, as the operator unless a token is given.

        address: the caller's, behind a trusted proxy; by default there is no proxy.
        """
        token = self.operator() if token is None else token
        metadata = [("authorization", f"Bearer {token}")] if token else []
        if address:
            metadata.append(("x-forwarded-for", address))
        return self.calls[method](request, metadata=metadata, timeout=10)

    def failure(self, method: str, request: Any, *, token: str | None = None, address: str = "") -> grpc.Call:
        """Calls a method that must fail, and returns the failure."""
        with pytest.raises(grpc.RpcError) as failed:
            self.call(method, request, token=token, address=address)
        assert isinstance(failed.value, grpc.Call)
        return failed.value

    def reason(self, method: str, request: Any, *, token: str | None = None, address: str = "") -> Reason | None:
        """Calls a method that must be refused, and returns the reason."""
        return reason_of(self.failure(method, request, token=token, address=address).trailing_metadata())

    def operator(self) -> str:
        """The operator's access token."""
        grant = auth_pb2.ClientCredentialsGrant(client_id="operator", client_secret=self.operator_secret)
        request = auth_pb2.LoginRequest(client_credentials=grant)
        token: str = self.call("Login", request, token="").credentials.access_token
        return token

    def login(self, subject: str = "alice", **fields: Any) -> auth_pb2.Credentials:
        """Signs a user in."""
        response = self.call("Login", password_request(subject, **fields), token="")
        assert isinstance(response, auth_pb2.LoginResponse)
        return response.credentials

    def caught_up(self) -> None:
        """Waits until the server's own node has applied every commit so far."""
        revision = self.replica.revoke(session_scope("unknown"))
        wait_until(lambda: self.node.bundle.revision >= revision, what="the node to catch up")


def serve(replica: Replica, directory: SessionDirectory, operator_secret: str) -> Iterator[Api]:
    """Serves a replica's API until the generator is closed.

    directory: the replica's, which is not started yet
    """
    directory.start()
    with MeshNode(replica.settings.mesh, resolver=LocalSessionResolver(replica.sessions)) as node:
        server = grpc.server(ThreadPoolExecutor(8), interceptors=[ServerInterceptor(node), StatusMappingInterceptor()])
        auth = AuthServicer(
            accounts=replica.accounts,
            # Its clock stands still, so that no delay is over before a busy machine has sent the next attempt.
            throttle=LoginThrottle(per_account=5, per_address=20, clock=lambda: 0.0),
            token_lookups=AddressBudget(TOKEN_LOOKUPS_PER_ADDRESS),
            addresses=CallerAddresses(["127.0.0.1"]),
            issuer=replica.issuer,
            sessions=replica.sessions,
            introspection=Introspection(node=node, sessions=replica.sessions),
            node=node,
        )
        auth_pb2_grpc.add_AuthServiceServicer_to_server(auth, server)
        ack_tracker = AckTracker(replica.settings.mesh.etcd, replica.etcd, replica.layout)
        ack_tracker.start()
        receipts = Receipts(replica.etcd, replica.layout, ack_tracker, longest_freshness=2.0)
        sessions = SessionServicer(directory=directory, sessions=replica.sessions, receipts=receipts)
        sessions_pb2_grpc.add_SessionServiceServicer_to_server(sessions, server)
        revocation = RevocationServicer(revocation=replica.revocation, receipts=receipts)
        revocation_pb2_grpc.add_RevocationServiceServicer_to_server(revocation, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        assert directory.wait_ready(10)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            calls = {name: getattr(stub(channel), name) for stub, names in SERVICES.items() for name in names}
            yield Api(replica, node, calls, operator_secret)
        server.stop(0).wait()
        ack_tracker.stop()
    directory.stop()


def password_request(subject: str = "alice", password: str = ALICE_PASSWORD, **fields: Any) -> auth_pb2.LoginRequest:
    return auth_pb2.LoginRequest(password=auth_pb2.PasswordGrant(subject=subject, password=password), **fields)


def client_request(client_id: str = "operator", secret: str = "") -> auth_pb2.LoginRequest:
    grant = auth_pb2.ClientCredentialsGrant(client_id=client_id, client_secret=secret)
    return auth_pb2.LoginRequest(client_credentials=grant)
