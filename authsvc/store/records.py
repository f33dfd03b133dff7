"""Reading what lies in etcd for the auth service alone."""

from __future__ import annotations

from typing import Final, TypeVar

from google.protobuf.message import DecodeError

from credmesh.store.v1 import auth_pb2, mesh_pb2
from interceptors.tokens.verification_key import RecordError

__all__ = ["FORMAT", "RecordError", "parse_record"]

FORMAT: Final = 1
"""The one format of every record that this code writes and reads."""

Record = TypeVar(
    "Record",
    auth_pb2.SealedKey,
    auth_pb2.RotationRequest,
    auth_pb2.SessionRecord,
    auth_pb2.UserRecord,
    auth_pb2.ClientRecord,
    auth_pb2.LeaderRecord,
    mesh_pb2.VerificationKey,
    mesh_pb2.Signing,
    mesh_pb2.Epoch,
    mesh_pb2.Barrier,
    mesh_pb2.Ack,
    mesh_pb2.NodeRecord,
    mesh_pb2.History,
)


def parse_record(kind: type[Record], value: bytes) -> Record:
    """Reads a record. RecordError if it is foreign, or of a format that is newer than this code.

    Whoever lists records skips such a one with an error in the log; whoever needs it refuses.
    """
    try:
        record = kind.FromString(value)
    except DecodeError:
        raise RecordError(f"not a {kind.DESCRIPTOR.name}") from None
    if record.format != FORMAT:
        raise RecordError(
            f"{kind.DESCRIPTOR.name} of format {record.format}, and only {FORMAT} is known here; "
            "is this replica older than the mesh?"
        )
    return record
