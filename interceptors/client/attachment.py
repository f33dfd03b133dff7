"""Putting a credential into a call's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import grpc
import grpc.aio

__all__ = ["CallDetails", "Metadata", "aio_details", "details_with", "own_metadata"]

Entry = tuple[tuple[str, str], ...]
Metadata = tuple[tuple[str, str | bytes], ...]

_TWICE = (
    "this call's metadata already holds an 'authorization' entry, and its channel attaches one; leave it out, or make "
    "the call on a channel without credentials"
)


class _Details(NamedTuple):
    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class CallDetails(_Details, grpc.ClientCallDetails):  # type: ignore[misc]
    """A call's details, as a named tuple: other interceptors know how to `_replace` a part of one."""

    __slots__ = ()


def own_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> Metadata:
    """The caller's own metadata, read once. ValueError if it holds a credential already."""
    if metadata is None:
        return ()
    own = tuple(metadata)
    for key, _ in own:
        if key.lower() == "authorization":
            # Two entries mean that two parties may read two different ones; servers refuse them.
            raise ValueError(_TWICE)
    return own


def details_with(details: Any, own: Metadata, entry: Entry, timeout: float | None) -> CallDetails:
    """The details of a sync call, with the caller's own metadata and a credential's entry."""
    return CallDetails(
        details.method,
        timeout,
        (*own, *entry) if own else entry,
        details.credentials,
        details.wait_for_ready,
        details.compression,
    )


def aio_details(
    details: grpc.aio.ClientCallDetails, own: Metadata, entry: Entry, timeout: float | None
) -> grpc.aio.ClientCallDetails:
    """The details of an aio call, with the caller's own metadata and a credential's entry."""
    # A new Metadata for each call: the caller may use its own again, and inner interceptors add to what they are given.
    return grpc.aio.ClientCallDetails(
        details.method,
        timeout,
        grpc.aio.Metadata(*own, *entry),
        details.credentials,
        details.wait_for_ready,
    )
