"""Credentials for `grpc` channels."""
