"""The key ring: signers by kid, opened from the vault when they are first asked for."""

from __future__ import annotations

import threading
from typing import Final

from authsvc.keys.algorithms import public_der
from authsvc.keys.signer import Signer
from authsvc.keys.vault import Vault, VaultError
from authsvc.store.records import parse_record
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.tokens.verification_key import RecordError, read_key

__all__ = ["KeyMissing", "KeyRing", "open_signer"]

_HELD: Final = 4
"""As many opened keys are kept: the one that signs, its successor, and a few that just stopped."""


class KeyMissing(CredmeshError):
    """There is no such key to sign with: it was revoked or removed a moment ago, or this replica cannot open it."""


class KeyRing:
    """Signers by kid. Thread-safe; one per replica.

    A signer that is kept may be of a key that was revoked since. Issuing compares the signing record in its
    transaction, so nothing that such a key signs gets out.
    """

    def __init__(self, etcd: EtcdClient, layout: Layout, vault: Vault) -> None:
        self._etcd = etcd
        self._layout = layout
        self._vault = vault
        self._lock = threading.Lock()
        self._signers: dict[str, Signer] = {}

    def signer(self, kid: str) -> Signer:
        """The signer of a key. Raises KeyMissing and EtcdUnavailable."""
        signer = self._signers.get(kid)
        if signer is None:
            signer = self._open(kid)
            with self._lock:
                self._signers[kid] = signer
                while len(self._signers) > _HELD:
                    del self._signers[next(iter(self._signers))]
        return signer

    def _open(self, kid: str) -> Signer:
        found = self._etcd.read(self._layout.key(kid), self._layout.sealed_key(kid)).values
        record, sealed = found.get(self._layout.key(kid)), found.get(self._layout.sealed_key(kid))
        if record is None or sealed is None:
            raise KeyMissing(f"key {kid!r} is not there any more" if record is None else f"key {kid!r} is not sealed")
        try:
            return open_signer(self._vault, kid, record.value, sealed.value)
        except (RecordError, VaultError) as error:
            raise KeyMissing(str(error)) from None


def open_signer(vault: Vault, kid: str, record: bytes, sealed: bytes) -> Signer:
    """Opens a key from its two records: the one that every node reads, and the sealed one.

    Raises RecordError and VaultError. The two must be halves of one key: a signature that no node can verify would
    refuse everybody.
    """
    algorithm = read_key(record).algorithm
    private_key = vault.open(kid, sealed, algorithm)
    if public_der(private_key) != parse_record(mesh_pb2.VerificationKey, record).public_key:
        raise VaultError(f"the sealed key {kid!r} is not the private half of the key that nodes verify with; revoke it")
    return Signer(kid, algorithm, private_key)
