"""`credmesh client …`."""

from __future__ import annotations

import stat
from pathlib import Path

from authsvc.cli.failure import ExitCode
from tests.authsvc.cli.conftest import Command


def test_an_updated_client_keeps_what_was_not_given(command: Command, name: str) -> None:
    command.ok("client", "add", name, "--scope", "a", "--audience", "orders")
    assert "from revision " in command.ok("client", "update", name, "--scope", "b")
    (changed,) = [one for one in command.json("client", "list")["clients"] if one["clientId"] == name]
    assert (changed["scopes"], changed["audiences"]) == (["b"], ["orders"])


def test_a_clients_secret_is_replaced_while_the_old_one_still_works(
    command: Command, name: str, tmp_path: Path
) -> None:
    old, new = tmp_path / "old.secret", tmp_path / "new.secret"
    command.ok("client", "add", name, "--audience", "credmesh.auth", "--secret-file", str(old))
    result = command.run("client", "add-secret", name, "--secret-file", str(new))
    assert result.exit_code == 0
    assert "cmc_" not in result.output
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    first, second = next(
        [secret["secretId"] for secret in one["secrets"]]
        for one in command.json("client", "list")["clients"]
        if one["clientId"] == name
    )
    assert first in command.ok("client", "list")
    commands = [command.with_profile(file.stem, client_id=name, client_secret_file=str(file)) for file in (old, new)]
    for each in commands:
        assert each.json("whoami")["identity"]["subject"] == name
    assert command.run("client", "remove-secret", name, first).exit_code == ExitCode.USAGE  # without --yes
    assert f"Removed the secret {first}" in command.ok("client", "remove-secret", name, first, "--yes")
    assert commands[0].run("whoami").exit_code == ExitCode.FAILED
    assert commands[1].json("whoami")["identity"]["subject"] == name
    again = command.run("client", "remove-secret", name, first, "--yes")
    assert again.exit_code == ExitCode.NOTHING
    assert again.stderr.splitlines()[-1] == "  `credmesh client list` lists the clients and their secrets' ids."
    assert command.run("client", "remove-secret", name, second, "--yes").exit_code == ExitCode.FAILED


def test_only_the_clients_secret_is_on_stdout(command: Command, name: str) -> None:
    result = command.run("client", "add", name, "--audience", "credmesh.auth")
    assert result.exit_code == 0
    secret = result.stdout.strip()
    assert secret.startswith("cmc_")
    file = command.profile.with_name("new.secret")
    file.write_text(secret)
    other = command.with_profile("other", client_id=name, client_secret_file=str(file))
    assert other.json("whoami")["identity"]["subject"] == name


def test_a_clients_secret_in_a_file_is_not_printed(command: Command, name: str, tmp_path: Path) -> None:
    file = tmp_path / "new.secret"
    result = command.run("client", "add", name, "--secret-file", str(file), "--json")
    assert result.exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("cmc_")
    assert "cmc_" not in result.output


def test_no_client_is_made_if_its_secret_cannot_be_saved(command: Command, name: str, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("in use")
    for file in (taken, tmp_path / "no" / "folder"):
        assert command.run("client", "add", name, "--secret-file", str(file)).exit_code != ExitCode.OK
    assert taken.read_text() == "in use"
    assert name not in command.ok("client", "list")


def test_no_file_is_left_if_no_client_is_made(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    result = command.run("client", "add", "operator", "--secret-file", str(file))
    assert result.exit_code == ExitCode.FAILED
    assert not file.exists()


def test_a_deleted_client_is_gone(command: Command, name: str) -> None:
    command.ok("client", "add", name)
    assert name in command.ok("client", "list")
    command.ok("client", "delete", name, "--yes")
    assert name not in command.ok("client", "list")
    assert command.run("client", "delete", name, "--yes").exit_code == ExitCode.NOTHING
