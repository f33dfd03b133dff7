"""A TCP proxy before etcd, which simulates failures of the network."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Final, Self

from tests.support.waiting import free_port

_HOST: Final = "127.0.0.1"


class Proxy:
    """Forwards connections to `target` (host:port).

    cut()     breaks all connections and refuses new ones; mend() accepts them again
    answers   while it is cleared, etcd's answers are held back and requests are forwarded
    requests  while it is cleared, requests are held back. With both cleared a connection is half-dead: open and silent
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._port = free_port()
        self.endpoint = f"{_HOST}:{self._port}"
        self.answers = threading.Event()
        self.requests = threading.Event()
        self.answers.set()
        self.requests.set()
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener: socket.socket | None = None

    def cut(self) -> None:
        """Breaks all connections and refuses new ones."""
        with self._lock:
            listener, self._listener = self._listener, None
            sockets, self._sockets = self._sockets, []
        for one in ([listener] if listener else []) + sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def mend(self) -> None:
        """Accepts connections again."""
        listener = socket.create_server((_HOST, self._port))
        with self._lock:
            self._listener = listener
        self._start(self._accept, listener)

    def __enter__(self) -> Self:
        self.mend()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut()
        self.answers.set()
        self.requests.set()
        for thread in self._threads:
            thread.join(10)

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                if listener is not self._listener:
                    return
                client.close()
                continue
            with self._lock:
                if listener is not self._listener:
                    client.close()
                    server.close()
                    return
                self._sockets += [client, server]
            self._start(self._pump, client, server, self.requests)
            self._start(self._pump, server, client, self.answers)

    def _pump(self, source: socket.socket, sink: socket.socket, gate: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                gate.wait()
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
