"""Stock: a watcher gets every change, or an error."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from services import stock as stock_module
from services.stock import OutOfStock, Stock, TooSlow, UnknownItem

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that the services use."""
    return "asyncio"


async def test_reserving_reduces_the_stock_and_never_below_zero() -> None:
    stock = Stock({"tea": 5})
    assert stock.reserve("tea", 2) == 3
    with pytest.raises(OutOfStock, match="3 of tea are left"):
        stock.reserve("tea", 4)
    assert stock.left("tea") == 3


async def test_an_item_that_is_not_kept_is_unknown() -> None:
    stock = Stock({"tea": 5})
    with pytest.raises(UnknownItem):
        stock.left("coffee")
    with pytest.raises(UnknownItem):
        stock.reserve("coffee", 1)
    with pytest.raises(UnknownItem):
        await anext(stock.watch("coffee"))


async def test_a_watcher_gets_the_stock_of_its_item_and_then_every_change() -> None:
    stock = Stock({"tea": 5, "cups": 9})
    watcher = stock.watch("tea")
    assert await anext(watcher) == ("tea", 5)
    stock.reserve("tea", 1)
    stock.reserve("cups", 1)
    stock.reserve("tea", 1)
    assert [await anext(watcher), await anext(watcher)] == [("tea", 4), ("tea", 3)]


async def test_a_watcher_of_all_items_gets_the_changes_of_all() -> None:
    stock = Stock({"tea": 5, "cups": 9})
    watcher = stock.watch()
    assert {await anext(watcher), await anext(watcher)} == {("tea", 5), ("cups", 9)}
    stock.reserve("cups", 2)
    assert await anext(watcher) == ("cups", 7)


async def test_closing_ends_watchers() -> None:
    stock = Stock({"tea": 5})
    watcher = stock.watch("tea")
    await anext(watcher)
    stock.close()
    assert [change async for change in watcher] == []


async def test_a_watcher_that_is_too_slow_gets_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock_module, "_MAX_WAITING_CHANGES", 3)
    stock = Stock({"tea": 50})
    watcher = stock.watch("tea")
    await anext(watcher)
    for _ in range(10):
        stock.reserve("tea", 1)
    seen = [await anext(watcher) for _ in range(3)]
    assert seen == [("tea", 49), ("tea", 48), ("tea", 47)]
    with pytest.raises(TooSlow):
        await anext(watcher)


async def test_a_closed_watcher_is_removed() -> None:
    stock = Stock({"tea": 5})
    watcher = stock.watch("tea")
    await anext(watcher)
    assert isinstance(watcher, AsyncGenerator)
    await watcher.aclose()
    assert not stock._watchers
