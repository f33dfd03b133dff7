"""What `credmesh user` and `credmesh client` share."""

from __future__ import annotations

from authsvc.cli.failure import ExitCode
from tests.authsvc.cli.conftest import PASSWORD, Command


def test_an_account_without_an_audience_cannot_sign_in(command: Command, name: str) -> None:
    note = "It has no audience, so it cannot sign in. Add one: credmesh {} update {} --audience NAME"
    assert command.ok("user", "add", name, password=PASSWORD) == f"Made user {name}. {note.format('user', name)}\n"
    result = command.run("login", name, password=PASSWORD)
    assert result.exit_code == ExitCode.FAILED
    assert f"{name} was not signed in: the account has no audience" in result.stderr
    assert f"credmesh user update {name} --audience NAME" in result.stderr
    assert note.split(".")[0] not in command.ok("user", "update", name, "--audience", "orders")
    command.ok("login", name, password=PASSWORD)
    assert command.ok("user", "update", name, "--no-audiences").splitlines()[-1] == note.format("user", name)
    result = command.run("client", "add", f"{name}-c")
    assert result.stderr.splitlines()[-1] == note.format("client", f"{name}-c")
    assert command.run("client", "add", f"{name}-d", "--json").stderr == ""


def test_an_update_needs_a_change_and_no_contradiction(command: Command, user: str, name: str) -> None:
    for kind in ("user", "client"):
        result = command.run(kind, "update", user)
        assert (result.exit_code, "nothing to change" in result.stderr) == (ExitCode.USAGE, True)
        assert command.run(kind, "update", user, "--scope", "a", "--no-scopes").exit_code == ExitCode.USAGE
        assert command.run(kind, "update", name, "--no-scopes").exit_code == ExitCode.NOTHING
