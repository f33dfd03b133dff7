"""A whole mesh on this machine: starts it, keeps it up, and shuts it down."""

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
from localmesh.control import ControlRequest, ControlServer, lock_folder
from localmesh.errors import LocalMeshError
from localmesh.etcd.part import EtcdPart
from localmesh.parts import (
    SERVICES,
    TLS_VARIABLES_OF_ETCD,
    SharedSettings,
    auth_parts,
    mesh_environment,
    service_parts,
)
from localmesh.processes.supervision import PartEvent, SupervisedPart, Supervisor

__all__ = ["LocalMesh", "Options", "StopRequested"]

_TICK_INTERVAL_SECONDS: Final = 0.03
_UP_TIMEOUT_SECONDS: Final = 60.0
_EXTERNAL_PREFIX: Final = "/credmesh-local/"
_MAX_DOWN_SECONDS: Final = 120.0
_CLIENTS: Final = ("operator", "services")


class StopRequested(Exception):
    """A signal, or a control request, asked the mesh to stop. The text names which."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a local mesh.

    folder     the mesh's data, secrets and logs
    any_ports  use free ports instead of the usual ones
    """

    folder: Path
    any_ports: bool = False


@contextmanager
def _explain_external_etcd() -> Iterator[None]:
    """Adds to an error that the etcd is the one that ETCD_ENDPOINTS names.

    That may be an accident: a shell that has read .mesh/env has the variable.
    """
    try:
        yield
    except CredmeshError as error:
        named = os.environ["ETCD_ENDPOINTS"]
        raise LocalMeshError(
            f"ETCD_ENDPOINTS={named} is set, so the mesh uses that etcd and starts none: {error}\n"
            "If you did not mean that (a shell that has read .mesh/env has the variable), `unset ETCD_ENDPOINTS`; the "
            "mesh then starts its own etcd"
        ) from error


