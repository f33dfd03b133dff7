"""A mesh of real processes whose etcd is backed up and restored."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from credmesh.admin.v1 import history_pb2
from interceptors import Reason
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.etcd import backups
from tests.support.people import People, populate
from tests.support.probe import schema
from tests.support.probe.clients import bearer, make_client
from tests.support.probe.process import ProbeProcess
from tests.support.processes import AuthProcess
from tests.support.waiting import wait_until

schema.load()

ENVIRON = {"CREDMESH_ETCD_TIMEOUT": "1", "CREDMESH_LEADER_LEASE": "2", "CREDMESH_NODE_LEASE": "3"}
"""Short leases, so that a killed process is not waited for long."""


@dataclass
class Mesh:
    """One auth replica and some probes on one etcd. Each process may be stopped and started again."""

    folder: Path
    etcd: EtcdProcess
    settings: EtcdSettings
    secrets: dict[str, str]
    has_watermark_file: bool = True
    auth: AuthProcess = field(init=False)
    probes: list[ProbeProcess] = field(default_factory=list)
    backups: int = 0

    def __post_init__(self) -> None:
        environ = {"CREDMESH_MEMORY_FILE": str(self.watermark_file)} if self.has_watermark_file else {}
        self.auth = AuthProcess(self.settings, environ=ENVIRON | environ)

    @property
    def layout(self) -> Layout:
        """The mesh's keys in etcd."""
        return Layout(self.settings.prefix)

    @property
    def watermark_file(self) -> Path:
        """The file of the replica's watermark (CREDMESH_MEMORY_FILE)."""
        return self.folder / "watermark.json"

    def start(self) -> None:
        """Starts the replica."""
        self.auth.start()

    def another_without_watermark(self) -> AuthProcess:
        """Makes another replica, without a watermark file."""
        return AuthProcess(self.settings, environ=ENVIRON)

    def probe(
        self, kind: str = "sync", *, settings: EtcdSettings | None = None, auth: AuthProcess | None = None
    ) -> ProbeProcess:
        """Starts a probe that also accepts opaque sessions. auth: the replica that resolves them for it."""
        environ = {"PROBE_SECRET": self.secrets["services"], "CREDMESH_NODE_LEASE": "3"}
        target = (auth or self.auth).target
        one = ProbeProcess(settings or self.settings, kind, auth=target, environ=environ).start()
        self.probes.append(one)
        return one

    def back_up(self) -> Path:
        """Backs etcd up once a key signs, so that a credential issued later can be verified after a restore."""
        with EtcdClient(self.settings) as client:
            wait_until(lambda: client.read(self.layout.signing).values, what="a key that signs")
        self.backups += 1
        return backups.save(self.etcd, self.folder / f"backup-{self.backups}")

    def kill_everything(self) -> None:
        """Kills all processes but etcd, as a power cut would."""
        self.auth.kill()
        for probe in self.probes:
            probe.kill()
        self.probes.clear()

    @contextlib.contextmanager
    def people(self) -> Iterator[People]:
        """Clients and operators of the replica."""
        with self.auth.channel() as channel:
            yield People(channel, self.secrets)

    def history(self) -> history_pb2.GetHistoryResponse:
        """Asks the replica for the history."""
        with self.people() as people:
            answer: history_pb2.GetHistoryResponse = people.ask(
                people.history.GetHistory, history_pb2.GetHistoryRequest()
            )
            return answer

    def wait_until_recovered(self, count: int = 1) -> history_pb2.GetHistoryResponse:
        """Waits until the mesh has recovered from that many losses. Returns the history."""

        def recovered() -> history_pb2.GetHistoryResponse | None:
            try:
                history_response = self.history()
            except grpc.RpcError:
                return None
            return history_response if len(history_response.lost) >= count else None

        try:
            history_response = wait_until(recovered, timeout=20, what="the recovery from the loss")
        except pytest.fail.Exception as failed:
            pytest.fail(f"{failed}\nThe replica's log:\n{self.auth.output}")
        assert history_response is not None
        return history_response


_CALL_INTERVAL_SECONDS = 0.02


class Caller:
    """Calls a probe again and again with one credential, and records every result."""

    def __init__(self, probe: ProbeProcess, method: str, credential: str) -> None:
        self.accepted = 0
        self.reasons: list[Reason | None] = []
        self._client = make_client("sync", probe.target)
        self._method = method
        self._metadata = bearer(credential)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Caller:
        self._client.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(20)
        self._client.__exit__(*error)

    def _run(self) -> None:
        while not self._stop.wait(_CALL_INTERVAL_SECONDS):
            outcome = self._client.call(self._method, "who", metadata=self._metadata)
            if outcome.code is grpc.StatusCode.OK:
                self.accepted += 1
            self.reasons.append(outcome.reason)

    def wait_for_more(self, count: int = 5) -> None:
        """Waits until `count` more calls have ended."""
        enough = len(self.reasons) + count
        wait_until(lambda: len(self.reasons) > enough)


@pytest.fixture
def mesh(tmp_path: Path, own_etcd: EtcdProcess, request: pytest.FixtureRequest) -> Iterator[Mesh]:
    """A mesh whose replica is up. Parametrize it with False for a replica without a watermark file."""
    settings = replace(own_etcd.settings(), timeout=1.0)
    has_watermark_file: Any = getattr(request, "param", True)
    mesh = Mesh(tmp_path, own_etcd, settings, populate(settings), has_watermark_file=has_watermark_file)
    mesh.start()
    yield mesh
    mesh.kill_everything()
