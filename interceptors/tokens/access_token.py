"""Access tokens: reading a JWT (RFC 7519) of the at+jwt profile (RFC 9068) strictly.

Pure: keys, the issuer and the time are arguments. The signature is checked before the payload is even parsed, so only
what our own auth service wrote gets that far; everything before that point expects hostile input.
"""

from __future__ import annotations

import binascii
import json
import math
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from interceptors.caller import Caller
from interceptors.errors import Reason, Refusal
from interceptors.tokens.verification_key import VerificationKey

__all__ = ["AccessToken", "TokenReader", "UnknownKey", "check_times", "token_kid"]

_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_HEADER_MEMBERS: Final = frozenset({"alg", "kid", "typ"})
_MAX_HEADER_CHARACTERS: Final = 512
_MAX_KID_CHARACTERS: Final = 128
_TEXT: Final = frozenset({str})
_TO_STANDARD: Final = bytes.maketrans(b"-_+/=", b"+/***")
"""From base64url's alphabet to base64's (RFC 4648). What is of base64 only, padding too, becomes what is of neither."""


class UnknownKey(Exception):
    """The token names a key that is not held. It may have been made a moment ago: ask etcd, then try once more."""

    def __init__(self, kid: str) -> None:
        super().__init__(f"kid {kid!r} is not held")
        self.kid = kid


@dataclass(frozen=True, slots=True)
class AccessToken:
    """What a well-signed token says.

    not_before, expires_at  seconds since 1970 (`nbf`, `exp`), without leeway
    session_expires_at      when the session ends at the latest; 0.0 where the token has none
    """

    caller: Caller
    kid: str
    not_before: float
    expires_at: float
    session_expires_at: float


class TokenReader:
    """Reads tokens of one issuer with one set of keys.

    A header is checked in full when it is first seen under a good signature. Every token of a key has the same one, so
    it is then known by its encoded text; the set is as small as the set of keys.
    """

    def __init__(self, issuer: str, keys: Mapping[str, VerificationKey]) -> None:
        self._issuer = issuer
        self._keys = keys
        self._known_headers: dict[str, VerificationKey] = {}

    def read(self, token: str) -> AccessToken:
        """Checks form, header, signature, issuer and the presence and types of the claims; not times, not audience.

        Raises UnknownKey, and Refusal with CREDENTIAL_MALFORMED or CREDENTIAL_INVALID.
        """
        if not token.isascii():
            raise Refusal(Reason.CREDENTIAL_MALFORMED, "the token is not ASCII")
        head, first_dot, rest = token.partition(".")
        body, second_dot, tail = rest.partition(".")
        if not first_dot or not second_dot or "." in tail:
            raise Refusal(Reason.CREDENTIAL_MALFORMED, "not a JWS compact serialization: three parts are needed")
        key = self._known_headers.get(head)
        new_header = key is None
        if key is None:
            key = self._key_of(_header(head))
        signature = _decode(tail, "signature")
        if not key.verifies(token[: len(head) + 1 + len(body)].encode("ascii"), signature):
            raise Refusal(Reason.CREDENTIAL_INVALID, f"the signature is not of key {key.kid!r}")
        if new_header and len(self._known_headers) < 4 * len(self._keys):
            self._known_headers[head] = key
        return _access_token(token, _claims_of(body), key.kid, self._issuer)

    def _key_of(self, header: Mapping[str, Any]) -> VerificationKey:
        kid = header["kid"]
        key = self._keys.get(kid)
        if key is None:
            raise UnknownKey(kid)
        if header["alg"] != key.algorithm:
            # The header does not choose: RFC 8725 section 3.1.
            raise Refusal(Reason.CREDENTIAL_INVALID, f"alg {header['alg']!r} is not key {kid!r}'s {key.algorithm}")
        return key


def token_kid(token: str) -> str:
    """The `kid` that a token claims, unverified. Refusal if the header is not one of ours."""
    kid: str = _header(token.partition(".")[0])["kid"]
    return kid


def check_times(token: AccessToken, now: float, leeway: float) -> None:
    """Refusal unless `nbf - leeway <= now < exp + leeway`, all in seconds since 1970."""
    if now >= token.expires_at + leeway:
        raise Refusal(Reason.CREDENTIAL_EXPIRED, f"expired {now - token.expires_at:.0f} s ago")
    if now < token.not_before - leeway:
        raise Refusal(Reason.CREDENTIAL_INVALID, f"not valid for another {token.not_before - now:.0f} s")


