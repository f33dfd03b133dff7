"""One mesh for all tests of a worker that do no harm to it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mesh.running import RunningMesh


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMesh]:
    """A mesh that is up. Do not stop it or its parts: start a RunningMesh for that."""
    with RunningMesh(tmp_path_factory.mktemp("mesh") / ".mesh") as running:
        yield running
