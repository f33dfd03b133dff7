"""Which mesh the command speaks to, and as whom: the profile.

A profile is a JSON file: `--profile`, else CREDMESH_PROFILE, else ./.mesh/profile.json, which `make run` writes. Paths
in it are relative to the file. Environment variables, the ones that services read too, stand in for a profile or
override it entry by entry, so that the command needs no file in a pod:

    auth                CREDMESH_AUTH                "host:port" of each replica of the auth service, comma-separated
    ca_file             CREDMESH_CA_FILE             what signs its certificate; absent: the system's authorities
    cert_file, key_file CREDMESH_CERT_FILE, …_KEY_…  a client certificate, where the mesh asks for one
    server_name         CREDMESH_SERVER_NAME         the name in its certificate, where that is not auth's host
    plaintext           CREDMESH_PLAINTEXT           true: no TLS where there is no ca_file, credentials and all
    client_id           CREDMESH_CLIENT_ID           the client that commands sign in as
    client_secret_file  CREDMESH_CLIENT_SECRET_FILE  the file with its secret
    issuer              CREDMESH_ISSUER              `iss` of the mesh's tokens
    etcd, etcd_prefix   ETCD_ENDPOINTS, CREDMESH_ETCD_PREFIX   for `credmesh bootstrap` only, as the next three are
    etcd_ca_file, etcd_cert_file, etcd_key_file   ETCD_CA_FILE, ETCD_CERT_FILE, ETCD_KEY_FILE
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from authsvc.cli.failure import ExitCode, Failure

__all__ = ["DEFAULT_PATH", "Profile", "load_profile", "require_auth"]

DEFAULT_PATH: Final = Path(".mesh/profile.json")

_VARIABLES: Final = {
    "auth": "CREDMESH_AUTH",
    "ca_file": "CREDMESH_CA_FILE",
    "cert_file": "CREDMESH_CERT_FILE",
    "key_file": "CREDMESH_KEY_FILE",
    "server_name": "CREDMESH_SERVER_NAME",
    "client_id": "CREDMESH_CLIENT_ID",
    "client_secret_file": "CREDMESH_CLIENT_SECRET_FILE",
    "issuer": "CREDMESH_ISSUER",
    "etcd": "ETCD_ENDPOINTS",
    "etcd_prefix": "CREDMESH_ETCD_PREFIX",
    "etcd_ca_file": "ETCD_CA_FILE",
    "etcd_cert_file": "ETCD_CERT_FILE",
    "etcd_key_file": "ETCD_KEY_FILE",
    "plaintext": "CREDMESH_PLAINTEXT",
}
_PATHS: Final = frozenset(
    {"ca_file", "cert_file", "key_file", "client_secret_file", "etcd_ca_file", "etcd_cert_file", "etcd_key_file"}
)
_TRUTHS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_HOW_TO_MAKE_ONE: Final = (
    "For a mesh on this machine run `make run` first: it writes .mesh/profile.json.\n"
    "For another mesh set CREDMESH_AUTH=host:port (CREDMESH_CA_FILE, CREDMESH_CLIENT_ID, CREDMESH_CLIENT_SECRET_FILE)\n"
    "or write a profile and name it with --profile FILE or CREDMESH_PROFILE:\n"
    '{"auth": "auth.example.com:8443", "ca_file": "ca.pem", "client_id": "operator", "client_secret_file": "secret"}\n'
    "`credmesh bootstrap operator` makes the client."
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A mesh, and who speaks to it.

    source  the file that it came from; None if the environment said everything
    told    the entries that the environment said, in place of the file's
    folder  where `credmesh login` keeps credentials
    """

    auth: str = ""
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""
    plaintext: bool = False
    client_id: str = ""
    client_secret_file: Path | None = None
    issuer: str = ""
    etcd: str = ""
    etcd_prefix: str = ""
    etcd_ca_file: Path | None = None
    etcd_cert_file: Path | None = None
    etcd_key_file: Path | None = None
    source: Path | None = None
    told: frozenset[str] = frozenset()
    folder: Path = Path()

    def etcd_environ(self) -> dict[str, str]:
        """What it says of etcd, as the variables by which services are told."""
        said = {_VARIABLES[name]: getattr(self, name) for name in _VARIABLES if name.startswith("etcd")}
        return {variable: str(value) for variable, value in said.items() if value}

    @property
    def origin(self) -> str:
        """Where an entry is looked for that no variable says, for messages; see `place` for one that is there."""
        return "the environment" if self.source is None else str(self.source)

    def place(self, name: str) -> str:
        """Where an entry came from, for messages: its variable or the file. Where it could be put if it is absent."""
        return _VARIABLES[name] if self.source is None or name in self.told else str(self.source)

    def entry(self, name: str) -> str:
        """As `place`, with its name in the file, for who is to change it."""
        place = self.place(name)
        return place if place == _VARIABLES[name] else f"{name} in {place}"

    @property
    def credentials_file(self) -> Path:
        """Where the credentials of `credmesh login` lie. Two profiles in one folder do not share them."""
        stem = "environment" if self.source is None else self.source.stem
        return self.folder / f"{stem}.credentials.json"

    def client_secret(self) -> str:
        """The secret of the profile's client. Failure if it cannot be had."""
        if self.client_secret_file is None:
            raise Failure(
                f"no secret for client {self.client_id!r}: client_secret_file is not in {self.origin}",
                next_step="Set CREDMESH_CLIENT_SECRET_FILE, or sign in as a user with `credmesh login SUBJECT`.",
                code=ExitCode.USAGE,
            )
        secret = _read_text(self.client_secret_file, "the client's secret").strip()
        if not secret:
            raise Failure(
                f"{self.client_secret_file} is empty; it should hold the secret of client {self.client_id!r}",
                next_step="`credmesh bootstrap operator` makes a client with a new secret.",
                code=ExitCode.USAGE,
            )
        return secret


