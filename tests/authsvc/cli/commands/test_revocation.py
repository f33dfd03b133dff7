"""`credmesh revoke`, and warnings about unknown names. Revoking one succeeds, so a typo would go unnoticed."""

from __future__ import annotations

import json
import uuid

import pytest

from authsvc.accounts.principal import FIRST_PARTY
from authsvc.cli.failure import ExitCode
from authsvc.cli.mesh.profile import load_profile
from authsvc.cli.mesh.sign_in import connect_signed_in
from authsvc.cli.mesh.typo_warnings import PASSWORD_CLIENT, session_exists, subject_exists
from tests.authsvc.cli.conftest import PASSWORD, Command, sign_in, signed_out
from tests.support.waiting import wait_until


def test_a_revoked_user_is_asked_to_sign_in_again_and_can(command: Command, user: str) -> None:
    sign_in(command, user)
    assert f"Revoked everything issued to {user} up to now" in command.ok("revoke", "--subject", user)
    assert f"credmesh login {user}" in signed_out(command).stderr
    sign_in(command, user)
    assert command.json("whoami")["identity"]["subject"] == user


@pytest.mark.parametrize(
    ("option", "name"), [("--session", "s1"), ("--client", "c1"), ("--audience", "a service"), ("--subject", "x")]
)
def test_revoke_answers_with_the_revision(command: Command, option: str, name: str) -> None:
    answer = command.json("revoke", option, name, "--reason", "a test")
    assert int(answer["revision"]) > 0
    assert answer["committedAt"].endswith("Z")


@pytest.mark.parametrize("arguments", [(), ("--subject", "a", "--client", "b"), ("--subject", "a", "--everyone")])
def test_revoke_needs_exactly_one_scope(command: Command, arguments: tuple[str, ...]) -> None:
    result = command.run("revoke", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "--subject NAME" in result.stderr


def test_revoking_everyone_needs_a_confirmation(command: Command, user: str) -> None:
    sign_in(command, user)
    result = command.run("revoke", "--everyone")
    assert result.exit_code == ExitCode.USAGE
    assert "--yes" in result.stderr
    assert command.json("whoami")["identity"]["subject"] == user
    command.ok("revoke", "--everyone", "--yes")
    signed_out(command)


def test_a_field_that_the_auth_service_rejects_exits_with_2(command: Command) -> None:
    result = command.run("revoke", "--subject", "")
    assert result.exit_code == ExitCode.USAGE
    assert "subject is empty" in result.stderr


def client_that_may_only_revoke(command: Command) -> Command:
    """The command with a client that may revoke, and may list nothing."""
    name = f"name-{uuid.uuid4().hex[:12]}"
    file = command.profile.with_name(f"{name}.secret")
    command.ok(
        "client", "add", name, "--scope", "credmesh.revoke", "--audience", "credmesh.auth", "--secret-file", str(file)
    )
    return command.with_profile(name, client_id=name, client_secret_file=str(file))


@pytest.mark.parametrize(
    ("option", "name", "says"),
    [
        ("--subject", "alcie", "There is no user or client alcie."),
        ("--client", "oprator", "There is no client oprator."),
        ("--session", "foo", "There is no live session foo."),
        ("--session", "A" * 22, f"There is no live session {'A' * 22}."),
        ("--session", "-" * 22, f"There is no live session {'-' * 22}."),
    ],
)
def test_revoking_an_unknown_name_succeeds_with_a_warning(command: Command, option: str, name: str, says: str) -> None:
    result = command.run("revoke", f"{option}={name}", "--wait")
    assert result.exit_code == 0, "it was revoked: the name may belong to a deleted account"
    assert "from revision " in result.stdout
    assert "Every node applied it" in result.stdout
    assert result.stderr.startswith(says)
    result = command.run("revoke", f"{option}={name}", "--json")
    assert json.loads(result.stdout)["known"] is False
    assert result.stderr == ""


def test_revoking_a_known_name_gives_no_warning(command: Command, user: str) -> None:
    session_id = command.json("login", user, password=PASSWORD)["sessionId"]
    wait_until(lambda: command.json("sessions", "--subject", user, "--count")["totalSize"] == "1")
    client = client_that_may_only_revoke(command).profile.stem
    for option in (
        f"--session={session_id}", f"--subject={user}", f"--subject={client}", f"--client={client}",
        f"--client={FIRST_PARTY}",
    ):  # fmt: skip
        shown = command.run("revoke", option, "--json")
        assert (json.loads(shown.stdout)["known"], shown.stderr) == (True, ""), option
    assert command.run("revoke", "--subject", user).stderr == ""


def test_there_is_no_warning_about_an_audience_since_none_is_registered(command: Command) -> None:
    result = command.run("revoke", "--audience", f"audience-{uuid.uuid4().hex}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "known" not in command.json("revoke", "--audience", f"audience-{uuid.uuid4().hex}")


def test_a_caller_that_may_not_list_names_gets_no_warning(command: Command) -> None:
    narrow = client_that_may_only_revoke(command)
    for option in ("--subject=alcie", "--client=oprator", f"--session={'A' * 22}"):
        result = narrow.run("revoke", option)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "known" not in narrow.json("revoke", option)


def test_sessions_warns_of_an_unknown_subject_and_not_of_an_idle_one(command: Command, user: str) -> None:
    result = command.run("sessions", "--subject", user)
    assert (result.stdout, result.stderr) == (f"{user} has no session.\n", "")
    assert command.json("sessions", "--subject", user)["known"] is True
    for more in ((), ("--count",)):
        result = command.run("sessions", "--subject", "alcie", *more)
        assert result.exit_code == 0
        assert result.stderr.startswith("There is no user or client alcie.")
        assert command.json("sessions", "--subject", "alcie", *more)["known"] is False


def test_a_name_is_found_at_any_place_in_a_list(command: Command, user: str) -> None:
    names = [user, user + "-", user[:-1], "alice", "bob"]
    for similar in names[1:3]:
        command.ok("user", "add", similar, "--audience", "orders", password=PASSWORD)
    ids = [command.json("login", user, "--profile", str(command.with_profile(f"p{one}").profile), password=PASSWORD)
           ["sessionId"] for one in range(5)]  # fmt: skip
    wait_until(lambda: command.json("sessions", "--subject", user, "--count")["totalSize"] == "5")
    with connect_signed_in(load_profile(command.profile, {}), timeout=10, account="", preferred="client") as auth:
        assert [subject_exists(auth, name) for name in names] == [True] * len(names)
        assert [subject_exists(auth, name) for name in (user + "0", user[:-2], "a", "\U0010ffff")] == [False] * 4
        assert [session_exists(auth, one) for one in ids] == [True] * 5
        assert session_exists(auth, ids[0][:-1] + ("A" if ids[0][-1] != "A" else "B")) is False


def test_the_client_of_password_logins_is_the_auth_services() -> None:
    assert PASSWORD_CLIENT == FIRST_PARTY
