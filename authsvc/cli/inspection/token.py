"""Looking into a token without trusting it: what it says, and what speaks for and against accepting it.

Pure: time, keys and the issuer are arguments. Decoding forgives whatever it can, since the point is to see what is
wrong; whether a node would accept the token is decided by the very code that nodes run
(interceptors.tokens.access_token).
"""

from __future__ import annotations

import enum
import json
import math
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from authsvc.cli.inspection.claims import ALGORITHM_NOTES
from authsvc.cli.terminal.times import relative, span

if TYPE_CHECKING:
    from interceptors.tokens.opaque_token import OpaqueToken
    from interceptors.tokens.verification_key import VerificationKey

__all__ = [
    "FORGIVEN",
    "LEEWAY",
    "Check",
    "Conclusion",
    "Decoded",
    "Kind",
    "Verdict",
    "check_keys",
    "check_locally",
    "conclude",
    "decode",
]

LEEWAY: Final = 5.0
"""Seconds of clock skew that nodes forgive unless CREDMESH_LEEWAY says otherwise."""
FORGIVEN: Final = f"within the {LEEWAY:.0f} s that nodes forgive (CREDMESH_LEEWAY)"
"""Why a token is good after its time."""

_ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
_HEADER: Final = frozenset({"alg", "kid", "typ"})
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt"})
_TEXTS: Final = ("iss", "sub", "client_id", "jti")
_NUMBERS: Final = ("exp", "nbf", "iat")
_OPAQUE_PREFIXES: Final = ("cms_", "cmr_", "cmc_")
_MAX_CREDENTIAL_BYTES: Final = 4096


class Kind(enum.Enum):
    """What a token turns out to be."""

    ACCESS_TOKEN = "access token"  # noqa: S105 - names of kinds, not secrets
    SESSION_TOKEN = "session token"  # noqa: S105
    REFRESH_TOKEN = "refresh token"  # noqa: S105
    CLIENT_SECRET = "client secret"  # noqa: S105
    UNREADABLE = "not a token"


class Verdict(enum.Enum):
    """What a check found."""

    GOOD = "ok"
    BAD = "refused"
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that a node looks at, what it finds, and why, as a sentence for a person."""

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A token's content, unverified. Neither the secret part of an opaque token nor a signature is in here.

    problem  why it cannot be read, if it cannot
    """

    kind: Kind
    size: int
    header: Mapping[str, Any] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    session_id: str = ""
    problem: str = ""

    def time(self, claim: str) -> float | None:
        """A claim that is a NumericDate, in seconds since 1970; None if it is absent or no number."""
        value: Any = self.claims.get(claim)
        if type(value) not in (int, float):
            return None
        try:
            return float(value) if math.isfinite(value) else None
        except OverflowError:
            return None


@dataclass(frozen=True, slots=True)
class Conclusion:
    """Whether the token would be accepted now, and why."""

    verdict: Verdict
    why: str


def decode(text: str) -> Decoded:
    """Reads a token of any kind, whoever wrote it. Never fails: what cannot be read says so in `problem`."""
    if text.startswith(_OPAQUE_PREFIXES):
        return _decode_opaque(text)
    parts = text.split(".")
    if len(parts) != 3:
        what = "an encrypted token (JWE)" if len(parts) == 5 else f"{len(parts)} part{'s' * (len(parts) > 1)}"
        problem = (
            f"a JWT has three parts with dots between them, a credmesh token begins with cms_ or cmr_; this is {what}"
        )
        return Decoded(Kind.UNREADABLE, len(text), problem=problem)
    header, header_problem = _json_part(parts[0], "header")
    claims, claims_problem = _json_part(parts[1], "payload")
    problem = header_problem or claims_problem
    kind = Kind.ACCESS_TOKEN if header or claims else Kind.UNREADABLE
    return Decoded(kind, len(text), header=header, claims=claims, problem=problem)


