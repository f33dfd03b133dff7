"""The alternatives that users have, each configured as its own documentation says."""
