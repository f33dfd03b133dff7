"""Verifying a call: the steps of one decision, for sync and aio servers alike.

`check` is the whole of it for a credential that was seen before: a lookup, and the epochs if they moved. For any other
credential it says None, and `flow` does the rest: a generator that yields what it needs from outside (a key from etcd,
a session from the auth service) and is sent the answer, so that each server drives it with its own kind of I/O. Most
flows yield nothing.
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
    "bearer",
    "revocation_scopes",
]

_MAX_AUDIENCES: Final = 32
_ANY_EPOCH: Final = -1


class VerifiedCredential:
    """A credential that was verified, as the cache and the open streams keep it.

    scopes            the revocation scopes that it belongs to
    kid               the key that signed it; None for an opaque session
    key_scope         that key's scope, one of `scopes`: its epoch kills whatever epoch the credential claims
    usable_until      seconds since 1970: a token's `exp` with the leeway; a session's record is asked for again then
    session_ends_at   seconds since 1970: when the session ends at the latest; 0.0 where there is none
    generation        the bundle's generation in which it was last found good
    history_generation               that of the monitor in which it was verified
    """

    __slots__ = (
        "caller",
        "credential",
        "generation",
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
        generation: int,
        history_generation: int = 0,
    ) -> None:
        self.caller = caller
        self.credential = credential
        self.kid = kid
        self.key_scope = None if kid is None else key_scope(kid)
        self.scopes = revocation_scopes(caller, kid)
        self.usable_until = usable_until
        self.session_ends_at = session_ends_at
        self.generation = generation
        self.history_generation = history_generation

    def __repr__(self) -> str:
        return f"VerifiedCredential({self.caller!r})"  # never the credential

    def stream_ends_at(self, *, follow_session: bool) -> float:
        """Seconds since 1970: when a stream that this credential opened ends at the latest, by its method's rule."""
        if self.kid is None or (follow_session and self.session_ends_at):
            return max(self.session_ends_at, self.usable_until)
        return self.usable_until


class KeyRevoked(Refusal):
    """The key that signed a credential was revoked by force.

    For the caller it is as if the key was not known; but nothing that the credential claims spares it, as what follows
    its session is spared when a key retires.
    """

    def __init__(self, verified: VerifiedCredential) -> None:
        super().__init__(
            Reason.KEY_UNKNOWN, f"key {verified.kid!r} was revoked by force", subject=verified.caller.subject
        )


@dataclass(frozen=True, slots=True)
class NeedKey:
    """Fetch this key from etcd into the bundle, if it is there. The answer is None."""

    kid: str


@dataclass(frozen=True, slots=True)
class NeedRevision:
    """Ask etcd whether it has reached this revision, and tell the bundle's monitor. The answer is None."""

    revision: int


@dataclass(frozen=True, slots=True)
class NeedSession:
    """Resolve this session. The answer is a ResolveSessionResponse."""

    request: auth_pb2.ResolveSessionRequest


Need = NeedKey | NeedRevision | NeedSession
VerificationFlow = Generator[Need, auth_pb2.ResolveSessionResponse | None, VerifiedCredential]


def revocation_scopes(caller: Caller, kid: str | None = None) -> tuple[str, ...]:
    """The scopes whose epochs can revoke this caller's credential. kid: the key that signed it, where it is known."""
    own: tuple[str, ...] = (subject_scope(caller.subject),)
    if caller.session_id is not None:
        own += (session_scope(caller.session_id),)
    return own + _common_scopes(caller.client_id, caller.audiences, kid)


@lru_cache(maxsize=1024)
def _common_scopes(client_id: str, audiences: frozenset[str], kid: str | None) -> tuple[str, ...]:
    """The scopes that many credentials have in common, so that they share the texts."""
    scopes = (EVERYONE, client_scope(client_id), *map(audience_scope, audiences))
    return scopes if kid is None else (*scopes, key_scope(kid))