def _decode_opaque(text: str) -> Decoded:
    kinds = {"cms": Kind.SESSION_TOKEN, "cmr": Kind.REFRESH_TOKEN, "cmc": Kind.CLIENT_SECRET}
    kind = kinds[text[:3]]
    token, problem = _parse_opaque(text)
    if token is None:
        return Decoded(kind, len(text), problem=problem)
    return Decoded(kind, len(text), session_id="" if kind is Kind.CLIENT_SECRET else token.session_id)


def _parse_opaque(text: str) -> tuple[OpaqueToken | None, str]:
    from interceptors.tokens.opaque_token import OpaqueToken

    try:
        return OpaqueToken.parse(text), ""
    except ValueError as error:
        return None, str(error)  # it never quotes the token


def _json_part(text: str, part: str) -> tuple[dict[str, Any], str]:
    try:
        raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        return {}, f"the {part} is not base64url (RFC 7515 section 2)"
    try:
        # NaN and infinity are no JSON, and what is shown as JSON should not hold them either.
        value = json.loads(raw, parse_constant=str, parse_float=_finite)
    except (ValueError, RecursionError):
        return {}, f"the {part} is not JSON"
    if not isinstance(value, dict):
        return {}, f"the {part} is not a JSON object"
    return value, ""


def _finite(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text


def check_locally(token: Decoded, *, now: float, issuer: str, audience: str = "") -> list[Check]:
    """What can be said without keys and without asking anybody.

    now is in seconds since 1970. issuer is the mesh's, or empty if it is not known here; audience is the service that
    the token is to be used at, or empty.
    """
    if token.problem:
        return [Check("form", Verdict.BAD, token.problem)]
    if token.kind is not Kind.ACCESS_TOKEN:
        return [Check("form", Verdict.GOOD, "the checksum fits, so it was copied whole"), *_check_use(token)]
    checks = [
        Check("form", Verdict.GOOD, "a JWT in three parts (RFC 7515 section 3.1)"),
        _check_header(token.header),
        _check_claims(token),
        _check_issuer(token.claims.get("iss"), issuer),
        _check_times(token, now),
    ]
    if token.size > _MAX_CREDENTIAL_BYTES:
        text = (
            f"{token.size:,} bytes; nodes read {_MAX_CREDENTIAL_BYTES:,} unless CREDMESH_MAX_CREDENTIAL_BYTES says more"
        )
        checks.append(Check("size", Verdict.UNKNOWN, text))
    if audience:
        checks.append(_check_audience(token.claims.get("aud"), audience))
    return checks


def _check_use(token: Decoded) -> list[Check]:
    if token.kind is Kind.SESSION_TOKEN:
        return []
    if token.kind is Kind.REFRESH_TOKEN:
        text = "for the auth service only, which trades it, once, for the next credentials; services refuse it"
        return [Check("use", Verdict.GOOD, text)]
    text = "it signs a client in at the auth service, and is no credential for a call"
    return [Check("use", Verdict.BAD, text)]


def _check_header(header: Mapping[str, Any]) -> Check:
    algorithm, kind = header.get("alg"), header.get("typ")
    if isinstance(algorithm, str) and algorithm not in _ALGORITHMS:
        note = ALGORITHM_NOTES.get(algorithm, "not one of ours")
        return Check("header", Verdict.BAD, f"alg {algorithm}: {note}; ours are {', '.join(_ALGORITHMS)}")
    if not all(isinstance(header.get(member), str) for member in _HEADER):
        missing = ", ".join(sorted(member for member in _HEADER if not isinstance(header.get(member), str)))
        return Check("header", Verdict.BAD, f"{missing}: missing or no text")
    if str(kind).lower() not in _TYPES:
        return Check("header", Verdict.BAD, f"typ {kind} is not at+jwt: no access token (RFC 9068 section 4)")
    unexpected = ", ".join(sorted(header.keys() - _HEADER))
    if unexpected:
        return Check("header", Verdict.BAD, f"ours never has {unexpected}, and attacks do: refused")
    return Check("header", Verdict.GOOD, "an access token's, and nothing more (RFC 9068 section 2.1)")


def _check_claims(token: Decoded) -> Check:
    claims = token.claims
    wrong = [name for name in _TEXTS if not isinstance(claims.get(name), str) or not claims[name]]
    wrong += [name for name in _NUMBERS if token.time(name) is None]
    if not isinstance(claims.get("scope"), str):
        wrong.append("scope")
    if not isinstance(claims.get("aud"), str | list):
        wrong.append("aud")
    if type(claims.get("epoch")) is not int:
        wrong.append("epoch")
    if wrong:
        return Check("claims", Verdict.BAD, f"{', '.join(wrong)}: missing or of the wrong type")
    return Check("claims", Verdict.GOOD, "all that a node needs are there (RFC 9068 section 2.2)")


def _check_issuer(found: object, issuer: str) -> Check:
    if not issuer:
        return Check("issuer", Verdict.UNKNOWN, "this mesh's issuer is not known here: set `issuer` or CREDMESH_ISSUER")
    if found is None:
        return Check("issuer", Verdict.BAD, f"it names no issuer (iss), and this mesh's is {issuer}")
    if found != issuer:
        return Check("issuer", Verdict.BAD, f"issued by {found}, and this mesh's issuer is {issuer}")
    return Check("issuer", Verdict.GOOD, "this mesh's")


def _check_times(token: Decoded, now: float) -> Check:
    expires, begins = token.time("exp"), token.time("nbf")
    if expires is None:
        return Check("time", Verdict.BAD, "it does not say when it expires")
    if now >= expires + LEEWAY:
        return Check("time", Verdict.BAD, f"expired {relative(expires, now)}")
    if begins is not None and now < begins - LEEWAY:
        return Check("time", Verdict.BAD, f"not valid for another {span(begins - now)}; is this machine's clock right?")
    if now >= expires:
        return Check("time", Verdict.GOOD, f"expired {relative(expires, now)}, {FORGIVEN}")
    return Check("time", Verdict.GOOD, f"expires {relative(expires, now)}")


def _check_audience(found: object, audience: str) -> Check:
    audiences = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    if audience in audiences:
        return Check("audience", Verdict.GOOD, f"it is for {audience}")
    named = ", ".join(str(one) for one in audiences) or "nobody"
    return Check("audience", Verdict.BAD, f"it is for {named}, not for {audience}")


def check_keys(text: str, token: Decoded, keys: Mapping[str, VerificationKey]) -> Check:
    """Checks an access token's signature with the mesh's keys, by the code that nodes run."""
    from interceptors.errors import Refusal
    from interceptors.tokens.access_token import TokenReader, UnknownKey

    kid = token.header.get("kid")
    if not isinstance(kid, str):
        return Check("signature", Verdict.BAD, "it names no key (kid) by which to check it")
    if kid not in keys:
        why = f"key {kid} is not one of the mesh's: it was removed or revoked, or is another mesh's"
        return Check("signature", Verdict.BAD, f"{why} (`credmesh keys` lists the mesh's)")
    try:
        # The issuer is a check of its own; here it is whatever the token says.
        TokenReader(str(token.claims.get("iss")), keys).read(text)
    except (UnknownKey, Refusal) as error:
        return Check("signature", Verdict.BAD, str(error))
    return Check("signature", Verdict.GOOD, f"of key {kid} ({keys[kid].algorithm})")


def conclude(checks: Sequence[Check]) -> Conclusion:
    """Whether the token would be accepted now.

    What the auth service says (the check "now") outweighs the rest: it alone knows the revocations, and its clock
    counts. Only the audience is the service's own affair.
    """
    by_name = {check.name: check for check in checks}
    wrong = [check for check in checks if check.verdict is Verdict.BAD]
    asked = by_name.get("now")
    if asked is not None and asked.verdict is Verdict.GOOD:
        audience = by_name.get("audience")
        if audience is not None and audience.verdict is Verdict.BAD:
            return Conclusion(Verdict.BAD, audience.text)
        return Conclusion(Verdict.GOOD, asked.text)
    if asked is not None and asked.verdict is Verdict.BAD:
        return Conclusion(Verdict.BAD, asked.text)
    if wrong:
        return Conclusion(Verdict.BAD, wrong[0].text)
    return Conclusion(Verdict.UNKNOWN, asked.text if asked is not None else "nobody was asked whether it was revoked")
