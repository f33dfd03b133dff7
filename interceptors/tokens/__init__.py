"""Reading and checking tokens and verification keys, without I/O."""
