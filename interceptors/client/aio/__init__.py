"""Credentials for `grpc.aio` channels."""
