"""Verifying credentials on gRPC servers, sync and aio."""

from interceptors.server.aio import AioServerInterceptor
from interceptors.server.sync import ServerInterceptor

__all__ = ["AioServerInterceptor", "ServerInterceptor"]