class LocalMesh:
    """One mesh in one folder.

    One thread creates and drives it, and must live as long as the parts: the kernel kills a part when the thread that
    started it ends. Control requests and signals reach that thread through `inbox`.

    up_seconds  how long the start took, in seconds; None until the mesh is up
    moved       the ports that had to move: (name, preferred port, port in use)
    profile     what profile.json holds: the addresses and files that a client needs
    """

    def __init__(self, options: Options, *, on_event: Callable[[PartEvent, SupervisedPart], None]) -> None:
        self.folder = options.folder.absolute()
        self.inbox: queue.SimpleQueue[ControlRequest | signal.Signals] = queue.SimpleQueue()
        self.supervisor = Supervisor(on_event)
        self.up_seconds: float | None = None
        self.moved: tuple[tuple[str, int, int], ...] = ()
        self.profile: Mapping[str, Any] = {}
        self._any_ports = options.any_ports
        self._tls = self.folder / "tls"
        self._lock: IO[str] | None = None
        self._control: ControlServer | None = None

    def bring_up(self) -> None:
        """Starts every part and returns when all are up. LocalMeshError says what prevents it."""
        try:
            self._bring_up(time.monotonic())
        except OSError as error:
            raise LocalMeshError(
                f"{error.filename or self.folder}: {error.strerror or error}; make it writable, free some space, or "
                "choose another folder with --folder"
            ) from error

    def _bring_up(self, started_at: float) -> None:
        self._lock = lock_folder(self.folder)
        shared = self._shared_settings()
        self._control = ControlServer(self.folder, self.inbox)
        if self.embedded_etcd:
            self.supervisor.start(
                EtcdPart(
                    self.folder / "etcd",
                    port=shared.addresses.ports["etcd"],
                    log_file=shared.logs / "etcd.log",
                    certificates=etcd_certificates(self._tls).server,
                )
            )
        else:
            with _explain_external_etcd():
                self._check_etcd_answers(shared)
        self._ensure_kek(shared)
        # The auth replicas load their code while the accounts are created.
        for part in auth_parts(shared):
            self.supervisor.start(part)
        self._seed(shared)
        for part in service_parts(shared):
            self.supervisor.start(part)
        self._wait_until_up(started_at)
        self.up_seconds = time.monotonic() - started_at
        self._write_profile_and_env(shared)

    def keep_up(self) -> None:
        """Supervises the parts and answers requests until StopRequested. LocalMeshError if a part is given up."""
        while True:
            self._tick()

    def shut_down(self) -> None:
        """Stops every part: callers first, etcd last."""
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
        """Whether the mesh runs its own etcd. It does unless ETCD_ENDPOINTS names one."""
        return not os.environ.get("ETCD_ENDPOINTS", "").strip()

    def status(self) -> dict[str, Any]:
        """The answer to a status request."""
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

    def _shared_settings(self) -> SharedSettings:
        preferred = dict.fromkeys(PREFERRED, 0) if self._any_ports else PREFERRED
        addresses = choose_addresses(self.folder / "ports.json", preferred=preferred)
        self.moved = addresses.moved
        secrets = self.folder / "secrets"
        secrets.mkdir(mode=0o700, exist_ok=True)
        watermarks = self.folder / "watermarks"
        watermarks.mkdir(exist_ok=True)
        return SharedSettings(
            etcd=self._etcd_settings(addresses),
            addresses=addresses,
            certificates=development_certificates(self._tls),
            kek_file=secrets / "kek",
            secrets=secrets,
            watermarks=watermarks,
            logs=self.folder / "logs",
        )

    def _etcd_settings(self, addresses: Addresses) -> EtcdSettings:
        if self.embedded_etcd:
            # The mesh trusts what is in etcd, so other users of this machine must not reach it.
            client = etcd_certificates(self._tls).client
            return EtcdSettings(
                endpoints=(addresses.of("etcd"),),
                ca_file=client.ca_file,
                cert_file=client.cert_file,
                key_file=client.key_file,
            )
        with _explain_external_etcd():
            settings = read_settings(EtcdSettings)
        if os.environ.get("CREDMESH_ETCD_PREFIX", "").strip():
            return settings
        # An external etcd may hold a production mesh under the default prefix. Development accounts must not get there.
        return replace(settings, prefix=_EXTERNAL_PREFIX)

    def _check_etcd_answers(self, shared: SharedSettings) -> None:
        """Fails before any part starts, because every part would log the same failure at length."""
        with EtcdClient(shared.etcd) as etcd:
            etcd.count(Layout(shared.etcd.prefix).prefix)

    def _ensure_kek(self, shared: SharedSettings) -> None:
        """Generates the key-encryption key of a new mesh.

        LocalMeshError if etcd holds a mesh whose key-encryption key is not in the folder.
        """
        if shared.kek_file.exists():
            return
        layout = Layout(shared.etcd.prefix)
        with EtcdClient(shared.etcd) as etcd:
            if etcd.count(layout.prefix + "auth/"):
                raise LocalMeshError(
                    f"etcd at {', '.join(shared.etcd.endpoints)} holds a mesh below {layout.prefix} whose secrets are "
                    f"not in {self.folder}; delete it (etcdctl del --prefix {layout.prefix}), or set "
                    "CREDMESH_ETCD_PREFIX=/another/ to start a new mesh"
                )
        generate_kek(shared.kek_file)

    def _seed(self, shared: SharedSettings) -> None:
        """Creates the development accounts, and stores the secrets of the clients that this created."""
        with EtcdClient(shared.etcd) as etcd:
            new_secrets = seed_development(etcd, Layout(shared.etcd.prefix))
        for client_id, secret in new_secrets.items():
            path = shared.secrets / client_id
            path.unlink(missing_ok=True)
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secret + "\n")
        for client_id in _CLIENTS:
            if not (shared.secrets / client_id).exists():
                raise LocalMeshError(
                    f"the secret of client {client_id!r} is not in {shared.secrets}, and etcd keeps only its hash; "
                    "`make clean` deletes the mesh, and the next start creates a new one"
                )

    def _wait_until_up(self, started_at: float) -> None:
        while not self.supervisor.all_up:
            self._tick()
            if time.monotonic() - started_at > _UP_TIMEOUT_SECONDS:
                late = [name for name, one in self.supervisor.parts.items() if one.startup_seconds == 0.0]
                logs = ", ".join(str(self.supervisor.parts[name].part.log_file) for name in late)
                raise LocalMeshError(f"{', '.join(late)} not ready within {_UP_TIMEOUT_SECONDS:g} s; see {logs}")

    def _write_profile_and_env(self, shared: SharedSettings) -> None:
        variables = mesh_environment(shared)
        self.profile = {
            "auth": shared.auth,
            "ca_file": str(shared.certificates.ca_file),
            "client_id": "operator",
            "client_secret_file": str(shared.secrets / "operator"),
            "issuer": shared.issuer,
            "etcd": variables["ETCD_ENDPOINTS"],
            "etcd_prefix": shared.etcd.prefix,
            **{name.lower(): variables[name] for name in TLS_VARIABLES_OF_ETCD if name in variables},
            "kek_file": str(shared.kek_file),
            "services": {name: shared.addresses.of(name) for name in SERVICES},
            "replicas": shared.auth.split(","),
        }
        self._write("profile.json", json.dumps(self.profile, indent=2) + "\n")
        # A shell that reads this file can start another service of this mesh, or run the command from any folder.
        variables["CREDMESH_PROFILE"] = str(self.folder / "profile.json")
        self._write("env", "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()))

    def _write(self, name: str, text: str) -> None:
        temporary = self.folder / f"{name}.new"
        temporary.write_text(text)
        temporary.replace(self.folder / name)

    def _tick(self) -> None:
        """Handles at most one request or signal, then checks every part. StopRequested if it asks to stop."""
        try:
            item = self.inbox.get(timeout=_TICK_INTERVAL_SECONDS)
        except queue.Empty:
            pass
        else:
            if isinstance(item, signal.Signals):
                raise StopRequested(item.name)
            self._answer(item)
        self.supervisor.tick()

    def _answer(self, request: ControlRequest) -> None:
        body = request.body
        try:
            match body.get("do"):
                case "status":
                    request.answer.put(self.status())
                case "down":
                    request.answer.put({"ok": True})
                    raise StopRequested("down")
                case "take-down":
                    seconds = min(float(body.get("seconds", _MAX_DOWN_SECONDS)), _MAX_DOWN_SECONDS)
                    self.supervisor.take_down(str(body.get("part")), seconds=seconds, kill=bool(body.get("kill")))
                    request.answer.put({"ok": True})
                case "bring-back":
                    self.supervisor.bring_back(str(body.get("part")))
                    request.answer.put({"ok": True})
                case other:
                    request.answer.put({"error": f"there is no request {other!r}"})
        except (LocalMeshError, ValueError) as error:
            request.answer.put({"error": str(error)})

    def _refuse_requests(self) -> None:
        while True:
            try:
                item = self.inbox.get_nowait()
            except queue.Empty:
                return
            if isinstance(item, ControlRequest):
                item.answer.put({"error": "the mesh is shutting down"})
