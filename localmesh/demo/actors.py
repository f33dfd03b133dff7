"""Who plays: people with credentials, and the nodes that they call. Calls go out bare: nothing hides a refusal."""

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
from localmesh.demo.stage import Stage

__all__ = ["PASSWORDS", "TIMEOUT", "Metadata", "Node", "Nodes", "Person", "bearer", "reason_text", "why"]

Metadata = tuple[tuple[str, str], ...]

PASSWORDS: Final = {"alice": "alice-password", "bob": "bob-password"}
TIMEOUT: Final = 5.0
"""Seconds for one call."""


@dataclass(frozen=True, slots=True)
class Node:
    """A process that verifies credentials, and a call that it answers alone: (metadata) -> its answer."""

    name: str
    audience: str
    call: Callable[[Metadata], Awaitable[object]]


@dataclass(slots=True)
class Person:
    """Somebody who has signed in."""

    subject: str
    credentials: auth_pb2.Credentials = field(repr=False)

    @property
    def token(self) -> str:
        """The access token, or the session token. A secret."""
        return self.credentials.access_token or self.credentials.session_token

    @property
    def metadata(self) -> Metadata:
        """What a call carries."""
        return bearer(self.token)


def bearer(token: str) -> Metadata:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {token}"),)


def why(error: grpc.RpcError) -> Reason | grpc.StatusCode:
    """Why a call was not served: our reason if there is one, else gRPC's status."""
    if not isinstance(error, aio.AioRpcError):
        return grpc.StatusCode.UNKNOWN
    return reason_of(error) or error.code()


def reason_text(found: Reason | grpc.StatusCode | None) -> str:
    """A reason as it is told."""
    return "OK" if found is None else found.name


class Nodes:
    """Channels and stubs to every part of the mesh."""

    def __init__(self, stage: Stage) -> None:
        ca_file = stage.ca_file
        services = stage.profile["services"]
        self._secret_file = Path(stage.profile["client_secret_file"])
        self._client_id: str = stage.profile["client_id"]
        self.auth_channel = self._open(stage.profile["auth"], ca_file)
        self.auth = auth_pb2_grpc.AuthServiceStub(self.auth_channel)
        self.keys = keys_pb2_grpc.KeyServiceStub(self.auth_channel)
        self.revocation = revocation_pb2_grpc.RevocationServiceStub(self.auth_channel)
        self._channels = [self.auth_channel]
        self.storefront = storefront_pb2_grpc.StorefrontServiceStub(self._keep(services["storefront"], ca_file))
        self.orders = orders_pb2_grpc.OrdersServiceStub(self._keep(services["orders"], ca_file))
        self.inventory = inventory_pb2_grpc.InventoryServiceStub(self._keep(services["inventory"], ca_file))
        self.all: list[Node] = [
            Node("storefront", "storefront", self._ask_storefront),
            Node("orders", "orders", self._ask_orders),
            Node("inventory", "inventory", self._ask_inventory),
        ]
        for number, address in enumerate(stage.profile["replicas"], 1):
            stub = auth_pb2_grpc.AuthServiceStub(self._keep(address, ca_file))
            self.all.append(Node(f"auth-{number}", "credmesh.auth", _who_am_i(stub)))

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
        timeout: float = TIMEOUT,
    ) -> Person:
        """Signs a user in."""
        grant = auth_pb2.PasswordGrant(subject=subject, password=PASSWORDS[subject])
        request = auth_pb2.LoginRequest(password=grant, audiences=audiences, scopes=scopes, kind=kind)
        return Person(subject, (await self.auth.Login(request, timeout=timeout)).credentials)

    async def operator(self) -> Person:
        """Signs the operator in: the client that may rotate and revoke."""
        secret = self._secret_file.read_text().strip()
        grant = auth_pb2.ClientCredentialsGrant(client_id=self._client_id, client_secret=secret)
        answer = await self.auth.Login(auth_pb2.LoginRequest(client_credentials=grant), timeout=TIMEOUT)
        return Person(self._client_id, answer.credentials)

    async def refresh(self, person: Person) -> None:
        """Trades a person's refresh token for new credentials."""
        request = auth_pb2.RefreshRequest(refresh_token=person.credentials.refresh_token)
        person.credentials = (await self.auth.Refresh(request, timeout=TIMEOUT)).credentials

    def _keep(self, address: str, ca_file: Path) -> aio.Channel:
        channel = self._open(address, ca_file)
        self._channels.append(channel)
        return channel

    @staticmethod
    def _open(target: str, ca_file: Path) -> aio.Channel:
        return aio_channel(target, ca_file=ca_file)

    async def _ask_storefront(self, metadata: Metadata) -> object:
        # Buy would also show what the services behind it think. Nothing is asked, because grpc.aio may tell INTERNAL in
        # place of the status if a call is refused while its first message is on its way.
        answers = self.storefront.Chat(iter(()), metadata=metadata, timeout=TIMEOUT)
        return [answer async for answer in answers]

    async def _ask_orders(self, metadata: Metadata) -> object:
        return await self.orders.CancelOrders(orders_pb2.CancelOrdersRequest(), metadata=metadata, timeout=TIMEOUT)

    async def _ask_inventory(self, metadata: Metadata) -> object:
        request = inventory_pb2.GetStockRequest(sku="tea")
        return await self.inventory.GetStock(request, metadata=metadata, timeout=TIMEOUT)


def _who_am_i(stub: Any) -> Callable[[Metadata], Awaitable[object]]:
    async def call(metadata: Metadata) -> object:
        return await stub.WhoAmI(auth_pb2.WhoAmIRequest(), metadata=metadata, timeout=TIMEOUT)

    return call
