"""The local mesh's own etcd, as a part that the supervisor can drive."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from localmesh.certs import Certificates
from localmesh.etcd.process import EtcdProcess, EtcdTls
from localmesh.processes.process import tied_to_parent

__all__ = ["EtcdPart"]

# A single member always wins its election, so a short timeout only makes the start faster.
_SINGLE_MEMBER_FLAGS: Final = ("--heartbeat-interval=20", "--election-timeout=200")


class EtcdPart(EtcdProcess):
    """An EtcdProcess over TLS that dies with the supervisor. It implements `supervision.Part`."""

    name = "etcd"

    def __init__(self, data_dir: Path, *, port: int, log_file: Path, certificates: Certificates) -> None:
        tls = EtcdTls(ca_file=certificates.ca_file, cert_file=certificates.cert_file, key_file=certificates.key_file)
        super().__init__(data_dir, port=port, log_file=log_file, tls=tls, arguments=_SINGLE_MEMBER_FLAGS)

    @property
    def address(self) -> str:
        """The address, as host:port."""
        return self.endpoint

    @property
    def exit_code(self) -> int | None:
        """The exit code; None while the process runs."""
        return None if self._process is None else self._process.poll()

    def ready(self) -> bool:
        """Whether etcd answers. `start` has waited for that, so it is enough that the process runs."""
        return self.alive

    def terminate(self) -> None:
        """Stops etcd (SIGTERM), or kills it after a timeout."""
        self.stop()

    def wait(self, timeout: float) -> bool:
        """Whether etcd has ended. `terminate` and `kill` have waited for that."""
        del timeout
        return not self.alive

    def _command(self, binary: Path, port: int) -> list[str]:
        return tied_to_parent(super()._command(binary, port))
