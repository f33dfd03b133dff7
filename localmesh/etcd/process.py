"""An etcd process on this machine that can be started, stopped, killed and restarted."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from interceptors.etcd.client import EtcdClient, EtcdUnavailable
from interceptors.settings import EtcdSettings
from localmesh.errors import LocalMeshError
from localmesh.etcd.binary import CRASH_BUG_FIXED, clean_environment, find_etcd, version_of
from localmesh.processes.ports import HOST, free_port, is_free

__all__ = ["EtcdProcess", "EtcdTls"]

_START_TIMEOUT_SECONDS: Final = 20.0
_STOP_TIMEOUT_SECONDS: Final = 10.0
_POLL_INTERVAL_SECONDS: Final = 0.02
_MAX_START_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdTls:
    """The certificates of an etcd that requires TLS, and a client certificate of the same CA."""

    ca_file: Path
    cert_file: Path
    key_file: Path


class EtcdProcess:
    """A single etcd member that keeps its data below `data_dir`.

    port            the port on 127.0.0.1; 0 picks a free one, which restarts keep
    log_file        the log is appended to this file; by default `<data_dir>.log`
    tls             None for plaintext
    unsafe_no_fsync for tests: faster, but a crash of the machine (not of etcd alone) loses data
    arguments       further command-line arguments
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        log_file: Path | None = None,
        tls: EtcdTls | None = None,
        unsafe_no_fsync: bool = False,
        arguments: Sequence[str] = (),
    ) -> None:
        self.data_dir = data_dir
        self.log_file = log_file or data_dir.with_name(data_dir.name + ".log")
        self.tls = tls
        self._port = port
        self._port_is_kept = port != 0
        self._unsafe_no_fsync = unsafe_no_fsync
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The address, as host:port. Known after the first start, or if the port was given."""
        if not self._port:
            raise LocalMeshError("etcd has no port yet; call start() first")
        return f"{HOST}:{self._port}"

    @property
    def alive(self) -> bool:
        """Whether etcd runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id; None unless etcd runs."""
        return self._process.pid if self._process is not None and self.alive else None

    def settings(self, prefix: str = "/credmesh/", *, timeout: float = 5.0) -> EtcdSettings:
        """The settings of a client of this etcd."""
        settings = EtcdSettings(endpoints=(self.endpoint,), prefix=prefix, timeout=timeout)
        if self.tls is None:
            return settings
        return replace(settings, ca_file=self.tls.ca_file, cert_file=self.tls.cert_file, key_file=self.tls.key_file)

    def start(self) -> None:
        """Starts etcd and waits until it answers. LocalMeshError says why it does not."""
        if self.alive:
            return
        binary = find_etcd()
        self._check_folders()
        for attempt in range(1, _MAX_START_ATTEMPTS + 1):
            try:
                self._launch(binary)
            except _PortTakenError:
                # Another process may take the port after it was found free and before etcd listens on it.
                if self._port_is_kept or attempt == _MAX_START_ATTEMPTS:
                    raise
            else:
                self._port_is_kept = True
                return

    def stop(self) -> None:
        """Stops etcd (SIGTERM), or kills it after 10 s. Does nothing if etcd does not run."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kills etcd as a crash would (SIGKILL). Does nothing if etcd does not run."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _launch(self, binary: Path) -> None:
        port = self._port if self._port_is_kept else free_port()
        if not is_free(port):
            raise self._port_taken(port)
        self._port = port
        with self.log_file.open("ab") as log:
            log_begin = log.tell()
            process = subprocess.Popen(  # noqa: S603
                self._command(binary, port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=clean_environment()
            )
        self._process = process
        try:
            self._wait_until_it_answers(process, log_begin)
        except BaseException:
            self.kill()
            raise

    def _command(self, binary: Path, port: int) -> list[str]:
        scheme = "http" if self.tls is None else "https"
        # A single member has no peers, so any free port will do. It needs TLS too: a peer can write to etcd's log.
        peer = f"{scheme}://{HOST}:0"
        command = [
            str(binary),
            f"--data-dir={self.data_dir}",
            f"--listen-client-urls={scheme}://{HOST}:{port}",
            f"--advertise-client-urls={scheme}://{HOST}:{port}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # A single member always wins its election, so after a restart it need not wait a second or two for it.
            "--heartbeat-interval=50",
            "--election-timeout=250",
            "--logger=zap",
            "--log-level=warn",
            "--log-outputs=stderr",
        ]
        if self.tls is not None:
            for side in ("", "peer-"):
                command += [
                    f"--{side}cert-file={self.tls.cert_file}",
                    f"--{side}key-file={self.tls.key_file}",
                    f"--{side}trusted-ca-file={self.tls.ca_file}",
                    f"--{side}client-cert-auth",
                ]
        if (3, 5) <= version_of(binary) < CRASH_BUG_FIXED:
            command.append("--experimental-initial-corrupt-check=true")
        if self._unsafe_no_fsync:
            command.append("--unsafe-no-fsync")
        return [*command, *self._arguments]

    def _check_folders(self) -> None:
        """Checks that etcd can write, because etcd's own message about it is unclear."""
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.log_file.parent.mkdir(parents=True, exist_ok=True)
            probe = self.data_dir / f".probe-{os.getpid()}"
            probe.write_bytes(b"whether this folder can be written")
            probe.unlink()
            with self.log_file.open("ab"):
                pass
        except OSError as error:
            raise LocalMeshError(
                f"etcd cannot write {error.filename or self.data_dir}: {error.strerror}; "
                "make it writable, free some space, or choose another folder"
            ) from error

        self._check_lock()

    def _check_lock(self) -> None:
        # etcd would wait for the other process's lock without logging anything.
        database = self.data_dir / "member" / "snap" / "db"
        if not database.exists():
            return
        with database.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalMeshError(
                    f"another etcd is using {self.data_dir}; stop it first, or choose another folder"
                ) from None

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], log_begin: int) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        pause = threading.Event()
        problem = f"it does not listen on {self.endpoint}"
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise self._explain_exit(process, log_begin)
            # A client that connects before etcd listens would wait for gRPC's backoff.
            if not is_free(self._port):
                # A new client for each attempt: etcd never answers on a connection that it accepted too early.
                with EtcdClient(self.settings(timeout=0.5)) as client:
                    try:
                        client.read("/")
                    except EtcdUnavailable as error:
                        problem = str(error)
                    else:
                        return
            pause.wait(_POLL_INTERVAL_SECONDS)
        raise LocalMeshError(
            f"etcd was not ready within {_START_TIMEOUT_SECONDS:.0f} s ({problem}); see {self.log_file}"
        )

    def _explain_exit(self, process: subprocess.Popen[bytes], log_begin: int) -> LocalMeshError:
        with self.log_file.open("rb") as log:
            log.seek(log_begin)
            text = log.read().decode("utf-8", "replace")
        if "address already in use" in text:
            return self._port_taken(self._port)
        cause = _last_error(text)
        if "no space left on device" in text:
            return LocalMeshError(f"the disk of {self.data_dir} is full ({cause}); free some space")
        return LocalMeshError(
            f"etcd ended while it started, with exit code {process.returncode} ({cause}); see {self.log_file}"
        )

    def _port_taken(self, port: int) -> LocalMeshError:
        return _PortTakenError(
            f"port {port} on {HOST} is taken, so etcd cannot listen there; "
            f"stop what uses it (ss -ltnp 'sport = :{port}' shows it) or choose another port"
        )


class _PortTakenError(LocalMeshError):
    """The port is taken. If the caller did not choose it, another one can be tried."""


def _last_error(log: str) -> str:
    """The message of the last error in etcd's log; the first line if etcd ended before it logged an error."""
    lines = [line for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and entry.get("level") in {"error", "fatal", "panic"}:
            return ": ".join(str(entry[field]) for field in ("msg", "error") if entry.get(field))
    return lines[0].strip() if lines else "its log is empty"
