"""A whole mesh on this machine: bringing it up, keeping it up, taking it down."""

from __future__ import annotations

import json
import os
import queue
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

from authsvc.accounts.bootstrap import generate_kek, seed_development
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings, read_settings
from localmesh.addresses import PREFERRED, Addresses, choose_addresses
from localmesh.certs import development_certificates, etcd_certificates
from localmesh.control import ControlServer, Request, take_folder
from localmesh.errors import LocalMeshError
from localmesh.etcd.part import EtcdPart
from localmesh.parts import SERVICES, TLS_OF_ETCD, Surroundings, auth_parts, service_parts, told
from localmesh.processes.supervision import Happening, Supervised, Supervisor

__all__ = ["LocalMesh", "Options", "Stopped"]

_TICK: Final = 0.03
_UP_WITHIN: Final = 60.0
_EXTERNAL_PREFIX: Final = "/credmesh-local/"
_LONGEST_HOLD: Final = 120.0
_CLIENTS: Final = ("operator", "services")


class Stopped(Exception):
    """Somebody asked the mesh to stop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a mesh is asked to be.

    folder     its data, secrets and logs
    any_ports  take free ports rather than the usual ones
    """

    folder: Path
    any_ports: bool = False


@contextmanager
def _own_etcd_is_offered() -> Iterator[None]:
    """An etcd that cannot be used may have been named by accident: a shell that has read .mesh/env does that."""
    try:
        yield
    except CredmeshError as error:
        named = os.environ["ETCD_ENDPOINTS"]
        raise LocalMeshError(
            f"ETCD_ENDPOINTS={named} is set, so that etcd is used, and none is started: {error}\n"
            "If it is not meant (a shell that has read .mesh/env has it), `unset ETCD_ENDPOINTS`: the mesh then starts "
            "an etcd of its own"
        ) from error


