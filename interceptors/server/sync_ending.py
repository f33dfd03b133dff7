"""Ending a call of the sync server from another thread, at once and with a status.

grpc has two public ways, and each does half of that. `context.cancel()` ends the call at once, but its client gets
CANCELLED without a reason. `context.abort()` sends a reason, but only when the handler returns, and a blocked handler
does not return. The server's internal abort does both. It is not public, so this module checks for it when it is
imported, and falls back to `cancel`.

interceptors/node/open_streams.py decides which streams end, and when.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import grpc
from grpc import _server

from interceptors.errors import Refusal

__all__ = ["CAN_END_WITH_STATUS", "end_call", "end_rpc"]

_log: Final = logging.getLogger("credmesh.server")

_grpc_server: Final[Any] = _server
_SERVER_ATTRIBUTES: Final = ("_CANCELLED", "_RPCState", "_abort", "_application_code")
_STATE_ATTRIBUTES: Final = ("client", "code", "condition", "context", "details", "statused", "trailing_metadata")


def _has_known_internals() -> bool:
    if not all(hasattr(_grpc_server, name) for name in _SERVER_ATTRIBUTES):
        return False
    state = _grpc_server._RPCState()
    return all(hasattr(state, name) for name in _STATE_ATTRIBUTES)


CAN_END_WITH_STATUS: Final = _has_known_internals()
"""Whether the client of an ended stream gets the reason. If not, it gets CANCELLED."""

if not CAN_END_WITH_STATUS:  # pragma: no cover - depends on the installed grpcio
    _log.warning(
        "grpcio %s has other internals than this version of credmesh expects: revoked streams end with CANCELLED and "
        "without a reason; install the grpcio version that credmesh was tested with",
        grpc.__version__,
    )


def end_call(context: Any, refusal: Refusal) -> None:
    """Ends a call with a refusal's status. Returns at once. Does nothing if the call is over.

    Afterwards `context.is_active()` is false for the handler, its request iterator raises, and its responses are
    dropped.
    """
    if not CAN_END_WITH_STATUS or not hasattr(context, "_state"):
        context.cancel()
        return
    end_rpc(context._state, context._rpc_event, refusal)


def end_rpc(state: Any, rpc_event: Any, refusal: Refusal) -> None:
    """As `end_call`, for a call that has no context yet. Needs CAN_END_WITH_STATUS."""
    with state.condition:
        if state.client is _grpc_server._CANCELLED or state.statused:
            return
        # These overwrite what the handler may have set.
        state.trailing_metadata = refusal.trailing_metadata()
        state.code = refusal.status
        state.details = refusal.message.encode()
        code = _grpc_server._application_code(refusal.status)
        _grpc_server._abort(state, rpc_event.call, code, state.details)
        # From here on the server treats the client as gone, and ignores everything that the handler still does.
        state.client = _grpc_server._CANCELLED
        state.condition.notify_all()
