"""The error of a local mesh that cannot run."""

from __future__ import annotations

from interceptors.errors import CredmeshError

__all__ = ["LocalMeshError"]


class LocalMeshError(CredmeshError):
    """A part of the local mesh cannot run. The text says which part, why, and what to do about it."""
