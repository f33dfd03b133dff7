"""The faults: one module for each family, and all kinds by name."""

from __future__ import annotations

from typing import Final

from chaos.faults import clocks, compacting, cutting, filling, freezing, killing, leading, restoring, slowing
from chaos.faults.kind import Kind, Names

__all__ = ["KINDS", "Kind", "Names", "filling"]

KINDS: Final[dict[str, Kind]] = {
    kind.name: kind
    for kind in (
        clocks.CLOCK,
        compacting.COMPACT,
        cutting.CUT,
        filling.FILL,
        freezing.FREEZE,
        freezing.STALL,
        killing.KILL,
        killing.OUTAGE,
        leading.DEPOSE,
        leading.MOVE,
        restoring.RESTORE,
        slowing.SLOW,
    )
}
"""Every kind of fault."""
