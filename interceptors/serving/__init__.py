"""Running a service in the mesh: its node, its channels, its gRPC server, metrics and logs."""

from interceptors.serving.aio import serve_aio
from interceptors.serving.logs import LogSettings, configure_logging
from interceptors.serving.membership import (
    ServiceSettings,
    aio_propagating_channel,
    join_mesh,
    propagating_channel,
)
from interceptors.serving.process import service_process
from interceptors.serving.sync import serve

__all__ = [
    "LogSettings",
    "ServiceSettings",
    "aio_propagating_channel",
    "configure_logging",
    "join_mesh",
    "propagating_channel",
    "serve",
    "serve_aio",
    "service_process",
]
