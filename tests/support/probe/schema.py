"""The probe's descriptors, compiled from probe.proto into the default pool, from which the policy reads rules."""

from __future__ import annotations

import functools
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import StringValue
from grpc_tools import protoc

# The pool needs the imports of probe.proto before probe.proto itself.
from credmesh.policy.v1 import policy_pb2

__all__ = ["FOLLOWING", "FRESH", "KINDS", "METHODS", "SERVICE", "StringValue", "load", "multicallable"]

SERVICE = "credmesh.probe.v1.Probe"
KINDS = ("Unary", "ServerStream", "ClientStream", "Bidi")
"""One method of each kind of RPC, all under the same rule."""
FRESH = ("Fresh", "FreshStream", "FreshClientStream", "FreshBidi")
"""The same, as strict methods."""
FOLLOWING = ("Following", "FollowingClientStream", "FollowingBidi")
"""The streaming kinds, under a rule that follows the session."""

METHODS = {
    "Unary": (False, False),
    "ServerStream": (False, True),
    "ClientStream": (True, False),
    "Bidi": (True, True),
    "Fresh": (False, False),
    "FreshStream": (False, True),
    "FreshClientStream": (True, False),
    "FreshBidi": (True, True),
    "Following": (False, True),
    "FollowingClientStream": (True, False),
    "FollowingBidi": (True, True),
    "Public": (False, False),
    "Unruled": (False, False),
    "Contradictory": (False, False),
}
"""By method: whether the client streams, and whether the server does."""


@functools.cache
def load() -> None:
    """Compiles and registers the probe, once per process."""
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "probe.binpb"
        arguments = [
            "protoc",
            f"--proto_path={here}",
            f"--proto_path={Path(policy_pb2.__file__).parents[3]}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--descriptor_set_out={out}",
            "probe.proto",
        ]
        if protoc.main(arguments) != 0:
            raise AssertionError("probe.proto does not compile")
        files = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes())
    for file in files.file:
        descriptor_pool.Default().Add(file)


def multicallable(channel: Any, method: str) -> Any:
    """Returns the callable of a probe method on a channel of `grpc` or of `grpc.aio`."""
    make = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }[METHODS[method]]
    return make(
        f"/{SERVICE}/{method}",
        request_serializer=StringValue.SerializeToString,
        response_deserializer=StringValue.FromString,
    )
