"""Stock: what a watcher sees is everything, or an error; never a gap."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from services import stock as room
from services.stock import OutOfStock, Stock, TooSlow, UnknownThing

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The event loop that the services use."""
    return "asyncio"


async def test_reserving_takes_out_what_is_there() -> None:
    stock = Stock({"tea": 5})
    assert stock.reserve("tea", 2) == 3
    with pytest.raises(OutOfStock, match="3 of tea are left"):
        stock.reserve("tea", 4)
    assert stock.left("tea") == 3


async def test_what_is_not_kept_is_unknown() -> None:
    stock = Stock({"tea": 5})
    with pytest.raises(UnknownThing):
        stock.left("coffee")
    with pytest.raises(UnknownThing):
        stock.reserve("coffee", 1)
    with pytest.raises(UnknownThing):
        await anext(stock.watch("coffee"))


async def test_a_watcher_sees_what_there_is_and_then_every_change_of_its_thing() -> None:
    stock = Stock({"tea": 5, "cups": 9})
    watcher = stock.watch("tea")
    assert await anext(watcher) == ("tea", 5)
    stock.reserve("tea", 1)
    stock.reserve("cups", 1)
    stock.reserve("tea", 1)
    assert [await anext(watcher), await anext(watcher)] == [("tea", 4), ("tea", 3)]


async def test_a_watcher_of_everything_sees_everything() -> None:
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


async def test_a_watcher_that_falls_behind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_WAITING_CHANGES", 3)
    stock = Stock({"tea": 50})
    watcher = stock.watch("tea")
    await anext(watcher)
    for _ in range(10):
        stock.reserve("tea", 1)
    seen = [await anext(watcher) for _ in range(3)]
    assert seen == [("tea", 49), ("tea", 48), ("tea", 47)]
    with pytest.raises(TooSlow):
        await anext(watcher)


async def test_a_watcher_that_leaves_is_forgotten() -> None:
    stock = Stock({"tea": 5})
    watcher = stock.watch("tea")
    await anext(watcher)
    assert isinstance(watcher, AsyncGenerator)
    await watcher.aclose()
    assert not stock._watchers
