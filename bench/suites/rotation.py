"""Rotation under full load: new keys sign as soon as every node knows them, and nobody may notice."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from contextlib import ExitStack
from typing import Final

from bench.authority import PREFIX, Authority
from bench.load.driver import drive, exactly
from bench.load.http2 import Answer, CallFailed, Connection
from bench.load.rounds import UNARY
from bench.machine import LOAD_CORES
from bench.results.statistics import Row, alone, total
from bench.run import Run
from bench.world import BenchFailed, Server, ServerKind
from credmesh.admin.v1 import keys_pb2
from credmesh.auth.v1 import auth_pb2
from interceptors.tokens.access_token import token_kid

__all__ = ["rotation"]

_ROTATE_WITHIN: Final = 60.0
_REFRESH_WITHIN: Final = 10.0
_SLICE: Final = 0.1
_KEPT: Final = 4


class _Rotator(threading.Thread):
    """Rotates, and refreshes after each rotation, so that the newest key's first token is used at once."""

    def __init__(self, authority: Authority, rotations: int, tokens: deque[str], refresh_token: str) -> None:
        super().__init__(name="rotator", daemon=True)
        self._authority = authority
        self._refresh_token = refresh_token
        self._rotations = rotations
        self._tokens = tokens
        self.took: list[float] = []
        self.kids: set[str] = set()
        self.failure: Exception | None = None

    def run(self) -> None:
        """The thread."""
        try:
            for _ in range(self._rotations):
                begun = time.perf_counter()
                request = keys_pb2.RotateKeysRequest(wait=True)
                self._authority.keys.RotateKeys(request, timeout=_ROTATE_WITHIN)
                self.took.append((time.perf_counter() - begun) * 1000)
                refresh = auth_pb2.RefreshRequest(refresh_token=self._refresh_token)
                credentials = self._authority.stub.Refresh(refresh, timeout=_REFRESH_WITHIN).credentials
                self._refresh_token = credentials.refresh_token
                self.kids.add(token_kid(credentials.access_token))
                self._tokens.append(credentials.access_token)
        except Exception as error:  # noqa: BLE001 - raised where somebody waits for this thread
            self.failure = error


def rotation(run: Run) -> list[Row]:
    """Rows of how many calls were refused meanwhile, and of what a rotation takes."""
    count = run.scale.rotations
    tick = run.begin(f"{count} rotations under load", count)
    refused: Counter[str] = Counter()
    answered = exactly(UNARY.expected)

    def check(answer: Answer) -> None:
        # Counted and not raised: how many there are is the figure.
        try:
            answered(answer)
        except CallFailed as error:
            refused[str(error)] += 1

    with ExitStack() as stack:
        authority = stack.enter_context(Authority(run.world, cores=LOAD_CORES))
        credentials = authority.login()
        first = credentials.access_token
        tokens = deque([first], maxlen=_KEPT)
        lanes = []
        for aio in (False, True):
            server = stack.enter_context(Server(ServerKind(aio=aio, guard="credmesh"), run.world, prefix=PREFIX))
            lanes.append(stack.enter_context(Connection(server.port)))
        rotator = _Rotator(authority, count, tokens, credentials.refresh_token)
        rotator.start()
        calls, done = 0, 0
        for connection in itertools.cycle(lanes):
            if not rotator.is_alive():
                break
            # The first token of all, whose key retires, and the newest ones, whose key has just been activated.
            shown = [connection.request(UNARY.path, UNARY.message, token=token) for token in (first, *tokens)]
            turn = itertools.cycle(shown)
            calls += drive([connection], turn.__next__, check, seconds=_SLICE).calls
            for _ in range(len(rotator.took) - done):
                tick()
            done = len(rotator.took)
    if rotator.failure is not None:
        raise BenchFailed(f"a rotation failed: {rotator.failure}")
    if len(rotator.kids) < count:
        raise BenchFailed(f"{count} rotations gave only {len(rotator.kids)} keys that signed")
    note = f"of {calls:,} calls" + "".join(f"; {times} times {what}" for what, times in refused.most_common(3))
    return [
        total(
            "revocation",
            f"calls refused during {count} rotations under full load",
            float(refused.total()),
            unit="calls",
            higher=False,
            target=0.0,
            note=note,
        ),
        alone("revocation", "a rotation, until the new key signs", rotator.took, unit="ms", higher=False),
    ]
