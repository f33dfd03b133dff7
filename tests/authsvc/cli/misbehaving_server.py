"""A gRPC server whose methods answer as a test defines: with answers that the auth service gives rarely or never."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

from authsvc.errors import RateLimited
from credmesh.auth.v1 import auth_pb2
from interceptors.errors import Reason, Refusal
from localmesh.certs import Certificates

__all__ = ["Server", "fails", "hangs", "refuses", "refuses_at_limit", "served", "signs_in"]

Answer = Callable[[grpc.ServicerContext], bytes]
"""What a method does: it returns the bytes of a response, or aborts."""


def fails(code: grpc.StatusCode, details: str = "") -> Answer:
    """A method that fails with a plain status."""
    return lambda context: context.abort(code, details)


def refuses(reason: Reason, **metadata: str) -> Answer:
    """A method that refuses as credmesh does."""

    def answer(context: grpc.ServicerContext) -> bytes:
        refusal = Refusal(reason, metadata=metadata)
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)

    return answer


def refuses_at_limit(advice: str) -> Answer:
    """A method that refuses because a limit is reached, with the advice."""

    def answer(context: grpc.ServicerContext) -> bytes:
        refusal = RateLimited(advice)
        context.set_trailing_metadata(refusal.trailing_metadata())
        context.abort(refusal.status, refusal.message)

    return answer


def signs_in(_: grpc.ServicerContext) -> bytes:
    """A Login that returns an access token."""
    credentials = auth_pb2.Credentials(access_token="a-token")
    return auth_pb2.LoginResponse(credentials=credentials).SerializeToString()


def hangs(released: threading.Event) -> Answer:
    """A method that answers only when the test releases it."""

    def answer(_: grpc.ServicerContext) -> bytes:
        released.wait(30)
        return b""

    return answer


class Server(grpc.GenericRpcHandler):
    """Serves the methods by name (without the service). `calls` has the methods that were called, with credentials."""

    def __init__(self, methods: Mapping[str, Answer]) -> None:
        self._methods = methods
        self.calls: list[tuple[str, str]] = []
        self.target = ""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        """See grpc.GenericRpcHandler."""
        name = handler_call_details.method.rpartition("/")[2]
        metadata: Any = handler_call_details.invocation_metadata
        self.calls.append((name, str(dict(metadata).get("authorization", ""))))
        answer = self._methods.get(name)
        if answer is None:
            return None  # UNIMPLEMENTED
        return grpc.unary_unary_rpc_method_handler(lambda _, context: answer(context))


@contextmanager
def served(tls: Certificates | None = None, **methods: Answer) -> Iterator[Server]:
    """Serves the methods on a free port, in plaintext without certificates."""
    handler = Server(methods)
    server = grpc.server(futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((handler,))
    if tls is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = (tls.key_file.read_bytes(), tls.cert_file.read_bytes())
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    handler.target = f"127.0.0.1:{port}"
    server.start()
    try:
        yield handler
    finally:
        server.stop(0).wait()
