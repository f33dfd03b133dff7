"""credmesh in a service: verify who calls, attach who you are.

`MeshNode` keeps up with the mesh's keys and revocations, `interceptors.server` protects a gRPC server with it, and
`interceptors.client` signs in and attaches credentials. None of them holds a private key.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interceptors.caller import Caller, current_caller
    from interceptors.errors import CredmeshError, NotReady, Reason, Refusal, SettingsError, reason_of
    from interceptors.node.mesh_node import MeshNode
    from interceptors.policy import MethodRule, Policy, PolicyError
    from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings, read_settings
    from interceptors.verification.session_resolver import GrpcSessionResolver, SessionResolver

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
_NAMES_BY_MODULE = {
    "caller": ("Caller", "current_caller"),
    "errors": ("CredmeshError", "NotReady", "Reason", "Refusal", "SettingsError", "reason_of"),
    "node.mesh_node": ("MeshNode",),
    "policy": ("MethodRule", "Policy", "PolicyError"),
    "settings": ("EtcdSettings", "MeshSettings", "ServerSettings", "read_settings"),
    "verification.session_resolver": ("GrpcSessionResolver", "SessionResolver"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES_BY_MODULE.items():
        if name in names:
            return getattr(import_module(f"interceptors.{module}"), name)
    raise AttributeError(f"module 'interceptors' has no attribute {name!r}")
