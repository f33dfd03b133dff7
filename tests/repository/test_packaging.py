"""The wheel contains the packages that others install, the .proto files and the generated modules; the source
distribution contains what builds the wheel."""

from __future__ import annotations

import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.support.building import build, copy_tree
from tests.support.repository import REPOSITORY

PROTOS = sorted(path.relative_to(REPOSITORY / "protos") for path in (REPOSITORY / "protos").rglob("*.proto"))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source tree as it is committed, without generated files."""
    return copy_tree(tmp_path_factory.mktemp("tree") / "credmesh")


def test_the_source_distribution_builds_a_wheel_with_generated_modules(tree: Path, tmp_path: Path) -> None:
    with tarfile.open(build(tree, "sdist")) as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert not [name for name in names if "_pb2" in name]
    (unpacked,) = tmp_path.iterdir()
    for proto in PROTOS:
        assert (unpacked / "protos" / proto).exists()
    with zipfile.ZipFile(build(unpacked, "wheel")) as wheel:
        packed = set(wheel.namelist())
    for proto in PROTOS:
        stem = proto.with_suffix("").as_posix()
        # The .proto files of other services import policy.proto.
        assert {f"{stem}.proto", f"{stem}_pb2.py", f"{stem}_pb2.pyi", f"{stem}_pb2_grpc.py"} <= packed
    assert {"interceptors/py.typed", "authsvc/__main__.py"} <= packed


def test_the_wheel_installs_no_other_top_level_packages(tree: Path) -> None:
    """A package named `services` or `localmesh` would clash with the packages of those who install credmesh."""
    with zipfile.ZipFile(build(tree, "wheel")) as wheel:
        top_level = {name.partition("/")[0] for name in wheel.namelist()}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"authsvc", "credmesh", "interceptors"}


def test_nothing_generated_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "*_pb2*"],  # noqa: S607
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    assert listed.stdout == ""
