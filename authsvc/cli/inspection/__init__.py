"""Explaining a token: its members, and the checks that a node would make."""
