"""Three etcds that are one cluster, behind a network that can part them; and what an operator can do to them."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from chaos.system.links import Wires
from chaos.system.network import ANY
from chaos.system.parts import Part
from interceptors.etcd.compat import import_etcdrpc
from interceptors.settings import EtcdSettings
from localmesh.errors import LocalMeshError
from localmesh.etcd.binary import CRASH_BUG_FIXED, clean_environment, find_etcd, version_of
from localmesh.processes.ports import free_port

__all__ = ["MEMBERS", "Cluster"]

MEMBERS: Final = ("etcd-1", "etcd-2", "etcd-3")

_etcdrpc: Final = import_etcdrpc()
_HOST: Final = "127.0.0.1"
_QUOTA: Final = 32 * 1024 * 1024
_START_TIMEOUT: Final = 30.0
_TIMEOUT: Final = 3.0
_PATIENCE: Final = 2.0

T = TypeVar("T")


class Cluster:
    """The members, reached directly: what the test bed does to them passes by the network that it cuts.

    Errors of gRPC are raised as they are: an operator's command may well fail on a bad day.
    """

    def __init__(self, folder: Path, logs: Path, wires: Wires) -> None:
        self._folder = folder
        self._binary = find_etcd()
        self._wires = wires
        self._client_ports = {name: free_port() for name in MEMBERS}
        self._peer_ports = {name: free_port() for name in MEMBERS}
        links = wires.links([(ANY, name, f"{_HOST}:{self._peer_ports[name]}") for name in MEMBERS])
        self._peer_urls = {name: f"http://{links[ANY, name]}" for name in MEMBERS}
        self._incarnation = 0
        self._spoke = MEMBERS[0]
        self.parts: dict[str, Part] = {
            name: Part(
                name,
                lambda name=name: self._command(name),  # type: ignore[misc]
                environment=clean_environment(),
                log_file=logs / f"{name}.log",
            )
            for name in MEMBERS
        }

    def address(self, name: str) -> str:
        """host:port of a member's client side."""
        return f"{_HOST}:{self._client_ports[name]}"

    def settings(self, prefix: str, timeout: float = 5.0) -> EtcdSettings:
        """How to reach all members directly."""
        return EtcdSettings(endpoints=tuple(self.address(name) for name in MEMBERS), prefix=prefix, timeout=timeout)

    def start_members(self, names: Iterable[str] = MEMBERS) -> None:
        """Starts members that do not run, one after the other.

        A member that starts asks the others whether its data is as theirs. Started all at once, each would wait for
        two that listen already and do not answer yet.
        """
        for name in names:
            if self.parts[name].alive:
                continue
            self.parts[name].start()
            deadline = time.monotonic() + _PATIENCE
            while not self._answers_peers(name) and time.monotonic() < deadline:
                time.sleep(0.02)

    def start(self) -> None:
        """Starts what does not run, and waits until there is a leader and the network knows who is who."""
        self.start_members()
        deadline = time.monotonic() + _START_TIMEOUT
        while True:
            try:
                self.identify()
            except grpc.RpcError as error:
                if time.monotonic() > deadline:
                    raise LocalMeshError(f"etcd's cluster did not get ready: {error}; see its logs") from error
                time.sleep(0.05)
            else:
                return

    def identify(self) -> None:
        """Tells the network the members' ids."""
        for name in MEMBERS:
            try:
                answer = self._ask(name, _etcdrpc.ClusterStub, "MemberList", _etcdrpc.MemberListRequest())
                self.leader()
            except grpc.RpcError:
                if name == MEMBERS[-1]:
                    raise
            else:
                self._wires.members({f"{member.ID:x}": member.name for member in answer.members})
                return

    def leader(self) -> str:
        """The member that leads, as any member says. grpc.RpcError if none answers, or there is no leader."""
        statuses = self._statuses()
        for name, status in statuses.items():
            if status.leader and status.leader == status.header.member_id:
                return name
        raise _NoLeaderError("no member that answers leads")

    def version(self) -> str:
        """What runs, as the members say themselves: "3.5.17"."""
        return str(self._any(self._status).version)

    def move_leader(self, target: str) -> None:
        """Has the leader hand over to another member."""
        member_id = self._status(target).header.member_id
        request = _etcdrpc.MoveLeaderRequest(targetID=member_id)
        self._ask(self.leader(), _etcdrpc.MaintenanceStub, "MoveLeader", request)

    def compact(self) -> int:
        """Compacts everything up to now; the revision."""
        revision = int(self._any(lambda name: self._status(name)).header.revision)
        request = _etcdrpc.CompactionRequest(revision=revision)
        try:
            self._any(lambda name: self._ask(name, _etcdrpc.KVStub, "Compact", request))
        except grpc.RpcError as error:
            # It was done already, and nothing has happened since.
            if not (isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.OUT_OF_RANGE):
                raise
        return revision

    def delete(self, key: str) -> None:
        """Deletes a key."""
        request = _etcdrpc.DeleteRangeRequest(key=key.encode())
        self._any(lambda name: self._ask(name, _etcdrpc.KVStub, "DeleteRange", request))

    def fill(self, key: str) -> None:
        """Puts junk until the quota is used up and etcd raises its alarm."""
        junk = bytes(1_400_000)
        with grpc.insecure_channel(self.address(self.leader())) as channel:
            kv = _etcdrpc.KVStub(channel)
            for count in range(2 * _QUOTA // len(junk)):
                try:
                    kv.Put(_etcdrpc.PutRequest(key=f"{key}{count}".encode(), value=junk), timeout=_TIMEOUT)
                except grpc.RpcError as error:
                    if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        return
                    self.free(key)
                    raise

    def free(self, key: str) -> None:
        """What an operator does about the alarm: deletes the junk, compacts, defragments, and disarms."""
        end = key[:-1] + chr(ord(key[-1]) + 1)
        delete = _etcdrpc.DeleteRangeRequest(key=key.encode(), range_end=end.encode())
        self._any(lambda name: self._ask(name, _etcdrpc.KVStub, "DeleteRange", delete))
        self.compact()
        for name in MEMBERS:
            try:
                self._ask(name, _etcdrpc.MaintenanceStub, "Defragment", _etcdrpc.DefragmentRequest())
            except grpc.RpcError:
                continue  # it is down or frozen, and full until the next time
        for alarm in self._alarm(_etcdrpc.AlarmRequest.GET).alarms:
            self._alarm(_etcdrpc.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm)

    def _alarm(self, action: Any, **which: Any) -> Any:
        request = _etcdrpc.AlarmRequest(action=action, **which)
        return self._any(lambda name: self._ask(name, _etcdrpc.MaintenanceStub, "Alarm", request))

    def disagreement(self) -> str:
        """Which member answers a linearizable read by less than another had answered before; "" if none does.

        Before 3.5.3, a member that is killed under load may come back without some of what it had applied, and go on
        with another state than the others (etcd-io/etcd#13766). Nothing that rests on etcd can be asked for then.
        """
        newest, told_by = 0, ""
        for name in (*MEMBERS, *MEMBERS):
            answer = self._ask(name, _etcdrpc.KVStub, "Range", _etcdrpc.RangeRequest(key=b"\0"))
            revision = int(answer.header.revision)
            if revision < newest:
                return f"{name} is at revision {revision}, and {told_by} had been at {newest}"
            newest, told_by = revision, name
        return ""

    def snapshot(self, path: Path) -> None:
        """Saves a backup, as `etcdctl snapshot save` does."""

        def save(name: str) -> None:
            with grpc.insecure_channel(self.address(name)) as channel, path.open("wb") as file:
                stub = _etcdrpc.MaintenanceStub(channel)
                for answer in stub.Snapshot(_etcdrpc.SnapshotRequest(), timeout=10 * _TIMEOUT):
                    file.write(answer.blob)

        self._any(save)

    def restore(self, path: Path, *, new_cluster: bool) -> None:
        """Ends all members and starts them again from a backup, as the same cluster or as another one."""
        for part in self.parts.values():
            part.kill()
        if new_cluster:
            self._incarnation += 1
        for name in MEMBERS:
            shutil.rmtree(self._data(name))
            self._restore_member(name, path)
        self.start()

    def _answers_peers(self, name: str) -> bool:
        connection = http.client.HTTPConnection(_HOST, self._peer_ports[name], timeout=0.5)
        try:
            connection.request("GET", "/version")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _restore_member(self, name: str, path: Path) -> None:
        tool = self._binary.with_name("etcdutl")
        command = [
            str(tool if tool.exists() else self._binary.with_name("etcdctl")),
            "snapshot",
            "restore",
            str(path),
            f"--data-dir={self._data(name)}",
            f"--name={name}",
            f"--initial-cluster={self._everyone()}",
            f"--initial-advertise-peer-urls={self._peer_urls[name]}",
            f"--initial-cluster-token={self._token()}",
        ]
        environment = {**clean_environment(), "ETCDCTL_API": "3"}
        done = subprocess.run(  # noqa: S603 - etcd's own tool
            command, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        if done.returncode:
            raise LocalMeshError(f"etcd's backup could not be restored: {done.stderr[-500:]}")

    def _command(self, name: str) -> list[str]:
        client, peer = f"http://{self.address(name)}", f"http://{_HOST}:{self._peer_ports[name]}"
        command = [
            str(self._binary),
            f"--name={name}",
            f"--data-dir={self._data(name)}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={self._peer_urls[name]}",
            f"--initial-cluster={self._everyone()}",
            f"--initial-cluster-token={self._token()}",
            f"--quota-backend-bytes={_QUOTA}",
            "--auto-compaction-mode=revision",
            "--auto-compaction-retention=20000",
            "--heartbeat-interval=100",
            "--election-timeout=1000",
            "--logger=zap",
            "--log-level=warn",
            "--log-outputs=stderr",
            # A process that is killed loses nothing of it: only a machine would.
            "--unsafe-no-fsync",
        ]
        if (3, 5) <= version_of(self._binary) < CRASH_BUG_FIXED:
            command.append("--experimental-initial-corrupt-check=true")
        return command

    def _data(self, name: str) -> Path:
        return self._folder / name

    def _everyone(self) -> str:
        return ",".join(f"{name}={url}" for name, url in self._peer_urls.items())

    def _token(self) -> str:
        return f"chaos-{self._incarnation}"

    def _statuses(self) -> Mapping[str, Any]:
        found = {}
        for name in MEMBERS:
            try:
                found[name] = self._status(name)
            except grpc.RpcError:
                continue
        return found

    def _status(self, name: str) -> Any:
        return self._ask(name, _etcdrpc.MaintenanceStub, "Status", _etcdrpc.StatusRequest())

    def _any(self, ask: Callable[[str], T]) -> T:
        """Asks one member after another until one answers; first who answered last, since others may be frozen."""
        for name in sorted(MEMBERS, key=lambda name: name != self._spoke):
            try:
                answer = ask(name)
            except grpc.RpcError as error:
                if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                failure = error
            else:
                self._spoke = name
                return answer
        raise failure

    def _ask(self, name: str, stub: Any, method: str, request: Any) -> Any:
        with grpc.insecure_channel(self.address(name)) as channel:
            return getattr(stub(channel), method)(request, timeout=_TIMEOUT)


class _NoLeaderError(grpc.RpcError):
    """As an RPC that failed: to be tried again."""
