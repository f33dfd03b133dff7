"""`make demo`: shows with real calls what the mesh does, and checks it."""

from localmesh.demo.story import demo

__all__ = ["demo"]
