"""Writes configuration.md from the settings (`make docs`). Tests fail when it differs, or lacks a variable."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from authsvc.cli.terminal.secrets import NEW_PASSWORD_VARIABLE, PASSWORD_VARIABLE
from authsvc.settings import AuthSettings
from interceptors.serving import LogSettings
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
from localmesh.parts import PASSED_ON
from services.settings import OrdersSettings, ServiceSettings, StorefrontSettings

PAGE: Final = Path(__file__).with_name("configuration.md")

_INTRODUCTION: Final = """\
# Configuration

Environment variables, read once when a process starts. Lists are separated by commas; an empty variable counts as
absent; durations are in seconds. A variable that is absent and has no default, or that is wrong, ends the process with
its name, what is wrong with it and an example.

This page is written by `make docs` from the settings in the code.
"""

_SECTIONS: Final[tuple[tuple[str, str, tuple[type, ...]], ...]] = (
    (
        "How to reach etcd",
        "Nodes, the auth service, and `make run`, which brings its own etcd without them.",
        (EtcdSettings,),
    ),
    ("A node", "Every process that verifies credentials: `read_settings(MeshSettings)`.", (MeshSettings,)),
    ("A server", "`read_settings(ServerSettings)`, for `serve` and `serve_aio`.", (ServerSettings,)),
    ("Logs", "JSON lines on stderr. The audit trail is written whatever the level.", (LogSettings,)),
    ("The auth service", "`python -m authsvc`; also all of the above.", (AuthSettings,)),
    (
        "The sample services",
        "`python -m services.storefront` and so on; also all of the above but the auth service's.",
        (ServiceSettings, OrdersSettings, StorefrontSettings),
    ),
)


_COMMAND: Final = (
    "The `credmesh` command",
    "They override entry by entry what its profile says; `make run` writes one, `.mesh/profile.json`. `credmesh\n"
    "bootstrap` reaches etcd as a node does, by the first table, or by the profile.",
)

_OF_THE_COMMAND: Final[Mapping[str, tuple[str, str]]] = {
    "CREDMESH_PROFILE": (".mesh/profile.json", "the profile, where `--profile` names none"),
    PASSWORD_VARIABLE: ("alice-password", "of the user who signs in, or is made, where no `--password-file` is given"),
    NEW_PASSWORD_VARIABLE: ("a-new-password", "that `credmesh passwd` is to set, where no terminal asks for it"),
    "CREDMESH_AUTH": ("10.0.0.1:8443,10.0.0.2:8443", "host:port of each replica of the auth service"),
    "CREDMESH_CA_FILE": ("/etc/credmesh/ca.pem", "what signs its certificate; without it the system's authorities"),
    "CREDMESH_CERT_FILE": ("/etc/credmesh/client.pem", "a client certificate, where the mesh asks for one"),
    "CREDMESH_KEY_FILE": ("/etc/credmesh/client.key", "its private key"),
    "CREDMESH_SERVER_NAME": ("auth.example.com", "the name in its certificate, where that is not the host called"),
    "CREDMESH_PLAINTEXT": ("true", "speak without TLS where there is no CREDMESH_CA_FILE, credentials and all"),
    "CREDMESH_CLIENT_ID": ("operator", "the client that commands sign in as"),
    "CREDMESH_CLIENT_SECRET_FILE": ("/etc/credmesh/operator", "the file with its secret"),
    "CREDMESH_ISSUER": ("https://auth.example.com", "`iss` of the mesh's tokens, for `credmesh token inspect`"),
    "ETCD_ENDPOINTS": ("10.0.0.1:2379,10.0.0.2:2379", "for `credmesh bootstrap`: host:port of each member"),
    "CREDMESH_ETCD_PREFIX": ("/credmesh/", "for `credmesh bootstrap`: begins every key"),
    "ETCD_CA_FILE": ("/etc/etcd/ca.pem", "for `credmesh bootstrap`: what signs etcd's certificate"),
    "ETCD_CERT_FILE": (
        "/etc/etcd/client.pem",
        "for `credmesh bootstrap`: a client certificate, where etcd asks for one",
    ),
    "ETCD_KEY_FILE": ("/etc/etcd/client.key", "for `credmesh bootstrap`: its private key"),
    "CREDMESH_DEBUG": ("1", "show where a fault in the command happened, as a traceback"),
}

_MACHINE: Final = (
    "The mesh on one machine",
    "`make run` and `make demo`. Its parts are told what they need; of the terminal's variables they see only\n"
    f"{', '.join(f'`{name}`' for name in sorted(PASSED_ON))}.",
)

_OF_THE_MACHINE: Final[Mapping[str, tuple[str, str]]] = {
    "ETCD_BIN": ("/usr/local/bin/etcd", "the etcd to run; without it one on the PATH, else the one that came along"),
    "ETCD_ENDPOINTS": ("10.0.0.1:2379", "an etcd of yours to use, with the variables of its TLS, in place of its own"),
}


def page() -> str:
    """The page as it should be."""
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
