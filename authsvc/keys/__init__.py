"""Signing keys: sealing, rotating, revoking and publishing them."""
