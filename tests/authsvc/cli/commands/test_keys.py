"""`credmesh keys`, `rotate-keys` and `revoke-key`, with a real auth replica."""

from __future__ import annotations

from authsvc.cli.failure import ExitCode
from tests.authsvc.cli.conftest import Command, active_key, sign_in


def test_keys_lists_the_key_that_signs(command: Command) -> None:
    listed = next(key for key in command.json("keys")["keys"] if key["state"] == "KEY_STATE_ACTIVE")
    titles, *rows = command.ok("keys").splitlines()
    assert titles.split()[:3] == ["KEY", "STATE", "ALGORITHM"]
    (row,) = [row.split() for row in rows if row.split()[0] == listed["kid"]]
    assert row[1] == "ACTIVE"
    assert f"KEY_ALGORITHM_{row[2].upper()}" == listed["algorithm"]


def test_json_has_proto_names_utc_times_and_every_field(command: Command) -> None:
    answer = command.json("keys")
    assert answer["nextPageToken"] == ""
    key = answer["keys"][-1]
    assert key["preparedAt"].endswith("Z")
    assert key["waitingFor"] == []


def test_rotate_keys_returns_when_the_new_key_signs(command: Command) -> None:
    before = active_key(command)
    new = command.json("rotate-keys", "--algorithm", "EdDSA")["key"]
    assert (new["state"], new["algorithm"]) == ("KEY_STATE_ACTIVE", "KEY_ALGORITHM_EDDSA")
    assert active_key(command) == new["kid"] != before
    assert new["kid"] in command.ok("keys")


def test_revoking_a_key_signs_no_user_out(command: Command, user: str) -> None:
    sign_in(command, user)
    kid = active_key(command)
    assert f"Revoked key {kid}. Nodes refuse its tokens from revision " in command.ok(
        "revoke-key", kid, "--reason", "it leaked"
    )
    assert kid not in command.ok("keys")
    # The removed key signed the saved token. The command renews the token by itself.
    assert command.json("whoami")["identity"]["subject"] == user
    again = command.run("revoke-key", kid)
    assert again.exit_code == ExitCode.NOTHING
    assert again.stderr.splitlines()[-1] == "  `credmesh keys` lists the signing keys."
