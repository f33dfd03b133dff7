"""Revoking scopes, and the receipts that say which nodes have applied a revocation."""
