"""The etcd cluster: three members behind a network that can be cut, and an operator's commands for them."""

from __future__ import annotations

import http.client
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from chaos.system.links import NetworkLinks
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
_QUOTA_BYTES: Final = 32 * 1024 * 1024
_JUNK_VALUE_BYTES: Final = 1_400_000
_START_TIMEOUT_SECONDS: Final = 30.0
_RPC_TIMEOUT_SECONDS: Final = 3.0
_PEER_TIMEOUT_SECONDS: Final = 2.0

T = TypeVar("T")


class Cluster:
    """The members, reached directly: the test bed's own commands bypass the network that it cuts.

    gRPC's errors are raised unchanged: an operator's command can fail during a fault.
    """

    def __init__(self, folder: Path, logs: Path, links: NetworkLinks) -> None:
        self._folder = folder
        self._binary = find_etcd()
        self._network_links = links
        self._client_ports = {name: free_port() for name in MEMBERS}
        self._peer_ports = {name: free_port() for name in MEMBERS}
        addresses = links.open_links([(ANY, name, f"{_HOST}:{self._peer_ports[name]}") for name in MEMBERS])
        self._peer_urls = {name: f"http://{addresses[ANY, name]}" for name in MEMBERS}
        self._new_cluster_count = 0
        self._last_answering = MEMBERS[0]
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
        """The settings of a client that reaches all members directly."""
        return EtcdSettings(endpoints=tuple(self.address(name) for name in MEMBERS), prefix=prefix, timeout=timeout)

    def start_members(self, names: Iterable[str] = MEMBERS) -> None:
        """Starts members that do not run, one after the other.

        A starting member compares its data with the other members'. If all started at once, each would wait for two
        members that listen already and do not answer yet.
        """
        for name in names:
            if self.parts[name].alive:
                continue
            self.parts[name].start()
            deadline = time.monotonic() + _PEER_TIMEOUT_SECONDS
            while not self._answers_peers(name) and time.monotonic() < deadline:
                time.sleep(0.02)

    def start(self) -> None:
        """Starts members that do not run, and waits until there is a leader and the network knows the members' ids."""
        self.start_members()
        deadline = time.monotonic() + _START_TIMEOUT_SECONDS
        while True:
            try:
                self.identify_members()
            except grpc.RpcError as error:
                if time.monotonic() > deadline:
                    raise LocalMeshError(f"the etcd cluster did not become ready: {error}; see its logs") from error
                time.sleep(0.05)
            else:
                return

    def identify_members(self) -> None:
        """Tells the network the members' ids."""
        for name in MEMBERS:
            try:
                answer = self._ask_member(name, _etcdrpc.ClusterStub, "MemberList", _etcdrpc.MemberListRequest())
                self.leader()
            except grpc.RpcError:
                if name == MEMBERS[-1]:
                    raise
            else:
                self._network_links.set_etcd_members({f"{member.ID:x}": member.name for member in answer.members})
                return

    def leader(self) -> str:
        """The member that leads, according to any member. grpc.RpcError if none answers, or there is no leader."""
        statuses = self._statuses()
        for name, status in statuses.items():
            if status.leader and status.leader == status.header.member_id:
                return name
        raise _NoLeaderError("none of the members that answer is the leader")

    def version(self) -> str:
        """etcd's version, as a member reports it: "3.5.17"."""
        return str(self._ask_any_member(self._status).version)

    def move_leader(self, target: str) -> None:
        """Lets the leader hand over to another member."""
        member_id = self._status(target).header.member_id
        request = _etcdrpc.MoveLeaderRequest(targetID=member_id)
        self._ask_member(self.leader(), _etcdrpc.MaintenanceStub, "MoveLeader", request)

    def compact(self) -> int:
        """Compacts all revisions up to the current one, and returns it."""
        revision = int(self._ask_any_member(lambda name: self._status(name)).header.revision)
        request = _etcdrpc.CompactionRequest(revision=revision)
        try:
            self._ask_any_member(lambda name: self._ask_member(name, _etcdrpc.KVStub, "Compact", request))
        except grpc.RpcError as error:
            # OUT_OF_RANGE: this revision is compacted already, and there is no newer one.
            if not (isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.OUT_OF_RANGE):
                raise
        return revision

    def delete(self, key: str) -> None:
        """Deletes a key."""
        request = _etcdrpc.DeleteRangeRequest(key=key.encode())
        self._ask_any_member(lambda name: self._ask_member(name, _etcdrpc.KVStub, "DeleteRange", request))

    def fill(self, key: str) -> None:
        """Puts junk until the quota is used up and etcd raises its alarm."""
        junk = bytes(_JUNK_VALUE_BYTES)
        with grpc.insecure_channel(self.address(self.leader())) as channel:
            kv = _etcdrpc.KVStub(channel)
            for count in range(2 * _QUOTA_BYTES // len(junk)):
                try:
                    kv.Put(_etcdrpc.PutRequest(key=f"{key}{count}".encode(), value=junk), timeout=_RPC_TIMEOUT_SECONDS)
                except grpc.RpcError as error:
                    if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                        return
                    self.free(key)
                    raise

    def free(self, key: str) -> None:
        """Does what an operator does about the alarm: deletes the junk, compacts, defragments, disarms."""
        end = key[:-1] + chr(ord(key[-1]) + 1)
        delete = _etcdrpc.DeleteRangeRequest(key=key.encode(), range_end=end.encode())
        self._ask_any_member(lambda name: self._ask_member(name, _etcdrpc.KVStub, "DeleteRange", delete))
        self.compact()
        for name in MEMBERS:
            try:
                self._ask_member(name, _etcdrpc.MaintenanceStub, "Defragment", _etcdrpc.DefragmentRequest())
            except grpc.RpcError:
                continue  # it is down or frozen, and stays full until the next call
        for alarm in self._send_alarm(_etcdrpc.AlarmRequest.GET).alarms:
            self._send_alarm(_etcdrpc.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm)

    def _send_alarm(self, action: Any, **which: Any) -> Any:
        request = _etcdrpc.AlarmRequest(action=action, **which)
        return self._ask_any_member(lambda name: self._ask_member(name, _etcdrpc.MaintenanceStub, "Alarm", request))

    def disagreement(self) -> str:
        """Finds a member that answers a linearizable read with a lower revision than another member did before.

        Returns a description, or "" if there is none. Before etcd 3.5.3, a member that is killed under load can come
        back without some of the entries that it had applied, and go on with another state than the others
        (etcd-io/etcd#13766). No promise that rests on etcd can be kept then.
        """
        newest, newest_member = 0, ""
        for name in (*MEMBERS, *MEMBERS):
            answer = self._ask_member(name, _etcdrpc.KVStub, "Range", _etcdrpc.RangeRequest(key=b"\0"))
            revision = int(answer.header.revision)
            if revision < newest:
                return f"{name} is at revision {revision}, and {newest_member} had been at {newest}"
            newest, newest_member = revision, name
        return ""

    def snapshot(self, path: Path) -> None:
        """Saves a backup, as `etcdctl snapshot save` does."""

        def save(name: str) -> None:
            with grpc.insecure_channel(self.address(name)) as channel, path.open("wb") as file:
                stub = _etcdrpc.MaintenanceStub(channel)
                for answer in stub.Snapshot(_etcdrpc.SnapshotRequest(), timeout=10 * _RPC_TIMEOUT_SECONDS):
                    file.write(answer.blob)

        self._ask_any_member(save)

    def restore(self, path: Path, *, new_cluster: bool) -> None:
        """Kills all members and starts them again from a backup, as the same cluster or as a new one."""
        for part in self.parts.values():
            part.kill()
        if new_cluster:
            self._new_cluster_count += 1
        for name in MEMBERS:
            shutil.rmtree(self._data_folder(name))
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
            f"--data-dir={self._data_folder(name)}",
            f"--name={name}",
            f"--initial-cluster={self._initial_cluster()}",
            f"--initial-advertise-peer-urls={self._peer_urls[name]}",
            f"--initial-cluster-token={self._cluster_token()}",
        ]
        environment = {**clean_environment(), "ETCDCTL_API": "3"}
        done = subprocess.run(  # noqa: S603 - etcd's own tool
            command, capture_output=True, text=True, env=environment, timeout=60, check=False
        )
        if done.returncode:
            raise LocalMeshError(f"{command[0]} could not restore the backup: {done.stderr[-500:]}")

    def _command(self, name: str) -> list[str]:
        client, peer = f"http://{self.address(name)}", f"http://{_HOST}:{self._peer_ports[name]}"
        command = [
            str(self._binary),
            f"--name={name}",
            f"--data-dir={self._data_folder(name)}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={self._peer_urls[name]}",
            f"--initial-cluster={self._initial_cluster()}",
            f"--initial-cluster-token={self._cluster_token()}",
            f"--quota-backend-bytes={_QUOTA_BYTES}",
            "--auto-compaction-mode=revision",
            "--auto-compaction-retention=20000",
            "--heartbeat-interval=100",
            "--election-timeout=1000",
            "--logger=zap",
            "--log-level=warn",
            "--log-outputs=stderr",
            # Safe here: only a crash of the machine loses unsynced writes, a killed process does not.
            "--unsafe-no-fsync",
        ]
        if (3, 5) <= version_of(self._binary) < CRASH_BUG_FIXED:
            command.append("--experimental-initial-corrupt-check=true")
        return command

    def _data_folder(self, name: str) -> Path:
        return self._folder / name

    def _initial_cluster(self) -> str:
        return ",".join(f"{name}={url}" for name, url in self._peer_urls.items())

    def _cluster_token(self) -> str:
        return f"chaos-{self._new_cluster_count}"

    def _statuses(self) -> Mapping[str, Any]:
        found = {}
        for name in MEMBERS:
            try:
                found[name] = self._status(name)
            except grpc.RpcError:
                continue
        return found

    def _status(self, name: str) -> Any:
        return self._ask_member(name, _etcdrpc.MaintenanceStub, "Status", _etcdrpc.StatusRequest())

    def _ask_any_member(self, ask: Callable[[str], T]) -> T:
        """Asks one member after the other until one answers, beginning with the last that did: others can be frozen."""
        for name in sorted(MEMBERS, key=lambda name: name != self._last_answering):
            try:
                answer = ask(name)
            except grpc.RpcError as error:
                if isinstance(error, grpc.Call) and error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise
                failure = error
            else:
                self._last_answering = name
                return answer
        raise failure

    def _ask_member(self, name: str, stub: Any, method: str, request: Any) -> Any:
        with grpc.insecure_channel(self.address(name)) as channel:
            return getattr(stub(channel), method)(request, timeout=_RPC_TIMEOUT_SECONDS)


class _NoLeaderError(grpc.RpcError):
    """There is no leader. Callers retry it like a failed RPC."""
