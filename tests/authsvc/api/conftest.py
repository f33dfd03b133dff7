"""The keys of one mesh."""

from tests.support.keys import audited, keys

__all__ = ["audited", "keys"]
