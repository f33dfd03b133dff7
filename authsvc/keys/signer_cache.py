"""Signers by kid. A signer is loaded from the vault when it is first needed, and then kept in memory."""

from __future__ import annotations

import threading
from typing import Final

from authsvc.keys.algorithms import public_der
from authsvc.keys.signer import Signer
from authsvc.keys.vault import Vault, VaultError
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.stored_records import RecordError, parse_record
from interceptors.tokens.verification_key import read_key

__all__ = ["KeyMissing", "SignerCache", "load_signer"]

_MAX_CACHED_SIGNERS: Final = 4
"""The key that signs, its successor, and a few that have just stopped signing."""


class KeyMissing(CredmeshError):
    """A signing key cannot be used: it was revoked or removed a moment ago, or this replica cannot open it."""


class SignerCache:
    """Signers by kid. Thread-safe; one per replica.

    A cached signer may belong to a key that was revoked since. Nothing that it signs is given out: issuing compares the
    signing record in its transaction.
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
            signer = self._load(kid)
            with self._lock:
                self._signers[kid] = signer
                while len(self._signers) > _MAX_CACHED_SIGNERS:
                    del self._signers[next(iter(self._signers))]
        return signer

    def _load(self, kid: str) -> Signer:
        key, sealed_key = self._layout.key(kid), self._layout.sealed_key(kid)
        entries = self._etcd.read(key, sealed_key).values
        if key not in entries:
            raise KeyMissing(f"key {kid!r} does not exist any more")
        if sealed_key not in entries:
            raise KeyMissing(f"key {kid!r} has no private key in the vault")
        try:
            return load_signer(self._vault, kid, entries[key].value, entries[sealed_key].value)
        except (RecordError, VaultError) as error:
            raise KeyMissing(str(error)) from None


def load_signer(vault: Vault, kid: str, record: bytes, sealed: bytes) -> Signer:
    """Returns the signer of a key, given its `mesh/keys/<kid>` record and its `vault/<kid>` record.

    Raises RecordError and VaultError. The private and the public half must belong together, or every node would refuse
    every new token.
    """
    algorithm = read_key(record).algorithm
    private_key = vault.open(kid, sealed, algorithm)
    if public_der(private_key) != parse_record(mesh_pb2.VerificationKey, record).public_key:
        raise VaultError(f"the sealed key {kid!r} is not the private half of the key that nodes verify with; revoke it")
    return Signer(kid, algorithm, private_key)
