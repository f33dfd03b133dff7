"""Whether somebody of a name is there: for a command that does what it was asked to whether or not that is a typo.

It is a hint. So it asks for no more than a page of each list, waits for it briefly, and says nothing (None) where the
caller may not look or the answer does not come.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import click

from authsvc.cli.connection import Connection
from authsvc.cli.failure import Failure
from authsvc.cli.text import printable
from authsvc.paging import token_after
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
"""The client of everybody who shows a password; it is in no list. As in authsvc.accounts, which takes long to load."""

_PATIENCE: Final = 2.0
"""Seconds for one call."""
_PAGE: Final = 100
"""Names to ask for at once: those that begin like the one that is looked for, nearly always fewer."""
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_DIGITS: Final = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
"""Of a session's id, in the order in which sessions are listed."""


def subject_is_known(auth: Connection, subject: str) -> bool | None:
    """Whether there is a user or a client of this name; None if that cannot be said."""
    try:
        return _is_user(auth, subject) or _is_client(auth, subject)
    except Failure:
        return None


def client_is_known(auth: Connection, client_id: str) -> bool | None:
    """Whether there is a client of this name; None if that cannot be said."""
    try:
        return client_id == EVERY_USERS_CLIENT or _is_client(auth, client_id)
    except Failure:
        return None


def session_is_known(auth: Connection, session_id: str) -> bool | None:
    """Whether a session of this id is live; None if that cannot be said. To be asked before it is ended."""
    if _SESSION_ID.fullmatch(session_id) is None:
        return False
    request = sessions_pb2.ListSessionsRequest(page_size=1, page_token=_id_before(session_id))
    try:
        stub = sessions_pb2_grpc.SessionServiceStub(auth.channel)
        answer = auth.call(stub.ListSessions, request, timeout=_PATIENCE)
    except Failure:
        return None
    return [session.session_id for session in answer.sessions] == [session_id]


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


def _is_user(auth: Connection, subject: str) -> bool:
    stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
    request = accounts_pb2.ListUsersRequest()
    return _is_listed(auth, stub.ListUsers, request, lambda answer: [user.subject for user in answer.users], subject)


def _is_client(auth: Connection, client_id: str) -> bool:
    stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
    request = accounts_pb2.ListClientsRequest()
    return _is_listed(
        auth, stub.ListClients, request, lambda answer: [client.client_id for client in answer.clients], client_id
    )


def _is_listed(
    auth: Connection, method: Any, request: Any, names_of: Callable[[Any], Sequence[str]], name: str
) -> bool:
    """Whether a list that is ordered by name has the name. Its pages are begun right before it: it may be long."""
    request.page_size, request.page_token = _PAGE, token_after(name[:-1])
    while True:
        answer = auth.call(method, request, timeout=_PATIENCE)
        names = names_of(answer)
        if name in names:
            return True
        if not answer.next_page_token or names[-1] > name:
            return False
        request.page_token = answer.next_page_token


def _id_before(session_id: str) -> str:
    """The greatest id that is less than this one; "" if there is none. A page of sessions begins after an id."""
    head = session_id.rstrip(_DIGITS[0])
    if not head:
        return ""
    last = _DIGITS[_DIGITS.index(head[-1]) - 1]
    return head[:-1] + last + _DIGITS[-1] * (len(session_id) - len(head))
