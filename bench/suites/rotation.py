"""Rotation under full load: a new key signs as soon as every node holds it, and no call may be refused."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack
from typing import Final

from bench.auth_replica import PREFIX, AuthReplica
from bench.environment import BenchFailed
from bench.load.driver import expect_exactly, make_calls
from bench.load.http2 import CallFailed, Connection, Response
from bench.load.rounds import UNARY
from bench.machine import LOAD_CORES
from bench.processes import ServerKind, ServerUnderTest
from bench.results.statistics import Row, count_row, single_row
from bench.suite import SuiteContext
from credmesh.admin.v1 import keys_pb2
from credmesh.auth.v1 import auth_pb2
from interceptors.tokens.access_token import token_kid

__all__ = ["rotation"]

_ROTATION_TIMEOUT_SECONDS: Final = 60.0
_REFRESH_TIMEOUT_SECONDS: Final = 10.0
_LOAD_SLICE_SECONDS: Final = 0.1
_NEWEST_TOKENS: Final = 4


class _Rotator(threading.Thread):
    """Rotates repeatedly, and refreshes after each rotation, so that each new key's first token is used at once."""

    def __init__(self, replica: AuthReplica, rotations: int, tokens: deque[str], refresh_token: str) -> None:
        super().__init__(name="rotator", daemon=True)
        self._replica = replica
        self._refresh_token = refresh_token
        self._rotations = rotations
        self._tokens = tokens
        self.milliseconds: list[float] = []
        self.kids: set[str] = set()
        self.failure: Exception | None = None

    def run(self) -> None:
        """The thread's code."""
        try:
            for _ in range(self._rotations):
                started_at = time.perf_counter()
                request = keys_pb2.RotateKeysRequest(wait=True)
                self._replica.keys.RotateKeys(request, timeout=_ROTATION_TIMEOUT_SECONDS)
                self.milliseconds.append((time.perf_counter() - started_at) * 1000)
                refresh = auth_pb2.RefreshRequest(refresh_token=self._refresh_token)
                credentials = self._replica.stub.Refresh(refresh, timeout=_REFRESH_TIMEOUT_SECONDS).credentials
                self._refresh_token = credentials.refresh_token
                self.kids.add(token_kid(credentials.access_token))
                self._tokens.append(credentials.access_token)
        except Exception as error:  # noqa: BLE001 - `rotation` raises it
            self.failure = error


def rotation(context: SuiteContext) -> list[Row]:
    """Rows of the calls that were refused during rotations, and of the duration of a rotation."""
    count = context.scale.rotations
    tick = context.begin_progress(f"{count} rotations under load", count)
    refused: Counter[str] = Counter()
    expect_ok = expect_exactly(UNARY.expected)

    def check(response: Response) -> None:
        # Refused calls are counted, because their number is the figure.
        try:
            expect_ok(response)
        except CallFailed as error:
            refused[str(error)] += 1

    with ExitStack() as stack:
        replica = stack.enter_context(AuthReplica(context.environment, cores=LOAD_CORES))
        credentials = replica.login()
        first = credentials.access_token
        tokens = deque([first], maxlen=_NEWEST_TOKENS)
        connections = []
        for aio in (False, True):
            kind = ServerKind(aio=aio, interceptor="credmesh")
            server = stack.enter_context(ServerUnderTest(kind, context.environment, prefix=PREFIX))
            connections.append(stack.enter_context(Connection(server.port)))
        rotator = _Rotator(replica, count, tokens, credentials.refresh_token)
        rotator.start()
        calls, shown = 0, 0
        for connection in itertools.cycle(connections):
            if not rotator.is_alive():
                break
            # The first token, whose key is retiring, and the newest tokens, whose keys have just become active.
            requests = [connection.request(UNARY.path, UNARY.message, token=token) for token in (first, *tokens)]
            next_request = itertools.cycle(requests).__next__
            calls += make_calls([connection], next_request, check, seconds=_LOAD_SLICE_SECONDS).calls
            for _ in range(len(rotator.milliseconds) - shown):
                tick()
            shown = len(rotator.milliseconds)
    if rotator.failure is not None:
        raise BenchFailed(f"a rotation failed: {rotator.failure}")
    if len(rotator.kids) < count:
        raise BenchFailed(f"after {count} rotations, only {len(rotator.kids)} keys had signed a token")
    note = f"of {calls:,} calls" + "".join(f"; {times} times {error}" for error, times in refused.most_common(3))
    return [
        count_row(
            "revocation",
            f"calls refused during {count} rotations under full load",
            float(refused.total()),
            unit="calls",
            higher=False,
            target=0.0,
            note=note,
        ),
        single_row("revocation", "a rotation, until the new key signs", rotator.milliseconds, unit="ms", higher=False),
    ]
