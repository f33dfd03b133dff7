"""The structure of the code: imports go down, other modules use public names only, and every RPC has a rule."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import sys
import tomllib
from collections import Counter
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
"""What each shipped package, and what runs from the checkout, may import besides itself."""

FLOORS = {
    "interceptors": (
        ("backoff", "clock", "error_details", "scopes", "stored_records", "waiting"),
        ("caller", "errors"),
        ("pem", "policy"),
        ("settings",),
        ("etcd", "tokens"),
        ("keyspace",),
        ("trust",),
        ("verification",),
        ("node",),
        ("server",),
        ("client",),
        ("serving",),
    ),
    "authsvc": (
        ("audit", "errors", "settings"),
        ("store",),
        ("coordination",),
        ("revocation",),
        ("keys",),
        ("accounts",),
        ("sessions",),
        ("continuity",),
        ("api", "http"),
        ("server",),
        ("cli",),
    ),
}
"""The folders and modules right below a package, from the bottom up. One imports itself and what lies below it."""

SOURCES = ("interceptors", "authsvc", "services", "localmesh", "bench", "chaos", "model")
MAX_MODULES_PER_FOLDER = 12

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


def module_name(path: Path) -> str:
    """The dotted name of a file's module."""
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


def imports_between_files() -> dict[str, set[str]]:
    """By module: the modules of this repository that it imports. A package's __init__ counts only where it is named."""
    known = {module_name(path): path for package in SOURCES for path in sources(package)}
    arrows: dict[str, set[str]] = {}
    for name, path in known.items():
        arrows[name] = set()
        for module, names in imported(path):
            targets = {f"{module}.{one}" if f"{module}.{one}" in known else module for one in names} or {module}
            arrows[name] |= (targets & known.keys()) - {name}
    return arrows


def modules() -> list[str]:
    """Every module of ours, by name."""
    names = []
    for package in ("interceptors", "authsvc", "services", "localmesh"):
        for path in sources(package):
            parts = path.relative_to(REPOSITORY).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            # Programs: importing them runs them, or is of no use.
            if parts[-1] != "__main__":
                names.append(name)
    return names


def test_no_files_import_each_other_in_a_circle() -> None:
    arrows = imports_between_files()
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " → ".join((*way[way.index(module) :], module))
        if module not in done:
            for other in sorted(arrows[module]):
                visit(other, (*way, module))
            done.add(module)

    assert len(arrows) > 200
    for module in sorted(arrows):
        visit(module, ())


@pytest.mark.parametrize("package", FLOORS)
def test_no_folder_imports_from_a_folder_above_it(package: str) -> None:
    floor = {part: number for number, parts in enumerate(FLOORS[package]) for part in parts}
    present = {
        path.stem if path.is_file() else path.name
        for path in (REPOSITORY / package).iterdir()
        if path.name[0] not in "_." and (path.is_dir() or path.suffix == ".py")
    }
    assert present == floor.keys(), "FLOORS does not name exactly what lies below the package"
    wrong = []
    for path in sources(package):
        own = path.relative_to(REPOSITORY / package).parts[0].removesuffix(".py")
        for module, _ in imported(path):
            top, _, rest = module.partition(".")
            other = rest.partition(".")[0]
            if top != package or not other or own in ("__init__", "__main__") or other == own:
                continue
            if floor[other] >= floor[own]:
                wrong.append(f"{path.relative_to(REPOSITORY)} imports {module}")
    assert not wrong


def test_sync_and_aio_clients_have_the_same_file_names() -> None:
    client = REPOSITORY / "interceptors" / "client"
    names = {half: {path.name for path in (client / half).glob("*.py")} for half in ("sync", "aio")}
    assert len(names["sync"]) > 4
    assert names["sync"] == names["aio"]


def test_no_folder_is_crowded() -> None:
    folders = Counter(path.parent for package in SOURCES for path in sources(package) if path.name != "__init__.py")
    crowded = {
        str(folder.relative_to(REPOSITORY)): count
        for folder, count in folders.items()
        if count > MAX_MODULES_PER_FOLDER
    }
    assert not crowded


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
    """A service that embeds `interceptors` installs neither a web server nor a terminal library."""
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


def test_a_module_uses_public_names_of_other_modules_only() -> None:
    wrong = []
    for package in ("interceptors", "authsvc", "services", "localmesh"):
        for path in sources(package):
            for module, names in imported(path):
                if module.partition(".")[0] not in BELOW or module.startswith("credmesh"):
                    continue
                imported_module = importlib.import_module(module)
                allowed = set(getattr(imported_module, "__all__", ())) | {
                    one.name for one in submodules(imported_module)
                }
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
