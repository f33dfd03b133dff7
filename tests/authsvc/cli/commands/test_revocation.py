"""What the command says of a name that nobody has: it may be a typo, and a revocation of it looks like any other."""

from __future__ import annotations

import json
import uuid

import pytest

from authsvc.accounts.principal import FIRST_PARTY
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.mesh.known_names import EVERY_USERS_CLIENT, session_is_known, subject_is_known
from authsvc.cli.mesh.profile import load_profile
from tests.authsvc.cli.conftest import PASSWORD, Command
from tests.support.waiting import wait_until


def revoking(command: Command) -> Command:
    """The command as a client that may revoke and may not look at anything."""
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
def test_revoking_what_nobody_is_called_is_done_and_said(command: Command, option: str, name: str, says: str) -> None:
    result = command.run("revoke", f"{option}={name}", "--wait")
    assert result.exit_code == 0, "it was revoked: it may be what was deleted"
    assert "from revision " in result.stdout
    assert "Every node applied it" in result.stdout
    assert result.stderr.startswith(says)
    result = command.run("revoke", f"{option}={name}", "--json")
    assert json.loads(result.stdout)["known"] is False
    assert result.stderr == ""


def test_revoking_what_is_there_warns_of_nothing(command: Command, user: str) -> None:
    session_id = command.json("login", user, password=PASSWORD)["sessionId"]
    wait_until(lambda: command.json("sessions", "--subject", user, "--count")["totalSize"] == "1")
    client = revoking(command).profile.stem
    for option in (
        f"--session={session_id}", f"--subject={user}", f"--subject={client}", f"--client={client}",
        f"--client={FIRST_PARTY}",
    ):  # fmt: skip
        shown = command.run("revoke", option, "--json")
        assert (json.loads(shown.stdout)["known"], shown.stderr) == (True, ""), option
    assert command.run("revoke", "--subject", user).stderr == ""


def test_of_an_audience_nothing_is_said_since_nobody_registers_it(command: Command) -> None:
    result = command.run("revoke", "--audience", f"audience-{uuid.uuid4().hex}")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "known" not in command.json("revoke", "--audience", f"audience-{uuid.uuid4().hex}")


def test_who_may_not_look_is_told_nothing(command: Command) -> None:
    narrow = revoking(command)
    for option in ("--subject=alcie", "--client=oprator", f"--session={'A' * 22}"):
        result = narrow.run("revoke", option)
        assert (result.exit_code, result.stderr) == (0, "")
        assert "known" not in narrow.json("revoke", option)


def test_sessions_of_nobody_are_told_from_those_of_somebody_who_has_none(command: Command, user: str) -> None:
    result = command.run("sessions", "--subject", user)
    assert (result.stdout, result.stderr) == (f"{user} has no session.\n", "")
    assert command.json("sessions", "--subject", user)["known"] is True
    for more in ((), ("--count",)):
        result = command.run("sessions", "--subject", "alcie", *more)
        assert result.exit_code == 0
        assert result.stderr.startswith("There is no user or client alcie.")
        assert command.json("sessions", "--subject", "alcie", *more)["known"] is False


def test_a_name_is_found_in_a_list_wherever_it_stands(command: Command, user: str) -> None:
    names = [user, user + "-", user[:-1], "alice", "bob"]
    for made in names[1:3]:
        command.ok("user", "add", made, "--audience", "orders", password=PASSWORD)
    ids = [command.json("login", user, "--profile", str(command.with_profile(f"p{one}").profile), password=PASSWORD)
           ["sessionId"] for one in range(5)]  # fmt: skip
    wait_until(lambda: command.json("sessions", "--subject", user, "--count")["totalSize"] == "5")
    with Connection.signed_in(load_profile(command.profile, {}), timeout=10, speak_as="", prefer="client") as auth:
        assert [subject_is_known(auth, name) for name in names] == [True] * len(names)
        assert [subject_is_known(auth, name) for name in (user + "0", user[:-2], "a", "\U0010ffff")] == [False] * 4
        assert [session_is_known(auth, one) for one in ids] == [True] * 5
        assert session_is_known(auth, ids[0][:-1] + ("A" if ids[0][-1] != "A" else "B")) is False


def test_everybody_who_shows_a_password_has_one_client() -> None:
    assert EVERY_USERS_CLIENT == FIRST_PARTY
