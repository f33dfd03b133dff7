"""Bad credentials: every node must refuse each of them, and with the expected reason."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interceptors.errors import Reason
from interceptors.tokens import base64url
from interceptors.tokens.access_token import token_kid
from interceptors.tokens.opaque_token import OpaqueKind
from localmesh.demo.demo_mesh import DemoMesh
from localmesh.demo.figures import Figures
from localmesh.demo.mesh_client import MeshClient, Metadata, SignedIn, bearer, reason_text
from localmesh.demo.narrator import Narrator
from localmesh.demo.revoking import call_node
from localmesh.forged_tokens import (
    StolenKey,
    claims_of,
    signed_by_another_key,
    signed_with_public_key,
    unsigned,
    with_claims,
    with_damaged_signature,
    with_guessed_secret,
)

__all__ = ["try_bad_credentials"]


@dataclass(frozen=True, slots=True)
class _BadCredential:
    name: str
    metadata: Metadata
    reason: Reason


async def try_bad_credentials(narrator: Narrator, mesh: DemoMesh, client: MeshClient, figures: Figures) -> None:
    """Tries every bad credential on every node."""
    narrator.chapter("bad credentials are tried on every node")
    good = await client.sign_in("bob")
    for node in client.nodes:
        # The bad credentials are made from this one, which must be valid.
        await node.call(good.metadata)
        figures.calls.ok += 1
    rows: list[tuple[str, ...]] = []
    wrong: list[str] = []
    audiences = sorted({node.audience for node in client.nodes})
    for_other_service = {
        audience: await client.sign_in("bob", audiences=[other])
        for audience, other in zip(audiences, audiences[1:] + audiences[:1], strict=True)
    }
    by_audience = {
        audience: await asyncio.to_thread(_bad_credentials, mesh, good, for_other_service[audience])
        for audience in audiences
    }
    for number, bad in enumerate(by_audience[audiences[0]]):
        reasons = []
        for node in client.nodes:
            reason = await call_node(node, by_audience[node.audience][number].metadata)
            figures.hostile.tried += 1
            reasons.append(reason)
            if reason is None:
                figures.hostile.accepted += 1
            if reason is not bad.reason:
                wrong.append(f"{bad.name} on {node.name}: {reason_text(reason)} instead of {bad.reason.name}")
        rows.append((bad.name, " ".join(sorted({reason_text(one) for one in reasons}))))
    narrator.table(("credential", "refused with"), rows)
    narrator.check(
        not wrong and not figures.hostile.accepted,
        f"{figures.hostile.tried} calls on {len(client.nodes)} nodes: {figures.hostile.accepted} accepted, every "
        "refusal with the expected reason",
        otherwise="; ".join(wrong),
    )


def _bad_credentials(mesh: DemoMesh, good: SignedIn, for_other_service: SignedIn) -> list[_BadCredential]:
    """All bad credentials, in a fixed order."""
    key = StolenKey.read(mesh.etcd_settings(), kek_file=Path(mesh.profile["kek_file"]), kid=token_kid(good.token))
    return [
        *_altered(good, for_other_service),
        *_signed_with_stolen_key(key, claims_of(good.token)),
        *_wrongly_signed(key, good.token),
    ]


def _altered(good: SignedIn, for_other_service: SignedIn) -> list[_BadCredential]:
    more_rights = with_claims(good.token, sub="admin", scope="shop.read shop.buy shop.admin")
    damaged = with_damaged_signature(good.token)
    two = (*bearer(good.token), *bearer(for_other_service.token))
    guess = with_guessed_secret(OpaqueKind.SESSION)
    return [
        _BadCredential("no credential", (), Reason.CREDENTIAL_MISSING),
        _BadCredential("not a token", bearer("let-me-in"), Reason.CREDENTIAL_MALFORMED),
        _BadCredential("Basic instead of Bearer", (("authorization", "Basic YWxpY2U6"),), Reason.CREDENTIAL_MALFORMED),
        _BadCredential("altered claims", bearer(more_rights), Reason.CREDENTIAL_INVALID),
        _BadCredential("altered signature", bearer(damaged), Reason.CREDENTIAL_INVALID),
        _BadCredential("for another service", for_other_service.metadata, Reason.AUDIENCE_MISMATCH),
        _BadCredential("a refresh token", bearer(good.credentials.refresh_token), Reason.CREDENTIAL_MALFORMED),
        _BadCredential("a guessed session token", bearer(guess), Reason.CREDENTIAL_INVALID),
        _BadCredential("oversized", bearer(good.token + "A" * 4096), Reason.CREDENTIAL_TOO_LARGE),
        _BadCredential("two credentials", two, Reason.CREDENTIAL_MALFORMED),
    ]


def _signed_with_stolen_key(key: StolenKey, claims: Mapping[str, Any]) -> list[_BadCredential]:
    now = int(time.time())

    def signed(changes: Mapping[str, Any], **header: Any) -> Metadata:
        return bearer(key.sign({**claims, **changes}, **header))

    in_the_past = {"iat": now - 7200, "nbf": now - 7200, "exp": now - 3600}
    jwk_of_attacker = {"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(secrets.token_bytes(32))}
    return [
        _BadCredential("expired", signed(in_the_past), Reason.CREDENTIAL_EXPIRED),
        _BadCredential("not valid yet", signed({"nbf": now + 3600}), Reason.CREDENTIAL_INVALID),
        _BadCredential("of another issuer", signed({"iss": "https://evil.example"}), Reason.CREDENTIAL_INVALID),
        _BadCredential("of another type", signed({}, typ="JWT"), Reason.CREDENTIAL_INVALID),
        _BadCredential("with a key in its header", signed({}, jwk=jwk_of_attacker), Reason.CREDENTIAL_INVALID),
        _BadCredential("without a subject", signed({"sub": None}), Reason.CREDENTIAL_INVALID),
    ]


def _wrongly_signed(key: StolenKey, good: str) -> list[_BadCredential]:
    by_public_key = signed_with_public_key(good, key.public_pem)
    return [
        _BadCredential("signed by another key", bearer(signed_by_another_key(good)), Reason.CREDENTIAL_INVALID),
        _BadCredential("of an unknown key", bearer(signed_by_another_key(good, kid="no-such-key")), Reason.KEY_UNKNOWN),
        _BadCredential("alg: none", bearer(unsigned(good)), Reason.CREDENTIAL_INVALID),
        _BadCredential("HS256 with the public key", bearer(by_public_key), Reason.CREDENTIAL_INVALID),
    ]
