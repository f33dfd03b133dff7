"""Replicas with different key-encryption keys: a replica that lacks one does not harm those that have it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from authsvc.coordination.election import LeaderElection, StepDown
from authsvc.keys.rotation import KeyState
from authsvc.keys.rotation_request import request_rotation
from authsvc.keys.rotator import Rotator
from authsvc.keys.signer_cache import SignerCache
from authsvc.keys.vault import Vault
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.errors import Reason, reason_of
from interceptors.etcd.client import Delete, KeyValue, Put
from interceptors.settings import EtcdSettings
from interceptors.stored_records import parse_record
from tests.support.keys import Keys
from tests.support.processes import AuthProcess, seed
from tests.support.waiting import wait_until

OTHER = Vault(b"o" * 32)
"""The vault of a replica that was given another key-encryption key."""

Lead = Callable[..., LeaderElection]


def rotator(keys: Keys, vault: Vault, **options: Any) -> Rotator:
    defaults: dict[str, Any] = {"rotation_interval": 1e6, "token_lifetime": 300.0, "leeway": 5.0}
    return Rotator(keys.etcd, keys.layout, vault, **{**defaults, **options})


@pytest.fixture
def lead(keys: Keys) -> Iterator[Lead]:
    """Starts a replica that has the given vault and campaigns for the lead."""
    with ExitStack() as stack:

        def start(name: str, vault: Vault, **options: Any) -> LeaderElection:
            # A lease of a minute, which no test waits for: the lead is given up, not lost.
            leader = LeaderElection(keys.settings, keys.layout, name, 60, [rotator(keys, vault, **options).step])
            stack.callback(leader.stop)
            leader.start()
            return leader

        yield start


def rotation_entries(keys: Keys) -> Mapping[str, KeyValue]:
    """Every etcd entry that a rotation could change."""
    layout = keys.layout
    prefixes = {**keys.etcd.read_prefix(layout.mesh).values, **keys.etcd.read_prefix(layout.vault).values}
    return {**prefixes, **keys.etcd.read(layout.rotation).values}


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of replicas that lack a key-encryption key."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


def test_a_leader_without_the_key_encryption_key_gives_up_and_changes_nothing(
    keys: Keys, lead: Lead, caplog: pytest.LogCaptureFixture
) -> None:
    good = lead("good", keys.vault)
    kid = keys.wait_for_signing()
    wrong = lead("wrong", OTHER, step_down_seconds=600.0)
    before = rotation_entries(keys)
    good.stop()
    wait_until(lambda: refusals(caplog), what="the other replica to lead, and to log that it cannot sign")
    [message] = refusals(caplog)
    assert f"credmesh revoke-key {kid}" in message
    assert OTHER.kek_id in message
    wait_until(
        lambda: keys.layout.leader not in keys.etcd.read(keys.layout.leader).values, what="it to give up the lead"
    )
    assert rotation_entries(keys) == before
    again = lead("again", keys.vault)
    wait_until(lambda: again.leading)
    assert not wrong.leading
    request_rotation(keys.etcd, keys.layout, "", "operator")
    successor = keys.wait_for_signing(other_than=kid)
    assert keys.states() == {kid: KeyState.RETIRING, successor: KeyState.ACTIVE}
    assert keys.signers.signer(successor).kid == successor
    assert len(refusals(caplog)) == 1


def test_a_replica_that_stepped_down_campaigns_again_after_a_while(
    keys: Keys, lead: Lead, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be the only replica left, and an operator may have removed the key that it cannot open."""
    keys.rotator().step(keys.fence())
    kid = keys.signing() or ""
    keys.etcd.commit([], [Delete(keys.layout.leader)])
    lead("wrong", OTHER, step_down_seconds=0.2)
    wait_until(lambda: len(refusals(caplog)) > 1, what="it to lead twice")
    assert keys.signing() == kid
    keys.etcd.commit([], [Delete(keys.layout.sealed_key(kid))])
    successor = keys.wait_for_signing(other_than=kid)
    assert SignerCache(keys.etcd, keys.layout, OTHER).signer(successor)


