"""Packing and reading `grpc-status-details-bin`, the trailing metadata of gRPC's richer error model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

__all__ = ["DETAILS_KEY", "DOMAIN", "error_info", "error_info_in", "status_details"]

DETAILS_KEY: Final = "grpc-status-details-bin"
DOMAIN: Final = "credmesh"
"""The `domain` of every google.rpc.ErrorInfo that credmesh sends."""


def status_details(status: grpc.StatusCode, text: str, detail: Message) -> tuple[tuple[str, bytes], ...]:
    """Returns trailing metadata that carries one detail.

    status and text must be those of the call's status: clients compare them.
    """
    packed = any_pb2.Any()
    packed.Pack(detail)
    code: int = status.value[0]
    return ((DETAILS_KEY, status_pb2.Status(code=code, message=text, details=[packed]).SerializeToString()),)


def error_info(
    status: grpc.StatusCode, text: str, reason: str, metadata: Iterable[tuple[str, str]] = ()
) -> tuple[tuple[str, bytes], ...]:
    """Returns trailing metadata that carries an ErrorInfo of credmesh's domain."""
    return status_details(
        status, text, error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN, metadata=dict(metadata))
    )


def error_info_in(trailing: Any) -> error_details_pb2.ErrorInfo | None:
    """Returns the ErrorInfo of credmesh's domain in a failed call's trailing metadata; None if there is none.

    Details that cannot be parsed are ignored: another service, perhaps a hostile one, sent them.
    """
    for key, value in trailing or ():
        if key != DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    return info
        except DecodeError:
            return None
        return None
    return None
