"""`credmesh user …`."""

from __future__ import annotations

from authsvc.cli.failure import ExitCode
from tests.authsvc.cli.conftest import PASSWORD, Command, signed_out


def test_users_are_listed_with_scopes_and_audiences(command: Command, user: str) -> None:
    listed = {one["subject"]: one for one in command.json("user", "list")["users"]}
    assert listed[user]["scopes"] == ["shop.read"]
    assert listed[user]["audiences"] == ["credmesh.auth", "orders"]
    assert any(row.split()[0] == user for row in command.ok("user", "list").splitlines())


def test_an_existing_user_is_not_made_again(command: Command, user: str) -> None:
    result = command.run("user", "add", user, password="another password")
    assert result.exit_code == ExitCode.FAILED
    assert user in result.stderr
    command.ok("login", user, password=PASSWORD)


def test_a_password_that_is_too_short_exits_with_2(command: Command, name: str) -> None:
    result = command.run("user", "add", name, password="short")
    assert result.exit_code == ExitCode.USAGE
    assert "password" in result.stderr


def test_a_new_password_replaces_the_old_one_and_ends_its_sessions(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    assert "from revision " in command.ok("user", "passwd", user, password="the new password")
    signed_out(command)
    assert command.run("login", user, password=PASSWORD).exit_code == ExitCode.FAILED
    command.ok("login", user, password="the new password")


def test_a_user_who_loses_a_scope_is_signed_out_and_one_who_gains_is_not(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    shown = command.ok("user", "update", user, "--scope", "shop.read", "--scope", "shop.write")
    assert "shop.read shop.write" in shown
    assert "credmesh.auth orders" in shown  # what is not given stays
    assert "revision" not in shown
    assert command.json("whoami")["identity"]["subject"] == user
    assert "from revision " in command.ok("user", "update", user, "--no-scopes")
    signed_out(command)
    command.ok("login", user, password=PASSWORD)
    assert command.json("whoami")["identity"]["scopes"] == []
    assert command.json("user", "update", user, "--audience", "credmesh.auth")["user"]["audiences"] == ["credmesh.auth"]


def test_deleting_a_user_needs_a_confirmation_and_is_final(command: Command, user: str) -> None:
    assert command.run("user", "delete", user).exit_code == ExitCode.USAGE
    command.ok("login", user, password=PASSWORD)
    command.ok("user", "delete", user, "--yes")
    assert command.run("login", user, password=PASSWORD).exit_code == ExitCode.FAILED
    assert command.run("user", "delete", user, "--yes").exit_code == ExitCode.NOTHING
    assert command.run("user", "passwd", user, password=PASSWORD).exit_code == ExitCode.NOTHING
