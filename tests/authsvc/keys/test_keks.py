"""Replicas with different key-encryption keys: one that lacks the right one takes nothing away from the others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from authsvc.coordination.election import LeaderElection, StepDown
from authsvc.keys.ring import KeyRing
from authsvc.keys.rotation import State
from authsvc.keys.rotation_request import request_rotation
from authsvc.keys.rotator import Rotator
from authsvc.keys.vault import Vault
from authsvc.store.records import parse_record
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from credmesh.store.v1 import auth_pb2 as store_pb2
from interceptors.errors import Reason, reason_of
from interceptors.etcd.client import Delete, KeyValue, Put
from interceptors.settings import EtcdSettings
from tests.support.keys import Keys
from tests.support.processes import AuthProcess, seed
from tests.support.waiting import wait_until

OTHER = Vault(b"o" * 32)
"""What a replica has that was given another key-encryption key."""

Lead = Callable[..., LeaderElection]


def rotator(keys: Keys, vault: Vault, **options: Any) -> Rotator:
    defaults: dict[str, Any] = {"rotation_interval": 1e6, "token_lifetime": 300.0, "leeway": 5.0}
    return Rotator(keys.etcd, keys.layout, vault, **{**defaults, **options})


@pytest.fixture
def lead(keys: Keys) -> Iterator[Lead]:
    """Has a replica campaign that has the vault that is given."""
    with ExitStack() as stack:

        def start(name: str, vault: Vault, **options: Any) -> LeaderElection:
            # Nobody waits for a lease of a minute: the lead is given up, not lost.
            leader = LeaderElection(keys.settings, keys.layout, name, 60, [rotator(keys, vault, **options).step])
            stack.callback(leader.stop)
            leader.start()
            return leader

        yield start


def everything(keys: Keys) -> Mapping[str, KeyValue]:
    """All that a rotation could change."""
    layout = keys.layout
    found = {**keys.etcd.read_prefix(layout.mesh).values, **keys.etcd.read_prefix(layout.vault).values}
    return {**found, **keys.etcd.read(layout.rotation).values}


def refusals(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What replicas said that lack a key-encryption key."""
    return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]


def test_a_leader_without_the_key_encryption_key_gives_the_lead_to_one_that_has_it_and_changes_nothing(
    keys: Keys, lead: Lead, caplog: pytest.LogCaptureFixture
) -> None:
    good = lead("good", keys.vault)
    kid = keys.wait_for_signing()
    wrong = lead("wrong", OTHER, stand_back=600.0)
    before = everything(keys)
    good.stop()
    wait_until(lambda: refusals(caplog), what="the other to lead, and to say that it cannot")
    [said] = refusals(caplog)
    assert f"credmesh revoke-key {kid}" in said
    assert OTHER.kek_id in said
    wait_until(lambda: keys.layout.leader not in keys.etcd.read(keys.layout.leader).values, what="it to give up")
    assert everything(keys) == before
    again = lead("again", keys.vault)
    wait_until(lambda: again.leading)
    assert not wrong.leading
    request_rotation(keys.etcd, keys.layout, "", "operator")
    successor = keys.wait_for_signing(other_than=kid)
    assert keys.states() == {kid: State.RETIRING, successor: State.ACTIVE}
    assert keys.ring.signer(successor).kid == successor
    assert len(refusals(caplog)) == 1


def test_a_replica_that_stood_back_campaigns_again_after_a_while(
    keys: Keys, lead: Lead, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be the only one that is left, and somebody may have taken the key away that nobody can open."""
    keys.rotator().step(keys.fence())
    kid = keys.signing() or ""
    keys.etcd.commit([], [Delete(keys.layout.leader)])
    lead("wrong", OTHER, stand_back=0.2)
    wait_until(lambda: len(refusals(caplog)) > 1, what="it to lead twice")
    assert keys.signing() == kid
    keys.etcd.commit([], [Delete(keys.layout.sealed_key(kid))])
    successor = keys.wait_for_signing(other_than=kid)
    assert KeyRing(keys.etcd, keys.layout, OTHER).signer(successor)


@pytest.mark.parametrize("life", ["signing", "prepared"])
@pytest.mark.parametrize("asked", [False, True], ids=["by itself", "asked for a rotation"])
def test_a_key_of_another_key_encryption_key_is_neither_replaced_nor_discarded(
    keys: Keys, life: str, asked: bool
) -> None:
    if life == "prepared":
        keys.silent_node()
    rotator(keys, keys.vault, proceed_unsigned_after=1e9).step(keys.fence())
    assert list(keys.states().values()) == [State.PREPARED if life == "prepared" else State.ACTIVE]
    if asked:
        request_rotation(keys.etcd, keys.layout, "ES256", "operator")
    before = everything(keys)
    wrong, fence = rotator(keys, OTHER, rotation_interval=1e-6), keys.fence()
    for _ in range(2):
        with pytest.raises(StepDown, match="sealed under the key-encryption key") as asked_for:
            wrong.step(fence)
        assert asked_for.value.seconds > 1
    assert everything(keys) == before


def test_a_key_that_does_not_open_under_our_own_key_encryption_key_is_replaced(keys: Keys) -> None:
    """Nobody else could open it either."""
    leading, fence = keys.rotator(), keys.fence()
    leading.step(fence)
    first = keys.signing() or ""
    name = keys.layout.sealed_key(first)
    sealed = parse_record(store_pb2.SealedKey, keys.etcd.read(name).values[name].value)
    sealed.ciphertext = sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1])
    keys.etcd.commit([], [Put(name, sealed.SerializeToString())])
    leading.step(fence)
    assert keys.states() == {first: State.RETIRING, keys.signing() or "": State.ACTIVE}
    assert KeyRing(keys.etcd, keys.layout, keys.vault).signer(keys.signing() or "")


def test_a_key_that_retires_needs_no_key_encryption_key(keys: Keys) -> None:
    rotator(keys, OTHER).step(keys.fence())
    first = keys.signing() or ""
    request_rotation(keys.etcd, keys.layout, "", "operator")
    rotator(keys, Vault(b"k" * 32, b"o" * 32)).step(keys.fence())
    assert keys.rotator().step(keys.fence()) > 1
    assert keys.states()[first] is State.RETIRING


def test_when_nobody_has_the_key_encryption_key_any_more_an_operator_can_still_revoke_the_key(
    keys: Keys, etcd_settings: EtcdSettings
) -> None:
    """No token can be signed then, the operator's neither; an opaque session needs none."""
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
        # It stands back for ten seconds each time that it has led.
        wait_until(lambda: keys.signing() not in (None, kid), timeout=30, what="another key to sign")
        assert auth.Login(auth_pb2.LoginRequest(client_credentials=grant), timeout=20).credentials.access_token
