"""The model cites the code that it models. A cited function that was renamed or removed must be compared again."""

from __future__ import annotations

import re

import pytest

from model.world import Action
from model.worlds import WORLDS
from tests.support.repository import REPOSITORY

ACTIONS = sorted(
    {action for world in WORLDS for action in world.actions}, key=lambda action: (action.__name__, action.__module__)
)

NOT_OURS = {
    "acknowledge_before_applying": "a broken protocol",
    "crash": "a fault",
    "drop_early_call": "a reduction for the search",
    "expire_lease": "etcd",
    "expire_lease_of_dead_node": "etcd",
    "expire_tokens": "time",
    "lose_answer": "a fault",
    "lose_leadership": "etcd",
    "request_revocation": "an operator",
    "restore": "an operator",
    "suspend": "a broken protocol",
    "tick": "time",
}
"""Actions that are not a step of our code, and where they come from."""


def cited(action: Action) -> list[tuple[str, list[str]]]:
    """Returns the modules that an action cites, and the names in each of them."""
    _, _, code = re.sub(r"\s+", " ", action.__doc__ or "").partition("Code: ")
    citations = []
    for citation in code.strip().removesuffix(".").split("; "):
        path, _, names = citation.partition(" ")
        if path:
            citations.append((path, [name.strip() for name in names.split(",")]))
    return citations


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: f"{action.__module__}.{action.__name__}")
def test_every_function_that_an_action_cites_is_in_the_code(action: Action) -> None:
    citations = cited(action)
    assert bool(citations) != (action.__name__ in NOT_OURS)
    for path, names in citations:
        text = (REPOSITORY / path).read_text()
        for name in names:
            owner, _, method = name.rpartition(".")
            assert not owner or f"class {owner}" in text, f"{path} has no class {owner}"
            assert re.search(rf"\b(def|class) {method}\b", text), f"{path} has no {name}"
