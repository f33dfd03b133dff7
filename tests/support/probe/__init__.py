"""A service for tests: every kind of RPC under every kind of rule, for every kind of server and client."""
