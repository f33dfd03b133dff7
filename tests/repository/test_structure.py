"""The house keeps its walls: imports go down only, what is used elsewhere is public, every method has a rule."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf.descriptor import FileDescriptor

from authsvc.accounts.bootstrap import OPERATOR_SCOPES
from interceptors.policy import Policy, rule_of
from tests.support.repository import REPOSITORY

BELOW = {
    "credmesh": set(),
    "interceptors": {"credmesh"},
    "authsvc": {"interceptors", "credmesh"},
    "services": {"interceptors", "credmesh"},
    "localmesh": {"authsvc", "services", "interceptors", "credmesh"},
}
"""What each package may import besides itself. Nobody imports localmesh or tests."""

EMBEDDED = {
    "cryptography": "cryptography",
    "etcd3": "etcd3",
    "google": "protobuf",
    "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking",
    "grpc_reflection": "grpcio-reflection",
    "jwt": "PyJWT",
    "prometheus_client": "prometheus-client",
    "pythonjsonlogger": "python-json-logger",
}
"""What `interceptors` may import from others, and the distribution that brings it."""


def sources(package: str) -> Iterator[Path]:
    """The Python files of a package."""
    folder = REPOSITORY / ("protos/credmesh" if package == "credmesh" else package)
    yield from sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def imported(path: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each module that a file imports, and the names that it takes from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or "", tuple(alias.name for alias in node.names)


def modules() -> list[str]:
    """Every module of ours, by name."""
    names = []
    for package in ("interceptors", "authsvc", "services", "localmesh"):
        for path in sources(package):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            # Programs, not modules: importing them runs them, or is of no use.
            if parts[-1] != "__main__":
                names.append(name)
    return names


@pytest.mark.parametrize("package", BELOW)
def test_imports_go_down_only(package: str) -> None:
    ours = {*BELOW, "tests"}
    wrong = [
        f"{path.relative_to(REPOSITORY)} imports {module}"
        for path in sources(package)
        for module, _ in imported(path)
        if (top := module.partition(".")[0]) in ours and top != package and top not in BELOW[package]
    ]
    assert not wrong


def test_what_a_service_embeds_needs_the_listed_distributions_only() -> None:
    """Whoever embeds `interceptors` installs neither a web server nor a terminal library."""
    found = {
        top
        for path in sources("interceptors")
        for module, _ in imported(path)
        if (top := module.partition(".")[0]) not in sys.stdlib_module_names and top not in BELOW
    }
    assert found <= EMBEDDED.keys()
    required = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {requirement.partition(">")[0] for requirement in required}
    assert {EMBEDDED[top] for top in found} <= names


def test_what_a_service_embeds_holds_no_private_key() -> None:
    for path in sources("interceptors"):
        assert "PrivateKey" not in path.read_text(), path


def public(module: ModuleType) -> list[str]:
    """A module's __all__."""
    names: list[str] = module.__all__
    return names


def order(name: str) -> tuple[int, str]:
    """Constants, classes, functions; each by name. As ruff sorts them."""
    return (0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("name", modules())
def test_all_is_sorted_and_true(name: str) -> None:
    module = importlib.import_module(name)
    if not hasattr(module, "__all__"):
        # Only a folder may have nothing to offer by itself.
        assert hasattr(module, "__path__"), f"{name} has no __all__"
        return
    assert public(module) == sorted(set(public(module)), key=order)
    for one in public(module):
        assert hasattr(module, one), f"{name}.__all__ names {one}, which is not there"


def test_what_is_used_in_another_room_is_public() -> None:
    wrong = []
    for package in ("interceptors", "authsvc", "services", "localmesh"):
        for path in sources(package):
            for module, names in imported(path):
                if module.partition(".")[0] not in BELOW or module.startswith("credmesh"):
                    continue
                room = importlib.import_module(module)
                allowed = set(getattr(room, "__all__", ())) | {one.name for one in submodules(room)}
                wrong += [f"{path.relative_to(REPOSITORY)}: {module}.{name}" for name in names if name not in allowed]
    assert not wrong


def submodules(module: ModuleType) -> list[Any]:
    """The modules right below a package."""
    return list(pkgutil.iter_modules(getattr(module, "__path__", [])))


def files() -> list[FileDescriptor]:
    """The descriptors of all our .proto files."""
    protos = REPOSITORY / "protos"
    names = [".".join(path.relative_to(protos).with_suffix("").parts) for path in protos.rglob("*.proto")]
    return [importlib.import_module(name + "_pb2").DESCRIPTOR for name in names]


def test_every_method_has_a_rule() -> None:
    services = [service.full_name for file in files() for service in file.services_by_name.values()]
    assert len(services) >= 9
    Policy().check(tuple(services))


def test_the_operator_holds_every_scope_that_an_administrative_method_asks_for() -> None:
    asked = set()
    for file in files():
        for service in file.services_by_name.values():
            for method in service.methods:
                asked |= {scope for scope in rule_of(service, method).scopes if scope.startswith("credmesh.")}
    assert asked == set(OPERATOR_SCOPES)


def test_no_source_file_is_too_long() -> None:
    long = {
        str(path.relative_to(REPOSITORY)): lines
        for package in ("interceptors", "authsvc", "services", "localmesh")
        for path in sources(package)
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert not long
