"""credmesh in a service: verify who calls, attach who you are.

`MeshNode` keeps up with the mesh's keys and revocations, `interceptors.server` protects a gRPC server with it, and
`interceptors.client` signs in and attaches credentials. None of them holds a private key.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interceptors.caller import Caller, current_caller
    from interceptors.errors import CredmeshError, NotReady, Reason, Refusal, SettingsError, reason_of
    from interceptors.node import MeshNode
    from interceptors.policy import MethodRule, Policy, PolicyError
    from interceptors.sessions import GrpcSessionResolver, SessionResolver
    from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings, read_settings

__all__ = [
    "Caller",
    "CredmeshError",
    "EtcdSettings",
    "GrpcSessionResolver",
    "MeshNode",
    "MeshSettings",
    "MethodRule",
    "NotReady",
    "Policy",
    "PolicyError",
    "Reason",
    "Refusal",
    "ServerSettings",
    "SessionResolver",
    "SettingsError",
    "current_caller",
    "read_settings",
    "reason_of",
]

# Imported when first used: a program that only attaches credentials has no need to load the etcd client.
_ROOMS = {
    "caller": ("Caller", "current_caller"),
    "errors": ("CredmeshError", "NotReady", "Reason", "Refusal", "SettingsError", "reason_of"),
    "node": ("MeshNode",),
    "policy": ("MethodRule", "Policy", "PolicyError"),
    "sessions": ("GrpcSessionResolver", "SessionResolver"),
    "settings": ("EtcdSettings", "MeshSettings", "ServerSettings", "read_settings"),
}


def __getattr__(name: str) -> Any:
    for room, names in _ROOMS.items():
        if name in names:
            return getattr(import_module(f"interceptors.{room}"), name)
    raise AttributeError(f"module 'interceptors' has no attribute {name!r}")
