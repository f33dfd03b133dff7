"""Verifying the credential of a call: the same steps for sync and aio servers.

A server first calls `read_credential`, then `verify_cached`, which decides at once if the credential is in the cache.
For any other credential it runs `verify`: a generator that yields what it needs from outside (a key from etcd, a
session from the auth service) and is sent the answer. So each server drives it with its own kind of I/O. Most runs
yield nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final

from google.protobuf.json_format import MessageToDict

from credmesh.auth.v1 import auth_pb2
from interceptors.caller import Caller
from interceptors.clock import ticks
from interceptors.errors import Reason, Refusal
from interceptors.policy import MethodRule
from interceptors.scopes import EVERYONE, audience_scope, client_scope, key_scope, session_scope, subject_scope
from interceptors.tokens.access_token import AccessToken, UnknownKey, check_times
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken, is_opaque
from interceptors.trust.bundle import TrustBundle
from interceptors.verification.cache import TwoGenerationCache

__all__ = [
    "KeyRevoked",
    "Need",
    "NeedKey",
    "NeedRevision",
    "NeedSession",
    "VerificationFlow",
    "VerifiedCredential",
    "Verifier",
    "revocation_scopes",
]

_MAX_AUDIENCES: Final = 32
_ANY_EPOCH: Final = -1


class VerifiedCredential:
    """A credential that was verified, as the cache and the open streams keep it.

    scopes              the revocation scopes that it belongs to
    kid                 the key that signed it; None for an opaque session
    key_scope           that key's scope, one of `scopes`: its epoch revokes the credential, whatever epoch that claims
    usable_until        seconds since 1970: for a token its `exp` plus the leeway; for a session, when it must be
                        resolved again
    session_ends_at     seconds since 1970: when the session ends at the latest; 0.0 if there is no session
    bundle_version      the version of the trust bundle that it was last checked against
    history_generation  that of the ContinuityMonitor when it was verified
    """

    __slots__ = (
        "bundle_version",
        "caller",
        "credential",
        "history_generation",
        "key_scope",
        "kid",
        "scopes",
        "session_ends_at",
        "usable_until",
    )

    def __init__(
        self,
        caller: Caller,
        credential: str,
        *,
        kid: str | None,
        usable_until: float,
        session_ends_at: float,
        bundle_version: int = 0,
        history_generation: int = 0,
    ) -> None:
        self.caller = caller
        self.credential = credential
        self.kid = kid
        self.key_scope = None if kid is None else key_scope(kid)
        self.scopes = revocation_scopes(caller, kid)
        self.usable_until = usable_until
        self.session_ends_at = session_ends_at
        self.bundle_version = bundle_version
        self.history_generation = history_generation

    def __repr__(self) -> str:
        return f"VerifiedCredential({self.caller!r})"  # never the credential

    @property
    def own_scopes(self) -> tuple[str, ...]:
        """Those of `scopes` that are one subject's or one session's."""
        # Own scopes come first: see revocation_scopes.
        return self.scopes[:1] if self.caller.session_id is None else self.scopes[:2]

    def stream_ends_at(self, *, follow_session: bool) -> float:
        """Returns when a stream under this credential ends at the latest, in seconds since 1970."""
        if self.kid is None or (follow_session and self.session_ends_at):
            return max(self.session_ends_at, self.usable_until)
        return self.usable_until


class KeyRevoked(Refusal):
    """The key that signed a credential was revoked.

    The caller learns KEY_UNKNOWN, as for a key that was removed. A stream that follows its session outlives the removal
    of a retired key, but not the revocation of a key: a thief of the key may have forged the credential.
    """

    def __init__(self, verified: VerifiedCredential) -> None:
        super().__init__(Reason.KEY_UNKNOWN, f"key {verified.kid!r} was revoked", subject=verified.caller.subject)


@dataclass(frozen=True, slots=True)
class NeedKey:
    """Asks to add this key to the bundle, if etcd has it. The answer is None."""

    kid: str


@dataclass(frozen=True, slots=True)
class NeedRevision:
    """Asks to record in the bundle's ContinuityMonitor whether etcd has reached this revision. The answer is None."""

    revision: int


