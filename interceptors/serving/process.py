"""The edge of a process: what a person sees when it cannot start."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from interceptors.errors import CredmeshError, SettingsError
from interceptors.serving.logs import configure_logging

__all__ = ["EXIT_FAILED", "EXIT_SETTINGS", "service_process"]

EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2
_EXIT_INTERRUPTED: Final = 130

_log: Final = logging.getLogger("credmesh.process")


@contextmanager
def service_process(service: str) -> Iterator[None]:
    """Configures logging, and turns what a person can repair into one line and an exit code.

    Wrong settings exit with 2 and say on stderr which variable is wrong and what it should look like; anything else
    that this package raises on purpose exits with 1. Unexpected errors keep their traceback: they are bugs.
    """
    try:
        configure_logging(service)
        yield
    except SettingsError as error:
        print(f"{service}: {error}", file=sys.stderr)
        raise SystemExit(EXIT_SETTINGS) from None
    except CredmeshError as error:
        _log.critical("%s cannot go on: %s", service, error)
        raise SystemExit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        # Ctrl-C before the server listened: nothing to drain.
        raise SystemExit(_EXIT_INTERRUPTED) from None
