"""Users and an operator of a mesh of real processes."""

from __future__ import annotations

from typing import Any

import grpc

from authsvc.accounts.bootstrap import AUTH_AUDIENCE, OPERATOR_SCOPES, SERVICE_SCOPES, ensure_client, ensure_user
from credmesh.admin.v1 import (
    history_pb2_grpc,
    keys_pb2_grpc,
    nodes_pb2_grpc,
    receipt_pb2,
    revocation_pb2,
    revocation_pb2_grpc,
    sessions_pb2_grpc,
)
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings

__all__ = ["People", "applied", "lagging", "node_receipt", "populate"]

PASSWORD = "a good password"
APPLIED = receipt_pb2.NodeReceipt.STATE_APPLIED


def populate(etcd: EtcdSettings) -> dict[str, str]:
    """Creates alice and bob, who may use the probe, an operator, and the services' client.

    Returns the clients' secrets.
    """
    layout = Layout(etcd.prefix)
    with EtcdClient(etcd) as client:
        for subject in ("alice", "bob"):
            ensure_user(client, layout, subject, PASSWORD, scopes=("probe.use",), audiences=("probe", AUTH_AUDIENCE))
        secrets = {
            name: ensure_client(client, layout, name, scopes=scopes, audiences=(AUTH_AUDIENCE,))
            for name, scopes in (("operator", OPERATOR_SCOPES), ("services", SERVICE_SCOPES))
        }
    return {name: secret for name, secret in secrets.items() if secret is not None}


class People:
    """Calls a replica of the auth service, as a user and as the operator."""

    def __init__(self, channel: grpc.Channel, secrets: dict[str, str]) -> None:
        self._secrets = secrets
        self.auth = auth_pb2_grpc.AuthServiceStub(channel)
        self.keys = keys_pb2_grpc.KeyServiceStub(channel)
        self.nodes = nodes_pb2_grpc.NodeServiceStub(channel)
        self.revocation = revocation_pb2_grpc.RevocationServiceStub(channel)
        self.sessions = sessions_pb2_grpc.SessionServiceStub(channel)
        self.history = history_pb2_grpc.HistoryServiceStub(channel)

    def sign_in(self, subject: str = "alice", *, opaque: bool = False) -> auth_pb2.Credentials:
        """Signs a user in."""
        kind = auth_pb2.CREDENTIAL_KIND_SESSION if opaque else auth_pb2.CREDENTIAL_KIND_TOKENS
        grant = auth_pb2.PasswordGrant(subject=subject, password=PASSWORD)
        request = auth_pb2.LoginRequest(password=grant, kind=kind, audiences=["probe"], scopes=["probe.use"])
        return self.auth.Login(request, timeout=20).credentials

    def operator(self) -> tuple[tuple[str, str], ...]:
        """Metadata with the operator's access token."""
        grant = auth_pb2.ClientCredentialsGrant(client_id="operator", client_secret=self._secrets["operator"])
        answer = self.auth.Login(auth_pb2.LoginRequest(client_credentials=grant), timeout=20)
        return (("authorization", f"Bearer {answer.credentials.access_token}"),)

    def ask(self, method: Any, request: Any, *, timeout: float = 30) -> Any:
        """Calls an admin method as the operator."""
        return method(request, timeout=timeout, metadata=self.operator())

    def revoke(self, *, timeout: float = 30, **fields: Any) -> revocation_pb2.RevokeResponse:
        """Revokes, and waits for the receipt unless `wait` is False."""
        request = revocation_pb2.RevokeRequest(**{"wait": True, **fields})
        answer: revocation_pb2.RevokeResponse = self.ask(self.revocation.Revoke, request, timeout=timeout)
        return answer


def node_receipt(receipt: receipt_pb2.Receipt, node_id: str) -> receipt_pb2.NodeReceipt:
    """The entry of a node in a receipt."""
    return next(node for node in receipt.nodes if node.node_id == node_id)


def applied(receipt: receipt_pb2.Receipt) -> set[str]:
    """The ids of the nodes that have applied the revocation."""
    return {node.node_id for node in receipt.nodes if node.state == APPLIED}


def lagging(receipt: receipt_pb2.Receipt) -> set[str]:
    """The ids of the registered nodes that have not applied the revocation."""
    return {node.node_id for node in receipt.nodes if node.state != APPLIED and not node.lease_ended}