def bearer(metadata: Iterable[tuple[str, str | bytes]], max_bytes: int) -> str:
    """The bearer credential (RFC 6750 section 2.1) of a call. Refusal unless there is exactly one, within the cap."""
    found: str | bytes | None = None
    for key, value in metadata:
        if key == "authorization":
            if found is not None:
                # Two values mean that two parties may read two different ones.
                raise Refusal(Reason.CREDENTIAL_MALFORMED, "more than one authorization entry")
            found = value
    if found is None:
        raise Refusal(Reason.CREDENTIAL_MISSING)
    if len(found) > max_bytes:
        raise Refusal(Reason.CREDENTIAL_TOO_LARGE, f"{len(found)} bytes; at most {max_bytes} are read")
    if not isinstance(found, str):
        raise Refusal(Reason.CREDENTIAL_MALFORMED, "the authorization entry is not text")
    scheme, _, credential = found.partition(" ")
    if scheme.lower() != "bearer" or not credential or not credential.isascii():
        raise Refusal(Reason.CREDENTIAL_MALFORMED, "the authorization entry is not 'Bearer' and a credential")
    return credential


class Verifier:
    """Decides on calls by a trust bundle. Time comes in as an argument; nothing here waits.

    clock  what TrustBundle.prove is told the time by. It is read after everything else of a decision: a flow may have
           waited, and how fresh the node is counts where its call is let in
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
        self._max_bytes = max_credential_bytes
        self._cache: TwoGenerationCache[VerifiedCredential] = TwoGenerationCache(cached_credentials)
        self._resolves_sessions = resolves_sessions

    @property
    def cached(self) -> int:
        """How many verified credentials are kept."""
        return len(self._cache)

    def check(
        self, rule: MethodRule, metadata: Iterable[tuple[str, str | bytes]], now: float
    ) -> VerifiedCredential | str:
        """Decides on a call whose credential was seen before; otherwise gives the credential, for `flow`.

        now is in seconds since 1970. Raises Refusal.
        """
        bundle = self._bundle
        if bundle.revision == 0:
            raise Refusal(Reason.MESH_NOT_READY, "nothing was read from etcd yet")
        credential = bearer(metadata, self._max_bytes)
        verified = self._cache.get(credential)
        if verified is None:
            return credential
        if now >= verified.usable_until:
            self._cache.drop(credential)
            return credential
        if rule.freshness is not None and self._is_ahead(verified):
            return credential
        self._allow(rule, verified)
        return verified

    def flow(self, rule: MethodRule, credential: str, now: float) -> VerificationFlow:
        """Verifies a credential from scratch and decides on the call; see `check`. Returns VerifiedCredential, raises
        Refusal.
        """
        verified = yield from self.identify(credential, now)
        if rule.freshness is not None and self._is_ahead(verified):
            yield NeedRevision(verified.caller.epoch)
            if self._is_ahead(verified):
                raise Refusal(
                    Reason.MESH_STALE,
                    f"it was issued as of revision {verified.caller.epoch}, which etcd has not reached",
                    subject=verified.caller.subject,
                )
        self._allow(rule, verified)
        return verified

    def identify(self, credential: str, now: float) -> VerificationFlow:
        """Verifies a credential whatever it is to be used for: everything but audience, scopes and freshness."""
        monitor = self._bundle.continuity
        history_generation = monitor.history_generation  # before anything that is decided by it
        generation = self._bundle.generation
        if is_opaque(credential):
            verified = yield from self._session(credential, now, generation)
        else:
            verified = yield from self._token(credential, now, generation)
        verified.history_generation = history_generation
        self.recheck(verified, force=True)
        if self._is_ahead(verified):
            monitor.note_unseen_epoch(verified.caller.epoch)
        self._cache.put(credential, verified)
        return verified

    def recheck(self, verified: VerifiedCredential, *, force: bool = False) -> None:
        """Checks a verified credential against the bundle as it is now. Refusal if it was revoked or lost its key."""
        bundle = self._bundle
        generation = bundle.generation  # before the epochs are read: see TrustBundle
        if generation == verified.generation and not force:
            return
        if verified.history_generation != bundle.continuity.history_generation:
            self._cache.drop(verified.credential)
            raise Refusal(
                Reason.CREDENTIAL_REVOKED,
                "etcd has lost a part of its history since it was issued, and everything was revoked",
                subject=verified.caller.subject,
            )
        if verified.key_scope is not None and bundle.epochs.revokes((verified.key_scope,), _ANY_EPOCH):
            self._cache.drop(verified.credential)
            raise KeyRevoked(verified)
        if verified.kid is not None and verified.kid not in bundle.keys:
            self._cache.drop(verified.credential)
            raise Refusal(Reason.KEY_UNKNOWN, f"key {verified.kid!r} was removed", subject=verified.caller.subject)
        scope = bundle.epochs.revokes(verified.scopes, verified.caller.epoch)
        if scope is not None:
            self._cache.drop(verified.credential)
            raise Refusal(
                Reason.CREDENTIAL_REVOKED,
                f"scope {scope} was revoked after epoch {verified.caller.epoch}",
                subject=verified.caller.subject,
            )
        verified.generation = generation

    def forget(self) -> None:
        """Empties the cache."""
        self._cache.clear()

    def _is_ahead(self, verified: VerifiedCredential) -> bool:
        """Whether a credential claims a revision that this node has not heard of.

        It may just have been issued. If etcd, asked now, has not reached that revision, it has lost a part of its
        history: by revisions alone such a credential would survive whatever is revoked from now on.
        """
        monitor = self._bundle.continuity
        return verified.caller.epoch > monitor.observed.revision and monitor.history is not None

    def _allow(self, rule: MethodRule, verified: VerifiedCredential) -> None:
        # Read before the epochs are checked. Read after them, a proof that came in between (a node that was cut off
        # catches up at this moment) would vouch for epochs that this call was never checked against.
        proven_at = None if rule.freshness is None else self._bundle.proven_at
        # What is always checked stands first and costs two comparisons; what the rule asks for comes after.
        if verified.generation != self._bundle.generation:
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
                    f"knowledge of revocations is {age:.1f} s old; the rule allows {rule.freshness} s",
                    subject=caller.subject,
                )

    def _token(self, credential: str, now: float, generation: int) -> VerificationFlow:
        try:
            token = self._bundle.reader.read(credential)
        except UnknownKey as unknown:
            yield NeedKey(unknown.kid)
            try:
                token = self._bundle.reader.read(credential)
            except UnknownKey as still:
                raise Refusal(Reason.KEY_UNKNOWN, str(still)) from None
        check_times(token, now, self._leeway)
        if len(token.caller.audiences) > _MAX_AUDIENCES:
            raise Refusal(Reason.CREDENTIAL_INVALID, f"more than {_MAX_AUDIENCES} audiences")
        try:
            return _verified_token(token, credential, self._leeway, generation)
        except UnicodeEncodeError:
            # Half of a surrogate pair, which JSON can write, in a name that its scope is made of. We never sign one.
            raise Refusal(Reason.CREDENTIAL_INVALID, "a claim is no text that can be encoded") from None

    def _session(self, credential: str, now: float, generation: int) -> VerificationFlow:
        try:
            token = OpaqueToken.parse(credential)
        except ValueError as error:
            raise Refusal(Reason.CREDENTIAL_MALFORMED, str(error)) from None
        if token.kind is not OpaqueKind.SESSION:
            raise Refusal(Reason.CREDENTIAL_INVALID, f"a {token.kind.name} is not for calling services")
        if not self._resolves_sessions:
            raise Refusal(Reason.CREDENTIAL_INVALID, "this node is not set up to resolve opaque sessions")
        answer = yield NeedSession(
            auth_pb2.ResolveSessionRequest(session_id=token.session_id, secret_sha256=token.secret_sha256)
        )
        if answer is None or answer.refusal:
            known = Reason.__members__.get(answer.refusal if answer is not None else "")
            raise Refusal(known or Reason.CREDENTIAL_INVALID, "the auth service refused the session")
        return _verified_session(answer, credential, now, generation)


def _verified_token(token: AccessToken, credential: str, leeway: float, generation: int) -> VerifiedCredential:
    return VerifiedCredential(
        token.caller,
        credential,
        kid=token.kid,
        usable_until=token.expires_at + leeway,
        session_ends_at=token.session_expires_at,
        generation=generation,
    )


def _verified_session(
    answer: auth_pb2.ResolveSessionResponse, credential: str, now: float, generation: int
) -> VerifiedCredential:
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
        generation=generation,
    )
