"""A service for tests: every kind of RPC under every kind of rule, on every kind of server, called by every client."""
