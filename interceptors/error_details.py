"""Packing and reading `grpc-status-details-bin`, the trailing metadata of gRPC's richer error model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

__all__ = ["DETAILS_KEY", "DOMAIN", "cut", "error_info", "error_info_in", "status_details"]

DETAILS_KEY: Final = "grpc-status-details-bin"
DOMAIN: Final = "credmesh"
"""The `domain` of every google.rpc.ErrorInfo that credmesh sends."""

# A client of gRPC drops calls whose trailing metadata exceed its limit: by default always above 16 KB, and the more
# often the closer they are to it from 8 KB on. It then reports "Stream removed" instead of the refusal.
_MAX_METADATA_BYTES: Final = 2048
_BYTES_PER_ENTRY: Final = 8  # tags and lengths of a key and its value
_CUT_MARK: Final = "…"  # not a character of any scope (RFC 6749 section 3.3)


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
    """Returns trailing metadata that carries an ErrorInfo of credmesh's domain.

    metadata: keys and values, such as a list of scopes. Together they are cut at about 2 KB, so that every client
    accepts the answer. A list that was cut ends with "…".
    """
    info = error_details_pb2.ErrorInfo(reason=reason, domain=DOMAIN)
    remaining = _MAX_METADATA_BYTES
    for key, value in metadata:
        remaining -= len(key.encode()) + _BYTES_PER_ENTRY
        if remaining <= 0:
            break
        info.metadata[key] = value = cut(value, remaining)
        remaining -= len(value.encode())
    return status_details(status, text, info)


def cut(text: str, max_bytes: int) -> str:
    """Cuts a text or a list of words at about so many bytes of UTF-8, after a whole word if there is one."""
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    kept = encoded[:max_bytes].decode(errors="ignore")
    words, space, _ = kept.rpartition(" ")
    return f"{words} {_CUT_MARK}" if space else f"{kept}{_CUT_MARK}"


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
