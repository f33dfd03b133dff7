"""etcd3's old generated code under today's protobuf."""

from __future__ import annotations

import subprocess
import sys

from google.protobuf import descriptor_pool
from google.protobuf.internal import api_implementation

from interceptors.etcd.compat import import_etcdrpc


def test_the_messages_have_etcds_wire_format() -> None:
    rpc = import_etcdrpc()
    request = rpc.RangeRequest(key=b"/a", range_end=b"/b", limit=7)
    # Fields 1, 2 (bytes) and 3 (varint) of etcdserverpb.RangeRequest, written out by hand.
    assert request.SerializeToString() == b"\x0a\x02/a\x12\x02/b\x18\x07"
    assert rpc.RangeRequest.FromString(request.SerializeToString()) == request


def test_protobufs_fast_runtime_is_kept() -> None:
    import_etcdrpc()
    assert api_implementation.Type() == "upb"


def test_a_services_own_kv_proto_does_not_conflict() -> None:
    """The default pool refuses a second `kv.proto`. A service that has one must be able to import this package."""
    import_etcdrpc()
    for name in ("kv.proto", "rpc.proto", "auth.proto"):
        descriptor_pool.Default().AddSerializedFile(
            # A FileDescriptorProto that holds nothing but its name.
            b"\x0a" + bytes([len(name)]) + name.encode()
        )


def test_etcd3_itself_can_be_imported_afterwards() -> None:
    code = "from interceptors.etcd.compat import import_etcdrpc as i; rpc = i(); import etcd3; " + (
        "assert etcd3.etcdrpc is rpc and etcd3.etcdrpc.kv_pb2.KeyValue(key=b'k').key == b'k'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
