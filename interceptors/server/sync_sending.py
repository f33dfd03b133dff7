"""Sending a response of the sync server without waiting until the client has room for it.

grpc's own way to send, also from a function that is `experimental_non_blocking`, blocks until the response was handed
to the transport, and for ever if the client reads nothing. What starts the sending is not public, so this module checks
for it when it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # it has no stubs

from interceptors.server.sync_ending import CAN_END_WITH_STATUS

__all__ = ["CAN_SEND_AT_ONCE", "send_at_once"]

_EMPTY_FLAGS: Final = 0

_grpc_server: Final[Any] = _server
_SERVER_ATTRIBUTES: Final = (
    "_SEND_INITIAL_METADATA_AND_SEND_MESSAGE_TOKEN",
    "_SEND_MESSAGE_TOKEN",
    "_get_initial_metadata_operation",
    "_is_rpc_state_active",
    "_possibly_finish_call",
)

CAN_SEND_AT_ONCE: Final = (
    CAN_END_WITH_STATUS
    and all(hasattr(_grpc_server, name) for name in _SERVER_ATTRIBUTES)
    and hasattr(_grpc_server._RPCState(), "initial_metadata_allowed")
)
"""Whether `send_at_once` works with the installed grpcio."""


def send_at_once(context: Any, message: bytes, sent: Callable[[], None]) -> bool:
    """Starts to send a serialized response. Returns at once: whether the call is open.

    sent: called in the server's thread when the response is on its way, or when the call is over. Only then may the
          next response be sent
    """
    state, call = context._state, context._rpc_event.call
    with state.condition:
        if not _grpc_server._is_rpc_state_active(state):
            return False
        operations = [cygrpc.SendMessageOperation(message, _EMPTY_FLAGS)]
        token = _grpc_server._SEND_MESSAGE_TOKEN
        if state.initial_metadata_allowed:
            operations.insert(0, _grpc_server._get_initial_metadata_operation(state, None))
            token = _grpc_server._SEND_INITIAL_METADATA_AND_SEND_MESSAGE_TOKEN
            state.initial_metadata_allowed = False

        def finish(_event: Any) -> Any:
            with state.condition:
                state.condition.notify_all()
                finished = _grpc_server._possibly_finish_call(state, token)
            sent()
            return finished

        call.start_server_batch(tuple(operations), finish)
        state.due.add(token)
        return True
