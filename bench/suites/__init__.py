"""One file per group of rows."""

from collections.abc import Mapping
from typing import Final

from bench.run import Room
from bench.suites.calls import streaming, unary
from bench.suites.client import client
from bench.suites.growth import growth
from bench.suites.hostile import hostile
from bench.suites.issuing import issuing
from bench.suites.receipts import receipts
from bench.suites.revocation import revocation
from bench.suites.rotation import rotation
from bench.suites.starting import starting
from bench.suites.verification import verification

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
