"""Inspecting a token: what its members mean, and the checks that a node would make."""
