"""`credmesh sessions` and `kick`, with a real auth replica."""

from __future__ import annotations

import json

from authsvc.cli.failure import ExitCode
from tests.authsvc.cli.conftest import Command, sign_in


def test_sessions_lists_counts_and_filters(command: Command, user: str) -> None:
    session_id = sign_in(command, user)
    listed = command.json("sessions", "--subject", user)
    assert [session["sessionId"] for session in listed["sessions"]] == [session_id]
    assert listed["sessions"][0]["kind"] == "SESSION_KIND_TOKENS"
    assert command.ok("sessions", "--subject", user, "--count") == "1\n"
    row = command.ok("sessions", "--subject", user).splitlines()[1]
    assert row.split()[:4] == [session_id, user, "password", "tokens"]
    assert command.ok("sessions", "--subject", "no-such-subject") == "no-such-subject has no session.\n"


def test_kick_ends_sessions_and_names_those_that_do_not_exist(command: Command, user: str) -> None:
    session_id = sign_in(command, user)
    result = command.run("kick", "nosuchsession", session_id)
    assert result.exit_code == ExitCode.NOTHING
    assert f"Ended session {session_id}" in result.stdout
    assert "no such session: nosuchsession" in result.stderr
    assert command.json("sessions", "--subject", user, "--count")["totalSize"] == "0"


def test_kick_of_several_sessions_is_one_json_document(command: Command, user: str) -> None:
    ids = [sign_in(command, user), sign_in(command.with_profile("other"), user)]
    answers = command.json("kick", *ids)
    assert [answer["sessionId"] for answer in answers] == ids
    assert all(int(answer["revision"]) > 0 for answer in answers)


def test_kick_in_json_is_an_object_for_one_id_and_a_list_for_several(command: Command, user: str) -> None:
    one = sign_in(command, user)
    assert command.json("kick", one)["sessionId"] == one
    left = sign_in(command.with_profile("other"), user)
    result = command.run("kick", "nosuchsession", left, "--json")
    assert result.exit_code == ExitCode.NOTHING
    assert [answer["sessionId"] for answer in json.loads(result.stdout)] == [left]
    assert "nosuchsession" in json.loads(result.stderr)["error"]["message"]
    result = command.run("kick", "nosuchsession", "noranother", "--json")
    assert json.loads(result.stdout) == []


def test_sessions_that_were_ended_before_a_failure_are_in_the_json(command: Command, user: str) -> None:
    one = sign_in(command, user)
    result = command.run("kick", one, "no\nname", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert [answer["sessionId"] for answer in json.loads(result.stdout)] == [one]


def test_an_id_that_looks_like_an_option_is_an_id(command: Command) -> None:
    """A session id is base64url, which has a dash, so an id may look like `-h`."""
    ids = ["-h3456789012345678901_", "--345678901234567890-_"]
    for arguments in (["kick", *ids, "--reason", "a test"], ["kick", "--reason", "a test", "--", *ids]):
        result = command.run(*arguments)
        assert result.exit_code == ExitCode.NOTHING
        assert f"no such session: {' '.join(ids)}" in result.stderr
    command.ok("revoke", "--session", ids[0])
