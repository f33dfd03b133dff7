"""Reading and checking tokens and verification keys. Pure."""
