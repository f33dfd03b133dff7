"""credmesh.auth.v1.AuthService: signing in, refreshing, signing out, introspection."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import nullcontext
from typing import Final

import grpc

from authsvc.accounts.accounts import Accounts, WrongSecret
from authsvc.accounts.address_budget import AddressBudget
from authsvc.accounts.caller_address import CallerAddresses
from authsvc.accounts.login_throttle import LoginThrottle
from authsvc.accounts.principal import FIRST_PARTY, Account
from authsvc.api import validate
from authsvc.audit import audit
from authsvc.errors import FailedPrecondition, InvalidField, RateLimited
from authsvc.keys.jwks import key_set
from authsvc.sessions.introspection import Introspection, caller_identity
from authsvc.sessions.issuer import Issuer
from authsvc.sessions.sessions import Sessions
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.caller import current_caller
from interceptors.errors import Reason, Refusal
from interceptors.etcd.client import EtcdUnavailable
from interceptors.node.mesh_node import MeshNode
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken

__all__ = ["AuthServicer"]

_log: Final = logging.getLogger("credmesh.auth")

_KINDS: Final = {
    auth_pb2.CREDENTIAL_KIND_UNSPECIFIED: auth_pb2.CREDENTIAL_KIND_TOKENS,
    auth_pb2.CREDENTIAL_KIND_TOKENS: auth_pb2.CREDENTIAL_KIND_TOKENS,
    auth_pb2.CREDENTIAL_KIND_SESSION: auth_pb2.CREDENTIAL_KIND_SESSION,
}
_SESSION_ID: Final = re.compile(r"[A-Za-z0-9_-]{22}")
_SHA256_BYTES: Final = 32


class AuthServicer(auth_pb2_grpc.AuthServiceServicer):
    """Serves AuthService.

    authsvc.api.status_mapping and the credential interceptor map the exceptions to statuses.
    """

    def __init__(
        self,
        *,
        accounts: Accounts,
        throttle: LoginThrottle,
        token_lookups: AddressBudget,
        addresses: CallerAddresses,
        issuer: Issuer,
        sessions: Sessions,
        introspection: Introspection,
        node: MeshNode,
    ) -> None:
        self._accounts = accounts
        self._throttle = throttle
        self._token_lookups = token_lookups
        self._addresses = addresses
        self._issuer = issuer
        self._sessions = sessions
        self._introspection = introspection
        self._node = node

    def Login(self, request: auth_pb2.LoginRequest, context: grpc.ServicerContext) -> auth_pb2.LoginResponse:
        """Issues credentials for a password or a client's secret."""
        scopes = validate.scopes("scopes", request.scopes)
        audiences = validate.audiences("audiences", request.audiences)
        kind = _kind(request.kind)
        grant, name, authenticate_account = self._authentication(request)

        def authenticate() -> Account:
            # Only users are throttled. A stranger's failures must not keep a client out, or revocation with it.
            throttled = (
                nullcontext() if grant == "client" else self._throttle.attempt(account=name, address=origin["address"])
            )
            try:
                with throttled:
                    account = authenticate_account()
            except WrongSecret:
                fields["subject"] = name
                raise
            fields["subject"] = name
            return account

        origin = self._origin(context)
        # `authenticate` adds the subject once it is known to exist. Any other text in the name field may be a password.
        fields = {"grant": grant, **origin}
        try:
            credentials = self._issuer.login(authenticate, kind=kind, scopes=scopes, audiences=audiences)
        except Refusal as refusal:
            audit("login", outcome="refused", reason=refusal.reason.name, cause=str(refusal), **fields)
            raise
        except FailedPrecondition as error:
            audit("login", outcome="refused", reason=error.status.name, cause=str(error), **fields)
            raise
        audit(
            "login",
            session_id=credentials.session_id,
            scopes=list(credentials.scopes),
            audiences=list(credentials.audiences),
            **fields,
        )
        return auth_pb2.LoginResponse(credentials=credentials)

    def Refresh(self, request: auth_pb2.RefreshRequest, context: grpc.ServicerContext) -> auth_pb2.RefreshResponse:
        """Exchanges a refresh token for the next credentials."""
        text = validate.token("refresh_token", request.refresh_token)
        token = _opaque_token(text)
        if token is None or token.kind is not OpaqueKind.REFRESH:
            raise InvalidField("refresh_token", "is not a refresh token, which begins with 'cmr_'")
        origin = self._origin(context)
        fields = {"session_id": token.session_id, **origin}
        try:
            self._admit(token, origin["address"])
            credentials, subject = self._sessions.refresh(token)
        except Refusal as refusal:
            audit("refresh", outcome="refused", reason=refusal.reason.name, cause=str(refusal), **fields)
            raise
        audit("refresh", subject=subject, **fields)
        return auth_pb2.RefreshResponse(credentials=credentials)

    def Logout(self, request: auth_pb2.LogoutRequest, context: grpc.ServicerContext) -> auth_pb2.LogoutResponse:
        """Ends the session that a token belongs to. An invalid token ends nothing, and is no error (RFC 7009)."""
        text = validate.token("token", request.token)
        token = _opaque_token(text)
        if token is not None:
            session_id = token.session_id
            self._admit(token, self._addresses.of(context))
            revision, subject = self._sessions.logout(token)
        else:
            revision, subject, session_id = self._end_session_of(text)
        if revision:
            audit("logout", subject=subject, session_id=session_id, revision=revision, **self._origin(context))
        return auth_pb2.LogoutResponse(revision=revision)

    def Introspect(
        self, request: auth_pb2.IntrospectRequest, context: grpc.ServicerContext
    ) -> auth_pb2.IntrospectResponse:
        """Says whether a credential would be accepted now, and what it says (RFC 7662)."""
        return self._introspection.introspect(validate.token("token", request.token))

    def ResolveSession(
        self, request: auth_pb2.ResolveSessionRequest, context: grpc.ServicerContext
    ) -> auth_pb2.ResolveSessionResponse:
        """Resolves an opaque session for a node that received its token."""
        if _SESSION_ID.fullmatch(request.session_id) is None:
            raise InvalidField("session_id", "is not a session id, which has 22 characters of base64url")
        if len(request.secret_sha256) != _SHA256_BYTES:
            raise InvalidField("secret_sha256", f"must have {_SHA256_BYTES} bytes")
        return self._sessions.resolve(request)

    def WhoAmI(self, request: auth_pb2.WhoAmIRequest, context: grpc.ServicerContext) -> auth_pb2.WhoAmIResponse:
        """Returns the caller's identity."""
        return auth_pb2.WhoAmIResponse(identity=caller_identity(current_caller()))

    def ChangePassword(
        self, request: auth_pb2.ChangePasswordRequest, context: grpc.ServicerContext
    ) -> auth_pb2.ChangePasswordResponse:
        """Sets the caller's own password, ends the caller's sessions, and begins a new session."""
        caller = current_caller()
        old = validate.password("old_password", request.old_password)
        new = validate.new_password("new_password", request.new_password)
        if old == new:
            raise InvalidField("new_password", "is the old password; choose another")
        kind = _kind(request.kind)
        if caller.client_id != FIRST_PARTY:
            raise FailedPrecondition("a client has no password; sign in as a user to change that user's password")
        origin = self._origin(context)
        fields = {"actor": caller.subject, "user": caller.subject, **origin}
        try:
            # A failure counts like that of a login, or a thief of a session could use it to guess the password.
            with self._throttle.attempt(account=caller.subject, address=origin["address"]):
                revision = self._accounts.change_password(caller.subject, old, new)
        except Refusal as refusal:
            audit("user.password", outcome="refused", reason=refusal.reason.name, cause=str(refusal), **fields)
            if refusal.reason is Reason.CREDENTIAL_INVALID:
                # The caller's credential is valid and must not be discarded; only the field is wrong.
                raise InvalidField("old_password", "is not the caller's password") from None
            raise
        audit("user.password", revision=revision, **fields)
        response = auth_pb2.ChangePasswordResponse(revision=revision)
        try:
            credentials = self._issuer.login(
                lambda: self._accounts.authenticate_user(caller.subject, new),
                kind=kind,
                scopes=sorted(caller.scopes),
                audiences=sorted(caller.audiences),
            )
            response.credentials.CopyFrom(credentials)
        except (Refusal, FailedPrecondition, EtcdUnavailable) as error:
            # The password is changed already. An error would say that it is not.
            _log.warning("%r changed the password, but no new session was issued: %s", caller.subject, error)
        return response

    def GetKeySet(
        self, request: auth_pb2.GetKeySetRequest, context: grpc.ServicerContext
    ) -> auth_pb2.GetKeySetResponse:
        """Returns the verification keys that this replica's node has."""
        keys = [auth_pb2.JsonWebKey(**members) for members in key_set(self._node.bundle.keys.values())]
        return auth_pb2.GetKeySetResponse(keys=keys)

    def _admit(self, token: OpaqueToken, address: str) -> None:
        """RateLimited if the token is not known here, and its caller's address has used up its reads of etcd.

        A token is easy to make up. The tokens of live sessions are known, so they are never refused here.
        """
        if not self._sessions.knows(token) and not self._token_lookups.take(address):
            raise RateLimited("too many unknown tokens from this address; try again in a minute")

    def _origin(self, context: grpc.ServicerContext) -> dict[str, str]:
        """Where a call comes from, for the audit trail: the peer of its connection, and the caller's address."""
        return {"peer": context.peer(), "address": self._addresses.of(context)}

    def _authentication(self, request: auth_pb2.LoginRequest) -> tuple[str, str, Callable[[], Account]]:
        """The kind of grant, the name of the user or client, and the function that authenticates it."""
        match request.WhichOneof("grant"):
            case "password":
                subject = validate.name("password.subject", request.password.subject)
                password = validate.password("password.password", request.password.password)
                return "password", subject, lambda: self._accounts.authenticate_user(subject, password)
            case "client_credentials":
                fields = request.client_credentials
                client_id = validate.name("client_credentials.client_id", fields.client_id)
                secret = validate.token("client_credentials.client_secret", fields.client_secret)
                return "client", client_id, lambda: self._accounts.authenticate_client(client_id, secret)
            case _:
                raise InvalidField("grant", "is not set; set password or client_credentials")

    def _end_session_of(self, access_token: str) -> tuple[int, str, str]:
        """Ends the session of an access token. Returns the revision (0 if there is none), subject and session id."""
        try:
            caller = self._node.verify(access_token)
        except Refusal as refusal:
            if refusal.status is not grpc.StatusCode.UNAUTHENTICATED:
                raise
            return 0, "", ""
        if caller.session_id is None:
            return 0, caller.subject, ""
        revision = self._sessions.end(caller.session_id, actor=caller.subject, reason="logout")
        return revision or 0, caller.subject, caller.session_id


def _kind(requested: auth_pb2.CredentialKind.ValueType) -> auth_pb2.CredentialKind.ValueType:
    kind = _KINDS.get(requested)
    if kind is None:
        raise InvalidField("kind", "is not known here; set CREDENTIAL_KIND_TOKENS or CREDENTIAL_KIND_SESSION")
    return kind


def _opaque_token(text: str) -> OpaqueToken | None:
    try:
        return OpaqueToken.parse(text)
    except ValueError:
        return None
