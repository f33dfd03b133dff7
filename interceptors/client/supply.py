"""Supplies: the objects from which the interceptors take the credential of each call."""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Future
from typing import Any, Final, NoReturn, Protocol

import grpc

from interceptors.caller import credential_of_caller
from interceptors.client.renewal import HeldCredential, NoCredential, ReadSecret, RenewalFailure, SecretRead
from interceptors.client.sources import ClientSecret, PasswordLogin, Source, read_secret

__all__ = [
    "FIRST_WAIT_SECONDS",
    "LONGEST_WAIT_SECONDS",
    "AioSupply",
    "FixedSupply",
    "PropagatedSupply",
    "Supply",
    "log_outcome",
    "require_auth_channel",
    "secret_at",
    "subject_of",
]

FIRST_WAIT_SECONDS: Final = 0.2
LONGEST_WAIT_SECONDS: Final = 2.0
"""The pauses between renewals for a call that waits until the auth service is ready."""

_log: Final = logging.getLogger("credmesh.client")


class _AnySupply(Protocol):
    def current(self) -> HeldCredential | None:
        """Returns the credential that can be sent now, without waiting; None if there is none."""
        ...

    def mark_used(self) -> None:
        """Called when a call is sent with a credential that `obtain` or `replace` returned."""
        ...

    def mark_refused(self, refused: HeldCredential) -> None:
        """Called when a server refused a credential in a call that is not repeated. The next call takes a new one."""
        ...

    def stream_began(self) -> None:
        """Called when a stream is opened with a credential from here."""
        ...

    def stream_ended(self) -> None:
        """Called when such a stream has ended."""
        ...


class Supply(_AnySupply, Protocol):
    """A supply for sync calls. Thread-safe."""

    def obtain(self) -> Future[HeldCredential]:
        """Returns the outcome of the renewal that is needed where `current` returned None."""
        ...

    def replace(self, refused: HeldCredential) -> Future[HeldCredential] | None:
        """Returns the outcome of the renewal after a server refused a credential; None if there is to be none."""
        ...


class AioSupply(_AnySupply, Protocol):
    """A supply for grpc.aio calls, in one event loop. A future may be shared: shield it before awaiting it."""

    def obtain(self) -> asyncio.Future[HeldCredential]:
        """Returns the outcome of the renewal that is needed where `current` returned None."""
        ...

    def replace(self, refused: HeldCredential) -> asyncio.Future[HeldCredential] | None:
        """Returns the outcome of the renewal after a server refused a credential; None if there is to be none."""
        ...


class FixedSupply:
    """Supplies one credential that never changes, to sync and aio calls."""

    def __init__(self, token: str) -> None:
        self._held = HeldCredential.of(token)

    def current(self) -> HeldCredential:
        """Returns the credential."""
        return self._held

    def obtain(self) -> NoReturn:
        """Never called, since `current` always returns a credential."""
        raise NotImplementedError

    def replace(self, refused: HeldCredential) -> None:
        """Returns None: there is no other credential."""
        del refused

    def mark_refused(self, refused: HeldCredential) -> None:
        """Does nothing: there is no other credential."""
        del refused

    def mark_used(self) -> None:
        """Does nothing."""

    stream_began = stream_ended = mark_used


class PropagatedSupply(FixedSupply):
    """Supplies the credential of the call that is being served."""

    def __init__(self) -> None:
        """Holds nothing between calls."""

    def current(self) -> HeldCredential:
        """Returns the caller's credential. LookupError outside the handler of a protected method."""
        credential = credential_of_caller()
        if credential is None:
            raise LookupError(
                "there is no caller whose credential could be sent on: CallerToken() works in the handler of a method "
                "whose rule is not public, on a server with a credmesh interceptor"
            )
        return HeldCredential.of(credential)


def secret_at(step: ReadSecret) -> SecretRead | RenewalFailure:
    """Carries a ReadSecret out. It blocks for as long as the file system does."""
    try:
        return SecretRead(read_secret(step.file))
    except (OSError, ValueError) as error:
        return RenewalFailure(grpc.StatusCode.FAILED_PRECONDITION, f"the client's secret cannot be read: {error}")


def require_auth_channel(source: Source, auth: Any) -> Any:
    """Returns the channel to the auth service. ValueError if it is missing."""
    if auth is None:
        raise ValueError(f"{type(source).__name__} needs a channel to the auth service; give it as `auth`")
    return auth


def subject_of(source: Source) -> str | None:
    """Returns the user or client that a source signs in; None if the source does not say."""
    if isinstance(source, PasswordLogin):
        return source.subject
    return source.client_id if isinstance(source, ClientSecret) else None


def log_outcome(outcome: HeldCredential | Exception, *, notable: bool) -> None:
    """Logs how a renewal ended.

    notable: whether it starts or ends a series of failures. The failures in between are logged at DEBUG.
    """
    if isinstance(outcome, HeldCredential):
        if notable:
            _log.info("the credential is renewed again")
    elif isinstance(outcome, NoCredential):
        level = logging.WARNING if notable else logging.DEBUG
        _log.log(level, "no new credential (%s): %s", outcome.failure.code.name, outcome.failure.details)
    else:
        _log.error("renewing the credential failed unexpectedly", exc_info=outcome)
