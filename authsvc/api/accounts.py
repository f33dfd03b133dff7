"""credmesh.admin.v1.AccountService: fields in, records out."""

from __future__ import annotations

import grpc

from authsvc import validate
from authsvc.accounts import Accounts
from authsvc.audit import audit
from authsvc.paging import page
from credmesh.admin.v1 import accounts_pb2, accounts_pb2_grpc
from credmesh.store.v1 import auth_pb2
from interceptors.caller import current_caller

__all__ = ["AccountServicer"]


class AccountServicer(accounts_pb2_grpc.AccountServiceServicer):
    """Serves AccountService. Errors are raised; authsvc.api.errors answers them."""

    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    def CreateUser(
        self, request: accounts_pb2.CreateUserRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.CreateUserResponse:
        """Makes a user."""
        subject = validate.name("user.subject", request.user.subject)
        scopes = validate.scopes("user.scopes", request.user.scopes)
        audiences = validate.audiences("user.audiences", request.user.audiences)
        password = validate.new_password("password", request.password)
        record = self._accounts.create_user(subject, password, scopes=scopes, audiences=audiences)
        audit("user.create", actor=_actor(), user=subject, scopes=scopes, audiences=audiences)
        return accounts_pb2.CreateUserResponse(user=_user(record))

    def ListUsers(
        self, request: accounts_pb2.ListUsersRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.ListUsersResponse:
        """A page of the users."""
        found, token = page(
            self._accounts.users(), name=lambda one: one.subject, size=request.page_size, token=request.page_token
        )
        return accounts_pb2.ListUsersResponse(users=[_user(record) for record in found], next_page_token=token)

    def SetPassword(
        self, request: accounts_pb2.SetPasswordRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.SetPasswordResponse:
        """Sets a password, and revokes what the user has."""
        subject = validate.name("subject", request.subject)
        password = validate.new_password("password", request.password)
        revision = self._accounts.set_password(subject, password, actor=_actor())
        audit("user.password", actor=_actor(), user=subject, revision=revision)
        return accounts_pb2.SetPasswordResponse(revision=revision)

    def DeleteUser(
        self, request: accounts_pb2.DeleteUserRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.DeleteUserResponse:
        """Deletes a user, and revokes what the user has."""
        subject = validate.name("subject", request.subject)
        revision = self._accounts.delete_user(subject, actor=_actor())
        audit("user.delete", actor=_actor(), user=subject, revision=revision)
        return accounts_pb2.DeleteUserResponse(revision=revision)

    def CreateClient(
        self, request: accounts_pb2.CreateClientRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.CreateClientResponse:
        """Makes a client."""
        client_id = validate.name("client.client_id", request.client.client_id)
        scopes = validate.scopes("client.scopes", request.client.scopes)
        audiences = validate.audiences("client.audiences", request.client.audiences)
        record, secret = self._accounts.create_client(client_id, scopes=scopes, audiences=audiences)
        audit("client.create", actor=_actor(), client_id=client_id, scopes=scopes, audiences=audiences)
        return accounts_pb2.CreateClientResponse(client=_client(record), client_secret=secret)

    def ListClients(
        self, request: accounts_pb2.ListClientsRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.ListClientsResponse:
        """A page of the clients."""
        found, token = page(
            self._accounts.clients(), name=lambda one: one.client_id, size=request.page_size, token=request.page_token
        )
        return accounts_pb2.ListClientsResponse(clients=[_client(record) for record in found], next_page_token=token)

    def DeleteClient(
        self, request: accounts_pb2.DeleteClientRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.DeleteClientResponse:
        """Deletes a client, and revokes what it has."""
        client_id = validate.name("client_id", request.client_id)
        revision = self._accounts.delete_client(client_id, actor=_actor())
        audit("client.delete", actor=_actor(), client_id=client_id, revision=revision)
        return accounts_pb2.DeleteClientResponse(revision=revision)


def _actor() -> str:
    return current_caller().subject


def _user(record: auth_pb2.UserRecord) -> accounts_pb2.User:
    return accounts_pb2.User(
        subject=record.subject, scopes=record.scopes, audiences=record.audiences, created_at=record.created_at
    )


def _client(record: auth_pb2.ClientRecord) -> accounts_pb2.Client:
    return accounts_pb2.Client(
        client_id=record.client_id, scopes=record.scopes, audiences=record.audiences, created_at=record.created_at
    )
