"""Asking for a rotation, and following it until its key signs. Any replica can; the leader does the work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from authsvc.audit import audit
from authsvc.keys import algorithms
from authsvc.keys.rotation import State
from authsvc.keys.store import Held, read_held
from authsvc.records import FORMAT, parse_record
from authsvc.times import stamp
from credmesh.store.v1 import auth_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient, KeyValue, Put, Unchanged
from interceptors.etcd.layout import Layout

__all__ = ["RotationBusy", "Ticket", "follow", "request_rotation"]


class RotationBusy(CredmeshError):
    """A rotation to another algorithm was asked for, and no leader has taken it up yet. Ask again in a moment."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What became of a request.

    algorithm  that was asked for; "" for any
    placed     the revision of the request that lies for the leader
    kid        the key that answers it, once it is known
    """

    algorithm: str
    placed: int = 0
    kid: str | None = None


def request_rotation(
    etcd: EtcdClient, layout: Layout, algorithm: str, actor: str, *, clock: Callable[[], float] = time.time
) -> Ticket:
    """Asks the leader for a new signing key, or joins the rotation to such a key that is under way.

    algorithm is "" for the service's default. Raises UnknownAlgorithm, RotationBusy, RecordError and EtcdUnavailable.
    """
    if algorithm:
        algorithms.check(algorithm)
    while True:
        held = read_held(etcd, layout)
        for key in held.state.keys:
            if key.state is State.PREPARED and algorithm in ("", key.algorithm):
                return Ticket(algorithm, kid=key.kid)
        lying = etcd.read(layout.rotation).values.get(layout.rotation)
        if lying is not None:
            asked = parse_record(auth_pb2.RotationRequest, lying.value).algorithm
            if algorithm in ("", asked):
                return Ticket(algorithm, placed=lying.mod_revision)
            if asked:
                raise RotationBusy(f"a rotation to {asked} was asked for already, and no leader has taken it up yet")
            # Whoever left the choice open is served by this one too.
        placed = _place(etcd, layout, lying, algorithm, actor, clock())
        if placed is not None:
            return Ticket(algorithm, placed=placed)


def follow(ticket: Ticket, held: Held, layout: Layout) -> tuple[Ticket, bool]:
    """What etcd tells of a request: the ticket, now perhaps with its key, and whether that key signs (or did). Pure."""
    keys = {key.kid: key for key in held.state.keys}
    if ticket.kid is not None and ticket.kid not in keys:
        # It was revoked before it signed, and the rotation begins anew with another request.
        ticket = Ticket(ticket.algorithm)
    if ticket.kid is not None:
        return ticket, keys[ticket.kid].state is not State.PREPARED
    request = held.revisions.get(layout.rotation, 0)
    if not request or request != ticket.placed:
        for key in held.state.keys:
            if key.state is State.PREPARED and ticket.algorithm in ("", key.algorithm):
                return Ticket(ticket.algorithm, kid=key.kid), False
    if request or held.state.signing not in keys:
        return ticket, False
    # The request is dropped only together with a PREPARED key, and that one is through.
    return Ticket(ticket.algorithm, kid=held.state.signing), True


def _place(
    etcd: EtcdClient, layout: Layout, lying: KeyValue | None, algorithm: str, actor: str, now: float
) -> int | None:
    request = auth_pb2.RotationRequest(format=FORMAT, algorithm=algorithm, actor=actor, requested_at=stamp(now))
    unchanged = Unchanged(layout.rotation, 0 if lying is None else lying.mod_revision)
    revision = etcd.commit([unchanged], [Put(layout.rotation, request.SerializeToString())])
    if revision is not None:
        audit("key.rotate", algorithm=algorithm, actor=actor, revision=revision)
    return revision
