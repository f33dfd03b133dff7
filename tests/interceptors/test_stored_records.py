"""Records in etcd: one of another kind or format is an error, which never quotes the record."""

from __future__ import annotations

import pytest

from credmesh.store.v1 import mesh_pb2
from interceptors.stored_records import FORMAT, RecordError, parse_record


def test_a_record_is_parsed() -> None:
    record = mesh_pb2.NodeRecord(format=FORMAT, node_id="n")
    assert parse_record(mesh_pb2.NodeRecord, record.SerializeToString()) == record


@pytest.mark.parametrize("other_format", [0, 2, 99])
def test_a_record_of_another_format_is_refused(other_format: int) -> None:
    value = mesh_pb2.NodeRecord(format=other_format, node_id="n").SerializeToString()
    with pytest.raises(RecordError, match=f"NodeRecord record of format {other_format}; .*older than the mesh"):
        parse_record(mesh_pb2.NodeRecord, value)


def test_bytes_that_are_not_a_record_are_refused_without_being_quoted() -> None:
    with pytest.raises(RecordError, match=r"^not a NodeRecord record$"):
        parse_record(mesh_pb2.NodeRecord, b"\xff secret")