@dataclass(frozen=True, slots=True)
class NeedSession:
    """Asks to resolve this session. The answer is a ResolveSessionResponse."""

    request: auth_pb2.ResolveSessionRequest


Need = NeedKey | NeedRevision | NeedSession
VerificationFlow = Generator[Need, auth_pb2.ResolveSessionResponse | None, VerifiedCredential]


def revocation_scopes(caller: Caller, kid: str | None = None) -> tuple[str, ...]:
    """Returns the scopes whose epochs can revoke this caller's credential: its own first, then those that many share.

    kid: the key that signed it, if any.
    """
    own: tuple[str, ...] = (subject_scope(caller.subject),)
    if caller.session_id is not None:
        own += (session_scope(caller.session_id),)
    return own + _common_scopes(caller.client_id, caller.audiences, kid)


@lru_cache(maxsize=1024)
def _common_scopes(client_id: str, audiences: frozenset[str], kid: str | None) -> tuple[str, ...]:
    """Returns the scopes that many credentials have in common. The cache lets them share the strings."""
    scopes = (EVERYONE, client_scope(client_id), *map(audience_scope, audiences))
    return scopes if kid is None else (*scopes, key_scope(kid))


class Verifier:
    """Decides on calls by a trust bundle. Nothing here waits.

    clock  measures the age of the bundle's newest proof: the clock of TrustBundle.add_proof. It is read at the end of a
           decision: the verification may have waited for a lookup, and the freshness at admission counts
    """

    def __init__(
        self,
        bundle: TrustBundle,
        *,
        leeway: float,
        max_credential_bytes: int,
        cached_credentials: int,
        resolves_sessions: bool = False,
        clock: Callable[[], float] = ticks,
    ) -> None:
        self._bundle = bundle
        self._clock = clock
        self._leeway = leeway
        self._max_credential_bytes = max_credential_bytes
        self._cache: TwoGenerationCache[VerifiedCredential] = TwoGenerationCache(cached_credentials)
        self._resolves_sessions = resolves_sessions

    @property
    def cached(self) -> int:
        """How many verified credentials are in the cache."""
        return len(self._cache)

    def read_credential(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        """Returns the bearer credential of a call (RFC 6750 section 2.1).

        Raises Refusal unless the metadata holds exactly one, within the size limit; and MESH_NOT_READY, which is no
        verdict on the credential, until the node has read the mesh prefix.
        """
        if self._bundle.revision == 0:
            raise Refusal(Reason.MESH_NOT_READY, "the node has not read its trust bundle from etcd yet")
        entry: str | bytes | None = None
        for key, value in metadata:
            if key == "authorization":
                if entry is not None:
                    # Two readers of the call could each take a different one of two values.
                    raise Refusal(Reason.CREDENTIAL_MALFORMED, "more than one authorization entry")
                entry = value
        if entry is None:
            raise Refusal(Reason.CREDENTIAL_MISSING)
        if len(entry) > self._max_credential_bytes:
            raise Refusal(
                Reason.CREDENTIAL_TOO_LARGE, f"{len(entry)} bytes; at most {self._max_credential_bytes} are read"
            )
        if not isinstance(entry, str):
            raise Refusal(Reason.CREDENTIAL_MALFORMED, "the authorization entry is not text")
        scheme, _, credential = entry.partition(" ")
        if scheme.lower() != "bearer" or not credential or not credential.isascii():
            raise Refusal(Reason.CREDENTIAL_MALFORMED, "the authorization entry is not 'Bearer' and a credential")
        return credential

    def verify_cached(self, rule: MethodRule, credential: str, now: float) -> VerifiedCredential | None:
        """Decides on a call whose credential is in the cache. Returns None if the call needs `verify`.

        now: seconds since 1970. Raises Refusal.
        """
        verified = self._cache.get(credential)
        if verified is None:
            return None
        if now >= verified.usable_until:
            self._cache.drop(credential)
            return None
        if rule.freshness is not None and self._has_unseen_epoch(verified):
            return None  # `verify` asks etcd whether it has reached that epoch
        self._authorize(rule, verified)
        return verified

    def verify(self, rule: MethodRule, credential: str, now: float) -> VerificationFlow:
        """Verifies a credential without the cache and decides on the call. now: seconds since 1970. Raises Refusal."""
        verified = yield from self.authenticate(credential, now)
        if rule.freshness is not None and self._has_unseen_epoch(verified):
            yield NeedRevision(verified.caller.epoch)
            if self._has_unseen_epoch(verified):
                raise Refusal(
                    Reason.MESH_STALE,
                    f"the credential claims epoch {verified.caller.epoch}, a revision that etcd has not reached",
                    subject=verified.caller.subject,
                )
        self._authorize(rule, verified)
        return verified

    def authenticate(self, credential: str, now: float) -> VerificationFlow:
        """Verifies a credential for any method, and caches it. Does not check audience, scopes and freshness.

        Raises Refusal. now: seconds since 1970.
        """
        monitor = self._bundle.monitor
        # Both are read before the keys and epochs that decide, so that a change in between leads to another check.
        history_generation = monitor.history_generation
        bundle_version = self._bundle.version
        if is_opaque(credential):
            verified = yield from self._authenticate_session(credential, now)
        else:
            verified = yield from self._authenticate_token(credential, now)
        verified.bundle_version, verified.history_generation = bundle_version, history_generation
        self.recheck(verified, force=True)
        if self._has_unseen_epoch(verified):
            monitor.note_unseen_epoch(verified.caller.epoch)
        self._cache.put(credential, verified)
        return verified

    def recheck(self, verified: VerifiedCredential, *, force: bool = False) -> None:
        """Checks a verified credential against the present bundle. Raises Refusal if it was revoked or its key is gone.

        force: check even if the bundle has not changed since the last check.
        """
        bundle = self._bundle
        bundle_version = bundle.version  # read before the epochs: see TrustBundle
        if bundle_version == verified.bundle_version and not force:
            return
        if verified.history_generation != bundle.monitor.history_generation:
            self._cache.drop(verified.credential)
            raise Refusal(
                Reason.CREDENTIAL_REVOKED,
                "etcd has lost a part of its history since it was verified, and every credential was revoked",
                subject=verified.caller.subject,
            )
        if verified.key_scope is not None and bundle.epochs.find_revoked_scope((verified.key_scope,), _ANY_EPOCH):
            self._cache.drop(verified.credential)
            raise KeyRevoked(verified)
        if verified.kid is not None and verified.kid not in bundle.keys:
            self._cache.drop(verified.credential)
            raise Refusal(Reason.KEY_UNKNOWN, f"key {verified.kid!r} was removed", subject=verified.caller.subject)
        scope = bundle.epochs.find_revoked_scope(verified.scopes, verified.caller.epoch)
        if scope is not None:
            self._cache.drop(verified.credential)
            raise Refusal(
                Reason.CREDENTIAL_REVOKED,
                f"scope {scope} was revoked after epoch {verified.caller.epoch}",
                subject=verified.caller.subject,
            )
        verified.bundle_version = bundle_version

    def clear_cache(self) -> None:
        """Removes all credentials from the cache."""
        self._cache.clear()

    def _has_unseen_epoch(self, verified: VerifiedCredential) -> bool:
        """Whether a credential claims an epoch above every revision that this node has observed.

        It may have been issued a moment ago. But if etcd has not reached that revision, etcd has lost a part of its
        history, and later revocations, which get lower revisions, would not revoke the credential.
        """
        monitor = self._bundle.monitor
        return verified.caller.epoch > monitor.observed.revision and monitor.history is not None

    def _authorize(self, rule: MethodRule, verified: VerifiedCredential) -> None:
        # Read before the epochs are checked. If it were read afterwards, a proof that arrives in between (a node that
        # was cut off catches up at this moment) would stand for epochs that this call was never checked against.
        proven_at = None if rule.freshness is None else self._bundle.proven_at
        if verified.bundle_version != self._bundle.version:  # as `recheck` begins; this saves the call
            self.recheck(verified)
        caller = verified.caller
        if rule.audience not in caller.audiences:
            raise Refusal(
                Reason.AUDIENCE_MISMATCH, f"the credential is not for {rule.audience!r}", subject=caller.subject
            )
        if not rule.scopes <= caller.scopes:
            missing = " ".join(sorted(rule.scopes - caller.scopes))
            raise Refusal(
                Reason.SCOPE_MISSING, f"missing: {missing}", metadata={"scope": missing}, subject=caller.subject
            )
        if rule.freshness is not None:
            age = float("inf") if proven_at is None else self._clock() - proven_at
            if age > rule.freshness:
                raise Refusal(
                    Reason.MESH_STALE,
                    f"the node's freshness is {age:.1f} s; the rule allows {rule.freshness} s",
                    subject=caller.subject,
                )

    def _authenticate_token(self, credential: str, now: float) -> VerificationFlow:
        try:
            token = self._bundle.token_reader.read(credential)
        except UnknownKey as unknown:
            yield NeedKey(unknown.kid)
            try:
                token = self._bundle.token_reader.read(credential)
            except UnknownKey as error:
                raise Refusal(Reason.KEY_UNKNOWN, str(error)) from None
        check_times(token, now, self._leeway)
        if len(token.caller.audiences) > _MAX_AUDIENCES:
            raise Refusal(Reason.CREDENTIAL_INVALID, f"more than {_MAX_AUDIENCES} audiences")
        try:
            return _verified_token(token, credential, self._leeway)
        except UnicodeEncodeError:
            # JSON can express a lone surrogate, which has no UTF-8 encoding and so no revocation scope.
            raise Refusal(
                Reason.CREDENTIAL_INVALID, "a claim holds a lone surrogate, which UTF-8 cannot encode"
            ) from None

    def _authenticate_session(self, credential: str, now: float) -> VerificationFlow:
        try:
            token = OpaqueToken.parse(credential)
        except ValueError as error:
            raise Refusal(Reason.CREDENTIAL_MALFORMED, str(error)) from None
        if token.kind is not OpaqueKind.SESSION:
            raise Refusal(Reason.CREDENTIAL_INVALID, f"a {token.kind.name} token does not authenticate calls")
        if not self._resolves_sessions:
            raise Refusal(Reason.CREDENTIAL_INVALID, "this node has no resolver for opaque sessions")
        answer = yield NeedSession(
            auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
        )
        if answer is None or answer.refusal:
            reason = Reason.__members__.get(answer.refusal if answer is not None else "")
            raise Refusal(reason or Reason.CREDENTIAL_INVALID, "the auth service refused the session")
        return _verified_session(answer, credential, now)


def _verified_token(token: AccessToken, credential: str, leeway: float) -> VerifiedCredential:
    return VerifiedCredential(
        token.caller,
        credential,
        kid=token.kid,
        usable_until=token.expires_at + leeway,
        session_ends_at=token.session_expires_at,
    )


def _verified_session(answer: auth_pb2.ResolveSessionResponse, credential: str, now: float) -> VerifiedCredential:
    identity = answer.identity
    ends_at = answer.session_expires_at.ToNanoseconds() / 1e9
    attributes: dict[str, Any] = MessageToDict(answer.attributes)
    caller = Caller(
        subject=identity.subject,
        client_id=identity.client_id,
        session_id=identity.session_id,
        scopes=frozenset(identity.scopes),
        audiences=frozenset(identity.audiences),
        expires_at=ends_at,
        epoch=identity.epoch,
        claims=MappingProxyType(attributes),
    )
    valid_for = answer.valid_for.ToTimedelta().total_seconds()
    return VerifiedCredential(
        caller,
        credential,
        kid=None,
        usable_until=min(now + valid_for, ends_at),
        session_ends_at=ends_at,
    )
