"""`credmesh history`, with a real auth replica."""

from __future__ import annotations

from tests.authsvc.cli.conftest import Command
from tests.support.waiting import wait_until


def test_history_shows_when_it_was_last_vouched_for(command: Command) -> None:
    """Vouching happens on demand, not by a clock. So the answer does not call an old time a problem."""
    wait_until(lambda: "last vouched for" in command.ok("history"), what="the replica to vouch")
    shown = command.ok("history")
    assert "etcd has lost nothing." in shown
    assert "checked" not in shown
