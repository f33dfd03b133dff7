"""A key is kept until the last token that any replica signed with it has expired."""

from __future__ import annotations

import pytest

from authsvc.keys.rotation_request import request_rotation
from authsvc.revocation.lifetimes import IssuingLifetime
from tests.authsvc.keys.test_rotator import Clock
from tests.support.keys import Keys


def _request_rotation(keys: Keys) -> None:
    request_rotation(keys.etcd, keys.layout, "", "operator")


def test_a_rotation_retires_by_the_longest_lifetime_that_is_in_force(keys: Keys) -> None:
    clock = Clock()
    rotator, fence = keys.rotator(clock=clock, token_lifetime=300.0, leeway=5.0, margin=60.0), keys.fence()
    rotator.step(fence)
    first = keys.signing() or ""
    IssuingLifetime(keys.etcd, keys.layout, 3600).read_in_force(keys.layout.signing)
    IssuingLifetime(keys.etcd, keys.layout, 60).read_in_force(keys.layout.signing)
    _request_rotation(keys)
    rotator.step(fence)
    assert keys.key(first).remove_at == pytest.approx(clock.now + 3665.0)
    clock.now += 3664.0
    rotator.step(fence)
    assert first in keys.states()
    clock.now += 1.01
    rotator.step(fence)
    assert first not in keys.states()


def test_a_lifetime_that_came_into_force_during_the_retiring_counts_too(keys: Keys) -> None:
    """A replica that just came up may have signed between the leader's read and its commit. Its tokens stay good."""
    clock = Clock()
    rotator, fence = keys.rotator(clock=clock, token_lifetime=300.0, leeway=5.0, margin=60.0), keys.fence()
    rotator.step(fence)
    first = keys.signing() or ""
    _request_rotation(keys)
    rotator.step(fence)
    assert keys.key(first).remove_at == pytest.approx(clock.now + 365.0)
    lifetime = f"{keys.layout.lifetimes}3600"
    IssuingLifetime(keys.etcd, keys.layout, 3600).read_in_force(keys.layout.signing)
    clock.now += 366.0
    rotator.step(fence)
    assert first in keys.states()
    # The lifetime ends with the last token. No token that the key signed is good then.
    keys.etcd.revoke_lease(keys.etcd.read(lifetime).values[lifetime].lease)
    rotator.step(fence)
    assert first not in keys.states()
