"""What an address may use in a minute, in bounded memory."""

from __future__ import annotations

from authsvc.accounts.address_budget import AddressBudget


def test_an_address_uses_up_its_own_budget_only() -> None:
    budget = AddressBudget(2)
    assert [budget.take("203.0.113.7") for _ in range(3)] == [True, True, False]
    assert budget.is_spent("203.0.113.7")
    assert not budget.is_spent("203.0.113.8")


def test_zero_is_no_limit() -> None:
    budget = AddressBudget(0)
    assert all(budget.take("203.0.113.7") for _ in range(100))
    assert not budget.is_spent("203.0.113.7")


def test_memory_does_not_grow_with_the_addresses_of_callers() -> None:
    budget = AddressBudget(1)
    assert len({budget._bucket(f"2001:db8:{i // 65536:x}:{i % 65536:x}::1") for i in range(100_000)}) <= 65_536


def test_which_addresses_share_a_bucket_cannot_be_predicted() -> None:
    first, second = AddressBudget(1), AddressBudget(1)
    addresses = [f"203.0.113.{i}" for i in range(8)]
    assert [first._bucket(one) for one in addresses] != [second._bucket(one) for one in addresses]
