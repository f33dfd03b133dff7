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

from chaos.clock import Dial
from chaos.history import History
from chaos.system.accounts import SERVICES, Accounts, seed
from chaos.system.cluster import MEMBERS, Cluster
from chaos.system.links import Pair, Wires
from chaos.system.network import Way
from chaos.system.parts import Part
from interceptors.etcd.client import EtcdClient, EtcdUnavailable
from interceptors.keyspace import Layout
from localmesh.errors import LocalMeshError
from localmesh.processes.ports import free_port
from localmesh.processes.process import last_lines

__all__ = ["CLIENTS", "PREFIX", "Shape", "World"]

CLIENTS: Final = "clients"
"""The part of the network that callers are in."""

PREFIX: Final = "/chaos/"
_KEK: Final = "dGVzdHMgb25seTogbmV2ZXIgdXNlIHRoaXMga2V5ISE="
_ISSUER: Final = "https://auth.chaos"
_START_TIMEOUT: Final = 60.0
_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How large the world is, and how its clocks are set.

    nodes           per node whether it is "sync" or "aio"
    users, programs accounts: with passwords and sessions, and with client credentials
    pace            how much the clients do, 1.0 being as much as two cores bear
    token_lifetime, refresh_grace, leeway
                    seconds
    freshness       seconds: what the strict methods ask for, which is the mesh's longest
    node_lease, leader_lease, etcd_timeout
                    seconds
    hasty           so many of the ten who revoke do not wait for receipts
    wide            the part of all revocations that are of everybody, or nearly
    rotates         whether keys are rotated all the time
    forced          the part of these that remove the key that signs instead
    thieves         how often refresh tokens that were used long ago are shown, as a weight (see chaos.clients.users)
    watchers        how often streams are opened, as such a weight
    lingering       the part of all tries of what was revoked or is old that are streams beyond its expiry
    plant           bugs to put in, by part (see chaos.mutations)
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
    hasty: int = 2
    wide: float = 0.004
    rotates: bool = True
    forced: float = 0.03
    thieves: int = 1
    watchers: int = 6
    lingering: float = 0.02
    plant: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def auth_names(self) -> tuple[str, ...]:
        """The replicas of the auth service."""
        return tuple(f"auth-{number + 1}" for number in range(self.auths))

    @property
    def node_names(self) -> tuple[str, ...]:
        """The nodes beside them."""
        return tuple(f"node-{number + 1}" for number in range(len(self.nodes)))


