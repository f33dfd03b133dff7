"""Decodes a token without trusting it, and makes the checks that need neither the mesh nor I/O.

Pure: time, keys and the issuer are arguments. Decoding tolerates malformed tokens as far as possible, to show what is
wrong with them. The signature is checked by the code that nodes run (interceptors.tokens.access_token).
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from authsvc.cli.inspection.claims import ALGORITHM_NOTES
from authsvc.cli.terminal.times import relative, span
from interceptors.tokens import base64url
from interceptors.tokens.token_rules import (
    ALGORITHMS,
    HEADER_MEMBERS,
    MEDIA_TYPES,
    REQUIRED_TEXT_CLAIMS,
    REQUIRED_TIME_CLAIMS,
)

if TYPE_CHECKING:
    from interceptors.tokens.opaque_token import OpaqueToken
    from interceptors.tokens.verification_key import VerificationKey

__all__ = [
    "DEFAULT_LEEWAY_SECONDS",
    "DEFAULT_MAX_CREDENTIAL_BYTES",
    "WITHIN_LEEWAY",
    "Check",
    "Conclusion",
    "Decoded",
    "Kind",
    "Verdict",
    "check_locally",
    "check_signature",
    "conclude",
    "decode",
]

DEFAULT_LEEWAY_SECONDS: Final = 5.0
"""Clock skew that a node tolerates unless CREDMESH_LEEWAY is set."""
WITHIN_LEEWAY: Final = f"within the {DEFAULT_LEEWAY_SECONDS:.0f} s of clock skew that nodes tolerate (CREDMESH_LEEWAY)"
"""Why a token is accepted after its expiry."""
DEFAULT_MAX_CREDENTIAL_BYTES: Final = 4096
"""Size of the largest credential that a node reads unless CREDMESH_MAX_CREDENTIAL_BYTES is set."""

_OPAQUE_PREFIXES: Final = ("cms_", "cmr_", "cmc_")


class Kind(enum.Enum):
    """The kind of a token."""

    ACCESS_TOKEN = "access token"  # noqa: S105 - names of kinds, not secrets
    SESSION_TOKEN = "session token"  # noqa: S105
    REFRESH_TOKEN = "refresh token"  # noqa: S105
    CLIENT_SECRET = "client secret"  # noqa: S105
    UNREADABLE = "not a token"


class Verdict(enum.Enum):
    """The result of a check."""

    GOOD = "ok"
    BAD = "refused"
    UNKNOWN = "not checked"


@dataclass(frozen=True, slots=True)
class Check:
    """A check that a node makes, its result, and why, as a sentence for people."""

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True, slots=True)
class Decoded:
    """A token's content, unverified. It holds neither the secret part of an opaque token nor a signature.

    size     in characters
    problem  why it cannot be read; "" if it can
    """

    kind: Kind
    size: int
    header: Mapping[str, Any] = field(default_factory=dict)
    claims: Mapping[str, Any] = field(default_factory=dict)
    session_id: str = ""
    problem: str = ""

    def time(self, claim: str) -> float | None:
        """A NumericDate claim, in seconds since 1970; None if it is absent or not a finite number."""
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
    """Decodes a token of any kind, also a hostile one. Raises nothing: `problem` says what cannot be read."""
    if text.startswith(_OPAQUE_PREFIXES):
        return _decode_opaque(text)
    parts = text.split(".")
    if len(parts) != 3:
        shape = "is an encrypted token (JWE)" if len(parts) == 5 else f"has {len(parts)} part{'s' * (len(parts) > 1)}"
        problem = (
            "neither a JWT, which has three parts with dots between them, nor an opaque token, which begins with cms_ "
            f"or cmr_: it {shape}"
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
        return None, str(error)  # the text never quotes the token


def _json_part(text: str, part: str) -> tuple[dict[str, Any], str]:
    try:
        raw = base64url.decode_leniently(text)
    except ValueError:
        return {}, f"the {part} is not base64url (RFC 7515 section 2)"
    try:
        # NaN and infinity are not JSON. They become text, so that the answer to --json is valid.
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
    """Makes the checks that need neither keys nor the mesh.

    now       seconds since 1970
    issuer    the mesh's issuer; "" if it is not known
    audience  the service that the token would be used at; "" for no such check
    """
    if token.problem:
        return [Check("form", Verdict.BAD, token.problem)]
    if token.kind is not Kind.ACCESS_TOKEN:
        return [Check("form", Verdict.GOOD, "the checksum is right, so it was copied completely"), *_check_use(token)]
    checks = [
        Check("form", Verdict.GOOD, "a JWT in three parts (RFC 7515 section 3.1)"),
        _check_header(token.header),
        _check_claims(token),
        _check_issuer(token.claims.get("iss"), issuer),
        _check_times(token, now),
    ]
    if token.size > DEFAULT_MAX_CREDENTIAL_BYTES:
        text = (
            f"{token.size:,} bytes; nodes read at most {DEFAULT_MAX_CREDENTIAL_BYTES:,} unless "
            "CREDMESH_MAX_CREDENTIAL_BYTES is greater"
        )
        checks.append(Check("size", Verdict.UNKNOWN, text))
    if audience:
        checks.append(_check_audience(token.claims.get("aud"), audience))
    return checks


def _check_use(token: Decoded) -> list[Check]:
    if token.kind is Kind.SESSION_TOKEN:
        return []
    if token.kind is Kind.REFRESH_TOKEN:
        text = "for the auth service only, which exchanges it once for new credentials; services refuse it"
        return [Check("use", Verdict.GOOD, text)]
    text = "for signing a client in at the auth service; it is not a credential for a call"
    return [Check("use", Verdict.BAD, text)]


def _check_header(header: Mapping[str, Any]) -> Check:
    algorithm, media_type = header.get("alg"), header.get("typ")
    if isinstance(algorithm, str) and algorithm not in ALGORITHMS:
        note = ALGORITHM_NOTES.get(algorithm, "not used by credmesh")
        return Check("header", Verdict.BAD, f"alg {algorithm}: {note}; accepted are {', '.join(ALGORITHMS)}")
    if not all(isinstance(header.get(member), str) for member in HEADER_MEMBERS):
        missing = ", ".join(sorted(member for member in HEADER_MEMBERS if not isinstance(header.get(member), str)))
        return Check("header", Verdict.BAD, f"{missing}: missing or not a string")
    if str(media_type).lower() not in MEDIA_TYPES:
        return Check("header", Verdict.BAD, f"typ {media_type} is not at+jwt: not an access token (RFC 9068 section 4)")
    unexpected = ", ".join(sorted(header.keys() - HEADER_MEMBERS))
    if unexpected:
        return Check("header", Verdict.BAD, f"unexpected members, which attacks use: {unexpected}")
    return Check("header", Verdict.GOOD, "an access token's, without unexpected members (RFC 9068 section 2.1)")


def _check_claims(token: Decoded) -> Check:
    claims = token.claims
    wrong = [name for name in REQUIRED_TEXT_CLAIMS if not isinstance(claims.get(name), str) or not claims[name]]
    wrong += [name for name in REQUIRED_TIME_CLAIMS if token.time(name) is None]
    if not isinstance(claims.get("scope"), str):
        wrong.append("scope")
    if not isinstance(claims.get("aud"), str | list):
        wrong.append("aud")
    if type(claims.get("epoch")) is not int:
        wrong.append("epoch")
    if wrong:
        return Check("claims", Verdict.BAD, f"{', '.join(wrong)}: missing or of the wrong type")
    return Check("claims", Verdict.GOOD, "every required claim is present (RFC 9068 section 2.2)")


def _check_issuer(claimed: object, issuer: str) -> Check:
    if not issuer:
        return Check(
            "issuer", Verdict.UNKNOWN, "the mesh's issuer is not known: set `issuer` in the profile or CREDMESH_ISSUER"
        )
    if claimed is None:
        return Check("issuer", Verdict.BAD, f"it has no issuer (iss); the mesh's is {issuer}")
    if claimed != issuer:
        return Check("issuer", Verdict.BAD, f"issued by {claimed}; the mesh's issuer is {issuer}")
    return Check("issuer", Verdict.GOOD, "the mesh's")


def _check_times(token: Decoded, now: float) -> Check:
    expires, begins = token.time("exp"), token.time("nbf")
    if expires is None:
        return Check("time", Verdict.BAD, "it has no expiry (exp)")
    if now >= expires + DEFAULT_LEEWAY_SECONDS:
        return Check("time", Verdict.BAD, f"expired {relative(expires, now)}")
    if begins is not None and now < begins - DEFAULT_LEEWAY_SECONDS:
        return Check("time", Verdict.BAD, f"not valid for another {span(begins - now)}; is this machine's clock right?")
    if now >= expires:
        return Check("time", Verdict.GOOD, f"expired {relative(expires, now)}, {WITHIN_LEEWAY}")
    return Check("time", Verdict.GOOD, f"expires {relative(expires, now)}")


def _check_audience(claimed: object, audience: str) -> Check:
    audiences = [claimed] if isinstance(claimed, str) else claimed if isinstance(claimed, list) else []
    if audience in audiences:
        return Check("audience", Verdict.GOOD, f"it is for {audience}")
    named = ", ".join(str(name) for name in audiences) or "no service"
    return Check("audience", Verdict.BAD, f"it is for {named}, not for {audience}")


def check_signature(text: str, token: Decoded, keys: Mapping[str, VerificationKey]) -> Check:
    """Checks an access token's signature with the mesh's keys, with the code that nodes run."""
    from interceptors.errors import Refusal
    from interceptors.tokens.access_token import TokenReader, UnknownKey

    kid = token.header.get("kid")
    if not isinstance(kid, str):
        return Check("signature", Verdict.BAD, "it names no key (kid) to check it with")
    if kid not in keys:
        why = f"the mesh has no key {kid}: it was removed or revoked, or belongs to another mesh"
        return Check("signature", Verdict.BAD, f"{why} (`credmesh keys` lists the keys)")
    try:
        # The token's own issuer, so that only the signature counts. _check_issuer checks the issuer.
        TokenReader(str(token.claims.get("iss")), keys).read(text)
    except (UnknownKey, Refusal) as error:
        return Check("signature", Verdict.BAD, str(error))
    return Check("signature", Verdict.GOOD, f"by key {kid} ({keys[kid].algorithm})")


def conclude(checks: Sequence[Check]) -> Conclusion:
    """Whether the token would be accepted now.

    The auth service's answer (the check "now") overrides the other checks: only the auth service knows the revocations,
    and its clock counts. It does not override the audience, which each service checks for itself.
    """
    by_name = {check.name: check for check in checks}
    bad = [check for check in checks if check.verdict is Verdict.BAD]
    live = by_name.get("now")
    if live is not None and live.verdict is Verdict.GOOD:
        audience = by_name.get("audience")
        if audience is not None and audience.verdict is Verdict.BAD:
            return Conclusion(Verdict.BAD, audience.text)
        return Conclusion(Verdict.GOOD, live.text)
    if live is not None and live.verdict is Verdict.BAD:
        return Conclusion(Verdict.BAD, live.text)
    if bad:
        return Conclusion(Verdict.BAD, bad[0].text)
    return Conclusion(Verdict.UNKNOWN, live.text if live is not None else "the mesh was not asked for revocations")
