"""Thousands of open streams on one node: a revocation ends those of its subject only. `make bench` shows how soon."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from interceptors import MeshNode, Reason
from interceptors.scopes import subject_scope
from tests.support.probe.issuer import Issuer
from tests.support.probe.schema import SERVICE
from tests.support.probe.servers import ProbeServer

ALICES = 1500
BOBS = 500


@contextmanager
def callers() -> Iterator[subprocess.Popen[str]]:
    """The process that holds the streams open. It is killed at the end."""
    command = [sys.executable, "-m", "tests.support.many_callers"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("server_kind", ["sync", "aio"])
def test_a_revocation_ends_thousands_of_streams_and_no_stream_of_others(
    node: MeshNode, issuer: Issuer, server_kind: str
) -> None:
    """All handlers are blocked, also in the threads of a sync server."""
    with ProbeServer(node, server_kind, threads=ALICES + BOBS + 10) as server, callers() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        order = {
            "target": server.target,
            "method": f"/{SERVICE}/ServerStream",
            "groups": {
                "bob": [issuer.token(sub="bob", sid="session-2"), BOBS],
                "alice": [issuer.token(), ALICES],
            },
            "watched": "alice",
        }
        print(json.dumps(order), file=process.stdin, flush=True)
        assert process.stdout.readline() == "open\n"
        assert len(node.streams) == ALICES + BOBS

        issuer.revoke(subject_scope("alice"))
        print("revoked", file=process.stdin, flush=True)
        result = json.loads(process.stdout.readline())
        assert result["reasons"] == {Reason.CREDENTIAL_REVOKED.name: ALICES}
        assert result["others"] == 0
        assert len(node.streams) == BOBS
