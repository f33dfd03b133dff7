"""Verifying credentials on gRPC servers, sync and aio."""

from interceptors.server.aio import AioServerInterceptor
from interceptors.server.call_pool import CallPool
from interceptors.server.relaying import relay_status, relay_status_aio
from interceptors.server.sync import ServerInterceptor

__all__ = ["AioServerInterceptor", "CallPool", "ServerInterceptor", "relay_status", "relay_status_aio"]
