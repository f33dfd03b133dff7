"""The signing keys of a mesh on a real etcd, and the rotators, leaders and nodes that use them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import pytest

from authsvc.coordination.election import LeaderElection
from authsvc.keys.revoker import KeyRevoker
from authsvc.keys.rotation import Key, KeyState
from authsvc.keys.rotator import Rotator
from authsvc.keys.signer import Signer
from authsvc.keys.signer_cache import SignerCache
from authsvc.keys.snapshot import KeySnapshot, read_key_snapshot, signing_kid
from authsvc.keys.vault import Vault
from authsvc.revocation.revoker import Revoker
from authsvc.settings import AuthSettings
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import CreatedAt, Delete, EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.node.mesh_node import MeshNode
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
from tests.support.processes import KEK
from tests.support.waiting import wait_until

ISSUER: Final = "https://auth.test"


def auth_settings(etcd: EtcdSettings) -> AuthSettings:
    """The settings of a replica on this etcd."""
    return AuthSettings(
        mesh=MeshSettings(etcd=etcd, service="auth", issuer=ISSUER),
        server=ServerSettings(listen="127.0.0.1:0", plaintext=True),
        kek=KEK,
    )


class Keys:
    """The keys of one mesh: reads them, and creates rotators, revokers, leaders and nodes."""

    def __init__(self, settings: EtcdSettings, stack: ExitStack) -> None:
        self.settings = settings
        self.layout = Layout(settings.prefix)
        self.etcd = stack.enter_context(EtcdClient(settings))
        self.vault = Vault(b"k" * 32)
        self.signers = SignerCache(self.etcd, self.layout, self.vault)
        self._stack = stack

    def rotator(self, **options: Any) -> Rotator:
        """A rotator; by default no scheduled rotation is ever due. A `clock` serves as the monotonic clock too."""
        defaults: dict[str, Any] = {"rotation_interval": 1e6, "token_lifetime": 300.0, "leeway": 5.0}
        if "clock" in options:
            defaults["monotonic"] = options["clock"]
        return Rotator(self.etcd, self.layout, self.vault, **{**defaults, **options})

    def revoker(self) -> KeyRevoker:
        """A replica's KeyRevoker."""
        return KeyRevoker(self.etcd, self.layout, Revoker(self.etcd, self.layout, auth_settings(self.settings)))

    def leader(self, name: str = "replica-1", *, ttl: int = 5, **options: Any) -> LeaderElection:
        """A replica that campaigns for the lead and rotates. It is stopped when the test ends."""
        leader = LeaderElection(self.settings, self.layout, name, ttl, [self.rotator(**options).step])
        self._stack.callback(leader.stop)
        leader.start()
        return leader

    def node(self, service: str = "orders") -> MeshNode:
        """A started node, which is stopped when the test ends."""
        settings = MeshSettings(etcd=self.settings, service=service, issuer=ISSUER)
        node: MeshNode = self._stack.enter_context(MeshNode(settings))
        return node

    def silent_node(self, name: str = "silent") -> str:
        """Registers a node that never acknowledges a barrier. Returns its etcd key."""
        key = self.layout.node(name)
        record = mesh_pb2.NodeRecord(format=1, node_id=name)
        self.etcd.commit([], [Put(key, record.SerializeToString(), self.etcd.grant(600))])
        return key

    def fence(self) -> CreatedAt:
        """The fence of a new leader, which is elected by a write to etcd and deposes the leader before it."""
        self.etcd.commit([], [Delete(self.layout.leader)])
        revision = self.etcd.commit([], [Put(self.layout.leader, b"")])
        assert revision is not None
        return CreatedAt(self.layout.leader, revision)

    def snapshot(self) -> KeySnapshot:
        """The keys and their rotation, as etcd holds them."""
        return read_key_snapshot(self.etcd, self.layout, usable=lambda *_: True)

    def states(self) -> dict[str, KeyState]:
        """The keys' states by kid."""
        return {key.kid: key.state for key in self.snapshot().state.keys}

    def key(self, kid: str) -> Key:
        """One key."""
        return next(key for key in self.snapshot().state.keys if key.kid == kid)

    def signing(self) -> str | None:
        """The kid of the key that signs."""
        return signing_kid(self.etcd.read(self.layout.signing).values.get(self.layout.signing))

    def wait_for_signing(self, *, other_than: str | None = None) -> str:
        """Waits until a key signs that is not `other_than`. Returns its kid."""

        def new_signing_kid() -> str | None:
            kid = self.signing()
            return None if kid == other_than else kid

        return wait_until(new_signing_kid, what="a key to sign") or ""

    def token(self, signer: Signer | None = None, **claims: Any) -> str:
        """An operator's token for the auth service, by default signed with the key that signs."""
        signer = signer or self.signers.signer(self.signing() or "")
        now = time.time()
        return signer.sign(
            {
                "iss": ISSUER,
                "sub": "operator",
                "aud": ["credmesh.auth"],
                "client_id": "operator",
                "scope": "credmesh.keys.read credmesh.keys.write credmesh.nodes.read",
                "jti": "j",
                "iat": now,
                "nbf": now,
                "exp": now + 60,
                "epoch": self.etcd.read(self.layout.beacon).revision,
                **claims,
            }
        )


@pytest.fixture
def keys(etcd_settings: EtcdSettings) -> Iterator[Keys]:
    """The keys of a mesh that belongs to this test."""
    with ExitStack() as stack:
        yield Keys(etcd_settings, stack)


@pytest.fixture
def audited(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[Any]]:
    """A function that returns the audit trail's records of an event."""
    caplog.set_level("INFO")
    return lambda event: [
        record for record in caplog.records if record.name == "credmesh.audit" and record.getMessage() == event
    ]
