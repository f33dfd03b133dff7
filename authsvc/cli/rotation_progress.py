"""`credmesh rotate-keys --watch`: the steps of a rotation, while they happen."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from google.protobuf.json_format import MessageToDict

from authsvc.cli.failure import Failure
from authsvc.cli.mesh.connection import DEADLINE_EXCEEDED, Connection
from authsvc.cli.options import Invocation
from authsvc.cli.terminal.times import relative
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc

__all__ = ["RotationProgress", "Step", "rotation_outlasts_timeout", "watch_rotation"]

_STATES: Final = {
    keys_pb2.KEY_STATE_PREPARED: "PREPARED",
    keys_pb2.KEY_STATE_ACTIVE: "ACTIVE",
    keys_pb2.KEY_STATE_RETIRING: "RETIRING",
}
_MAX_NODES_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a rotation as text, with its style on a terminal."""

    text: str
    style: str = ""


class RotationProgress:
    """Derives the steps of a rotation from successive lists of all keys. No I/O.

    kid   the new key; None until it is known
    done  whether the new key is ACTIVE
    """

    def __init__(self) -> None:
        self.kid: str | None = None
        self.done = False
        self._states: dict[str, str] | None = None
        self._held_by: set[str] = set()
        self._waits_for: tuple[str, ...] = ()

    def update(self, keys: list[keys_pb2.Key], now: float) -> Iterator[Step]:
        """Takes the next list of keys, and yields the steps since the last one. `now` is in seconds since 1970."""
        listed = {key.kid for key in keys}
        before, self._states = self._states, {key.kid: _STATES.get(key.state, "?") for key in keys}
        if before is None:
            # The first list: only a key that is PREPARED belongs to this rotation.
            before = {kid: state for kid, state in self._states.items() if state != "PREPARED"}
        for kid in before.keys() - listed:
            yield from self._removed(kid)
        retired: list[Step] = []
        for key in keys:
            state = self._states[key.kid]
            if key.kid not in before or state == "PREPARED":
                self._set_new_key(key.kid)
            if key.kid not in before and key.kid == self.kid:
                yield Step(f"{key.kid} PREPARED: it signs when every registered node holds it", "yellow")
            if key.kid == self.kid:
                yield from self._acknowledgements(key)
            if before.get(key.kid) != state and state == "ACTIVE" and key.kid == self.kid:
                self.done = True
                yield Step(f"{key.kid} ACTIVE: it signs", "bold green")
            if before.get(key.kid) == "ACTIVE" and state == "RETIRING":
                ends = f", removed {relative(seconds(key.removed_at), now)}" if key.HasField("removed_at") else ""
                retired.append(Step(f"{key.kid} RETIRING: its tokens are still accepted{ends}", "dim"))
        yield from retired

    def _set_new_key(self, kid: str) -> None:
        if self.kid != kid:
            self.kid, self._held_by, self._waits_for = kid, set(), ()

    def _removed(self, kid: str) -> Iterator[Step]:
        if kid == self.kid:
            self.kid = None
            yield Step(f"{kid} was removed before it signed; the rotation starts again", "red")

    def _acknowledgements(self, key: keys_pb2.Key) -> Iterator[Step]:
        for acknowledgement in key.acknowledged:
            if acknowledgement.node_id not in self._held_by:
                self._held_by.add(acknowledgement.node_id)
                milliseconds = acknowledgement.after.ToNanoseconds() / 1e6
                after = f" after {milliseconds:.1f} ms" if acknowledgement.HasField("after") else ""
                yield Step(f"{acknowledgement.node_id} holds it{after}")
        waits_for = tuple(node for node in key.waiting_for if node not in self._held_by)
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            if waits_for:
                unnamed = len(waits_for) - _MAX_NODES_NAMED
                more = f" and {unnamed} more" if unnamed > 0 else ""
                yield Step(f"waits for {' '.join(waits_for[:_MAX_NODES_NAMED])}{more}", "yellow")


def watch_rotation(invocation: Invocation, request: keys_pb2.RotateKeysRequest) -> None:
    """Requests a rotation, and prints its steps until the new key signs. JSON: all keys, an object per line.

    Without --timeout it has no limit. Failure if the timeout passes; the rotation continues nevertheless.
    """
    progress = RotationProgress()
    with invocation.connect() as auth:
        try:
            _follow(invocation, auth, request, progress)
        except Failure as failure:
            if failure.reason != DEADLINE_EXCEEDED:
                raise
            raise rotation_outlasts_timeout(invocation.timeout) from None


def rotation_outlasts_timeout(timeout: float) -> Failure:
    """The failure if the new key does not sign within `timeout` seconds."""
    return Failure(
        f"the new key does not sign yet after {timeout:g} s; the rotation continues",
        next_step="`credmesh keys` shows the nodes that it waits for.",
        reason=DEADLINE_EXCEEDED,
    )


def _follow(
    invocation: Invocation, auth: Connection, request: keys_pb2.RotateKeysRequest, progress: RotationProgress
) -> None:
    stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
    requested_at: float | None = None
    acknowledgements, last = _Acknowledgements(), None
    for response in auth.stream(stub.WatchKeys, keys_pb2.WatchKeysRequest(), timeout=invocation.given_timeout):
        acknowledgements.complete(response.keys)
        if response == last:
            continue  # the stream was opened again, and nothing has changed
        last = response
        steps = list(progress.update(list(response.keys), time.time()))
        if requested_at is None:
            # Requested only after the first response, so that the watch misses no step.
            requested_at = time.monotonic()
            auth.call(stub.RotateKeys, request)
            steps.insert(0, Step("asked for a new signing key"))
        if invocation.as_json:
            print(json.dumps(MessageToDict(response, always_print_fields_with_no_presence=True)), flush=True)
        for step in steps if not invocation.as_json else ():
            invocation.output.line(f"{time.monotonic() - requested_at:7.3f} s  {step.text}", step.style)
        if progress.done:
            return


class _Acknowledgements:
    """The acknowledgements of each key, collected over several streams. Each stream reports only those of its time."""

    def __init__(self) -> None:
        self._by_kid: dict[str, dict[str, keys_pb2.KeyAcknowledgement]] = {}

    def complete(self, keys: Iterable[keys_pb2.Key]) -> None:
        """Collects the acknowledgements in the keys, and adds those of earlier streams to the keys."""
        for key in keys:
            by_node = self._by_kid.setdefault(key.kid, {})
            for acknowledgement in key.acknowledged:
                if acknowledgement.HasField("after") or acknowledgement.node_id not in by_node:
                    by_node[acknowledgement.node_id] = copy.copy(acknowledgement)
            del key.acknowledged[:]
            key.acknowledged.extend(by_node[node_id] for node_id in sorted(by_node.keys() - set(key.waiting_for)))
