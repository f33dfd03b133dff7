"""The suites of the benchmark, one module each."""

from collections.abc import Mapping
from typing import Final

from bench.suite import Suite
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

__all__ = ["SUITES"]

SUITES: Final[Mapping[str, Suite]] = {
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
"""The suites by name, in the order in which they run and are shown."""