def _header(text: str) -> dict[str, Any]:
    if len(text) > _MAX_HEADER_CHARACTERS:
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the header is longer than {_MAX_HEADER_CHARACTERS} characters")
    header = _json_object(_decode(text, "header"), "header")
    # RFC 7515 lets a reader ignore members that it does not know. Ours never has others, and jku, x5u, jwk and crit are
    # the ones that attacks use: whatever is unexpected refuses.
    unexpected = header.keys() - _HEADER_MEMBERS
    if unexpected:
        raise Refusal(Reason.CREDENTIAL_INVALID, f"the header has members that ours never has: {len(unexpected)}")
    if not all(isinstance(header.get(member), str) for member in _HEADER_MEMBERS):
        raise Refusal(Reason.CREDENTIAL_INVALID, "the header lacks alg, kid or typ, or one is not a string")
    if header["typ"].lower() not in _TYPES:
        raise Refusal(Reason.CREDENTIAL_INVALID, "typ is not at+jwt (RFC 9068 section 4)")
    kid = header["kid"]
    if not 0 < len(kid) <= _MAX_KID_CHARACTERS:
        raise Refusal(Reason.CREDENTIAL_INVALID, f"the kid is empty or longer than {_MAX_KID_CHARACTERS} characters")
    if not (kid.isascii() and kid.isprintable()):
        # A kid that is not held is asked for, so it becomes a part of an etcd key, before any signature is checked; and
        # JSON can write what is no text at all: half of a surrogate pair.
        raise Refusal(Reason.CREDENTIAL_INVALID, "the kid has characters that ours never has")
    return header


def _decode(text: str, part: str) -> bytes:
    """Base64url without padding (RFC 7515 section 2), and only in its one canonical form.

    Decoders forgive stray characters and left-over bits, so that several texts would be the same token. What encodes to
    the same text again had none.
    """
    standard = text.encode("ascii", "replace").translate(_TO_STANDARD) + b"=" * (-len(text) % 4)
    try:
        raw = a2b_base64(standard)
    except binascii.Error:
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the {part} is not base64url") from None
    if b2a_base64(raw, newline=False) != standard:
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the {part} is not in canonical base64url")
    return raw


def _json_object(raw: bytes, part: str) -> dict[str, Any]:
    try:
        # Decoded here: json would take UTF-16 and UTF-32 too, which a JWT is not (RFC 7519 section 3).
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the {part} is not JSON") from None
    if not isinstance(value, dict):
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the {part} is not a JSON object")
    return value


def _claims_of(body: str) -> dict[str, Any]:
    return _json_object(_decode(body, "payload"), "payload")


class _Claims(Mapping[str, Any]):
    """The claims of a token that was verified, read again when somebody asks for them.

    Few handlers do: what calls are decided by stands in the Caller. Keeping them read would more than double the memory
    of a cached credential, and what is kept longer than a call is what makes the next allocation slow.
    """

    __slots__ = ("_read", "_token")

    def __init__(self, token: str) -> None:
        self._token = token
        self._read: dict[str, Any] | None = None

    def _claims(self) -> dict[str, Any]:
        if self._read is None:
            self._read = _claims_of(self._token.split(".")[1])
        return self._read

    def __getitem__(self, name: str) -> Any:
        return self._claims()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._claims())

    def __len__(self) -> int:
        return len(self._claims())

    def __repr__(self) -> str:
        return f"_Claims({self._claims()!r})"  # never the token


def _access_token(token: str, claims: dict[str, Any], kid: str, issuer: str) -> AccessToken:
    if claims.get("iss") != issuer:
        raise Refusal(Reason.CREDENTIAL_INVALID, "the issuer is another one")
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else audience
    if not isinstance(audiences, list) or not _TEXT.issuperset(map(type, audiences)):
        raise _bad_claim("aud")
    epoch = claims.get("epoch")
    if type(epoch) is not int or epoch < 0:
        raise _bad_claim("epoch")
    session_id = claims.get("sid")
    if session_id is not None and not (isinstance(session_id, str) and session_id):
        raise _bad_claim("sid")
    _text(claims, "jti")
    _time(claims, "iat")
    expires_at = _time(claims, "exp")
    actor = claims.get("act")
    caller = Caller(
        subject=_text(claims, "sub"),
        client_id=_text(claims, "client_id"),
        session_id=session_id,
        scopes=_shared(tuple(_text(claims, "scope", empty=True).split())),
        audiences=_shared(tuple(audiences)),
        expires_at=expires_at,
        epoch=epoch,
        claims=_Claims(token),
        actor=actor.get("sub") if isinstance(actor, dict) else None,
    )
    return AccessToken(
        caller=caller,
        kid=kid,
        not_before=_time(claims, "nbf"),
        expires_at=expires_at,
        session_expires_at=_time(claims, "session_exp") if "session_exp" in claims else 0.0,
    )


@lru_cache(maxsize=1024)
def _shared(names: tuple[str, ...]) -> frozenset[str]:
    """One set for all tokens that name the same: there are many tokens, and few sets of scopes and of audiences."""
    return frozenset(names)


def _text(claims: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not (value or empty):
        raise _bad_claim(name)
    return value


def _time(claims: Mapping[str, Any], name: str) -> float:
    value: Any = claims.get(name)
    # bool is an int to Python, and JSON readers take NaN: neither is a NumericDate (RFC 7519 section 2).
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _bad_claim(name)
    return float(value)


def _bad_claim(name: str) -> Refusal:
    return Refusal(Reason.CREDENTIAL_INVALID, f"claim {name} is missing or of the wrong type")
