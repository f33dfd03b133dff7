"""A key stays until the last token that any replica signed with it has expired, whichever lifetime that had."""

from __future__ import annotations

import pytest

from authsvc.keys.rotation_request import request_rotation
from authsvc.revocation.lifetimes import Lifetime
from tests.authsvc.keys.test_rotator import Clock
from tests.support.keys import Keys


def _rotate(keys: Keys) -> None:
    request_rotation(keys.etcd, keys.layout, "", "operator")


def test_a_rotation_retires_by_the_longest_lifetime_that_is_in_force(keys: Keys) -> None:
    clock = Clock()
    rotator, fence = keys.rotator(clock=clock, token_lifetime=300.0, leeway=5.0, margin=60.0), keys.fence()
    rotator.step(fence)
    first = keys.signing() or ""
    Lifetime(keys.etcd, keys.layout, 3600).read(keys.layout.signing)
    Lifetime(keys.etcd, keys.layout, 60).read(keys.layout.signing)
    _rotate(keys)
    rotator.step(fence)
    assert keys.key(first).remove_at == pytest.approx(clock.now + 3665.0)
    clock.now += 3664.0
    rotator.step(fence)
    assert first in keys.states()
    clock.now += 1.01
    rotator.step(fence)
    assert first not in keys.states()


def test_a_lifetime_that_came_into_force_while_the_key_was_being_retired_keeps_it_all_the_same(keys: Keys) -> None:
    """What a replica that just came up signed with it, between the leader's look and its commit, has to stay good."""
    clock = Clock()
    rotator, fence = keys.rotator(clock=clock, token_lifetime=300.0, leeway=5.0, margin=60.0), keys.fence()
    rotator.step(fence)
    first = keys.signing() or ""
    _rotate(keys)
    rotator.step(fence)
    assert keys.key(first).remove_at == pytest.approx(clock.now + 365.0)
    lifetime = f"{keys.layout.lifetimes}3600"
    Lifetime(keys.etcd, keys.layout, 3600).read(keys.layout.signing)
    clock.now += 366.0
    rotator.step(fence)
    assert first in keys.states()
    # It goes with the last token: then nothing that the key signed is good any more.
    keys.etcd.revoke_lease(keys.etcd.read(lifetime).values[lifetime].lease)
    rotator.step(fence)
    assert first not in keys.states()
