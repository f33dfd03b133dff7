"""Alice goes shopping: her identity on every hop, and three kinds of call. The open stock stream is the fourth kind."""

from __future__ import annotations

from typing import Final

from credmesh.auth.v1 import auth_pb2
from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.orders.v1 import orders_pb2, orders_pb2_grpc
from credmesh.samples.storefront.v1 import storefront_pb2, storefront_pb2_grpc
from interceptors.client import AioCredentials, PasswordLogin, aio_channel
from interceptors.tokens.access_token import token_kid
from localmesh.demo.demo_mesh import DemoMesh
from localmesh.demo.figures import Figures
from localmesh.demo.mesh_client import CALL_TIMEOUT_SECONDS, PASSWORDS, MeshClient
from localmesh.demo.narrator import Narrator

__all__ = ["go_shopping"]

_QUESTIONS: Final = ("Good morning", "Is there any tea?", "And a samovar?")


async def go_shopping(narrator: Narrator, mesh: DemoMesh, client: MeshClient, figures: Figures) -> None:
    """Signs alice in through the client interceptors and makes one call of each kind."""
    narrator.chapter("alice signs in and goes shopping")
    services = mesh.profile["services"]
    calls = figures.calls
    async with (
        AioCredentials(PasswordLogin("alice", PASSWORDS["alice"]), client.auth_channel) as alice,
        aio_channel(services["storefront"], ca_file=mesh.ca_file, credentials=alice) as storefront_channel,
        aio_channel(services["orders"], ca_file=mesh.ca_file, credentials=alice) as orders_channel,
    ):
        token = await alice.token()
        narrator.note(f"her access token: a JWT of {len(token)} bytes, signed by key [cyan]{token_kid(token)}[/]")
        storefront = storefront_pb2_grpc.StorefrontServiceStub(storefront_channel)
        orders = orders_pb2_grpc.OrdersServiceStub(orders_channel)

        buy = storefront_pb2.BuyRequest(sku="tea", quantity=2)
        bought = await storefront.Buy(buy, timeout=CALL_TIMEOUT_SECONDS)
        path = " → ".join(f"{hop.service} saw [bold]{hop.subject}[/]" for hop in bought.seen)
        hops = [(hop.service, hop.subject) for hop in bought.seen]
        calls.ok += 1
        narrator.check(
            hops == [("storefront", "alice"), ("orders", "alice"), ("inventory", "alice")],
            f"unary: she buys tea; {path}",
            otherwise=str(hops),
        )

        questions = (storefront_pb2.ChatRequest(text=text) for text in _QUESTIONS)
        answers = [answer.text async for answer in storefront.Chat(questions, timeout=CALL_TIMEOUT_SECONDS)]
        calls.ok += 1
        narrator.check(len(answers) == len(_QUESTIONS), f"bidirectional stream: “{_QUESTIONS[1]}” “{answers[1]}”")

        wanted = [("tea", 3), ("cups", 2), ("teapot", 900)]
        requests = (orders_pb2.ImportOrdersRequest(sku=sku, quantity=quantity) for sku, quantity in wanted)
        imported = await orders.ImportOrders(requests, timeout=CALL_TIMEOUT_SECONDS)
        calls.ok += 1
        narrator.check(
            (imported.placed, imported.out_of_stock) == (2, 1),
            f"client stream: {imported.placed} orders placed, {imported.out_of_stock} out of stock",
        )
    await _use_session_token(narrator, client, figures)


async def _use_session_token(narrator: Narrator, client: MeshClient, figures: Figures) -> None:
    bob = await client.sign_in("bob", kind=auth_pb2.CREDENTIAL_KIND_SESSION)
    request = inventory_pb2.GetStockRequest(sku="coffee")
    answer = await client.inventory.GetStock(request, metadata=bob.metadata, timeout=CALL_TIMEOUT_SECONDS)
    figures.calls.ok += 1
    narrator.check(
        answer.seen.subject == "bob",
        f"bob signs in with an opaque session token of {len(bob.token)} bytes; inventory saw [bold]bob[/]",
        otherwise=answer.seen.subject,
    )
