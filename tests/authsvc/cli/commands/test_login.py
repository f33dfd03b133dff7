"""Signing in, signing out and changing a password with the command."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from authsvc.cli.failure import ExitCode
from authsvc.cli.mesh.saved_login import read_login
from tests.authsvc.cli.conftest import PASSWORD, Command, signed_out
from tests.support.waiting import wait_until


def test_a_login_is_saved_for_its_owner_and_shown_without_secrets(command: Command, user: str) -> None:
    shown = command.ok("login", user, password=PASSWORD)
    assert f"Signed in as {user}." in shown
    assert stat.S_IMODE(command.login_file.stat().st_mode) == 0o600
    saved = read_login(command.login_file)
    assert saved is not None
    for secret in (saved.access_token, saved.refresh_token):
        assert secret
        assert secret not in shown
    answer = command.run("login", user, "--json", password=PASSWORD)
    assert json.loads(answer.stdout)["scopes"] == ["shop.read"]
    saved = read_login(command.login_file)
    assert saved is not None
    assert saved.access_token not in answer.output
    assert saved.refresh_token not in answer.output


def test_whoami_uses_the_user_who_signed_in_else_the_client(command: Command, user: str) -> None:
    assert command.json("whoami")["identity"]["subject"] == "operator"
    command.ok("login", user, password=PASSWORD)
    assert command.json("whoami")["identity"]["subject"] == user
    assert f"Subject    {user} (the user who signed in)" in command.ok("whoami")
    assert command.json("whoami", "--as", "client")["identity"]["subject"] == "operator"


def test_commands_use_the_client_unless_as_user_is_given(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    command.ok("keys")
    result = command.run("keys", "--as", "user")
    assert result.exit_code == ExitCode.FAILED
    assert f"user {user} may not do this: it lacks the scope credmesh.keys.read" in result.stderr


def test_a_profile_without_a_client_uses_the_user(command: Command, user: str) -> None:
    clientless = command.with_profile("clientless", client_id=None, client_secret_file=None)
    result = clientless.run("whoami")
    assert result.exit_code == ExitCode.USAGE
    assert "credmesh login" in result.stderr
    clientless.ok("login", user, password=PASSWORD)
    assert clientless.json("whoami")["identity"]["subject"] == user


def test_a_wrong_password_and_an_unknown_user_look_the_same(command: Command, user: str) -> None:
    wrong = command.run("login", user, password="another password")
    unknown = command.run("login", "no-such-user", password="another password")
    assert "no such user, or the password is wrong" in wrong.stderr
    assert wrong.exit_code == unknown.exit_code == ExitCode.FAILED
    assert wrong.stderr == unknown.stderr.replace("no-such-user", user)
    assert "another password" not in wrong.output
    assert not command.login_file.exists()


@pytest.mark.parametrize(
    ("arguments", "says", "advises"),
    [
        (("--audience", "inventroy"), "does not have the audience inventroy", "Without --audience"),
        (("--audience", "a", "--audience", "b"), "does not have the audiences a b", "Without --audience"),
        (("--scope", "shop.raed"), "does not have the scope shop.raed", "Without --scope"),
    ],
)
def test_a_login_beyond_the_account_names_what_the_account_lacks(
    command: Command, user: str, arguments: tuple[str, ...], says: str, advises: str
) -> None:
    result = command.run("login", user, *arguments, password=PASSWORD)
    assert result.exit_code == ExitCode.FAILED
    message, *next_step = result.stderr.splitlines()
    assert message == f"credmesh: {user} was not signed in: the account {says}"
    assert "`credmesh user list`" in next_step[0]
    assert advises in next_step[0]
    assert f"credmesh user update {user}" in next_step[1]
    assert "client add" not in result.stderr
    assert not command.login_file.exists()


def test_a_password_comes_from_a_file_or_from_stdin(command: Command, user: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(PASSWORD + "\n")
    command.ok("login", user, "--password-file", str(file))
    command.ok("login", user, "--password-file", "-", stdin=PASSWORD + "\n")


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe", b"x" * 70_000])
def test_an_invalid_password_file_is_refused(command: Command, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    result = command.run("login", "alice", "--password-file", str(file))
    assert result.exit_code == ExitCode.USAGE
    assert "the password" in result.stderr


def test_without_a_terminal_there_is_no_password_prompt(command: Command) -> None:
    result = command.run("login", "alice")
    assert result.exit_code == ExitCode.USAGE
    assert "CREDMESH_PASSWORD" in result.stderr


@pytest.mark.parametrize("stdin", [None, "alice\n"])
def test_without_a_terminal_there_is_no_prompt_for_the_name(command: Command, stdin: str | None) -> None:
    result = command.run("login", stdin=stdin, password=PASSWORD)
    assert result.exit_code == ExitCode.USAGE
    message, next_step = result.stderr.splitlines()
    assert message == "credmesh: the user's name is missing, and there is no terminal to ask for it"
    assert next_step == "  Give it: credmesh login SUBJECT"


def test_signing_out_ends_the_session_on_the_mesh(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    credential = command.ok("token", "print").strip()
    assert f"Signed {user} out. Nodes refuse the session from revision " in command.ok("logout")
    assert not command.login_file.exists()
    assert command.json("sessions", "--subject", user, "--count")["totalSize"] == "0"
    refused = ExitCode.FAILED
    wait_until(lambda: command.run("token", "inspect", "-", stdin=credential).exit_code == refused, what="the refusal")
    assert command.run("logout").exit_code == ExitCode.NOTHING


def test_signing_in_again_ends_the_previous_session(command: Command, user: str) -> None:
    first = command.json("login", user, password=PASSWORD)["sessionId"]
    second = command.json("login", user, password=PASSWORD)["sessionId"]
    listed = command.json("sessions", "--subject", user)["sessions"]
    assert [session["sessionId"] for session in listed] == [second] != [first]


def test_an_opaque_session_signs_in_and_out_too(command: Command, user: str) -> None:
    command.ok("login", user, "--opaque", password=PASSWORD)
    assert command.ok("token", "print").startswith("cms_")
    assert command.json("whoami")["identity"]["subject"] == user
    command.ok("logout")
    assert command.json("sessions", "--subject", user, "--count")["totalSize"] == "0"


def test_a_login_can_ask_for_less_than_the_account_has(command: Command, user: str) -> None:
    answer = command.json("login", user, "--audience", "orders", "--scope", "shop.read", password=PASSWORD)
    assert answer["audiences"] == ["orders"]
    result = command.run("whoami")
    assert result.exit_code == ExitCode.FAILED
    assert "credmesh.auth" in result.stderr


def test_token_print_prints_a_header_for_other_tools(command: Command, user: str) -> None:
    assert command.ok("token", "print", "--header").startswith("authorization: Bearer eyJ")
    command.ok("login", user, password=PASSWORD)
    saved = read_login(command.login_file)
    assert saved is not None
    assert command.json("token", "print") == {"token": saved.access_token}


def test_passwd_keeps_you_signed_in_and_ends_your_other_sessions(command: Command, user: str) -> None:
    elsewhere = command.with_profile("elsewhere")
    for one in (command, elsewhere):
        one.ok("login", user, password=PASSWORD)
    changing = replace(command, variables={"CREDMESH_NEW_PASSWORD": "the new password"})
    assert f"Changed the password of {user}" in changing.ok("passwd", password=PASSWORD)
    assert command.json("whoami")["identity"]["subject"] == user
    assert f"credmesh login {user}" in signed_out(elsewhere).stderr
    assert elsewhere.run("login", user, password=PASSWORD).exit_code == ExitCode.FAILED
    elsewhere.ok("login", user, password="the new password")


def test_a_password_is_not_changed_without_the_old_one(command: Command, user: str) -> None:
    changing = replace(command, variables={"CREDMESH_NEW_PASSWORD": "the new password"})
    result = changing.run("passwd", password=PASSWORD)
    assert (result.exit_code, "no user is signed in" in result.stderr) == (ExitCode.USAGE, True)
    command.ok("login", user, password=PASSWORD)
    result = changing.run("passwd", password="not the password")
    assert result.exit_code == ExitCode.USAGE
    assert "old_password is not the caller's password" in result.stderr
    assert command.json("whoami")["identity"]["subject"] == user


def test_passwd_in_json_holds_no_credential(command: Command, user: str) -> None:
    command.ok("login", user, "--opaque", password=PASSWORD)
    changing = replace(command, variables={"CREDMESH_NEW_PASSWORD": "the new password"})
    text = changing.ok("passwd", "--json", password=PASSWORD)
    assert json.loads(text)["credentials"]["sessionId"]
    assert "cms_" not in text
    assert command.json("whoami")["identity"]["subject"] == user
