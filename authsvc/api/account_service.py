"""credmesh.admin.v1.AccountService: creates, lists, changes and deletes users and clients."""

from __future__ import annotations

from typing import TypedDict

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.client_secrets import secrets_of
from authsvc.api import validate
from authsvc.api.paging import page
from authsvc.audit import audit
from authsvc.errors import InvalidField
from credmesh.admin.v1 import accounts_pb2, accounts_pb2_grpc
from credmesh.store.v1 import auth_pb2
from interceptors.caller import current_caller

__all__ = ["AccountServicer"]


class AccountServicer(accounts_pb2_grpc.AccountServiceServicer):
    """Serves AccountService. authsvc.api.status_mapping maps the exceptions to statuses."""

    def __init__(self, *, accounts: Accounts) -> None:
        self._accounts = accounts

    def CreateUser(
        self, request: accounts_pb2.CreateUserRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.CreateUserResponse:
        """Creates a user."""
        subject = validate.name("user.subject", request.user.subject)
        entitlements = _validated_entitlements("user", request.user)
        password = validate.new_password("password", request.password)
        record = self._accounts.create_user(subject, password, **entitlements)
        audit("user.create", actor=_actor(), user=subject, **entitlements)
        return accounts_pb2.CreateUserResponse(user=_user(record))

    def ListUsers(
        self, request: accounts_pb2.ListUsersRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.ListUsersResponse:
        """Returns a page of the users."""
        records, token = page(
            self._accounts.users(), name=lambda user: user.subject, size=request.page_size, token=request.page_token
        )
        return accounts_pb2.ListUsersResponse(users=[_user(record) for record in records], next_page_token=token)

    def UpdateUser(
        self, request: accounts_pb2.UpdateUserRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.UpdateUserResponse:
        """Changes a user's scopes and audiences. If one is removed, the user's credentials are revoked."""
        subject = validate.name("user.subject", request.user.subject)
        changes = _changes("user", request.user, request.update_mask)
        record, revision = self._accounts.update_user(subject, **changes, actor=_actor())
        audit("user.update", actor=_actor(), user=subject, **_entitlements_of(record), revision=revision)
        return accounts_pb2.UpdateUserResponse(user=_user(record), revision=revision)

    def SetPassword(
        self, request: accounts_pb2.SetPasswordRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.SetPasswordResponse:
        """Sets a user's password, and revokes the user's credentials."""
        subject = validate.name("subject", request.subject)
        password = validate.new_password("password", request.password)
        revision = self._accounts.set_password(subject, password, actor=_actor())
        audit("user.password", actor=_actor(), user=subject, revision=revision)
        return accounts_pb2.SetPasswordResponse(revision=revision)

    def DeleteUser(
        self, request: accounts_pb2.DeleteUserRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.DeleteUserResponse:
        """Deletes a user, and revokes the user's credentials."""
        subject = validate.name("subject", request.subject)
        revision = self._accounts.delete_user(subject, actor=_actor())
        audit("user.delete", actor=_actor(), user=subject, revision=revision)
        return accounts_pb2.DeleteUserResponse(revision=revision)

    def CreateClient(
        self, request: accounts_pb2.CreateClientRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.CreateClientResponse:
        """Creates a client, and returns its secret."""
        client_id = validate.name("client.client_id", request.client.client_id)
        entitlements = _validated_entitlements("client", request.client)
        record, secret = self._accounts.create_client(client_id, **entitlements)
        audit("client.create", actor=_actor(), client_id=client_id, **entitlements)
        return accounts_pb2.CreateClientResponse(client=_client(record), client_secret=secret)

    def ListClients(
        self, request: accounts_pb2.ListClientsRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.ListClientsResponse:
        """Returns a page of the clients."""
        records, token = page(
            self._accounts.clients(),
            name=lambda client: client.client_id,
            size=request.page_size,
            token=request.page_token,
        )
        return accounts_pb2.ListClientsResponse(clients=[_client(record) for record in records], next_page_token=token)

    def UpdateClient(
        self, request: accounts_pb2.UpdateClientRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.UpdateClientResponse:
        """Changes a client's scopes and audiences. If one is removed, the client's credentials are revoked."""
        client_id = validate.name("client.client_id", request.client.client_id)
        changes = _changes("client", request.client, request.update_mask)
        record, revision = self._accounts.update_client(client_id, **changes, actor=_actor())
        audit("client.update", actor=_actor(), client_id=client_id, **_entitlements_of(record), revision=revision)
        return accounts_pb2.UpdateClientResponse(client=_client(record), revision=revision)

    def AddClientSecret(
        self, request: accounts_pb2.AddClientSecretRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.AddClientSecretResponse:
        """Adds a second secret to a client, and returns it."""
        client_id = validate.name("client_id", request.client_id)
        record, secret = self._accounts.add_client_secret(client_id)
        audit("client.secret.add", actor=_actor(), client_id=client_id, secret_id=secrets_of(record)[-1].id)
        return accounts_pb2.AddClientSecretResponse(client=_client(record), client_secret=secret)

    def RemoveClientSecret(
        self, request: accounts_pb2.RemoveClientSecretRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.RemoveClientSecretResponse:
        """Removes one of a client's secrets, and revokes the client's credentials."""
        client_id = validate.name("client_id", request.client_id)
        secret_id = validate.name("secret_id", request.secret_id)
        record, revision = self._accounts.remove_client_secret(client_id, secret_id, actor=_actor())
        audit("client.secret.remove", actor=_actor(), client_id=client_id, secret_id=secret_id, revision=revision)
        return accounts_pb2.RemoveClientSecretResponse(client=_client(record), revision=revision)

    def DeleteClient(
        self, request: accounts_pb2.DeleteClientRequest, context: grpc.ServicerContext
    ) -> accounts_pb2.DeleteClientResponse:
        """Deletes a client, and revokes the client's credentials."""
        client_id = validate.name("client_id", request.client_id)
        revision = self._accounts.delete_client(client_id, actor=_actor())
        audit("client.delete", actor=_actor(), client_id=client_id, revision=revision)
        return accounts_pb2.DeleteClientResponse(revision=revision)


class _Entitlements(TypedDict):
    scopes: tuple[str, ...]
    audiences: tuple[str, ...]


class _Changes(TypedDict):
    scopes: tuple[str, ...] | None
    audiences: tuple[str, ...] | None


def _validated_entitlements(field: str, account: accounts_pb2.User | accounts_pb2.Client) -> _Entitlements:
    """The validated scopes and audiences of a user or client."""
    return {
        "scopes": validate.scopes(f"{field}.scopes", account.scopes),
        "audiences": validate.audiences(f"{field}.audiences", account.audiences),
    }


def _changes(field: str, account: accounts_pb2.User | accounts_pb2.Client, mask: FieldMask) -> _Changes:
    """The scopes and audiences to set; None for a field that the mask does not name."""
    # An empty mask is refused. If it meant all fields, a caller who left out a list would empty that list.
    if not mask.paths or not set(mask.paths) <= {"scopes", "audiences"}:
        raise InvalidField("update_mask", 'has to name "scopes", "audiences" or both, and nothing else')
    return {
        "scopes": validate.scopes(f"{field}.scopes", account.scopes) if "scopes" in mask.paths else None,
        "audiences": validate.audiences(f"{field}.audiences", account.audiences) if "audiences" in mask.paths else None,
    }


def _entitlements_of(record: auth_pb2.UserRecord | auth_pb2.ClientRecord) -> _Entitlements:
    return {"scopes": tuple(record.scopes), "audiences": tuple(record.audiences)}


def _actor() -> str:
    return current_caller().subject


def _user(record: auth_pb2.UserRecord) -> accounts_pb2.User:
    return accounts_pb2.User(
        subject=record.subject, scopes=record.scopes, audiences=record.audiences, created_at=record.created_at
    )


def _client(record: auth_pb2.ClientRecord) -> accounts_pb2.Client:
    return accounts_pb2.Client(
        client_id=record.client_id,
        scopes=record.scopes,
        audiences=record.audiences,
        created_at=record.created_at,
        secrets=[
            accounts_pb2.ClientSecret(secret_id=secret.id, created_at=secret.created_at)
            for secret in secrets_of(record)
        ],
    )
