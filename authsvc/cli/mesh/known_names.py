"""Whether somebody of a name is there: for a command that does what it was asked to whether or not that is a typo.

It is a hint. So it reads a few pages of each list, waits for each briefly, and says nothing (None) where the caller may
not look, the answer does not come, or the list is longer.
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
    "EVERY_USERS_CLIENT",
    "client_is_known",
    "session_is_known",
    "subject_is_known",
    "unknown_client",
    "unknown_session",
    "unknown_subject",
    "warn",
]

EVERY_USERS_CLIENT: Final = "password"
"""The client of everybody who shows a password; it is in no list. As in authsvc.accounts.accounts, which takes long to
load.
"""

_PATIENCE: Final = 2.0
"""Seconds for one call."""
_PAGE: Final = 1000
_PAGES: Final = 5
"""So many pages of so many names are read at most."""


def subject_is_known(auth: Connection, subject: str) -> bool | None:
    """Whether there is a user or a client of this name; None if that cannot be said."""
    try:
        found = (_is_user(auth, subject), _is_client(auth, subject))
    except Failure:
        return None
    return True if True in found else None if None in found else False


def client_is_known(auth: Connection, client_id: str) -> bool | None:
    """Whether there is a client of this name; None if that cannot be said."""
    try:
        return True if client_id == EVERY_USERS_CLIENT else _is_client(auth, client_id)
    except Failure:
        return None


def session_is_known(auth: Connection, session_id: str) -> bool | None:
    """Whether a session of this id is live; None if that cannot be said. To be asked before it is ended."""
    stub = sessions_pb2_grpc.SessionServiceStub(auth.channel)
    request = sessions_pb2.ListSessionsRequest()
    try:
        return _is_listed(
            auth, stub.ListSessions, request, lambda answer: [one.session_id for one in answer.sessions], session_id
        )
    except Failure:
        return None


def unknown_subject(subject: str) -> str:
    """What to say if no account has the name."""
    return (
        f"There is no user or client {subject}. If that is a typo: `credmesh user list` and `credmesh client list` "
        "have the names."
    )


def unknown_client(client_id: str) -> str:
    """What to say if no client has the name."""
    return f"There is no client {client_id}. If that is a typo: `credmesh client list` has the names."


def unknown_session(session_id: str) -> str:
    """What to say if no session has the id."""
    return f"There is no live session {session_id}. It may have ended by itself; `credmesh sessions` lists the others."


def warn(text: str) -> None:
    """Says it on stderr, so that the answer stays what it is: yellow on a terminal that shows colours."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    click.secho(printable(text), err=True, fg=None if plain else "yellow")


def _is_user(auth: Connection, subject: str) -> bool | None:
    stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
    request = accounts_pb2.ListUsersRequest()
    return _is_listed(auth, stub.ListUsers, request, lambda answer: [user.subject for user in answer.users], subject)


def _is_client(auth: Connection, client_id: str) -> bool | None:
    stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
    request = accounts_pb2.ListClientsRequest()
    return _is_listed(
        auth, stub.ListClients, request, lambda answer: [client.client_id for client in answer.clients], client_id
    )


def _is_listed(
    auth: Connection, method: Any, request: Any, names_of: Callable[[Any], Sequence[str]], name: str
) -> bool | None:
    """Whether a list has the name; None where the list is too long to be read for a hint."""
    request.page_size = _PAGE
    for _ in range(_PAGES):
        answer = auth.call(method, request, timeout=_PATIENCE)
        if name in names_of(answer):
            return True
        if not answer.next_page_token:
            return False
        request.page_token = answer.next_page_token
    return None
