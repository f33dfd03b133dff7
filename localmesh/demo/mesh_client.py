"""The demo's client of the mesh: it signs users in and calls every node.

It uses no client interceptor, so that no retry hides a refusal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc import aio

from credmesh.admin.v1 import keys_pb2_grpc, revocation_pb2_grpc
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from credmesh.samples.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from credmesh.samples.orders.v1 import orders_pb2, orders_pb2_grpc
from credmesh.samples.storefront.v1 import storefront_pb2_grpc
from interceptors.client import aio_channel
from interceptors.errors import Reason, reason_of
from localmesh.demo.demo_mesh import DemoMesh

__all__ = [
    "CALL_TIMEOUT_SECONDS",
    "PASSWORDS",
    "CalledNode",
    "MeshClient",
    "Metadata",
    "SignedIn",
    "bearer",
    "failure_reason",
    "reason_text",
]

Metadata = tuple[tuple[str, str], ...]

PASSWORDS: Final = {"alice": "alice-password", "bob": "bob-password"}
CALL_TIMEOUT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class CalledNode:
    """A node, and a call that it answers without calling other services. `call` takes the call's metadata."""

    name: str
    audience: str
    call: Callable[[Metadata], Awaitable[object]]


@dataclass(slots=True)
class SignedIn:
    """A user or client that has signed in, and its credentials."""

    subject: str
    credentials: auth_pb2.Credentials = field(repr=False)

    @property
    def token(self) -> str:
        """The access token, or the session token. A secret."""
        return self.credentials.access_token or self.credentials.session_token

    @property
    def metadata(self) -> Metadata:
        """The metadata of a call with this credential."""
        return bearer(self.token)


def bearer(token: str) -> Metadata:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {token}"),)


def failure_reason(error: grpc.RpcError) -> Reason | grpc.StatusCode:
    """The reason of a failed call: credmesh's if the error has one, else gRPC's status."""
    if not isinstance(error, aio.AioRpcError):
        return grpc.StatusCode.UNKNOWN
    return reason_of(error) or error.code()


def reason_text(reason: Reason | grpc.StatusCode | None) -> str:
    """The name of a reason; OK for None."""
    return "OK" if reason is None else reason.name


class MeshClient:
    """Stubs of all services of the mesh. `nodes` lists every node that verifies credentials."""

    def __init__(self, mesh: DemoMesh) -> None:
        services = mesh.profile["services"]
        self._secret_file = Path(mesh.profile["client_secret_file"])
        self._client_id: str = mesh.profile["client_id"]
        self._ca_file = mesh.ca_file
        self._channels: list[aio.Channel] = []
        self.auth_channel = self._open_channel(mesh.profile["auth"])
        self.auth = auth_pb2_grpc.AuthServiceStub(self.auth_channel)
        self.keys = keys_pb2_grpc.KeyServiceStub(self.auth_channel)
        self.revocation = revocation_pb2_grpc.RevocationServiceStub(self.auth_channel)
        self.storefront = storefront_pb2_grpc.StorefrontServiceStub(self._open_channel(services["storefront"]))
        self.orders = orders_pb2_grpc.OrdersServiceStub(self._open_channel(services["orders"]))
        self.inventory = inventory_pb2_grpc.InventoryServiceStub(self._open_channel(services["inventory"]))
        self.nodes: list[CalledNode] = [
            CalledNode("storefront", "storefront", self._call_storefront),
            CalledNode("orders", "orders", self._call_orders),
            CalledNode("inventory", "inventory", self._call_inventory),
        ]
        for number, address in enumerate(mesh.profile["replicas"], 1):
            stub = auth_pb2_grpc.AuthServiceStub(self._open_channel(address))
            self.nodes.append(CalledNode(f"auth-{number}", "credmesh.auth", _who_am_i(stub)))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def sign_in(
        self,
        subject: str,
        *,
        audiences: Sequence[str] = (),
        scopes: Sequence[str] = (),
        kind: auth_pb2.CredentialKind.ValueType = auth_pb2.CREDENTIAL_KIND_TOKENS,
        timeout: float = CALL_TIMEOUT_SECONDS,
    ) -> SignedIn:
        """Signs a user in."""
        grant = auth_pb2.PasswordGrant(subject=subject, password=PASSWORDS[subject])
        request = auth_pb2.LoginRequest(password=grant, audiences=audiences, scopes=scopes, kind=kind)
        return SignedIn(subject, (await self.auth.Login(request, timeout=timeout)).credentials)

    async def sign_in_operator(self) -> SignedIn:
        """Signs the operator in: a client that may rotate keys and revoke."""
        secret = self._secret_file.read_text().strip()
        grant = auth_pb2.ClientCredentialsGrant(client_id=self._client_id, client_secret=secret)
        answer = await self.auth.Login(auth_pb2.LoginRequest(client_credentials=grant), timeout=CALL_TIMEOUT_SECONDS)
        return SignedIn(self._client_id, answer.credentials)

    async def refresh(self, caller: SignedIn) -> None:
        """Exchanges the caller's refresh token for new credentials."""
        request = auth_pb2.RefreshRequest(refresh_token=caller.credentials.refresh_token)
        caller.credentials = (await self.auth.Refresh(request, timeout=CALL_TIMEOUT_SECONDS)).credentials

    def _open_channel(self, target: str) -> aio.Channel:
        channel = aio_channel(target, ca_file=self._ca_file)
        self._channels.append(channel)
        return channel

    async def _call_storefront(self, metadata: Metadata) -> object:
        # Buy would call the other services too. Chat is called without a message: if a call is refused while its first
        # message is on its way, grpc.aio may report INTERNAL instead of the status.
        answers = self.storefront.Chat(iter(()), metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)
        return [answer async for answer in answers]

    async def _call_orders(self, metadata: Metadata) -> object:
        request = orders_pb2.CancelOrdersRequest()
        return await self.orders.CancelOrders(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)

    async def _call_inventory(self, metadata: Metadata) -> object:
        request = inventory_pb2.GetStockRequest(sku="tea")
        return await self.inventory.GetStock(request, metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)


def _who_am_i(stub: Any) -> Callable[[Metadata], Awaitable[object]]:
    async def call(metadata: Metadata) -> object:
        return await stub.WhoAmI(auth_pb2.WhoAmIRequest(), metadata=metadata, timeout=CALL_TIMEOUT_SECONDS)

    return call
