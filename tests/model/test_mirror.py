"""The model is of this code: the steps that its actions cite are there. One that is renamed must be looked at again."""

from __future__ import annotations

import re

import pytest

from model.actions import Action
from model.worlds import WORLDS
from tests.support.repository import REPOSITORY

ACTIONS = sorted(
    {action for world in WORLDS for action in world.actions}, key=lambda action: (action.__name__, action.__module__)
)

NOT_OURS = {
    "begin": "an operator",
    "crash": "a fault",
    "expire_tokens": "time",
    "forget_call": "for the search",
    "hear_of_barrier": "of a broken protocol",
    "lease_of_the_dead_ends": "etcd",
    "lease_runs_out": "etcd",
    "lose_answer": "a fault",
    "lose_lead": "etcd",
    "restore": "an operator",
    "sleep": "of a broken protocol",
    "tick": "time",
}
"""Actions that are no step of our code, and whose they are."""


def cited(action: Action) -> list[tuple[str, list[str]]]:
    """The modules that an action cites, and the names in each of them."""
    _, _, code = re.sub(r"\s+", " ", action.__doc__ or "").partition("Code: ")
    citations = []
    for citation in code.strip().removesuffix(".").split("; "):
        path, _, names = citation.partition(" ")
        if path:
            citations.append((path, [name.strip() for name in names.split(",")]))
    return citations


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: f"{action.__module__}.{action.__name__}")
def test_what_an_action_cites_is_in_the_code(action: Action) -> None:
    citations = cited(action)
    assert bool(citations) != (action.__name__ in NOT_OURS)
    for path, names in citations:
        text = (REPOSITORY / path).read_text()
        for name in names:
            owner, _, method = name.rpartition(".")
            assert not owner or f"class {owner}" in text, f"{path} has no class {owner}"
            assert re.search(rf"\b(def|class) {method}\b", text), f"{path} has no {name}"
