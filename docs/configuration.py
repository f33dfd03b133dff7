"""Writes configuration.md from the settings themselves (`make docs`). A test fails when the two differ."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path
from typing import Any, Final

from authsvc.settings import AuthSettings
from interceptors.serving import LogSettings
from interceptors.settings import EtcdSettings, MeshSettings, ServerSettings
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


def page() -> str:
    """The page as it should be."""
    parts = [_INTRODUCTION]
    written: set[str] = set()
    for title, introduction, kinds in _SECTIONS:
        rows = [row for kind in kinds for row in _rows(kind, written)]
        table = "\n".join(["| variable | default | example | what it is |", "|---|---|---|---|", *rows])
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
