"""Adds a credential to the metadata of a call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio

from interceptors.client.renewal import Metadata

__all__ = ["CallDetails", "aio_details", "caller_metadata", "details_with"]

_DUPLICATE_AUTHORIZATION: Final = (
    "the call's metadata already holds an 'authorization' entry, and its channel attaches a credential; remove the "
    "entry, or make the call on a channel without credentials"
)


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class CallDetails(_Details, grpc.ClientCallDetails):  # type: ignore[misc]
    """The details of a sync call. A named tuple, because other interceptors call `_replace` on the details."""

    __slots__ = ()


def caller_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """Returns the metadata that a caller gave, as a tuple: a retry needs it again, and an iterator is read only once.

    Raises ValueError if it holds a credential. Servers refuse two, since two parties may each read another one.
    """
    if metadata is None:
        return ()
    entries = tuple(metadata)
    for key, _ in entries:
        if key.lower() == "authorization":
            raise ValueError(_DUPLICATE_AUTHORIZATION)
    return entries


def details_with(details: Any, metadata: Metadata, timeout: float | None) -> CallDetails:
    """Returns the details of a sync call with other metadata and another timeout."""
    return CallDetails(
        details.method,
        timeout,
        metadata,
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )


def aio_details(
    details: grpc.aio.ClientCallDetails, metadata: Metadata, timeout: float | None
) -> grpc.aio.ClientCallDetails:
    """Returns the details of an aio call with other metadata and another timeout."""
    # Each attempt gets its own grpc.aio.Metadata: inner interceptors add entries to the object that they receive.
    return grpc.aio.ClientCallDetails(
        details.method,
        timeout,
        grpc.aio.Metadata(*metadata),
        details.credentials,
        details.wait_for_ready,
    )
