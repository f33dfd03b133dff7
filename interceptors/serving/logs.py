"""Structured logs: one JSON object per line on stderr, with the caller that is being served."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass
from typing import Final, TextIO

from pythonjsonlogger.json import JsonFormatter

from interceptors.caller import current_caller
from interceptors.settings import read_settings, setting

__all__ = ["LogSettings", "configure_logging"]

_LEVELS: Final = ("debug", "info", "warning", "error")

# These libraries log every request or watch.
_QUIET_LOGGERS: Final = ("etcd3", "grpc._cython", "asyncio", "uvicorn.access", "urllib3")


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """The settings of the log."""

    level: str = setting("CREDMESH_LOG_LEVEL", "debug", default="info", help="debug, info, warning or error")

    def __post_init__(self) -> None:
        if self.level.lower() not in _LEVELS:
            raise ValueError(f"CREDMESH_LOG_LEVEL must be one of {', '.join(_LEVELS)}; for example: info")


class _CallerFilter(logging.Filter):
    """Adds `subject` and `session_id` of the caller that is being served, unless the line has them."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "subject"):
            try:
                caller = current_caller()
            except LookupError:
                return True
            record.subject = caller.subject
            record.session_id = caller.session_id
        return True


def configure_logging(service: str, settings: LogSettings | None = None, *, stream: TextIO | None = None) -> None:
    """Sends every log line of this process to stderr (or `stream`) as JSON.

    Each line has `time` (UTC, ISO 8601), `level`, `logger`, `service`, `message` and the line's own `extra`. Without
    `settings`, the level comes from CREDMESH_LOG_LEVEL; SettingsError if that is not a level. The audit trail (logger
    "credmesh.audit") is written at every level.
    """
    settings = settings or read_settings(LogSettings)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_CallerFilter())
    handler.setFormatter(_Formatter(service))
    logging.basicConfig(level=settings.level.upper(), handlers=[handler], force=True)
    logging.getLogger("credmesh.audit").setLevel(logging.INFO)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


class _Formatter(JsonFormatter):
    def __init__(self, service: str) -> None:
        super().__init__(
            "{levelname}{name}{message}",
            style="{",
            timestamp="time",
            rename_fields={"levelname": "level", "name": "logger"},
            static_fields={"service": service},
            json_ensure_ascii=False,
        )
