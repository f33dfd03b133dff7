"""`credmesh rotate-keys --watch`: a rotation as it happens, told step by step."""

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
from authsvc.cli.options import DEFAULT_TIMEOUT, Invocation
from authsvc.cli.terminal.times import relative
from authsvc.store.timestamps import seconds
from credmesh.admin.v1 import keys_pb2, keys_pb2_grpc

__all__ = ["Line", "RotationStory", "watch_rotation"]

_STATES: Final = {
    keys_pb2.KEY_STATE_PREPARED: "PREPARED",
    keys_pb2.KEY_STATE_ACTIVE: "ACTIVE",
    keys_pb2.KEY_STATE_RETIRING: "RETIRING",
}
_NAMED: Final = 10


@dataclass(frozen=True, slots=True)
class Line:
    """A step of the story, with its style on a terminal."""

    text: str
    style: str = ""


class RotationStory:
    """Tells a rotation by what the keys are, again and again. Pure.

    kid   the new key, once it is known
    done  whether it signs
    """

    def __init__(self) -> None:
        self.kid: str | None = None
        self.done = False
        self._known: dict[str, str] | None = None
        self._held_by: set[str] = set()
        self._waits_for: tuple[str, ...] = ()

    def feed(self, keys: list[keys_pb2.Key], now: float) -> Iterator[Line]:
        """What has happened since it was last fed. `now` is in seconds since 1970."""
        found = {key.kid: key for key in keys}
        known, self._known = self._known, {key.kid: _STATES.get(key.state, "?") for key in keys}
        if known is None:
            # What is already there, unless it waits for the nodes, is no part of the story.
            known = {kid: state for kid, state in self._known.items() if state != "PREPARED"}
        for kid in known.keys() - found.keys():
            yield from self._gone(kid)
        retired: list[Line] = []
        for key in keys:
            state = self._known[key.kid]
            if key.kid not in known or state == "PREPARED":
                self._follow(key.kid)
            if key.kid not in known and key.kid == self.kid:
                yield Line(f"{key.kid} PREPARED: it signs when every live node holds it", "yellow")
            if key.kid == self.kid:
                yield from self._progress(key)
            if known.get(key.kid) != state and state == "ACTIVE" and key.kid == self.kid:
                self.done = True
                yield Line(f"{key.kid} ACTIVE: it signs", "bold green")
            if known.get(key.kid) == "ACTIVE" and state == "RETIRING":
                ends = f", removed {relative(seconds(key.removed_at), now)}" if key.HasField("removed_at") else ""
                retired.append(Line(f"{key.kid} RETIRING: what it signed is still accepted{ends}", "dim"))
        yield from retired

    def _follow(self, kid: str) -> None:
        if self.kid != kid:
            self.kid, self._held_by, self._waits_for = kid, set(), ()

    def _gone(self, kid: str) -> Iterator[Line]:
        if kid == self.kid:
            self.kid = None
            yield Line(f"{kid} was removed before it signed; the rotation begins anew", "red")

    def _progress(self, key: keys_pb2.Key) -> Iterator[Line]:
        for one in key.acknowledged:
            if one.node_id not in self._held_by:
                self._held_by.add(one.node_id)
                after = f" after {one.after.ToNanoseconds() / 1e6:.1f} ms" if one.HasField("after") else ""
                yield Line(f"{one.node_id} holds it{after}")
        waits_for = tuple(node for node in key.waiting_for if node not in self._held_by)
        if waits_for != self._waits_for:
            self._waits_for = waits_for
            if waits_for:
                more = f" and {len(waits_for) - _NAMED} more" if len(waits_for) > _NAMED else ""
                yield Line(f"waits for {' '.join(waits_for[:_NAMED])}{more}", "yellow")


def watch_rotation(invocation: Invocation, request: keys_pb2.RotateKeysRequest) -> None:
    """Asks for a rotation and tells what happens until the new key signs. JSON: the keys, an object per line.

    Goes on as long as it takes unless --timeout was given. Failure if that passes; the rotation goes on all the same.
    """
    timeout = None if invocation.timeout == DEFAULT_TIMEOUT else invocation.timeout
    story = RotationStory()
    with invocation.connect() as auth:
        try:
            _follow(invocation, auth, request, story, timeout)
        except Failure as failure:
            if failure.reason != DEADLINE_EXCEEDED:
                raise
            raise Failure(
                f"the new key does not sign yet after {invocation.timeout:g} s; the rotation goes on all the same",
                next_step="`credmesh keys` shows the nodes that it waits for.",
                reason=DEADLINE_EXCEEDED,
            ) from None


def _follow(
    invocation: Invocation,
    auth: Connection,
    request: keys_pb2.RotateKeysRequest,
    story: RotationStory,
    timeout: float | None,
) -> None:
    stub = keys_pb2_grpc.KeyServiceStub(auth.channel)
    begun: float | None = None
    acknowledged, last = _Acknowledged(), None
    for answer in auth.stream(stub.WatchKeys, keys_pb2.WatchKeysRequest(), timeout=timeout):
        acknowledged.complete(answer.keys)
        if answer == last:
            continue  # the watch was begun anew, and nothing had happened meanwhile
        last = answer
        lines = list(story.feed(list(answer.keys), time.time()))
        if begun is None:
            # Asked for only now: the first answer says that whatever happens will be seen.
            begun = time.monotonic()
            auth.call(stub.RotateKeys, request)
            lines.insert(0, Line("asked for a new signing key"))
        if invocation.as_json:
            print(json.dumps(MessageToDict(answer, always_print_fields_with_no_presence=True)), flush=True)
        for line in lines if not invocation.as_json else ():
            invocation.output.line(f"{time.monotonic() - begun:7.3f} s  {line.text}", line.style)
        if story.done:
            return


class _Acknowledged:
    """Who has acknowledged which key, over several watches: each of them knows only of its own time."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, keys_pb2.KeyAcknowledgement]] = {}

    def complete(self, keys: Iterable[keys_pb2.Key]) -> None:
        """Writes into the keys what earlier watches have told."""
        for key in keys:
            known = self._known.setdefault(key.kid, {})
            for one in key.acknowledged:
                if one.HasField("after") or one.node_id not in known:
                    known[one.node_id] = copy.copy(one)
            del key.acknowledged[:]
            key.acknowledged.extend(known[node_id] for node_id in sorted(known.keys() - set(key.waiting_for)))
