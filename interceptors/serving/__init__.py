"""Running a protected gRPC server: TLS, health, reflection, metrics, logs, and leaving gracefully."""

from interceptors.serving.aio import serve_aio
from interceptors.serving.logs import LogSettings, configure_logging
from interceptors.serving.process import service_process
from interceptors.serving.sync import serve

__all__ = ["LogSettings", "configure_logging", "serve", "serve_aio", "service_process"]
