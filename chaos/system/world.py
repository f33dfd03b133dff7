"""The mesh under test: etcd's members, replicas of the auth service, nodes, and the network between all of them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import grpc
from grpc_health.v1 import health_pb2

from chaos.clock import WallClock
from chaos.operation_log import OperationLog
from chaos.system.accounts import SERVICES, Accounts, seed
from chaos.system.cluster import MEMBERS, Cluster
from chaos.system.links import NetworkLinks, Pair
from chaos.system.network import LinkCondition
from chaos.system.parts import Part
from interceptors.etcd.client import EtcdClient, EtcdUnavailable
from interceptors.keyspace import Layout
from localmesh.errors import LocalMeshError
from localmesh.processes.ports import free_port
from localmesh.processes.process import last_lines

__all__ = ["CLIENTS", "PREFIX", "Shape", "World"]

CLIENTS: Final = "clients"
"""The name of the clients in the network."""

PREFIX: Final = "/chaos/"
_KEK: Final = "dGVzdHMgb25seTogbmV2ZXIgdXNlIHRoaXMga2V5ISE="
_ISSUER: Final = "https://auth.chaos"
_START_TIMEOUT_SECONDS: Final = 60.0
_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of the world, its settings, and what its clients do.

    nodes           by node whether it is "sync" or "aio"
    users, programs numbers of accounts: with passwords and sessions, and with client credentials
    pace            how much the clients do; 1.0 is as much as two cores bear
    token_lifetime, refresh_grace, leeway
                    seconds
    freshness       seconds: the freshness of the strict methods, which is the mesh's longest
    node_lease, leader_lease, etcd_timeout
                    seconds
    operators_not_waiting
                    how many of the ten revoking operators do not wait for receipts
    wide_share      the share of revocations that are of everyone, or nearly everyone
    rotates         whether keys are rotated all the time
    key_revocation_share
                    the share of rotations that revoke the signing key instead
    reuse_weight    how often refresh tokens are reused after their grace window, as a weight (see chaos.clients.users)
    stream_weight   how often streams are opened, as such a weight
    lingering_share the share of attempts with revoked or old credentials that are streams beyond the expiry
    mutations       mutations to inject, by part (see chaos.mutations)
    """

    auths: int = 2
    nodes: tuple[str, ...] = ("sync", "aio", "sync", "aio")
    users: int = 8
    programs: int = 16
    pace: float = 1.0
    token_lifetime: float = 20.0
    refresh_grace: float = 3.0
    leeway: float = 5.0
    freshness: float = 2.5
    node_lease: int = 4
    leader_lease: int = 3
    etcd_timeout: float = 4.0
    operators_not_waiting: int = 2
    wide_share: float = 0.004
    rotates: bool = True
    key_revocation_share: float = 0.03
    reuse_weight: int = 1
    stream_weight: int = 6
    lingering_share: float = 0.02
    mutations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def auth_names(self) -> tuple[str, ...]:
        """The names of the replicas of the auth service."""
        return tuple(f"auth-{number + 1}" for number in range(self.auths))

    @property
    def node_names(self) -> tuple[str, ...]:
        """The names of the nodes, without the replicas."""
        return tuple(f"node-{number + 1}" for number in range(len(self.nodes)))


