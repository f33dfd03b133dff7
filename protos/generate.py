"""Generates the Python modules for every .proto file in this folder.

Runs as hatchling's build hook (wheel and editable installs) and as a script (`make proto`). What it writes lies beside
the .proto files, is never committed, and is typed by mypy-protobuf.
"""

from __future__ import annotations

import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PROTOS = Path(__file__).resolve().parent


def generate(protos: Path = PROTOS) -> list[Path]:
    """Writes `*_pb2.py`, `*_pb2_grpc.py` and their stubs beside each .proto file; returns the .proto files."""
    # Imported here so that an sdist, which generates nothing, can be built without the compiler.
    from grpc_tools import protoc

    sources = sorted(protos.rglob("*.proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    arguments = [
        "protoc",
        f"--proto_path={protos}",
        f"--proto_path={well_known}",
        f"--python_out={protos}",
        f"--mypy_out=quiet:{protos}",
        f"--grpc_python_out={protos}",
        f"--mypy_grpc_out=quiet:{protos}",
        # The plugins of this very interpreter, whatever PATH says.
        *(f"--plugin={name}={_plugin(name)}" for name in ("protoc-gen-mypy", "protoc-gen-mypy_grpc")),
        *(str(source) for source in sources),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protos: protoc failed; its messages above name the file and the line")
    return sources


def _plugin(name: str) -> Path:
    """Where mypy-protobuf's plugin was installed for this interpreter."""
    beside = Path(sys.executable).parent / name
    if beside.exists():
        return beside
    found = shutil.which(name)
    if found is None:
        raise SystemExit(f"protos: {name} was not found; install it with: pip install mypy-protobuf")
    return Path(found)


class GenerateProtos(BuildHookInterface[Any]):
    """Hatchling's hook: generate before a wheel, or an editable install, is put together."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        del version, build_data
        if self.target_name == "wheel":
            generate(Path(self.root) / "protos")


if __name__ == "__main__":
    print(f"protos: generated from {len(generate())} files")
