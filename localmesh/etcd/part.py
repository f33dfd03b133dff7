"""The embedded etcd as a part of the local mesh."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from localmesh.certs import Certificates
from localmesh.etcd.process import EtcdProcess, EtcdTls
from localmesh.processes.process import leashed

__all__ = ["EtcdPart"]

# A lone member has nobody to hold an election with; it need not wait a second for candidates.
_ALONE: Final = ("--heartbeat-interval=20", "--election-timeout=200")


class EtcdPart(EtcdProcess):
    """An EtcdProcess over TLS that dies with the supervisor, with the face of a Part."""

    name = "etcd"

    def __init__(self, data_dir: Path, *, port: int, log_file: Path, certificates: Certificates) -> None:
        tls = EtcdTls(ca_file=certificates.ca_file, cert_file=certificates.cert_file, key_file=certificates.key_file)
        super().__init__(data_dir, port=port, log_file=log_file, tls=tls, arguments=_ALONE)

    @property
    def address(self) -> str:
        """host:port."""
        return self.endpoint

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return None if self._process is None else self._process.poll()

    def ready(self) -> bool:
        """Whether it answers: `start` has waited for that."""
        return self.alive

    def terminate(self) -> None:
        """Ends it in an orderly way."""
        self.stop()

    def wait(self, timeout: float) -> bool:
        """Whether it has ended; `terminate` and `kill` have waited for that."""
        del timeout
        return not self.alive

    def _command(self, binary: Path, port: int) -> list[str]:
        return leashed(super()._command(binary, port))
