"""What a credential is granted, given what was asked for and what the account holds. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from interceptors.error_details import cut
from interceptors.errors import Reason, Refusal

__all__ = ["Entitlements", "Grant", "grant", "narrow_grant"]

_MAX_LIST_BYTES: Final = 2048
"""Of what is missing, in the audit trail and in the answer. A request can name 64 KB of scopes."""


class Entitlements(Protocol):
    """Scopes and audiences: those of an account, of a session's record, or of an earlier grant."""

    @property
    def scopes(self) -> Sequence[str]:
        """The most that may be done."""
        ...

    @property
    def audiences(self) -> Sequence[str]:
        """The services at most that may be called."""
        ...


@dataclass(frozen=True, slots=True)
class Grant:
    """The scopes and audiences of a credential, each sorted and without duplicates."""

    scopes: tuple[str, ...]
    audiences: tuple[str, ...]


def grant(account: Entitlements, *, scopes: Sequence[str] = (), audiences: Sequence[str] = ()) -> Grant:
    """Grants the requested scopes and audiences. An empty request stands for all that the account holds.

    A request for more than the account holds is refused as a whole (RFC 6749 section 5.2, invalid_scope), and the
    ErrorInfo names what is missing. With a partial grant a service would fail much later, in a call. Refusal
    SCOPE_MISSING or AUDIENCE_MISMATCH; the second also for an account without audiences, since no service would accept
    its credential.
    """
    missing = sorted(set(scopes) - set(account.scopes))
    if missing:
        named = cut(" ".join(missing), _MAX_LIST_BYTES)
        raise Refusal(
            Reason.SCOPE_MISSING, f"the account does not hold these scopes: {named}", metadata={"scope": named}
        )
    missing = sorted(set(audiences) - set(account.audiences))
    if missing:
        named = cut(" ".join(missing), _MAX_LIST_BYTES)
        cause = f"the account does not hold these audiences: {named}"
        raise Refusal(Reason.AUDIENCE_MISMATCH, cause, metadata={"audience": named})
    granted = Grant(
        scopes=tuple(sorted(set(scopes or account.scopes))),
        audiences=tuple(sorted(set(audiences or account.audiences))),
    )
    if not granted.audiences:
        raise Refusal(
            Reason.AUDIENCE_MISMATCH, "the account holds no audience, so no service would accept a credential"
        )
    return granted


def narrow_grant(earlier: Entitlements, account: Entitlements) -> Grant:
    """Narrows an earlier grant to what the account holds now. It never grows (RFC 6749 section 6)."""
    return Grant(
        scopes=tuple(sorted(set(earlier.scopes) & set(account.scopes))),
        audiences=tuple(sorted(set(earlier.audiences) & set(account.audiences))),
    )
