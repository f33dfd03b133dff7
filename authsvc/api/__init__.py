"""The auth service's gRPC API: one module per service."""
