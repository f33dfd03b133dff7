"""Keeping metadata out of grpc's own log lines."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["hide_metadata"]

_GRPC_LOGGER: Final = "grpc._cython.cygrpc"
_UNDECODABLE_VALUE: Final = "Invalid encoding on %s"


def hide_metadata() -> None:
    """Drops the line that grpc logs for metadata that is not UTF-8: the line quotes the value, which may be a token.

    The call itself is refused as CREDENTIAL_MALFORMED if the value is the credential, and otherwise served. May be
    called any number of times.
    """
    logging.getLogger(_GRPC_LOGGER).addFilter(_quotes_no_metadata)


def _quotes_no_metadata(record: logging.LogRecord) -> bool:
    return record.msg != _UNDECODABLE_VALUE
