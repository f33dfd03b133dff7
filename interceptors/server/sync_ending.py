"""Ending a call of the sync server from another thread, at once and with a status.

grpc offers two public ways, and each does half: `context.cancel()` ends the call at once, but the client sees CANCELLED
and no reason; `context.abort()` carries a reason, but sends it only when the handler returns, and a handler that is
blocked does not. What does both is the abort inside the server. It is not public, so it is looked for when this module
is imported, and `cancel` is what remains without it.
"""

from __future__ import annotations

import logging
from typing import Any, Final

import grpc
from grpc import _server

from interceptors.errors import Refusal

__all__ = ["CAN_END_WITH_STATUS", "end_call"]

_log: Final = logging.getLogger("credmesh.server")
_internals: Final[Any] = _server
_STATE_HAS: Final = ("client", "code", "condition", "context", "details", "statused", "trailing_metadata")


def _internals_are_known() -> bool:
    if not all(hasattr(_internals, name) for name in ("_CANCELLED", "_RPCState", "_abort", "_application_code")):
        return False
    state = _internals._RPCState()
    return all(hasattr(state, name) for name in _STATE_HAS)


CAN_END_WITH_STATUS: Final = _internals_are_known()
"""Whether a stream that is ended tells its client why, or only that it was cancelled."""

if not CAN_END_WITH_STATUS:  # pragma: no cover - depends on the installed grpcio
    _log.warning("grpcio %s is not known here: streams that are revoked end as CANCELLED", grpc.__version__)


def end_call(context: Any, refusal: Refusal) -> None:
    """Ends a call with a refusal's status. Returns at once; does nothing if the call is over.

    The handler finds `context.is_active()` false, its request iterator raises, and what it still sends goes nowhere.
    """
    if not CAN_END_WITH_STATUS or not hasattr(context, "_state"):
        context.cancel()
        return
    state = context._state
    with state.condition:
        if state.client is _internals._CANCELLED or state.statused:
            return
        # What the handler may have set half-way does not outlive the refusal.
        state.trailing_metadata = refusal.trailing_metadata()
        state.code = refusal.status
        state.details = refusal.message.encode()
        code = _internals._application_code(refusal.status)
        _internals._abort(state, context._rpc_event.call, code, state.details)
        # From here on the server takes the client for gone, which makes everything else that it may do a no-op.
        state.client = _internals._CANCELLED
        state.condition.notify_all()
