"""The profile: where a mesh is, and which client the command signs in as.

A profile is a JSON file: `--profile`, else CREDMESH_PROFILE, else ./.mesh/profile.json, which `make run` writes. Paths
in it are relative to the file. An environment variable overrides its entry, and variables alone are a profile too, so
the command needs no file in a pod. Services read the same variables:

    auth                CREDMESH_AUTH                "host:port" of each replica of the auth service, comma-separated
    ca_file             CREDMESH_CA_FILE             the CA of the auth service's certificate; absent: the system's CAs
    cert_file, key_file CREDMESH_CERT_FILE, …_KEY_…  a client certificate, if the mesh requires one
    server_name         CREDMESH_SERVER_NAME         the name in the certificate, if it is not the host of `auth`
    plaintext           CREDMESH_PLAINTEXT           true: without a ca_file, send everything unencrypted, secrets too
    client_id           CREDMESH_CLIENT_ID           the client that commands sign in as
    client_secret_file  CREDMESH_CLIENT_SECRET_FILE  the file with the client's secret
    issuer              CREDMESH_ISSUER              `iss` of the mesh's tokens
    etcd, etcd_prefix   ETCD_ENDPOINTS, CREDMESH_ETCD_PREFIX   for `credmesh bootstrap` only, like the next three
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
_PATH_ENTRIES: Final = frozenset(
    {"ca_file", "cert_file", "key_file", "client_secret_file", "etcd_ca_file", "etcd_cert_file", "etcd_key_file"}
)
_BOOLEANS: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_HOW_TO_MAKE_A_PROFILE: Final = (
    "For a mesh on this machine, `make run` writes .mesh/profile.json.\n"
    "For another mesh set CREDMESH_AUTH=host:port, CREDMESH_CA_FILE, CREDMESH_CLIENT_ID, CREDMESH_CLIENT_SECRET_FILE,\n"
    "or write a profile and name it with --profile FILE or CREDMESH_PROFILE:\n"
    '{"auth": "auth.example.com:8443", "ca_file": "ca.pem", "client_id": "operator", "client_secret_file": "secret"}\n'
    "`credmesh bootstrap operator` makes the client."
)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The addresses, certificates and client of one mesh.

    source              the file it was read from; None if there is no file
    from_environment    the entries that environment variables set
    credentials_folder  where `credmesh login` keeps credentials
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
    from_environment: frozenset[str] = frozenset()
    credentials_folder: Path = Path()

    def etcd_environ(self) -> dict[str, str]:
        """The entries about etcd, as the environment variables that services read."""
        entries = {_VARIABLES[name]: getattr(self, name) for name in _VARIABLES if name.startswith("etcd")}
        return {variable: str(value) for variable, value in entries.items() if value}

    @property
    def origin(self) -> str:
        """The profile's file, or "the environment", for messages about an entry that is missing."""
        return "the environment" if self.source is None else str(self.source)

    def source_of(self, name: str) -> str:
        """The variable or the file that sets an entry, for messages. If neither does: where it could be set."""
        return _VARIABLES[name] if self.source is None or name in self.from_environment else str(self.source)

    def setting_of(self, name: str) -> str:
        """What to change to change an entry, for messages: the variable, or the entry and the file."""
        source = self.source_of(name)
        return source if source == _VARIABLES[name] else f"{name} in {source}"

    @property
    def credentials_file(self) -> Path:
        """The file with the credentials of `credmesh login`. Each profile in a folder has another one."""
        stem = "environment" if self.source is None else self.source.stem
        return self.credentials_folder / f"{stem}.credentials.json"

    def client_secret(self) -> str:
        """Reads the secret of the profile's client. Failure if it is missing or empty."""
        if self.client_secret_file is None:
            raise Failure(
                f"no secret for client {self.client_id!r}: client_secret_file is not set in {self.origin}",
                next_step="Set CREDMESH_CLIENT_SECRET_FILE, or sign in as a user with `credmesh login SUBJECT`.",
                code=ExitCode.USAGE,
            )
        secret = _read_text(self.client_secret_file, "the client's secret").strip()
        if not secret:
            raise Failure(
                f"{self.client_secret_file} is empty; it must hold the secret of client {self.client_id!r}",
                next_step="`credmesh bootstrap operator` makes a client with a new secret.",
                code=ExitCode.USAGE,
            )
        return secret


