"""credmesh.auth.v1.AuthService: fields in, credentials out."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final

import grpc

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.login_throttle import LoginThrottle
from authsvc.accounts.principal import FIRST_PARTY, Account
from authsvc.api import validate
from authsvc.audit import audit
from authsvc.errors import FailedPrecondition, InvalidField
from authsvc.keys.jwks import key_set
from authsvc.sessions.introspection import Introspection, identity_of
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
    """Serves AuthService. Errors are raised; authsvc.api.errors and the credential interceptor answer them."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        throttle: LoginThrottle,
        issuer: Issuer,
        sessions: Sessions,
        introspection: Introspection,
        node: MeshNode,
    ) -> None:
        self._accounts = accounts
        self._throttle = throttle
        self._issuer = issuer
        self._sessions = sessions
        self._introspection = introspection
        self._node = node

    def Login(self, request: auth_pb2.LoginRequest, context: grpc.ServicerContext) -> auth_pb2.LoginResponse:
        """Trades a password or a client's secret for credentials."""
        scopes = validate.scopes("scopes", request.scopes)
        audiences = validate.audiences("audiences", request.audiences)
        kind = _kind(request.kind)
        grant, name, prove = self._prover(request)

        def authenticate() -> Account:
            # An account's user and client of the same name are different ones, to be guessed separately.
            with self._throttle.attempt(account=f"{grant}:{name}", peer=context.peer()):
                return prove()

        fields = {"grant": grant, "subject": name, "peer": context.peer()}
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
        """Trades a refresh token for the next credentials."""
        text = validate.token("refresh_token", request.refresh_token)
        token = _opaque(text)
        if token is None or token.kind is not OpaqueKind.REFRESH:
            raise InvalidField("refresh_token", "is not a refresh token; those begin with 'cmr_'")
        fields = {"session_id": token.session_id, "peer": context.peer()}
        try:
            credentials, subject = self._sessions.refresh(token)
        except Refusal as refusal:
            audit("refresh", outcome="refused", reason=refusal.reason.name, cause=str(refusal), **fields)
            raise
        audit("refresh", subject=subject, **fields)
        return auth_pb2.RefreshResponse(credentials=credentials)

    def Logout(self, request: auth_pb2.LogoutRequest, context: grpc.ServicerContext) -> auth_pb2.LogoutResponse:
        """Ends the session that a token belongs to. A token that is not good, or not ours, ends nothing."""
        text = validate.token("token", request.token)
        token = _opaque(text)
        if token is not None:
            session_id = token.session_id
            revision, subject = self._sessions.logout(token)
        else:
            revision, subject, session_id = self._end_session_of(text)
        if revision:
            audit("logout", subject=subject, session_id=session_id, revision=revision, peer=context.peer())
        return auth_pb2.LogoutResponse(revision=revision)

    def Introspect(
        self, request: auth_pb2.IntrospectRequest, context: grpc.ServicerContext
    ) -> auth_pb2.IntrospectResponse:
        """Says what a credential is now."""
        return self._introspection.introspect(validate.token("token", request.token))

    def ResolveSession(
        self, request: auth_pb2.ResolveSessionRequest, context: grpc.ServicerContext
    ) -> auth_pb2.ResolveSessionResponse:
        """Resolves an opaque session for a node."""
        if _SESSION_ID.fullmatch(request.session_id) is None:
            raise InvalidField("session_id", "is not a session's id: 22 characters of base64url")
        if len(request.secret_sha256) != _SHA256_BYTES:
            raise InvalidField("secret_sha256", f"is not {_SHA256_BYTES} bytes long")
        return self._sessions.resolve(request)

    def WhoAmI(self, request: auth_pb2.WhoAmIRequest, context: grpc.ServicerContext) -> auth_pb2.WhoAmIResponse:
        """Says who the caller is."""
        return auth_pb2.WhoAmIResponse(identity=identity_of(current_caller()))

    def ChangePassword(
        self, request: auth_pb2.ChangePasswordRequest, context: grpc.ServicerContext
    ) -> auth_pb2.ChangePasswordResponse:
        """Sets the caller's own password, ends the caller's sessions, and begins a new one."""
        caller = current_caller()
        old = validate.password("old_password", request.old_password)
        new = validate.new_password("new_password", request.new_password)
        if old == new:
            raise InvalidField("new_password", "is the old one; choose another")
        kind = _kind(request.kind)
        if caller.client_id != FIRST_PARTY:
            raise FailedPrecondition("only a user has a password, and this is a client's credential; sign in as a user")
        fields = {"actor": caller.subject, "user": caller.subject, "peer": context.peer()}
        try:
            # Counted as a login is: whoever has stolen a session must not guess the password by it.
            with self._throttle.attempt(account=f"password:{caller.subject}", peer=context.peer()):
                revision = self._accounts.change_password(caller.subject, old, new)
        except Refusal as refusal:
            audit("user.password", outcome="refused", reason=refusal.reason.name, cause=str(refusal), **fields)
            if refusal.reason is Reason.CREDENTIAL_INVALID:
                # The credential is good, and must not be thrown away: it is the field that is not.
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
            # The password is changed: an error would say that it is not.
            _log.warning("%r changed the password and got no new session: %s", caller.subject, error)
        return response

    def GetKeySet(
        self, request: auth_pb2.GetKeySetRequest, context: grpc.ServicerContext
    ) -> auth_pb2.GetKeySetResponse:
        """The public keys, as this replica holds them."""
        keys = [auth_pb2.JsonWebKey(**members) for members in key_set(self._node.bundle.keys.values())]
        return auth_pb2.GetKeySetResponse(keys=keys)

    def _prover(self, request: auth_pb2.LoginRequest) -> tuple[str, str, Callable[[], Account]]:
        """The kind of grant, who claims to be whom, and how that is proven."""
        match request.WhichOneof("grant"):
            case "password":
                subject = validate.name("password.subject", request.password.subject)
                password = validate.password("password.password", request.password.password)
                return "password", subject, lambda: self._accounts.authenticate_user(subject, password)
            case "client_credentials":
                shown = request.client_credentials
                client_id = validate.name("client_credentials.client_id", shown.client_id)
                secret = validate.token("client_credentials.client_secret", shown.client_secret)
                return "client", client_id, lambda: self._accounts.authenticate_client(client_id, secret)
            case _:
                raise InvalidField("grant", "is not set; set password or client_credentials")

    def _end_session_of(self, access_token: str) -> tuple[int, str, str]:
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


def _kind(asked: auth_pb2.CredentialKind.ValueType) -> auth_pb2.CredentialKind.ValueType:
    kind = _KINDS.get(asked)
    if kind is None:
        raise InvalidField("kind", "is none that is known here; ask for CREDENTIAL_KIND_TOKENS or _SESSION")
    return kind


def _opaque(text: str) -> OpaqueToken | None:
    try:
        return OpaqueToken.parse(text)
    except ValueError:
        return None
