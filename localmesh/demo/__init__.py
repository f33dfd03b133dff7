"""`make demo`: a story with real calls that shows what the mesh does, and fails loudly if it does not."""

from localmesh.demo.story import demo

__all__ = ["demo"]
