"""The main program of a service: its exit codes, and what it prints when it cannot start."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

from interceptors.errors import CredmeshError, SettingsError
from interceptors.serving.logs import configure_logging

__all__ = ["EXIT_FAILED", "EXIT_SETTINGS", "service_process"]

EXIT_FAILED: Final = 1
EXIT_SETTINGS: Final = 2
_EXIT_INTERRUPTED: Final = 130

_log: Final = logging.getLogger("credmesh.process")


@contextmanager
def service_process(service: str) -> Iterator[None]:
    """Configures logging, and turns errors that an operator can repair into one line and an exit code.

    Wrong settings exit with 2, and one line on stderr names the variable, with an example. Other errors of this package
    (CredmeshError) exit with 1. Unexpected errors keep their traceback, because they are bugs.

    SIGTERM raises SystemExit(0), so that the process cleans up. While a server serves, SIGTERM begins its drain.
    """
    try:
        configure_logging(service)
        with _exiting_at_sigterm():
            yield
    except SettingsError as error:
        print(f"{service}: {error}", file=sys.stderr)
        raise SystemExit(EXIT_SETTINGS) from None
    except CredmeshError as error:
        _log.critical("%s ends: %s", service, error)
        raise SystemExit(EXIT_FAILED) from None
    except KeyboardInterrupt:
        # Ctrl-C before the server listened: there is nothing to drain.
        raise SystemExit(_EXIT_INTERRUPTED) from None


@contextmanager
def _exiting_at_sigterm() -> Iterator[None]:
    # Linux delivers to the first process of a container only those signals that it handles: without a handler SIGKILL
    # alone would end it while it waits for etcd. Any other process would end without removing its registration.
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(*_: object) -> NoReturn:
    raise SystemExit(0)
