"""Warnings that a name may be a typo: no account, client or session has it.

Commands act on such a name anyway, because it may belong to a deleted account. A warning is only a hint, so few pages
of each list are read, with a short timeout. The answer is None (unknown) if the caller may not read the list, the auth
service does not answer in time, or the list is longer.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from authsvc.cli.failure import Failure
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.terminal.text import printable
from credmesh.admin.v1 import accounts_pb2, accounts_pb2_grpc, sessions_pb2, sessions_pb2_grpc

__all__ = [
    "PASSWORD_CLIENT",
    "client_exists",
    "session_exists",
    "subject_exists",
    "unknown_client_warning",
    "unknown_session_warning",
    "unknown_subject_warning",
    "warn",
]

PASSWORD_CLIENT: Final = "password"  # noqa: S105 - a client's id, not a secret
"""The client of every user who signs in with a password. No list has it.

The same as authsvc.accounts.principal.FIRST_PARTY. A test compares them: importing that package would take too long.
"""

_TIMEOUT_SECONDS: Final = 2.0
"""For one page."""
_PAGE_SIZE: Final = 1000
_MAX_PAGES: Final = 5


def subject_exists(auth: Connection, subject: str) -> bool | None:
    """Whether a user or a client has this name; None if that is not known."""
    try:
        answers = (_user_exists(auth, subject), _listed_client_exists(auth, subject))
    except Failure:
        return None
    return True if True in answers else None if None in answers else False


def client_exists(auth: Connection, client_id: str) -> bool | None:
    """Whether a client has this id; None if that is not known."""
    try:
        return True if client_id == PASSWORD_CLIENT else _listed_client_exists(auth, client_id)
    except Failure:
        return None


def session_exists(auth: Connection, session_id: str) -> bool | None:
    """Whether a live session has this id; None if that is not known. Call it before the session is ended."""
    stub = sessions_pb2_grpc.SessionServiceStub(auth.channel)
    request = sessions_pb2.ListSessionsRequest()
    try:
        return _is_listed(
            auth,
            stub.ListSessions,
            request,
            lambda page: [session.session_id for session in page.sessions],
            session_id,
        )
    except Failure:
        return None


def unknown_subject_warning(subject: str) -> str:
    """The warning if no user or client has the name."""
    return (
        f"There is no user or client {subject}. If that is a typo: `credmesh user list` and `credmesh client list` "
        "show the names."
    )


def unknown_client_warning(client_id: str) -> str:
    """The warning if no client has the id."""
    return f"There is no client {client_id}. If that is a typo: `credmesh client list` shows the names."


def unknown_session_warning(session_id: str) -> str:
    """The warning if no live session has the id."""
    return f"There is no live session {session_id}. It may have ended already; `credmesh sessions` lists live sessions."


def warn(text: str) -> None:
    """Prints a warning to stderr, so stdout holds the answer only. It is yellow on a terminal with colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    click.secho(printable(text), err=True, fg=None if plain else "yellow")


def _user_exists(auth: Connection, subject: str) -> bool | None:
    stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
    request = accounts_pb2.ListUsersRequest()
    return _is_listed(auth, stub.ListUsers, request, lambda page: [user.subject for user in page.users], subject)


def _listed_client_exists(auth: Connection, client_id: str) -> bool | None:
    stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
    request = accounts_pb2.ListClientsRequest()
    return _is_listed(
        auth, stub.ListClients, request, lambda page: [client.client_id for client in page.clients], client_id
    )


def _is_listed(
    auth: Connection, method: Any, request: Any, names_in: Callable[[Any], Sequence[str]], name: str
) -> bool | None:
    """Whether the first pages of a list have the name; None if they do not and more pages follow."""
    request.page_size = _PAGE_SIZE
    for _ in range(_MAX_PAGES):
        page = auth.call(method, request, timeout=_TIMEOUT_SECONDS)
        if name in names_in(page):
            return True
        if not page.next_page_token:
            return False
        request.page_token = page.next_page_token
    return None
