"""Bad credentials are tried on every node; each has to be refused, and with its own reason."""

from __future__ import annotations

import asyncio

from localmesh.demo.actors import Nodes, reason_text
from localmesh.demo.figures import Figures
from localmesh.demo.narrator import Teller
from localmesh.demo.revoking import refusal
from localmesh.demo.stage import Stage
from localmesh.forged_tokens import bad_credentials

__all__ = ["try_bad_credentials"]


async def try_bad_credentials(teller: Teller, stage: Stage, nodes: Nodes, figures: Figures) -> None:
    """Tries them all everywhere."""
    teller.chapter("bad credentials are tried on every node")
    good = await nodes.sign_in("bob")
    for node in nodes.all:
        await node.call(good.metadata)  # what they are made from is good
        figures.calls.ok += 1
    rows: list[tuple[str, ...]] = []
    wrong: list[str] = []
    audiences = sorted({node.audience for node in nodes.all})
    others = {
        audience: await nodes.sign_in("bob", audiences=[other])
        for audience, other in zip(audiences, audiences[1:] + audiences[:1], strict=True)
    }
    made = {audience: await asyncio.to_thread(bad_credentials, stage, good, others[audience]) for audience in audiences}
    for number, bad in enumerate(made[audiences[0]]):
        found = []
        for node in nodes.all:
            seen = await refusal(node, made[node.audience][number].metadata)
            figures.hostile.tried += 1
            found.append(seen)
            if seen is None:
                figures.hostile.accepted += 1
            if seen is not bad.reason:
                wrong.append(f"{bad.name} on {node.name}: {reason_text(seen)} instead of {bad.reason.name}")
        rows.append((bad.name, " ".join(sorted({reason_text(one) for one in found}))))
    teller.table(("credential", "refused with"), rows)
    teller.check(
        not wrong and not figures.hostile.accepted,
        f"{figures.hostile.tried} tries on {len(nodes.all)} nodes: {figures.hostile.accepted} accepted, each refused "
        "with its reason",
        otherwise="; ".join(wrong),
    )
