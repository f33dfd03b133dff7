"""Alice goes shopping: identity on every hop, and all four kinds of call (the fourth is the stream of stock)."""

from __future__ import annotations

from typing import Final

from credmesh.auth.v1 import auth_pb2
from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.orders.v1 import orders_pb2, orders_pb2_grpc
from credmesh.samples.storefront.v1 import storefront_pb2, storefront_pb2_grpc
from interceptors.client import AioCredentials, PasswordLogin, aio_channel
from interceptors.tokens.access_token import token_kid
from localmesh.demo.actors import PASSWORDS, TIMEOUT, Nodes, reason_text
from localmesh.demo.figures import Figures
from localmesh.demo.narrator import Teller
from localmesh.demo.stage import Stage

__all__ = ["walk"]

_QUESTIONS: Final = ("Good morning", "Is there any tea?", "And a samovar?")


async def walk(teller: Teller, stage: Stage, nodes: Nodes, figures: Figures) -> None:
    """Signs alice in through the client interceptors and makes one call of each kind."""
    teller.chapter("alice signs in and goes shopping")
    services = stage.profile["services"]
    calls = figures.calls
    async with (
        AioCredentials(PasswordLogin("alice", PASSWORDS["alice"]), nodes.auth_channel) as alice,
        aio_channel(services["storefront"], ca_file=stage.ca_file, credentials=alice) as storefront_channel,
        aio_channel(services["orders"], ca_file=stage.ca_file, credentials=alice) as orders_channel,
    ):
        token = await alice.token()
        teller.tell(f"her access token: a JWT of {len(token)} bytes, signed by key [cyan]{token_kid(token)}[/]")
        storefront = storefront_pb2_grpc.StorefrontServiceStub(storefront_channel)
        orders = orders_pb2_grpc.OrdersServiceStub(orders_channel)

        bought = await storefront.Buy(storefront_pb2.BuyRequest(sku="tea", quantity=2), timeout=TIMEOUT)
        path = " → ".join(f"{seen.service} saw [bold]{seen.subject}[/]" for seen in bought.seen)
        seen = [(one.service, one.subject) for one in bought.seen]
        calls.ok += 1
        teller.check(
            seen == [("storefront", "alice"), ("orders", "alice"), ("inventory", "alice")],
            f"unary: she buys tea; {path}",
            otherwise=str(seen),
        )

        questions = (storefront_pb2.ChatRequest(text=text) for text in _QUESTIONS)
        answers = [answer.text async for answer in storefront.Chat(questions, timeout=TIMEOUT)]
        calls.ok += 1
        teller.check(len(answers) == len(_QUESTIONS), f"both sides stream: “{_QUESTIONS[1]}” “{answers[1]}”")

        wanted = [("tea", 3), ("cups", 2), ("teapot", 900)]
        requests = (orders_pb2.ImportOrdersRequest(sku=sku, quantity=quantity) for sku, quantity in wanted)
        imported = await orders.ImportOrders(requests, timeout=TIMEOUT)
        calls.ok += 1
        teller.check(
            (imported.placed, imported.out_of_stock) == (2, 1),
            f"the client streams: {imported.placed} orders placed, {imported.out_of_stock} out of stock",
        )
    await _opaque_session(teller, nodes, figures)


async def _opaque_session(teller: Teller, nodes: Nodes, figures: Figures) -> None:
    bob = await nodes.sign_in("bob", kind=auth_pb2.CREDENTIAL_KIND_SESSION)
    request = inventory_pb2.GetStockRequest(sku="coffee")
    answer = await nodes.inventory.GetStock(request, metadata=bob.metadata, timeout=TIMEOUT)
    figures.calls.ok += 1
    teller.check(
        answer.seen.subject == "bob",
        f"bob signs in with an opaque session of {len(bob.token)} bytes instead; inventory saw [bold]bob[/]",
        otherwise=reason_text(None),
    )
