"""Calls frame by frame over HTTP/2 (RFC 9113), as no gRPC client makes them: without a message, or reading nothing."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import hpack

__all__ = ["RawCall", "RawConnection"]

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_INITIAL_WINDOW_SIZE: Final = 4


@dataclass
class RawCall:
    """An open call: its stream number, and what the server has answered so far."""

    stream: int
    messages: list[bytes] = field(default_factory=list)
    trailers: dict[str, str] | None = None

    @property
    def ended(self) -> bool:
        """Whether the server has ended the call."""
        return self.trailers is not None

    @property
    def status(self) -> int | None:
        """The number of the gRPC status; None if the server has reset the stream, or not ended it."""
        status = (self.trailers or {}).get("grpc-status")
        return None if status is None else int(status)


class RawConnection:
    """A connection in plaintext. window: how many bytes of each response the server may send."""

    def __init__(self, port: int, *, window: int = 65_535) -> None:
        self._authority = f"localhost:{port}"
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._calls: dict[int, RawCall] = {}
        self._next_stream = 1
        self._socket.sendall(_PREFACE)
        self._send(_SETTINGS, 0, 0, struct.pack(">HI", _INITIAL_WINDOW_SIZE, window))

    def begin(self, path: str, *metadata: tuple[str, str | bytes]) -> RawCall:
        """Begins a call: sends its headers, and no message."""
        headers = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", self._authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *metadata,
        ]
        call = self._calls[self._next_stream] = RawCall(self._next_stream)
        self._next_stream += 2
        self._send(_HEADERS, _END_HEADERS, call.stream, self._encoder.encode(headers, huffman=False))
        return call

    def send(self, call: RawCall, message: bytes, *, last: bool = True) -> None:
        """Sends a message of a call."""
        body = struct.pack(">BI", 0, len(message)) + message
        self._send(_DATA, _END_STREAM if last else 0, call.stream, body)

    def close_requests(self, call: RawCall) -> None:
        """Tells the server that no more messages come."""
        self._send(_DATA, _END_STREAM, call.stream, b"")

    def open_window(self, call: RawCall, size: int) -> None:
        """Allows the server to send more bytes of the responses."""
        self._send(_WINDOW_UPDATE, 0, call.stream, struct.pack(">I", size))

    def wait_until_ended(self, call: RawCall) -> RawCall:
        """Reads until the server has ended a call. TimeoutError after 10 s."""
        while not call.ended:
            self._read_frame()
        return call

    def wait_for_messages(self, call: RawCall, count: int) -> RawCall:
        """Reads until the server has sent that many messages. TimeoutError after 10 s."""
        while len(call.messages) < count:
            self._read_frame()
        return call

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._socket.sendall(struct.pack(">IBI", len(payload) << 8 | kind, flags, stream) + payload)

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            received = self._socket.recv(size - len(data))
            assert received, "the server closed the connection"
            data += received
        return data

    def _read_frame(self) -> None:
        word, flags, stream = struct.unpack(">IBI", self._receive(9))
        payload = self._receive(word >> 8)
        kind, call = word & 0xFF, self._calls.get(stream)
        if kind == _HEADERS:
            headers = {str(name): str(value) for name, value in self._decoder.decode(payload)}
            if call is not None and flags & _END_STREAM:
                call.trailers = headers
        elif kind == _DATA and call is not None and payload:
            call.messages.append(payload[5:])  # these servers' messages are small, so a frame is a message
        elif kind == _RST_STREAM and call is not None:
            call.trailers = call.trailers or {}
        elif kind == _SETTINGS and not flags & _ACK:
            self._send(_SETTINGS, _ACK, 0, b"")
        elif kind == _PING and not flags & _ACK:
            self._send(_PING, _ACK, 0, payload)

    def close(self) -> None:
        """Closes the connection."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
