"""The settings of the auth service: read from the environment, and checked before anything starts."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from interceptors.settings import MeshSettings, ServerSettings, read_settings, setting, split_address
from interceptors.tokens.token_rules import ALGORITHMS

__all__ = ["AuthSettings", "read_auth_settings"]

_DEFAULTS: Final = {"CREDMESH_SERVICE": "auth"}


@dataclass(frozen=True, kw_only=True)
class AuthSettings:
    """The settings of one replica of the auth service. Durations are in seconds."""

    mesh: MeshSettings
    server: ServerSettings
    kek_file: Path | None = setting(
        "CREDMESH_KEK_FILE",
        "/etc/credmesh/kek",
        default=None,
        help="file of the key-encryption key, which seals private keys: 32 bytes in base64",
    )
    # Not by `setting`, which cannot keep a secret out of the repr.
    kek: str = field(
        default="",
        repr=False,
        metadata={
            "variable": "CREDMESH_KEK",
            "example": "$(openssl rand -base64 32)",
            "help": "the key-encryption key itself, instead of its file",
        },
    )
    watermark_file: Path | None = setting(
        "CREDMESH_MEMORY_FILE",
        "/var/lib/credmesh/watermark.json",
        default=None,
        help="file of the watermark: how far this replica has observed etcd's history. It shows when etcd was restored "
        "from a backup while every process was stopped, so it must survive a restart",
    )
    http_listen: str = setting(
        "CREDMESH_HTTP_LISTEN",
        "0.0.0.0:8080",
        default="",
        help="host:port of the HTTP server for JWKS, discovery, probes and metrics; empty for none",
    )
    token_lifetime: float = setting("CREDMESH_TOKEN_LIFETIME", "300", default=300.0, help="lifetime of an access token")
    refresh_grace: float = setting(
        "CREDMESH_REFRESH_GRACE",
        "10",
        default=10.0,
        help="time in which a used refresh token still returns the same successor",
    )
    session_idle: float = setting(
        "CREDMESH_SESSION_IDLE", "1800", default=1800.0, help="time after which an unused session ends"
    )
    session_lifetime: float = setting(
        "CREDMESH_SESSION_LIFETIME", "86400", default=86_400.0, help="time after which any session ends"
    )
    rotation_interval: float = setting(
        "CREDMESH_ROTATION_INTERVAL", "86400", default=86_400.0, help="time from one signing key to the next"
    )
    rotation_proceed_after: float = setting(
        "CREDMESH_ROTATION_PROCEED_AFTER",
        "600",
        default=0.0,
        help="longest wait of a rotation for a registered node that does not acknowledge the new key; 0 for no limit",
    )
    rotation_proceed_unsigned_after: float = setting(
        "CREDMESH_ROTATION_PROCEED_UNSIGNED_AFTER",
        "10",
        default=10.0,
        help="the same while no key signs and every login is refused: on a new mesh, and after a key was revoked",
    )
    key_algorithm: str = setting(
        "CREDMESH_KEY_ALGORITHM", "ES256", default="ES256", help="algorithm of new signing keys"
    )
    max_token_bytes: int = setting(
        "CREDMESH_MAX_TOKEN_BYTES", "3072", default=3072, help="largest access token that is issued, in bytes"
    )
    leader_lease: int = setting(
        "CREDMESH_LEADER_LEASE",
        "5",
        default=5,
        help="time after which another replica leads if the leader falls silent; whole seconds",
    )
    password_workers: int = setting(
        "CREDMESH_PASSWORD_WORKERS", "2", default=2, help="passwords hashed at a time, each with 64 MiB and 4 threads"
    )
    login_failures_per_account: int = setting(
        "CREDMESH_LOGIN_FAILURES_PER_ACCOUNT",
        "10",
        default=10,
        help="failed logins of a user from one address and at one replica, after which each further one has to wait "
        "longer, up to 15 minutes; 0 for no limit",
    )
    login_failures_per_address: int = setting(
        "CREDMESH_LOGIN_FAILURES_PER_ADDRESS",
        "50",
        default=50,
        help="failed logins of users from an address per minute and replica; 0 for no limit",
    )
    token_lookups_per_address: int = setting(
        "CREDMESH_TOKEN_LOOKUPS_PER_ADDRESS",
        "600",
        default=600,
        help="reads of etcd per minute and replica for refreshes and logouts from an address whose token the replica "
        "does not know: made up, or of a session that has ended; 0 for no limit",
    )
    trusted_proxies: tuple[str, ...] = setting(
        "CREDMESH_TRUSTED_PROXIES",
        "10.0.0.7,10.1.0.0/16",
        default=(),
        help="addresses and networks of the proxies whose `x-forwarded-for` names the caller's address, and `unix` for "
        "a proxy on a Unix socket; none by default, so that the limits per address apply to the proxy as a whole",
    )
    resolve_ttl: float = setting(
        "CREDMESH_RESOLVE_TTL",
        "60",
        default=60.0,
        help="time for which a node may use an opaque session that it has resolved",
    )

    def __post_init__(self) -> None:
        if (self.kek_file is None) == (not self.kek):
            problem = "is not set" if not self.kek else "and CREDMESH_KEK are both set; keep one"
            raise ValueError(
                f"CREDMESH_KEK_FILE {problem}; for example: CREDMESH_KEK_FILE=/etc/credmesh/kek "
                "(`credmesh bootstrap` can make one)"
            )
        if self.http_listen:
            split_address(self.http_listen, "CREDMESH_HTTP_LISTEN")
        if self.key_algorithm not in ALGORITHMS:
            raise ValueError(
                f"CREDMESH_KEY_ALGORITHM={self.key_algorithm!r} is not one of {', '.join(ALGORITHMS)}; "
                "for example: CREDMESH_KEY_ALGORITHM=ES256"
            )
        for proxy in self.trusted_proxies:
            _check_proxy(proxy)
        self._check_durations()
        self._check_numbers()

    def _check_durations(self) -> None:
        for variable, seconds, example in (
            ("CREDMESH_TOKEN_LIFETIME", self.token_lifetime, "300"),
            ("CREDMESH_SESSION_IDLE", self.session_idle, "1800"),
            ("CREDMESH_SESSION_LIFETIME", self.session_lifetime, "86400"),
            ("CREDMESH_ROTATION_INTERVAL", self.rotation_interval, "86400"),
            ("CREDMESH_RESOLVE_TTL", self.resolve_ttl, "60"),
        ):
            # Not `seconds <= 0`: this refuses NaN too, which compares false with everything.
            if not 0 < seconds <= _MAX_DURATION_SECONDS:
                raise ValueError(f"{variable} must be above 0 and below ten years, in seconds; for example: {example}")
        for variable, seconds, example in (
            ("CREDMESH_ROTATION_PROCEED_AFTER", self.rotation_proceed_after, "600"),
            ("CREDMESH_ROTATION_PROCEED_UNSIGNED_AFTER", self.rotation_proceed_unsigned_after, "10"),
        ):
            if not 0 <= seconds <= _MAX_DURATION_SECONDS:
                raise ValueError(f"{variable} must be 0 or more, in seconds; for example: {example}")
        if not 0 <= self.refresh_grace <= 600:
            raise ValueError("CREDMESH_REFRESH_GRACE must be from 0 to 600 seconds; for example: 10")
        if not 2 <= self.leader_lease <= 600:
            raise ValueError("CREDMESH_LEADER_LEASE must be from 2 to 600 seconds; for example: 5")

    def _check_numbers(self) -> None:
        if not 512 <= self.max_token_bytes <= self.mesh.max_credential_bytes:
            raise ValueError(
                "CREDMESH_MAX_TOKEN_BYTES must be from 512 to CREDMESH_MAX_CREDENTIAL_BYTES "
                f"({self.mesh.max_credential_bytes}), because no node accepts a larger token; for example: 3072"
            )
        if not 1 <= self.password_workers <= 64:
            raise ValueError("CREDMESH_PASSWORD_WORKERS must be from 1 to 64; for example: 2")
        for variable, number, example in (
            ("CREDMESH_LOGIN_FAILURES_PER_ACCOUNT", self.login_failures_per_account, "10"),
            ("CREDMESH_LOGIN_FAILURES_PER_ADDRESS", self.login_failures_per_address, "50"),
            ("CREDMESH_TOKEN_LOOKUPS_PER_ADDRESS", self.token_lookups_per_address, "600"),
        ):
            if number < 0:
                raise ValueError(f"{variable} must be 0 (no limit) or more; for example: {example}")


def _check_proxy(proxy: str) -> None:
    if proxy == "unix":
        return
    try:
        network = ipaddress.ip_network(proxy)
    except ValueError as error:
        raise ValueError(
            f"CREDMESH_TRUSTED_PROXIES: {error}; name addresses and networks; "
            "for example: CREDMESH_TRUSTED_PROXIES=10.0.0.7,10.1.0.0/16"
        ) from None
    if network.prefixlen == 0:
        raise ValueError(
            f"CREDMESH_TRUSTED_PROXIES={proxy} would let every caller choose the address that the limits count; name "
            "the proxies only; for example: CREDMESH_TRUSTED_PROXIES=10.0.0.7,10.1.0.0/16"
        )


_MAX_DURATION_SECONDS: Final = 10 * 366 * 86_400.0


def read_auth_settings(environ: Mapping[str, str] | None = None) -> AuthSettings:
    """Reads the settings of the auth service, whose CREDMESH_SERVICE is "auth" by default. Raises SettingsError."""
    return read_settings(AuthSettings, {**_DEFAULTS, **(os.environ if environ is None else environ)})
