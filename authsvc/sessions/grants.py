"""What is granted of what was asked. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from interceptors.errors import Reason, Refusal

__all__ = ["Grant", "Holder", "grant", "narrow"]


class Holder(Protocol):
    """Whoever holds scopes and audiences: an account, its record, or a grant made earlier."""

    @property
    def scopes(self) -> Sequence[str]:
        """What it may do, at most."""
        ...

    @property
    def audiences(self) -> Sequence[str]:
        """Where its credentials may be used, at most."""
        ...


@dataclass(frozen=True, slots=True)
class Grant:
    """What a credential may do and where, each sorted and without duplicates."""

    scopes: tuple[str, ...]
    audiences: tuple[str, ...]


def grant(holder: Holder, *, scopes: Sequence[str] = (), audiences: Sequence[str] = ()) -> Grant:
    """Grants what was asked; where nothing was asked, all that there is.

    Asking for more than the holder has is refused whole (RFC 6749 section 5.2, invalid_scope), and the ErrorInfo names
    what is missing: a service that got less than it asked for would find out by a call that fails much later. Refusal
    SCOPE_MISSING or AUDIENCE_MISMATCH; the latter too if there is no audience to grant, since no service would take it.
    """
    missing = sorted(set(scopes) - set(holder.scopes))
    if missing:
        named = " ".join(missing)
        raise Refusal(
            Reason.SCOPE_MISSING, f"asked for scopes that it does not hold: {named}", metadata={"scope": named}
        )
    missing = sorted(set(audiences) - set(holder.audiences))
    if missing:
        named = " ".join(missing)
        cause = f"asked for audiences that it does not hold: {named}"
        raise Refusal(Reason.AUDIENCE_MISMATCH, cause, metadata={"audience": named})
    granted = Grant(
        scopes=tuple(sorted(set(scopes or holder.scopes))),
        audiences=tuple(sorted(set(audiences or holder.audiences))),
    )
    if not granted.audiences:
        raise Refusal(Reason.AUDIENCE_MISMATCH, "it holds no audience: no service would accept its credential")
    return granted


def narrow(earlier: Holder, holder: Holder) -> Grant:
    """What is left of an earlier grant by what its holder has now. Never more than before (RFC 6749 section 6)."""
    return Grant(
        scopes=tuple(sorted(set(earlier.scopes) & set(holder.scopes))),
        audiences=tuple(sorted(set(earlier.audiences) & set(holder.audiences))),
    )
