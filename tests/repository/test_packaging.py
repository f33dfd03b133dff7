"""What is built carries what it needs: a wheel the generated modules, both of them the .proto files."""

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
    """The source tree as it is committed: nothing generated in it."""
    return copy_tree(tmp_path_factory.mktemp("tree") / "credmesh")


def test_a_source_distribution_has_the_protos_and_nothing_generated_and_builds_the_wheel(
    tree: Path, tmp_path: Path
) -> None:
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
        # Who embeds the package imports policy.proto in files of his own.
        assert {f"{stem}.proto", f"{stem}_pb2.py", f"{stem}_pb2.pyi", f"{stem}_pb2_grpc.py"} <= packed
    assert {
        "interceptors/py.typed",
        "authsvc/__main__.py",
        "services/orders.py",
        "localmesh/processes/leash.py",
    } <= packed


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
