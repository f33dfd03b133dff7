"""Users and clients from the command."""

from __future__ import annotations

import stat
import uuid
from pathlib import Path

import pytest

from authsvc.cli.failure import ExitCode
from tests.authsvc.cli.conftest import PASSWORD, Command, signed_out


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"name-{uuid.uuid4().hex[:12]}"


def test_users_are_listed_with_what_they_may_do(command: Command, user: str) -> None:
    listed = {one["subject"]: one for one in command.json("user", "list")["users"]}
    assert listed[user]["scopes"] == ["shop.read"]
    assert listed[user]["audiences"] == ["credmesh.auth", "orders"]
    assert any(row.split()[0] == user for row in command.ok("user", "list").splitlines())


def test_a_user_that_is_there_is_not_made_again(command: Command, user: str) -> None:
    result = command.run("user", "add", user, password="another password")
    assert result.exit_code == ExitCode.FAILED
    assert user in result.stderr
    command.ok("login", user, password=PASSWORD)


def test_a_password_that_is_too_short_exits_with_2(command: Command, name: str) -> None:
    result = command.run("user", "add", name, password="short")
    assert result.exit_code == ExitCode.USAGE
    assert "password" in result.stderr


def test_a_new_password_takes_the_place_of_the_old_one_and_ends_its_sessions(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    assert "from revision " in command.ok("user", "passwd", user, password="the new password")
    signed_out(command)
    assert command.run("login", user, password=PASSWORD).exit_code == ExitCode.FAILED
    command.ok("login", user, password="the new password")


def test_a_user_who_may_do_less_is_signed_out_and_one_who_may_do_more_is_not(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    told = command.ok("user", "update", user, "--scope", "shop.read", "--scope", "shop.write")
    assert "shop.read shop.write" in told
    assert "credmesh.auth orders" in told  # what is not given stays
    assert "revision" not in told
    assert command.json("whoami")["identity"]["subject"] == user
    assert "From revision " in command.ok("user", "update", user, "--no-scopes")
    signed_out(command)
    command.ok("login", user, password=PASSWORD)
    assert command.json("whoami")["identity"]["scopes"] == []
    assert command.json("user", "update", user, "--audience", "credmesh.auth")["user"]["audiences"] == ["credmesh.auth"]


def test_who_has_no_audience_cannot_sign_in_and_is_said_so(command: Command, name: str) -> None:
    told = "It has no audience, so it cannot sign in. Give it one: credmesh {} update {} --audience NAME"
    assert command.ok("user", "add", name, password=PASSWORD) == f"Made user {name}. {told.format('user', name)}\n"
    result = command.run("login", name, password=PASSWORD)
    assert result.exit_code == ExitCode.FAILED
    assert f"{name} was not signed in: the account has no audience" in result.stderr
    assert f"credmesh user update {name} --audience NAME" in result.stderr
    assert told.split(".")[0] not in command.ok("user", "update", name, "--audience", "orders")
    command.ok("login", name, password=PASSWORD)
    assert command.ok("user", "update", name, "--no-audiences").splitlines()[-1] == told.format("user", name)
    result = command.run("client", "add", f"{name}-c")
    assert result.stderr.splitlines()[-1] == told.format("client", f"{name}-c")
    assert command.run("client", "add", f"{name}-d", "--json").stderr == ""


def test_an_update_has_to_say_what_and_only_one_thing(command: Command, user: str, name: str) -> None:
    for kind in ("user", "client"):
        result = command.run(kind, "update", user)
        assert (result.exit_code, "nothing to change" in result.stderr) == (ExitCode.USAGE, True)
        assert command.run(kind, "update", user, "--scope", "a", "--no-scopes").exit_code == ExitCode.USAGE
        assert command.run(kind, "update", name, "--no-scopes").exit_code == ExitCode.NOTHING


def test_a_client_is_changed_in_place(command: Command, name: str) -> None:
    command.ok("client", "add", name, "--scope", "a", "--audience", "orders")
    assert "From revision " in command.ok("client", "update", name, "--scope", "b")
    (changed,) = [one for one in command.json("client", "list")["clients"] if one["clientId"] == name]
    assert (changed["scopes"], changed["audiences"]) == (["b"], ["orders"])


def test_a_clients_secret_is_replaced_while_the_old_one_goes_on_to_work(
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
    speaks = [command.with_profile(file.stem, client_id=name, client_secret_file=str(file)) for file in (old, new)]
    for one in speaks:
        assert one.json("whoami")["identity"]["subject"] == name
    assert command.run("client", "remove-secret", name, first).exit_code == ExitCode.USAGE  # it needs a yes
    assert f"Removed the secret {first}" in command.ok("client", "remove-secret", name, first, "--yes")
    assert speaks[0].run("whoami").exit_code == ExitCode.FAILED
    assert speaks[1].json("whoami")["identity"]["subject"] == name
    again = command.run("client", "remove-secret", name, first, "--yes")
    assert again.exit_code == ExitCode.NOTHING
    assert again.stderr.splitlines()[-1] == "  `credmesh client list` lists the clients and their secrets' ids."
    assert command.run("client", "remove-secret", name, second, "--yes").exit_code == ExitCode.FAILED


def test_deleting_needs_a_yes_and_is_final(command: Command, user: str) -> None:
    assert command.run("user", "delete", user).exit_code == ExitCode.USAGE
    command.ok("login", user, password=PASSWORD)
    command.ok("user", "delete", user, "--yes")
    assert command.run("login", user, password=PASSWORD).exit_code == ExitCode.FAILED
    assert command.run("user", "delete", user, "--yes").exit_code == ExitCode.NOTHING
    assert command.run("user", "passwd", user, password=PASSWORD).exit_code == ExitCode.NOTHING


def test_a_clients_secret_is_all_that_stands_on_stdout(command: Command, name: str) -> None:
    result = command.run("client", "add", name, "--audience", "credmesh.auth")
    assert result.exit_code == 0
    secret = result.stdout.strip()
    assert secret.startswith("cmc_")
    file = command.profile.with_name("new.secret")
    file.write_text(secret)
    other = command.with_profile("other", client_id=name, client_secret_file=str(file))
    assert other.json("whoami")["identity"]["subject"] == name


def test_a_clients_secret_in_a_file_is_shown_nowhere(command: Command, name: str, tmp_path: Path) -> None:
    file = tmp_path / "new.secret"
    result = command.run("client", "add", name, "--secret-file", str(file), "--json")
    assert result.exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("cmc_")
    assert "cmc_" not in result.output


def test_no_client_is_made_if_its_secret_has_no_place(command: Command, name: str, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("in use")
    for file in (taken, tmp_path / "no" / "folder"):
        assert command.run("client", "add", name, "--secret-file", str(file)).exit_code != ExitCode.OK
    assert taken.read_text() == "in use"
    assert name not in command.ok("client", "list")


def test_no_file_stays_if_no_client_is_made(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    result = command.run("client", "add", "operator", "--secret-file", str(file))
    assert result.exit_code == ExitCode.FAILED
    assert not file.exists()


def test_a_client_that_is_deleted_is_gone(command: Command, name: str) -> None:
    command.ok("client", "add", name)
    assert name in command.ok("client", "list")
    command.ok("client", "delete", name, "--yes")
    assert name not in command.ok("client", "list")
    assert command.run("client", "delete", name, "--yes").exit_code == ExitCode.NOTHING
