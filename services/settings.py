"""What a sample service is told when it starts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interceptors.settings import MeshSettings, ServerSettings, setting

__all__ = ["OrdersSettings", "ServiceSettings", "StorefrontSettings"]


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """What every sample service needs. Without CREDMESH_AUTH it takes access tokens, and refuses opaque sessions."""

    mesh: MeshSettings
    server: ServerSettings
    auth: str = setting(
        "CREDMESH_AUTH",
        "10.0.0.1:8443,10.0.0.2:8443",
        default="",
        help="the auth service: resolves sessions",
    )
    ca_file: Path | None = setting("CREDMESH_CA_FILE", "/etc/credmesh/ca.pem", default=None, help="whom to call by TLS")
    client_id: str = setting("CREDMESH_CLIENT_ID", "services", default="", help="as whom to resolve opaque sessions")
    client_secret_file: Path | None = setting(
        "CREDMESH_CLIENT_SECRET_FILE", "/etc/credmesh/client-secret", default=None, help="that client's secret"
    )

    def __post_init__(self) -> None:
        if self.auth and not (self.client_id and self.client_secret_file):
            raise ValueError(
                "CREDMESH_AUTH needs CREDMESH_CLIENT_ID and CREDMESH_CLIENT_SECRET_FILE; for example: "
                "CREDMESH_CLIENT_ID=services CREDMESH_CLIENT_SECRET_FILE=/etc/credmesh/client-secret"
            )


@dataclass(frozen=True, kw_only=True)
class OrdersSettings(ServiceSettings):
    """Orders also calls inventory."""

    inventory: str = setting("INVENTORY_TARGET", "inventory:8443", help="host:port of inventory")


@dataclass(frozen=True, kw_only=True)
class StorefrontSettings(ServiceSettings):
    """Storefront also calls orders and inventory."""

    orders: str = setting("ORDERS_TARGET", "orders:8443", help="host:port of orders")
    inventory: str = setting("INVENTORY_TARGET", "inventory:8443", help="host:port of inventory")