class World:
    """A mesh under test, in its own folder: `logs/`, `etcd/`, `operation_log/`. Use it as a context manager.

    incarnation     how often etcd was restored from a backup; revisions of two incarnations cannot be compared
    before_restore, after_restore
                    callbacks before and after each restore
    """

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder = folder
        self.shape = shape
        self.layout = Layout(PREFIX)
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self.operation_log = self._stack.enter_context(OperationLog(folder / "operation_log", "world"))
        self.links = self._stack.enter_context(NetworkLinks(self.logs / "network.log"))
        self.cluster = Cluster(folder / "etcd", self.logs, self.links)
        self.backup_count = 0
        self.incarnation = 0
        self.before_restore: list[Callable[[], None]] = []
        self.after_restore: list[Callable[[], None]] = []
        self._ports = {name: free_port() for name in (*shape.auth_names, *shape.node_names)}
        self._addresses = self._open_links()
        self.parts: dict[str, Part] = dict(self.cluster.parts)
        self.accounts = Accounts((), (), {})

    def start(self) -> None:
        """Starts all processes, and returns when every node and replica is ready. LocalMeshError if one is not."""
        self._stack.callback(self._kill_all)
        self.cluster.start()
        with EtcdClient(self.cluster.settings(PREFIX)) as etcd:
            self.accounts = _retry_while_unavailable(
                lambda: seed(etcd, self.layout, users=self.shape.users, programs=self.shape.programs)
            )
        secret = self.folder / "services.secret"
        secret.write_text(self.accounts.secrets[SERVICES])
        for name in self.shape.auth_names:
            self._add_part(name, ["-m", "chaos.entry.auth"], self._auth_environment(name))
        for name, kind in zip(self.shape.node_names, self.shape.nodes, strict=True):
            self._add_part(name, ["-m", "chaos.entry.node", kind], self._node_environment(name, secret))
        for part in self.parts.values():
            part.start()
        self.await_ready()

    def await_ready(self, timeout: float = _START_TIMEOUT_SECONDS) -> None:
        """Waits until every node and replica reports SERVING. LocalMeshError names the first that does not."""
        deadline = time.monotonic() + timeout
        for name, port in self._ports.items():
            while not _is_serving(f"{_HOST}:{port}"):
                if time.monotonic() > deadline:
                    lines = "\n".join(last_lines(self.parts[name].log_file))
                    raise LocalMeshError(f"{name} was not ready within {timeout:g} s; its log ends with:\n{lines}")
                time.sleep(0.05)

    def client_settings(self) -> dict[str, Any]:
        """The settings of the clients' process, as JSON values."""
        return {
            "operation_log": str(self.folder / "operation_log"),
            "auths": {name: self._addresses[CLIENTS, name] for name in self.shape.auth_names},
            "nodes": {name: self._addresses[CLIENTS, name] for name in self.shape.node_names},
            "users": self.accounts.users,
            "programs": self.accounts.programs,
            "secrets": self.accounts.secrets,
            "refresh_grace": self.shape.refresh_grace,
            "token_lifetime": self.shape.token_lifetime,
            "pace": self.shape.pace,
            "operators_not_waiting": self.shape.operators_not_waiting,
            "wide_share": self.shape.wide_share,
            "rotates": self.shape.rotates,
            "key_revocation_share": self.shape.key_revocation_share,
            "reuse_weight": self.shape.reuse_weight,
            "stream_weight": self.shape.stream_weight,
            "lingering_share": self.shape.lingering_share,
            "freshness": self.shape.freshness,
        }

    @property
    def pairs(self) -> list[Pair]:
        """All links, including those between etcd's members."""
        peers = [(a, b) for a in MEMBERS for b in MEMBERS if a != b]
        return [*self._addresses, *peers]

    def mend(self, pairs: Iterable[Pair] | None = None) -> None:
        """Ends all cuts and delays of these links, in both directions; of all links by default."""
        chosen = list(self.pairs if pairs is None else pairs)
        both = chosen + [(b, a) for a, b in chosen]
        self.links.allow(chosen)
        self.links.set_conditions({pair: LinkCondition() for pair in both})

    def heal(self) -> None:
        """Ends every fault of processes, clocks and the network."""
        self.mend()
        for part in self.parts.values():
            if part.frozen:
                part.thaw()
            if part.wall_clock is not None and part.wall_clock.ahead:
                self.set_wall_clock(part, 0.0)
        self.cluster.start_members()
        for part in self.parts.values():
            part.start()

    def set_wall_clock(self, part: Part, ahead: float) -> None:
        """Sets a part's wall clock, and logs it: the checker needs to know every process's clock."""
        assert part.wall_clock is not None  # noqa: S101
        self.log("clock", who=part.name, ahead=ahead, before=part.wall_clock.ahead)
        part.wall_clock.set_ahead(ahead)
        self.log("clock", who=part.name, ahead=ahead, before=ahead)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Surrounds the restore of a backup. It is an operator's action, so it is logged as an operation."""
        asked = time.monotonic()
        for callback in self.before_restore:
            callback()
        try:
            yield
        finally:
            self.incarnation += 1
            self.operation_log.write("restore", by="operator", asked=asked, incarnation=self.incarnation)
            for callback in self.after_restore:
                callback()

    def log(self, op: str, **fields: Any) -> None:
        """Logs an event of this moment."""
        now = time.monotonic()
        self.operation_log.write(op, by="world", asked=now, answered=now, **fields)

    def restart_exited(self) -> None:
        """Logs the processes that ended without being killed, and starts them again."""
        for part in self.parts.values():
            if part.expected and not part.alive:
                self.log("exit", who=part.name, code=part.exit_code, log=last_lines(part.log_file))
                part.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def _open_links(self) -> dict[Pair, str]:
        auths, nodes = self.shape.auth_names, self.shape.node_names
        wanted = [(CLIENTS, name, f"{_HOST}:{port}") for name, port in self._ports.items()]
        wanted += [(name, member, self.cluster.address(member)) for name in self._ports for member in MEMBERS]
        wanted += [(node, auth, f"{_HOST}:{self._ports[auth]}") for node in nodes for auth in auths]
        return self.links.open_links(wanted)

    def _add_part(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        wall_clock = WallClock(self.folder / f"{name}.clock")
        endpoints = ",".join(self._addresses[name, member] for member in MEMBERS)
        common = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",  # a crash leaves its stacks in the log
            "ETCD_ENDPOINTS": endpoints,
            "CREDMESH_ETCD_PREFIX": PREFIX,
            "CREDMESH_ETCD_TIMEOUT": f"{self.shape.etcd_timeout:g}",
            "CREDMESH_ISSUER": _ISSUER,
            "CREDMESH_LISTEN": f"{_HOST}:{self._ports[name]}",
            "CREDMESH_PLAINTEXT": "true",
            "CREDMESH_DRAIN": "1",
            "CREDMESH_ADDRESS": name,
            "CREDMESH_LEEWAY": f"{self.shape.leeway:g}",
            "CREDMESH_NODE_LEASE": str(self.shape.node_lease),
            "CREDMESH_LONGEST_FRESHNESS": f"{self.shape.freshness:g}",
            "CHAOS_CLOCK": str(wall_clock.path),
            "CHAOS_PLANT": ",".join(self.shape.mutations.get(name, ())),
        }
        self.parts[name] = Part(
            name,
            lambda: [sys.executable, *arguments],
            environment={**common, **environment},
            log_file=self.logs / f"{name}.log",
            wall_clock=wall_clock,
        )

    def _auth_environment(self, name: str) -> dict[str, str]:
        return {
            "CREDMESH_MEMORY_FILE": str(self.folder / f"{name}.memory"),
            "CREDMESH_KEK": _KEK,
            "CREDMESH_TOKEN_LIFETIME": f"{self.shape.token_lifetime:g}",
            "CREDMESH_REFRESH_GRACE": f"{self.shape.refresh_grace:g}",
            "CREDMESH_LEADER_LEASE": str(self.shape.leader_lease),
            "CREDMESH_LOGIN_FAILURES_PER_ADDRESS": "0",
            "CREDMESH_TOKEN_LOOKUPS_PER_ADDRESS": "0",
            "CREDMESH_LOGIN_FAILURES_PER_ACCOUNT": "0",
            "CHAOS_CHEAP_PASSWORDS": "true",
        }

    def _node_environment(self, name: str, secret: Path) -> dict[str, str]:
        return {
            "CREDMESH_SERVICE": "chaos",
            "CHAOS_FRESHNESS": f"{self.shape.freshness:g}",
            "CREDMESH_AUTH": ",".join(self._addresses[name, auth] for auth in self.shape.auth_names),
            "CREDMESH_CLIENT_ID": SERVICES,
            "CREDMESH_CLIENT_SECRET_FILE": str(secret),
        }

    def _kill_all(self) -> None:
        for part in self.parts.values():
            part.kill()


def _retry_while_unavailable(work: Any) -> Any:
    """Retries `work` while etcd is unavailable: a cluster can change its leader right after its start."""
    for attempts_left in range(20, 0, -1):
        try:
            return work()
        except EtcdUnavailable:
            if attempts_left == 1:
                raise
            time.sleep(0.2)
    raise AssertionError("the last attempt returns or raises")


def _is_serving(target: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer: health_pb2.HealthCheckResponse = check(health_pb2.HealthCheckRequest(), timeout=1.0)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