def load_profile(path: Path | None, environ: Mapping[str, str] | None = None) -> Profile:
    """Reads the profile: the file, and the environment variables that override its entries.

    path  from `--profile` or CREDMESH_PROFILE; None reads ./.mesh/profile.json if it exists

    The profile may be empty (see `require_auth`). Failure if the file or a variable cannot be used.
    """
    environ = os.environ if environ is None else environ
    source = path if path is not None else DEFAULT_PATH if DEFAULT_PATH.is_file() else None
    entries = {} if source is None else _read_profile(source)
    folder = _config_folder(environ) if source is None else source.absolute().parent
    for name in _PATH_ENTRIES & entries.keys():
        entries[name] = folder / entries[name]
    texts = {name: environ.get(variable, "").strip() for name, variable in _VARIABLES.items()}
    from_environment = frozenset(name for name, text in texts.items() if text)
    for name in from_environment:
        entries[name] = _parse_variable(name, _VARIABLES[name], texts[name])
    profile = Profile(**entries, source=source, from_environment=from_environment, credentials_folder=folder)
    if (profile.cert_file is None) != (profile.key_file is None):
        only = "key_file" if profile.cert_file is None else "cert_file"
        raise Failure(
            f"a client certificate needs cert_file and key_file, but only one is set: {profile.setting_of(only)}",
            next_step="Set both or neither (CREDMESH_CERT_FILE, CREDMESH_KEY_FILE).",
            code=ExitCode.USAGE,
        )
    return profile


def require_auth(profile: Profile) -> Profile:
    """Returns the profile if it has the address of an auth service. Failure, with how to make a profile, otherwise."""
    if profile.auth:
        return profile
    cause = "there is no profile" if profile.source is None else f"{profile.source} has no `auth`"
    raise Failure(
        f"the address of the auth service is not known: {cause}", next_step=_HOW_TO_MAKE_A_PROFILE, code=ExitCode.USAGE
    )


def _read_profile(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(_read_text(path, "the profile"))
    except ValueError as error:
        raise _bad_profile(path, f"is not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise _bad_profile(path, "is not a JSON object")
    known: dict[str, Any] = {}
    # Unknown entries are ignored: a newer release may have written the file.
    for name in _VARIABLES.keys() & entries.keys():
        value = entries[name]
        if name == "etcd" and isinstance(value, list):
            value = ",".join(str(endpoint) for endpoint in value)
        expected = bool if name == "plaintext" else str
        if value is not None and not isinstance(value, expected):
            kind = "true or false" if expected is bool else "a string"
            raise _bad_profile(path, f"cannot be used: its entry {name} is not {kind}")
        if value not in (None, ""):
            known[name] = value
    return known


def _bad_profile(path: Path, problem: str) -> Failure:
    return Failure(
        f"{path} {problem}",
        next_step="`credmesh --help` lists the entries of a profile. `make run` writes an example.",
        code=ExitCode.USAGE,
    )


def _parse_variable(name: str, variable: str, text: str) -> Any:
    if name in _PATH_ENTRIES:
        return Path(text)
    if name != "plaintext":
        return text
    if text.lower() not in _BOOLEANS:
        raise Failure(
            f"{variable}={text!r} is neither true nor false", next_step=f"Set {variable}=true.", code=ExitCode.USAGE
        )
    return _BOOLEANS[text.lower()]


def _read_text(path: Path, content: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is not text"
        next_step = _HOW_TO_MAKE_A_PROFILE if content == "the profile" else "Check the path and the file's permissions."
        raise Failure(
            f"{content} cannot be read from {path}: {cause}", next_step=next_step, code=ExitCode.USAGE
        ) from None


def _config_folder(environ: Mapping[str, str]) -> Path:
    base = environ.get("XDG_CONFIG_HOME", "")
    return (Path(base) if base else Path.home() / ".config") / "credmesh"
