"""One file per group of rows."""

from collections.abc import Mapping
from typing import Final

from bench.rooms.calls import streaming, unary
from bench.rooms.client import client
from bench.rooms.growth import growth
from bench.rooms.hostile import hostile
from bench.rooms.issuing import issuing
from bench.rooms.receipts import receipts
from bench.rooms.revocation import revocation
from bench.rooms.rotation import rotation
from bench.rooms.starting import starting
from bench.rooms.verification import verification
from bench.run import Room

__all__ = ["ROOMS"]

ROOMS: Final[Mapping[str, Room]] = {
    "verification": verification,
    "calls": unary,
    "streams": streaming,
    "client": client,
    "issuing": issuing,
    "revocation": revocation,
    "receipts": receipts,
    "rotation": rotation,
    "growth": growth,
    "hostile": hostile,
    "starting": starting,
}
"""In the order in which they are measured and reported."""
