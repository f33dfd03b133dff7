"""Reading access tokens: JWTs (RFC 7519) of the at+jwt profile (RFC 9068), strictly.

Pure: keys, the issuer and the time are arguments. The signature is checked before the payload is parsed, so a payload
that is parsed was written by the auth service. All code before that point expects hostile input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from interceptors.caller import Caller
from interceptors.errors import PicklableError, Reason, Refusal
from interceptors.tokens import base64url
from interceptors.tokens.token_rules import HEADER_MEMBERS, MEDIA_TYPES
from interceptors.tokens.verification_key import VerificationKey

__all__ = ["AccessToken", "TokenReader", "UnknownKey", "check_times", "token_kid"]

_MAX_HEADER_CHARACTERS: Final = 512
_MAX_KID_CHARACTERS: Final = 128
_TEXT: Final = frozenset({str})


class UnknownKey(PicklableError):
    """The token names a key that is not in the bundle. It may be new: look it up in etcd, then read the token again."""

    def __init__(self, kid: str) -> None:
        super().__init__(f"kid {kid!r} is unknown")
        self.kid = kid


@dataclass(frozen=True, slots=True)
class AccessToken:
    """The contents of a token whose signature is valid.

    not_before, expires_at  seconds since 1970 (`nbf`, `exp`), without leeway
    session_expires_at      seconds since 1970: when the session ends at the latest; 0.0 if there is no session
    """

    caller: Caller
    kid: str
    not_before: float
    expires_at: float
    session_expires_at: float


class TokenReader:
    """Reads tokens of one issuer with one set of keys.

    All tokens of a key have the same header. So a header is checked in full once, with its signature, and then
    recognized by its encoded text. There are only about as many headers as keys.
    """

    def __init__(self, issuer: str, keys: Mapping[str, VerificationKey]) -> None:
        self._issuer = issuer
        self._keys = keys
        self._known_headers: dict[str, VerificationKey] = {}

    def read(self, token: str) -> AccessToken:
        """Checks form, header, signature, issuer, and presence and types of claims. Does not check times and audience.

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
    """Returns the `kid` that a token claims, unverified. Refusal if the header is not valid."""
    kid: str = _header(token.partition(".")[0])["kid"]
    return kid


def check_times(token: AccessToken, now: float, leeway: float) -> None:
    """Raises Refusal unless `nbf - leeway <= now < exp + leeway`, all in seconds since 1970."""
    if now >= token.expires_at + leeway:
        raise Refusal(Reason.CREDENTIAL_EXPIRED, f"expired {now - token.expires_at:.0f} s ago")
    if now < token.not_before - leeway:
        raise Refusal(Reason.CREDENTIAL_INVALID, f"not valid for another {token.not_before - now:.0f} s")


def _header(text: str) -> dict[str, Any]:
    if len(text) > _MAX_HEADER_CHARACTERS:
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the header is longer than {_MAX_HEADER_CHARACTERS} characters")
    header = _json_object(_decode(text, "header"), "header")
    # RFC 7515 lets a reader ignore unknown members. The auth service never writes any, and attacks use jku, x5u, jwk
    # and crit, so an unexpected member refuses the token.
    unexpected = header.keys() - HEADER_MEMBERS
    if unexpected:
        raise Refusal(Reason.CREDENTIAL_INVALID, f"the header has {len(unexpected)} members besides alg, kid and typ")
    if not all(isinstance(header.get(member), str) for member in HEADER_MEMBERS):
        raise Refusal(Reason.CREDENTIAL_INVALID, "the header lacks alg, kid or typ, or one is not a string")
    if header["typ"].lower() not in MEDIA_TYPES:
        raise Refusal(Reason.CREDENTIAL_INVALID, "typ is not at+jwt (RFC 9068 section 4)")
    kid = header["kid"]
    if not 0 < len(kid) <= _MAX_KID_CHARACTERS:
        raise Refusal(Reason.CREDENTIAL_INVALID, f"the kid is empty or longer than {_MAX_KID_CHARACTERS} characters")
    if not (kid.isascii() and kid.isprintable()):
        # Before any signature is checked, an unknown kid is looked up and so becomes a part of an etcd key. JSON can
        # even express a lone surrogate, which cannot be encoded.
        raise Refusal(Reason.CREDENTIAL_INVALID, "the kid has characters other than printable ASCII")
    return header


def _decode(text: str, part: str) -> bytes:
    try:
        return base64url.decode(text)
    except ValueError as error:
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the {part} is {error}") from None


def _json_object(raw: bytes, part: str) -> dict[str, Any]:
    try:
        # Decoded here, since json.loads accepts UTF-16 and UTF-32, and a JWT is UTF-8 (RFC 7519 section 3).
        value = json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the {part} is not JSON") from None
    if not isinstance(value, dict):
        raise Refusal(Reason.CREDENTIAL_MALFORMED, f"the {part} is not a JSON object")
    return value


def _claims_of(body: str) -> dict[str, Any]:
    return _json_object(_decode(body, "payload"), "payload")


class _Claims(Mapping[str, Any]):
    """The claims of a verified token, parsed when they are first used.

    Few handlers use them, since the Caller has the claims that decide on calls. Parsed claims would more than double
    the memory of a cached credential, and long-lived objects make later allocations slow.
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
        raise Refusal(Reason.CREDENTIAL_INVALID, "the issuer is not the expected one")
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
    """Returns one set for all tokens with these names: there are few different sets of scopes and of audiences."""
    return frozenset(names)


def _text(claims: Mapping[str, Any], name: str, *, empty: bool = False) -> str:
    value = claims.get(name)
    if not isinstance(value, str) or not (value or empty):
        raise _bad_claim(name)
    return value


def _time(claims: Mapping[str, Any], name: str) -> float:
    value: Any = claims.get(name)
    # In Python bool is an int, and json.loads accepts NaN. Neither is a NumericDate (RFC 7519 section 2).
    if type(value) not in (int, float) or not math.isfinite(value):
        raise _bad_claim(name)
    return float(value)


def _bad_claim(name: str) -> Refusal:
    return Refusal(Reason.CREDENTIAL_INVALID, f"claim {name} is missing or of the wrong type")
