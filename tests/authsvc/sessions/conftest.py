"""Fixtures for the tests of sessions."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from authsvc.sessions.directory import SessionDirectory
from tests.support.replica import Replica


@pytest.fixture(params=["reading", "knowing"])
def refreshing(replica: Replica, request: pytest.FixtureRequest) -> Iterator[Replica]:
    """A replica that reads every session, and a replica that knows sessions from its directory."""
    if request.param == "reading":
        yield replica
        return
    directory = SessionDirectory(replica.settings.mesh.etcd, replica.layout, clock=replica.clock)
    directory.start()
    assert directory.wait_ready(10)
    yield Replica(replica.etcd, replica.settings, replica.passwords, replica.clock, directory=directory)
    directory.stop()