class World:
    """A world in a folder of its own: `logs/`, `etcd/`, `history/`. Use it as a context manager.

    life            how often etcd was restored from a backup: revisions of two lives cannot be compared
    before_restore, after_restore
                    called around it, by whoever follows etcd
    """

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder = folder
        self.shape = shape
        self.layout = Layout(PREFIX)
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self.history = self._stack.enter_context(History(folder / "history", "world"))
        self.wires = self._stack.enter_context(Wires(self.logs / "network.log"))
        self.cluster = Cluster(folder / "etcd", self.logs, self.wires)
        self.backups = 0
        self.life = 0
        self.before_restore: list[Callable[[], None]] = []
        self.after_restore: list[Callable[[], None]] = []
        self._ports = {name: free_port() for name in (*shape.auth_names, *shape.node_names)}
        self._links = self._link()
        self.parts: dict[str, Part] = dict(self.cluster.parts)
        self.accounts = Accounts((), (), {})

    def start(self) -> None:
        """Starts everything, and returns when every node and replica is ready. LocalMeshError if one is not."""
        self._stack.callback(self._kill_all)
        self.cluster.start()
        with EtcdClient(self.cluster.settings(PREFIX)) as etcd:
            self.accounts = _patiently(
                lambda: seed(etcd, self.layout, users=self.shape.users, programs=self.shape.programs)
            )
        secret = self.folder / "services.secret"
        secret.write_text(self.accounts.secrets[SERVICES])
        for name in self.shape.auth_names:
            self._add(name, ["-m", "chaos.entry.auth"], self._auth_environment(name))
        for name, kind in zip(self.shape.node_names, self.shape.nodes, strict=True):
            self._add(name, ["-m", "chaos.entry.node", kind], self._node_environment(name, secret))
        for part in self.parts.values():
            part.start()
        self.await_ready()

    def await_ready(self, timeout: float = _START_TIMEOUT) -> None:
        """Waits until every node and replica says that it is ready. LocalMeshError names the one that does not."""
        deadline = time.monotonic() + timeout
        for name, port in self._ports.items():
            while not _serving(f"{_HOST}:{port}"):
                if time.monotonic() > deadline:
                    lines = "\n".join(last_lines(self.parts[name].log_file))
                    raise LocalMeshError(f"{name} did not get ready within {timeout:g} s; its log ends:\n{lines}")
                time.sleep(0.05)

    def client_settings(self) -> dict[str, Any]:
        """What the clients have to know, as JSON takes it."""
        return {
            "history": str(self.folder / "history"),
            "auths": {name: self._links[CLIENTS, name] for name in self.shape.auth_names},
            "nodes": {name: self._links[CLIENTS, name] for name in self.shape.node_names},
            "users": self.accounts.users,
            "programs": self.accounts.programs,
            "secrets": self.accounts.secrets,
            "refresh_grace": self.shape.refresh_grace,
            "token_lifetime": self.shape.token_lifetime,
            "pace": self.shape.pace,
            "hasty": self.shape.hasty,
            "wide": self.shape.wide,
            "rotates": self.shape.rotates,
            "forced": self.shape.forced,
            "thieves": self.shape.thieves,
            "watchers": self.shape.watchers,
            "lingering": self.shape.lingering,
            "freshness": self.shape.freshness,
        }

    def links_of(self, name: str) -> list[Pair]:
        """The links that begin or end at a part."""
        return [pair for pair in self.pairs if name in pair]

    @property
    def pairs(self) -> list[Pair]:
        """All links, those between etcd's members included."""
        peers = [(a, b) for a in MEMBERS for b in MEMBERS if a != b]
        return [*self._links, *peers]

    def mend(self, pairs: Iterable[Pair] | None = None) -> None:
        """Lets everything pass, both ways: on these links, or on all."""
        chosen = list(self.pairs if pairs is None else pairs)
        both = chosen + [(b, a) for a, b in chosen]
        self.wires.allow(chosen)
        self.wires.ways({pair: Way() for pair in both})

    def heal(self) -> None:
        """Undoes whatever is still wrong with processes, clocks and the network."""
        self.mend()
        for part in self.parts.values():
            if part.frozen:
                part.thaw()
            if part.dial is not None and part.dial.ahead:
                self.turn(part, 0.0)
        self.cluster.start_members()
        for part in self.parts.values():
            part.start()

    def turn(self, part: Part, ahead: float) -> None:
        """Sets a part's wall clock. The history knows every process's clock, as an observer that looks at it would."""
        assert part.dial is not None  # noqa: S101
        self.note("clock", who=part.name, ahead=ahead, before=part.dial.ahead)
        part.dial.turn(ahead)
        self.note("clock", who=part.name, ahead=ahead, before=ahead)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Around the restoring of a backup, which is an operator's doing and so a part of the history."""
        asked = time.monotonic()
        for callback in self.before_restore:
            callback()
        try:
            yield
        finally:
            self.life += 1
            self.history.write("restore", by="operator", asked=asked, life=self.life)
            for callback in self.after_restore:
                callback()

    def note(self, op: str, **fields: Any) -> None:
        """Writes down something that happens at this moment."""
        now = time.monotonic()
        self.history.write(op, by="world", asked=now, answered=now, **fields)

    def watch_over(self) -> None:
        """Notes the processes that ended though nobody killed them, and starts them again."""
        for part in self.parts.values():
            if part.expected and not part.alive:
                self.note("exit", who=part.name, code=part.exit_code, log=last_lines(part.log_file))
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

    def _link(self) -> dict[Pair, str]:
        auths, nodes = self.shape.auth_names, self.shape.node_names
        wanted = [(CLIENTS, name, f"{_HOST}:{port}") for name, port in self._ports.items()]
        wanted += [(name, member, self.cluster.address(member)) for name in self._ports for member in MEMBERS]
        wanted += [(node, auth, f"{_HOST}:{self._ports[auth]}") for node in nodes for auth in auths]
        return self.wires.links(wanted)

    def _add(self, name: str, arguments: list[str], environment: dict[str, str]) -> None:
        dial = Dial(self.folder / f"{name}.clock")
        endpoints = ",".join(self._links[name, member] for member in MEMBERS)
        common = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PYTHONUNBUFFERED": "1",
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
            "CHAOS_CLOCK": str(dial.path),
            "CHAOS_PLANT": ",".join(self.shape.plant.get(name, ())),
        }
        self.parts[name] = Part(
            name,
            lambda: [sys.executable, *arguments],
            environment={**common, **environment},
            log_file=self.logs / f"{name}.log",
            dial=dial,
        )

    def _auth_environment(self, name: str) -> dict[str, str]:
        return {
            "CREDMESH_MEMORY_FILE": str(self.folder / f"{name}.memory"),
            "CREDMESH_KEK": _KEK,
            "CREDMESH_TOKEN_LIFETIME": f"{self.shape.token_lifetime:g}",
            "CREDMESH_REFRESH_GRACE": f"{self.shape.refresh_grace:g}",
            "CREDMESH_LEADER_LEASE": str(self.shape.leader_lease),
            "CREDMESH_LOGIN_FAILURES_PER_ADDRESS": "0",
            "CREDMESH_LOGIN_FAILURES_PER_ACCOUNT": "0",
            "CHAOS_CHEAP_PASSWORDS": "true",
        }

    def _node_environment(self, name: str, secret: Path) -> dict[str, str]:
        return {
            "CREDMESH_SERVICE": "chaos",
            "CHAOS_FRESHNESS": f"{self.shape.freshness:g}",
            "CREDMESH_AUTH": ",".join(self._links[name, auth] for auth in self.shape.auth_names),
            "CREDMESH_CLIENT_ID": SERVICES,
            "CREDMESH_CLIENT_SECRET_FILE": str(secret),
        }

    def _kill_all(self) -> None:
        for part in self.parts.values():
            part.kill()


def _patiently(work: Any) -> Any:
    """Right after its start a cluster may change its mind about its leader."""
    for tries_left in range(20, 0, -1):
        try:
            return work()
        except EtcdUnavailable:
            if tries_left == 1:
                raise
            time.sleep(0.2)
    raise AssertionError("the last try returns or raises")


def _serving(target: str) -> bool:
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