@pytest.mark.parametrize("key_state", ["signing", "prepared"])
@pytest.mark.parametrize("requested", [False, True], ids=["no request", "rotation requested"])
def test_a_key_of_another_key_encryption_key_is_neither_replaced_nor_discarded(
    keys: Keys, key_state: str, requested: bool
) -> None:
    if key_state == "prepared":
        keys.silent_node()
    rotator(keys, keys.vault, proceed_unsigned_after=1e9).step(keys.fence())
    assert list(keys.states().values()) == [KeyState.PREPARED if key_state == "prepared" else KeyState.ACTIVE]
    if requested:
        request_rotation(keys.etcd, keys.layout, "ES256", "operator")
    before = rotation_entries(keys)
    wrong, fence = rotator(keys, OTHER, rotation_interval=1e-6), keys.fence()
    for _ in range(2):
        with pytest.raises(StepDown, match="sealed under the key-encryption key") as step_down:
            wrong.step(fence)
        assert step_down.value.seconds > 1
    assert rotation_entries(keys) == before


def test_a_key_that_does_not_open_under_its_key_encryption_key_is_replaced(keys: Keys) -> None:
    """No other replica could open it either."""
    leading, fence = keys.rotator(), keys.fence()
    leading.step(fence)
    first = keys.signing() or ""
    name = keys.layout.sealed_key(first)
    sealed = parse_record(store_pb2.SealedKey, keys.etcd.read(name).values[name].value)
    sealed.ciphertext = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])
    keys.etcd.commit([], [Put(name, sealed.SerializeToString())])
    leading.step(fence)
    assert keys.states() == {first: KeyState.RETIRING, keys.signing() or "": KeyState.ACTIVE}
    assert SignerCache(keys.etcd, keys.layout, keys.vault).signer(keys.signing() or "")


def test_a_key_that_retires_needs_no_key_encryption_key(keys: Keys) -> None:
    rotator(keys, OTHER).step(keys.fence())
    first = keys.signing() or ""
    request_rotation(keys.etcd, keys.layout, "", "operator")
    rotator(keys, Vault(b"k" * 32, b"o" * 32)).step(keys.fence())
    assert keys.rotator().step(keys.fence()) > 1
    assert keys.states()[first] is KeyState.RETIRING


def test_an_operator_can_revoke_a_key_whose_key_encryption_key_is_lost(keys: Keys, etcd_settings: EtcdSettings) -> None:
    """No token can be signed then, not even the operator's. An opaque session needs none."""
    secret = seed(etcd_settings)["operator"]
    keys.rotator().step(keys.fence())
    kid = keys.signing() or ""
    keys.etcd.commit([], [Delete(keys.layout.leader)])
    grant = auth_pb2.ClientCredentialsGrant(client_id="operator", client_secret=secret)
    with AuthProcess(etcd_settings) as replica, replica.channel() as channel:
        auth, admin = auth_pb2_grpc.AuthServiceStub(channel), keys_pb2_grpc.KeyServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            auth.Login(auth_pb2.LoginRequest(client_credentials=grant), timeout=20)
        assert isinstance(refused.value, grpc.Call)
        assert reason_of(refused.value.trailing_metadata()) is Reason.MESH_NOT_READY
        opaque = auth_pb2.LoginRequest(client_credentials=grant, kind=auth_pb2.CREDENTIAL_KIND_SESSION)
        session = auth.Login(opaque, timeout=20).credentials.session_token
        bearer = (("authorization", f"Bearer {session}"),)
        admin.RevokeKey(keys_pb2.RevokeKeyRequest(kid=kid, reason="lost"), metadata=bearer, timeout=20)
        # The replica steps down for ten seconds each time that it has led.
        wait_until(lambda: keys.signing() not in (None, kid), timeout=30, what="another key to sign")
        assert auth.Login(auth_pb2.LoginRequest(client_credentials=grant), timeout=20).credentials.access_token
