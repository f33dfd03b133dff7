"""Generating load: gRPC over HTTP/2 without a gRPC library, and rounds of calls."""
