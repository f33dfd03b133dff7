"""Fixtures for the tests of the local mesh: a mesh that is up."""

from __future__ import annotations

from tests.support.running_mesh import mesh

__all__ = ["mesh"]