class LocalMesh:
    """One mesh in one folder.

    The thread that makes it drives it, and has to live as long as the parts. Requests of others, and signals, come in
    through `inbox`.
    """

    def __init__(self, options: Options, *, tell: Callable[[Happening, Supervised], None]) -> None:
        self.folder = options.folder.absolute()
        self.inbox: queue.SimpleQueue[Request | signal.Signals] = queue.SimpleQueue()
        self.supervisor = Supervisor(tell)
        self.up_seconds: float | None = None
        self.moved: tuple[tuple[str, int, int], ...] = ()
        self.profile: Mapping[str, Any] = {}
        self._any_ports = options.any_ports
        self._tls = self.folder / "tls"
        self._lock: IO[str] | None = None
        self._control: ControlServer | None = None

    def bring_up(self) -> None:
        """Starts everything and returns when every part answers. LocalMeshError says what is in the way."""
        try:
            self._bring_up(time.monotonic())
        except OSError as error:
            raise LocalMeshError(
                f"{error.filename or self.folder}: {error.strerror or error}; make it writable, free some space, or "
                "choose another folder with --folder"
            ) from error

    def _bring_up(self, began: float) -> None:
        self._lock = take_folder(self.folder)
        around = self._surroundings()
        self._control = ControlServer(self.folder, self.inbox)
        if self.embedded_etcd:
            self.supervisor.start(
                EtcdPart(
                    self.folder / "etcd",
                    port=around.addresses.ports["etcd"],
                    log_file=around.logs / "etcd.log",
                    certificates=etcd_certificates(self._tls).server,
                )
            )
        else:
            with _own_etcd_is_offered():
                self._check_answers(around)
        self._check_continuity(around)
        # They take a moment to load, and the accounts are made meanwhile.
        for part in auth_parts(around):
            self.supervisor.start(part)
        self._seed(around)
        for part in service_parts(around):
            self.supervisor.start(part)
        self._wait_until_up(began)
        self.up_seconds = time.monotonic() - began
        self._write_profile(around)

    def keep_up(self) -> None:
        """Watches the parts and answers requests until somebody asks to stop. LocalMeshError if a part is broken."""
        while True:
            self._turn()

    def take_down(self) -> None:
        """Stops everything: callers first, etcd last. A signal meanwhile ends what is left at once."""
        self._refuse_requests()
        try:
            self.supervisor.stop(name for name in list(self.supervisor.parts) if name != "etcd")
            self.supervisor.stop()
        finally:
            self.supervisor.kill()
            if self._control is not None:
                self._control.close()
            if self._lock is not None:
                self._lock.close()

    @property
    def embedded_etcd(self) -> bool:
        """Whether etcd is ours; not if ETCD_ENDPOINTS names another."""
        return not os.environ.get("ETCD_ENDPOINTS", "").strip()

    def status(self) -> dict[str, Any]:
        """What is known of the mesh, for whoever asks."""
        parts = [
            {"name": name, "address": supervised.part.address, "state": supervised.state.value}
            for name, supervised in self.supervisor.parts.items()
        ]
        return {
            "up": self.up_seconds is not None,
            "up_seconds": self.up_seconds,
            "embedded_etcd": self.embedded_etcd,
            "pid": os.getpid(),
            "parts": parts,
            "profile": str(self.folder / "profile.json"),
        }

    def _surroundings(self) -> Surroundings:
        preferred = dict.fromkeys(PREFERRED, 0) if self._any_ports else PREFERRED
        addresses = choose_addresses(self.folder / "ports.json", preferred=preferred)
        self.moved = addresses.moved
        secrets = self.folder / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        memory = self.folder / "memory"
        memory.mkdir(exist_ok=True)
        return Surroundings(
            etcd=self._etcd_settings(addresses),
            addresses=addresses,
            certificates=development_certificates(self._tls),
            kek_file=secrets / "kek",
            secrets=secrets,
            memory=memory,
            logs=self.folder / "logs",
        )

    def _etcd_settings(self, addresses: Addresses) -> EtcdSettings:
        if self.embedded_etcd:
            # Everything that a mesh knows and trusts is in etcd: who uses this machine too must not get at it.
            client = etcd_certificates(self._tls).client
            return EtcdSettings(
                endpoints=(addresses.of("etcd"),),
                ca_file=client.ca_file,
                cert_file=client.cert_file,
                key_file=client.key_file,
            )
        with _own_etcd_is_offered():
            settings = read_settings(EtcdSettings)
        if os.environ.get("CREDMESH_ETCD_PREFIX", "").strip():
            return settings
        # Somebody else's etcd may hold a mesh that matters; accounts for trying things out have no place in it.
        return replace(settings, prefix=_EXTERNAL_PREFIX)

    def _check_answers(self, around: Surroundings) -> None:
        """Before anything is started: without it nothing would come up, and every part would say so at length."""
        with EtcdClient(around.etcd) as etcd:
            etcd.count(Layout(around.etcd.prefix).prefix)

    def _check_continuity(self, around: Surroundings) -> None:
        """The key that seals the signing keys lies in the folder; what it sealed lies in etcd. Both or neither."""
        if around.kek_file.exists():
            return
        layout = Layout(around.etcd.prefix)
        with EtcdClient(around.etcd) as etcd:
            if etcd.count(layout.prefix + "auth/"):
                raise LocalMeshError(
                    f"etcd at {', '.join(around.etcd.endpoints)} holds a mesh below {layout.prefix} whose secrets are "
                    f"not in {self.folder}; delete it (etcdctl del --prefix {layout.prefix}), or set "
                    "CREDMESH_ETCD_PREFIX=/another/ to begin anew"
                )
        generate_kek(around.kek_file)

    def _seed(self, around: Surroundings) -> None:
        with EtcdClient(around.etcd) as etcd:
            made = seed_development(etcd, Layout(around.etcd.prefix))
        for client_id, secret in made.items():
            path = around.secrets / client_id
            path.unlink(missing_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret + "\n")
        for client_id in _CLIENTS:
            if not (around.secrets / client_id).exists():
                raise LocalMeshError(
                    f"the secret of client {client_id!r} is not in {around.secrets} any more, and etcd keeps only its "
                    "hash; `make clean` forgets the mesh, and the next start makes it anew"
                )

    def _wait_until_up(self, began: float) -> None:
        while not self.supervisor.all_up:
            self._turn()
            if time.monotonic() - began > _UP_WITHIN:
                late = [name for name, one in self.supervisor.parts.items() if one.took == 0.0]
                logs = ", ".join(str(self.supervisor.parts[name].part.log_file) for name in late)
                raise LocalMeshError(f"{', '.join(late)} did not get ready within {_UP_WITHIN:g} s; see {logs}")

    def _write_profile(self, around: Surroundings) -> None:
        variables = told(around)
        self.profile = {
            "auth": around.auth,
            "ca_file": str(around.certificates.ca_file),
            "client_id": "operator",
            "client_secret_file": str(around.secrets / "operator"),
            "issuer": around.issuer,
            "etcd": variables["ETCD_ENDPOINTS"],
            "etcd_prefix": around.etcd.prefix,
            **{name.lower(): variables[name] for name in TLS_OF_ETCD if name in variables},
            "kek_file": str(around.kek_file),
            "services": {name: around.addresses.of(name) for name in SERVICES},
            "replicas": around.auth.split(","),
        }
        self._write("profile.json", json.dumps(self.profile, indent=2) + "\n")
        # For a shell, so that one more service, or the command in another folder, finds its way to this mesh.
        variables["CREDMESH_PROFILE"] = str(self.folder / "profile.json")
        self._write("env", "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))

    def _write(self, name: str, text: str) -> None:
        temporary = self.folder / f"{name}.new"
        temporary.write_text(text)
        temporary.replace(self.folder / name)

    def _turn(self) -> None:
        """One turn of the loop: what came in, then a look at every part."""
        try:
            item = self.inbox.get(timeout=_TICK)
        except queue.Empty:
            pass
        else:
            if isinstance(item, signal.Signals):
                raise Stopped(item.name)
            self._answer(item)
        self.supervisor.tick()

    def _answer(self, request: Request) -> None:
        what = request.what
        try:
            match what.get("do"):
                case "status":
                    request.answer.put(self.status())
                case "down":
                    request.answer.put({"ok": True})
                    raise Stopped("down")
                case "hold":
                    seconds = min(float(what.get("seconds", _LONGEST_HOLD)), _LONGEST_HOLD)
                    self.supervisor.hold(str(what.get("part")), seconds=seconds, kill=bool(what.get("kill")))
                    request.answer.put({"ok": True})
                case "resume":
                    self.supervisor.resume(str(what.get("part")))
                    request.answer.put({"ok": True})
                case other:
                    request.answer.put({"error": f"nobody knows how to {other!r}"})
        except (LocalMeshError, ValueError) as error:
            request.answer.put({"error": str(error)})

    def _refuse_requests(self) -> None:
        while True:
            try:
                item = self.inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, Request):
                item.answer.put({"error": "the mesh is shutting down"})
