"""The settings of the sample services."""

from __future__ import annotations

from dataclasses import dataclass

from interceptors.serving import ServiceSettings
from interceptors.settings import setting

__all__ = ["OrdersSettings", "StorefrontSettings"]


@dataclass(frozen=True, kw_only=True)
class OrdersSettings(ServiceSettings):
    """Those of orders, which calls inventory."""

    inventory: str = setting("INVENTORY_TARGET", "inventory:8443", help="host:port of inventory")


@dataclass(frozen=True, kw_only=True)
class StorefrontSettings(ServiceSettings):
    """Those of storefront, which calls orders and inventory."""

    orders: str = setting("ORDERS_TARGET", "orders:8443", help="host:port of orders")
    inventory: str = setting("INVENTORY_TARGET", "inventory:8443", help="host:port of inventory")
