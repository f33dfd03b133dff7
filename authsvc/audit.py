"""The audit trail: logins, refusals, revocations, rotations and other changes. One log record per event.

The records go to the logger "credmesh.audit". The process's log format writes each as a line of JSON, with the fields
as members. A metric counts the events too, so that an alert on refused logins needs no log pipeline.
"""

from __future__ import annotations

import logging
from typing import Final

from prometheus_client import Counter

__all__ = ["audit"]

_log: Final = logging.getLogger("credmesh.audit")
_events: Final = Counter("credmesh_audit_events", "Events of the audit trail.", ("event", "outcome"))

# logging raises KeyError for a field that has the name of a LogRecord attribute. No event may be lost over that.
_RESERVED_NAMES: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


def audit(event: str, *, outcome: str = "ok", **fields: object) -> None:
    """Logs and counts one event.

    event    what happened, from a small set: "login", "refresh", "logout", "revoke", "rotate", "user.create", …
    outcome  "ok" or "refused"; fixed words only, since event and outcome label a metric
    fields   further members, of types that JSON has: subject, client_id, session_id, reason, peer, … Never a secret
    """
    _events.labels(event, outcome).inc()
    safely_named = {(name + "_" if name in _RESERVED_NAMES else name): value for name, value in fields.items()}
    _log.info(event, extra={**safely_named, "event": event, "outcome": outcome})
