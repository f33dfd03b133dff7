"""The part of gRPC over HTTP/2 (RFC 9113) that a load generator needs.

Only a client that is several times faster than a server can measure the server's limit. gRPC's Python client takes as
much CPU as the server, so on two cores they would measure each other. Here, requests are encoded before the clock runs
and sent in batches, and responses are compared as bytes. The server sees no difference: each request has headers like
those of gRPC's own client, flow control is obeyed, and every response is checked.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import hpack

__all__ = ["CallFailed", "Connection", "EndedCallback", "Request", "Response", "encode"]

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER: Final = struct.Struct(">IBI")  # length and type share the first word: see _frame
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_ACK: Final = 1
_END_STREAM: Final = 1
_END_HEADERS: Final = 4
_OPEN: Final = _END_HEADERS
_WINDOW: Final = 2**30
_HEADER_TABLE_SIZE, _INITIAL_WINDOW_SIZE = 1, 4
_MIN_SEND_WINDOW_BYTES: Final = 4096
_RECEIVE_BYTES: Final = 256 * 1024
_TIMEOUT_SECONDS: Final = 30.0
_MAX_KNOWN_STATUSES: Final = 1000


class CallFailed(Exception):
    """A call ended with another status or response than it must have. The run's figures are invalid."""


@dataclass(frozen=True, slots=True)
class Request:
    """One call, encoded: the header block (RFC 7541) and the message with its gRPC prefix."""

    headers: bytes
    body: bytes


@dataclass(slots=True)
class Response:
    """The response of a call so far. `status` is gRPC's; None until the call has ended."""

    data: bytes = b""
    status: int | None = None
    details: str = ""


EndedCallback = Callable[["Connection", int, Response], None]
"""Called for every call that has ended, with its connection and stream number."""


class Connection:
    """One HTTP/2 connection. `start` queues a request, and `pump` reports the calls that have ended.

    ca_file: the certificate authority for TLS; None for plaintext
    """

    def __init__(self, port: int, *, ca_file: Path | None = None) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket: socket.socket = raw
        if ca_file is not None:
            context = ssl.create_default_context(cafile=str(ca_file))
            context.set_alpn_protocols(["h2"])
            self._socket = context.wrap_socket(raw, server_hostname="localhost")
        self._port, self._tls = port, ca_file is not None
        self._next_stream = 1
        self._out = bytearray()
        self._rest = b""
        self._statuses: dict[bytes, tuple[int | None, str]] = {}
        self._send_window = 65_535
        self._received = 0
        self.open: dict[int, Response] = {}
        settings = struct.pack(">HIHI", _HEADER_TABLE_SIZE, 0, _INITIAL_WINDOW_SIZE, _WINDOW)
        # Without a dynamic table (RFC 7541 section 4.2), equal header blocks are equal bytes and are decoded once.
        self._socket.sendall(
            _PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", _WINDOW))
        )

    def request(self, path: str, message: bytes, *, token: str | None) -> Request:
        """As `encode`, for this connection and every other one to the same port."""
        return encode(self._port, path, message, token=token, tls=self._tls)

    def start(self, request: Request) -> int:
        """Queues a request, which `flush` sends. Returns its stream number."""
        stream = self._next_stream
        self._next_stream += 2
        self._out += _frame(_HEADERS, _OPEN, stream, request.headers)
        self._out += _frame(_DATA, _END_STREAM, stream, request.body)
        self._send_window -= len(request.body)
        self.open[stream] = Response()
        return stream

    @property
    def may_start(self) -> bool:
        """Whether flow control allows another small request."""
        return self._send_window > _MIN_SEND_WINDOW_BYTES

    def flush(self) -> None:
        """Sends all queued frames."""
        if self._out:
            self._socket.sendall(self._out)
            self._out.clear()

    def fileno(self) -> int:
        """The file descriptor, for selectors."""
        return self._socket.fileno()

    def pump(self, ended: EndedCallback) -> None:
        """Receives frames and reports every call that they end. It queues control frames, which `flush` sends."""
        received = self._socket.recv(_RECEIVE_BYTES)
        while isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            # Bytes that TLS has decrypted already do not make the socket readable again.
            received += self._socket.recv(_RECEIVE_BYTES)
        if not received:
            raise CallFailed("the server closed the connection")
        data = self._rest + received
        position, end = 0, len(data)
        while end - position >= 9:
            word, flags, stream = _HEADER.unpack_from(data, position)
            after = position + 9 + (word >> 8)
            if after > end:
                break
            self._handle_frame(word & 0xFF, flags, stream, data[position + 9 : after], ended)
            position = after
        self._rest = data[position:]

    def _handle_frame(self, kind: int, flags: int, stream: int, payload: bytes, ended: EndedCallback) -> None:
        answer = self.open.get(stream)
        if kind == _DATA and answer is not None:
            answer.data = answer.data + payload if answer.data else payload
            self._extend_window(len(payload))
        elif kind == _HEADERS and answer is not None:
            if flags & _END_STREAM:
                answer.status, answer.details = self._status(payload)
                del self.open[stream]
                ended(self, stream, answer)
        elif kind == _RST_STREAM and answer is not None:
            del self.open[stream]
            answer.details = f"the stream was reset with error {int.from_bytes(payload, 'big')}"
            ended(self, stream, answer)
        elif kind == _SETTINGS and not flags & _ACK:
            self._out += _frame(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._out += _frame(_PING, _ACK, 0, payload)
        elif kind == _WINDOW_UPDATE and stream == 0:
            self._send_window += int.from_bytes(payload, "big")
        elif kind == _GOAWAY:
            raise CallFailed(f"the server sent GOAWAY: {payload[8:].decode(errors='replace')}")

    def _extend_window(self, size: int) -> None:
        self._received += size
        if self._received > _WINDOW // 2:
            self._out += _frame(_WINDOW_UPDATE, 0, 0, struct.pack(">I", self._received))
            self._received = 0

    def _status(self, block: bytes) -> tuple[int | None, str]:
        known = self._statuses.get(block)
        if known is None:
            headers = {str(name): str(value) for name, value in hpack.Decoder().decode(block)}
            status = headers.get("grpc-status")
            details = headers.get("grpc-message") or f"HTTP status {headers.get(':status')}"
            known = (None if status is None else int(status), details)
            if len(self._statuses) < _MAX_KNOWN_STATUSES:
                self._statuses[block] = known
        return known

    def close(self) -> None:
        """Closes the connection; open calls are cancelled."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def encode(port: int, path: str, message: bytes, *, token: str | None, tls: bool = False) -> Request:
    """Encodes a call of `/package.Service/Method`. The result serves any number of calls to that port."""
    # From the static table: ":method: POST" and ":scheme: http" or "https"; the names ":path" and ":authority".
    block = b"\x83" + (b"\x87" if tls else b"\x86") + b"\x04" + _string(path.encode())
    block += b"\x01" + _string(f"localhost:{port}".encode())
    block += _literal(b"te", b"trailers") + _literal(b"content-type", b"application/grpc")
    block += _literal(b"user-agent", b"credmesh-bench")
    if token is not None:
        block += _literal(b"authorization", b"Bearer " + token.encode())
    return Request(block, struct.pack(">BI", 0, len(message)) + message)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A literal header field without indexing (RFC 7541 section 6.2.2): gRPC's client sends credentials like that."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    """A string without Huffman coding (RFC 7541 section 5.2)."""
    if len(text) < 127:
        return bytes([len(text)]) + text
    rest, encoded = len(text) - 127, bytearray([127])
    while rest >= 128:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    encoded.append(rest)
    return bytes(encoded) + text
