"""The edge of a process: what a person sees when it cannot start."""

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
    """Configures logging, and turns what a person can repair into one line and an exit code.

    Wrong settings exit with 2 and say on stderr which variable is wrong and what it should look like; anything else
    that this package raises on purpose exits with 1. Unexpected errors keep their traceback: they are bugs.

    SIGTERM ends the process in order, with 0, wherever it is; while it serves, the server takes it for the drain.
    """
    try:
        configure_logging(service)
        with _ended_by_sigterm():
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


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    # The first process of a container gets no signal that it has no handler for, so that nothing but SIGKILL would end
    # it while it waits for etcd; and any other process would leave its registration behind.
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)