def load_profile(path: Path | None, environ: Mapping[str, str] | None = None) -> Profile:
    """The profile to use. `path` is what `--profile` or CREDMESH_PROFILE named, if any.

    Without a file, what the environment says is the profile; it may say nothing (see `require_auth`). Failure if the
    file cannot be used.
    """
    environ = os.environ if environ is None else environ
    source = path if path is not None else DEFAULT_PATH if DEFAULT_PATH.is_file() else None
    entries = {} if source is None else _read_profile(source)
    folder = _config_folder(environ) if source is None else source.absolute().parent
    for name in _PATHS & entries.keys():
        entries[name] = folder / entries[name]
    said = {name: environ.get(variable, "").strip() for name, variable in _VARIABLES.items()}
    told = frozenset(name for name, text in said.items() if text)
    for name in told:
        entries[name] = _from_variable(name, _VARIABLES[name], said[name])
    profile = Profile(**entries, source=source, told=told, folder=folder)
    if (profile.cert_file is None) != (profile.key_file is None):
        only = "key_file" if profile.cert_file is None else "cert_file"
        raise Failure(
            f"cert_file and key_file go together; only one of them is set: {profile.entry(only)}",
            next_step="Set both or neither (CREDMESH_CERT_FILE, CREDMESH_KEY_FILE).",
            code=ExitCode.USAGE,
        )
    return profile


def require_auth(profile: Profile) -> Profile:
    """The profile, if it says where the auth service is. Failure that tells how to make one otherwise."""
    if profile.auth:
        return profile
    what = (
        "there is no profile" if profile.source is None else f"{profile.source} does not say where the auth service is"
    )
    raise Failure(what + ": which mesh is meant?", next_step=_HOW_TO_MAKE_ONE, code=ExitCode.USAGE)


def _read_profile(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(_read_text(path, "the profile"))
    except ValueError as error:
        raise _bad_profile(path, f"is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise _bad_profile(path, "is not a JSON object")
    found: dict[str, Any] = {}
    # What it does not know the command leaves alone: the file may be a newer release's.
    for name in _VARIABLES.keys() & entries.keys():
        value = entries[name]
        if name == "etcd" and isinstance(value, list):
            value = ",".join(str(one) for one in value)
        wanted = bool if name == "plaintext" else str
        if value is not None and not isinstance(value, wanted):
            raise _bad_profile(path, f"has a {name} that is no {'true or false' if wanted is bool else 'string'}")
        if value not in (None, ""):
            found[name] = value
    return found


def _bad_profile(path: Path, problem: str) -> Failure:
    return Failure(
        f"{path} {problem}",
        next_step="`make run` writes a good one; `credmesh --help` says what a profile holds.",
        code=ExitCode.USAGE,
    )


def _from_variable(name: str, variable: str, text: str) -> Any:
    if name in _PATHS:
        return Path(text)
    if name != "plaintext":
        return text
    if text.lower() not in _TRUTHS:
        raise Failure(
            f"{variable}={text!r} is neither true nor false", next_step=f"{variable}=true", code=ExitCode.USAGE
        )
    return _TRUTHS[text.lower()]


def _read_text(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text"
        next_step = _HOW_TO_MAKE_ONE if what == "the profile" else "Check the path and who may read it."
        raise Failure(f"{what} cannot be read from {path}: {why}", next_step=next_step, code=ExitCode.USAGE) from None


def _config_folder(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "credmesh"
