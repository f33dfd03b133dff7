"""The audit trail: who signed in, was refused, revoked or rotated what. One log record per event.

The records go to the logger "credmesh.audit", with the fields as members of the JSON line that the process's log format
makes of them. Every event is counted too, so an alert on refused logins needs no log pipeline.
"""

from __future__ import annotations

import logging
from typing import Final

from prometheus_client import Counter

__all__ = ["audit"]

_log: Final = logging.getLogger("credmesh.audit")
_events: Final = Counter("credmesh_audit_events", "Events of the audit trail.", ("event", "outcome"))

# logging refuses to have its own members overwritten, and a record must not be lost over the name of a field.
_TAKEN: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def audit(event: str, *, outcome: str = "ok", **fields: object) -> None:
    """Writes one event.

    event    what happened, from a small set: "login", "refresh", "logout", "revoke", "rotate", "user.create", …
    outcome  "ok" or "refused"; fixed words only, since event and outcome label a metric
    fields   the rest, as JSON can hold it: subject, client_id, session_id, reason, peer, … Never a credential or secret
    """
    _events.labels(event, outcome).inc()
    named = {(name + "_" if name in _TAKEN else name): value for name, value in fields.items()}
    _log.info(event, extra={**named, "event": event, "outcome": outcome})
