"""Running a mesh from the command: keys, nodes, sessions, revocation. Against a real auth replica."""

from __future__ import annotations

import json
import stat

import pytest

from authsvc.cli.failure import ExitCode
from authsvc.cli.mesh.connection import Connection
from authsvc.cli.mesh.profile import load_profile
from credmesh.admin.v1 import accounts_pb2, accounts_pb2_grpc
from tests.authsvc.cli.conftest import PASSWORD, Command, signed_out
from tests.support.waiting import wait_until


def session_of(command: Command, user: str) -> str:
    """Signs the user in; the session's id."""
    session_id: str = command.json("login", user, password=PASSWORD)["sessionId"]
    return session_id


def active_key(command: Command) -> str:
    keys = command.json("keys")["keys"]
    kid: str = next(key["kid"] for key in keys if key["state"] == "KEY_STATE_ACTIVE")
    return kid


def test_keys_lists_the_key_that_signs(command: Command) -> None:
    kid = active_key(command)
    titles, *rows = command.ok("keys").splitlines()
    assert titles.split()[:3] == ["KEY", "STATE", "ALGORITHM"]
    assert [kid, "ACTIVE", "EdDSA"] in [row.split()[:3] for row in rows]


def test_json_has_proto_names_utc_times_and_every_field(command: Command) -> None:
    answer = command.json("keys")
    assert answer["nextPageToken"] == ""
    key = answer["keys"][-1]
    assert key["preparedAt"].endswith("Z")
    assert key["waitingFor"] == []


def test_rotate_keys_returns_when_the_new_key_signs(command: Command) -> None:
    before = active_key(command)
    made = command.json("rotate-keys", "--algorithm", "ES256")["key"]
    assert (made["state"], made["algorithm"]) == ("KEY_STATE_ACTIVE", "KEY_ALGORITHM_ES256")
    assert active_key(command) == made["kid"] != before
    assert made["kid"] in command.ok("keys")


def test_revoking_a_key_signs_nobody_out(command: Command, user: str) -> None:
    session_of(command, user)
    kid = active_key(command)
    assert f"Revoked key {kid}: from revision " in command.ok("revoke-key", kid, "--reason", "it leaked")
    assert kid not in command.ok("keys")
    # The saved token is of the key that is gone; the command renews it by itself.
    assert command.json("whoami")["identity"]["subject"] == user
    again = command.run("revoke-key", kid)
    assert again.exit_code == ExitCode.NOTHING
    assert again.stderr.splitlines()[-1] == "  `credmesh keys` lists the signing keys."


def test_sessions_lists_counts_and_filters(command: Command, user: str) -> None:
    session_id = session_of(command, user)
    listed = command.json("sessions", "--subject", user)
    assert [session["sessionId"] for session in listed["sessions"]] == [session_id]
    assert listed["sessions"][0]["kind"] == "SESSION_KIND_TOKENS"
    assert command.ok("sessions", "--subject", user, "--count") == "1\n"
    row = command.ok("sessions", "--subject", user).splitlines()[1]
    assert row.split()[:4] == [session_id, user, "password", "tokens"]
    assert command.ok("sessions", "--subject", "nobody-at-all") == "nobody-at-all has no session.\n"


def test_a_list_of_several_pages_comes_whole_and_each_entry_once(command: Command, user: str) -> None:
    with Connection.signed_in(load_profile(command.profile, {}), timeout=10, speak_as="", prefer="client") as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.every_page(stub.ListUsers, accounts_pb2.ListUsersRequest(), page_size=1)
    subjects = [one.subject for one in answer.users]
    assert {user, "alice", "bob"} <= set(subjects)
    assert len(subjects) == len(set(subjects))
    assert answer.next_page_token == ""


def test_kick_ends_sessions_and_names_those_that_are_not_there(command: Command, user: str) -> None:
    session_id = session_of(command, user)
    result = command.run("kick", "nosuchsession", session_id)
    assert result.exit_code == ExitCode.NOTHING
    assert f"Ended session {session_id}" in result.stdout
    assert "no such session: nosuchsession" in result.stderr
    assert command.json("sessions", "--subject", user, "--count")["totalSize"] == "0"


def test_what_becomes_of_several_sessions_is_one_json_document(command: Command, user: str) -> None:
    ids = [session_of(command, user), session_of(command.with_profile("other"), user)]
    answers = command.json("kick", *ids)
    assert [answer["sessionId"] for answer in answers] == ids
    assert all(int(answer["revision"]) > 0 for answer in answers)


def test_json_of_one_session_is_an_object_and_of_several_a_list_however_many_were_there(
    command: Command, user: str
) -> None:
    one = session_of(command, user)
    assert command.json("kick", one)["sessionId"] == one
    left = session_of(command.with_profile("other"), user)
    result = command.run("kick", "nosuchsession", left, "--json")
    assert result.exit_code == ExitCode.NOTHING
    assert [answer["sessionId"] for answer in json.loads(result.stdout)] == [left]
    assert "nosuchsession" in json.loads(result.stderr)["error"]["message"]
    result = command.run("kick", "nosuchsession", "noranother", "--json")
    assert json.loads(result.stdout) == []


def test_what_was_ended_before_a_failure_is_told_to_scripts_too(command: Command, user: str) -> None:
    one = session_of(command, user)
    result = command.run("kick", one, "no\nname", "--json")
    assert result.exit_code == ExitCode.USAGE
    assert [answer["sessionId"] for answer in json.loads(result.stdout)] == [one]


def test_an_id_that_looks_like_an_option_is_an_id(command: Command) -> None:
    """Session ids are random: one in 64 begins with a dash, and some of those with `-h`."""
    ids = ["-h3456789012345678901_", "--345678901234567890-_"]
    for arguments in (["kick", *ids, "--reason", "a test"], ["kick", "--reason", "a test", "--", *ids]):
        result = command.run(*arguments)
        assert result.exit_code == ExitCode.NOTHING
        assert f"no such session: {' '.join(ids)}" in result.stderr
    command.ok("revoke", "--session", ids[0])


def test_a_user_who_was_revoked_is_told_to_sign_in_again_and_is_back_then(command: Command, user: str) -> None:
    session_of(command, user)
    assert f"Revoked what was issued to {user} up to now" in command.ok("revoke", "--subject", user)
    assert f"credmesh login {user}" in signed_out(command).stderr
    session_of(command, user)
    assert command.json("whoami")["identity"]["subject"] == user


@pytest.mark.parametrize(
    ("option", "name"), [("--session", "s1"), ("--client", "c1"), ("--audience", "a service"), ("--subject", "x")]
)
def test_revoke_answers_with_the_revision(command: Command, option: str, name: str) -> None:
    answer = command.json("revoke", option, name, "--reason", "a test")
    assert int(answer["revision"]) > 0
    assert answer["committedAt"].endswith("Z")


@pytest.mark.parametrize("arguments", [(), ("--subject", "a", "--client", "b"), ("--subject", "a", "--everyone")])
def test_revoke_wants_one_scope(command: Command, arguments: tuple[str, ...]) -> None:
    result = command.run("revoke", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert "--subject NAME" in result.stderr


def test_revoking_everyone_needs_a_yes(command: Command, user: str) -> None:
    session_of(command, user)
    result = command.run("revoke", "--everyone")
    assert result.exit_code == ExitCode.USAGE
    assert "--yes" in result.stderr
    assert command.json("whoami")["identity"]["subject"] == user
    command.ok("revoke", "--everyone", "--yes")
    signed_out(command)


def test_a_field_that_the_service_refuses_is_named_and_exits_with_2(command: Command) -> None:
    result = command.run("revoke", "--subject", "")
    assert result.exit_code == ExitCode.USAGE
    assert "subject is empty" in result.stderr


def test_nodes_lists_the_replica_and_probes_it(command: Command) -> None:
    (node,) = command.json("nodes", "--no-probe")["nodes"]
    assert node["service"] == "auth"
    assert not node["acknowledged"]
    assert "freshnessAge" not in node
    (probed,) = command.json("nodes", "--probe")["nodes"]
    assert probed["acknowledged"]
    assert int(probed["appliedRevision"]) > 0
    assert probed["longestFreshness"] == "10s"
    assert 0 <= float(probed["freshnessAge"].removesuffix("s")) < 10
    titles, row = command.ok("nodes").splitlines()
    assert titles.split()[-3:] == ["ANSWERED", "FRESHNESS", "REVISION"]
    assert row.split()[0] == node["nodeId"]


def test_history_says_when_it_was_last_vouched_for(command: Command) -> None:
    """It is vouched for on the way, not looked at by the clock: nothing to be alarmed about if that was a while ago."""
    wait_until(lambda: "last vouched for" in command.ok("history"), what="the replica to vouch")
    said = command.ok("history")
    assert "etcd has lost nothing." in said
    assert "checked" not in said


def test_a_scope_that_is_missing_is_named_with_how_to_get_it(command: Command) -> None:
    secret = command.profile.with_name("reader.secret")
    command.ok("client", "add", f"reader-{command.profile.parent.name}", "--scope", "credmesh.keys.read",
               "--audience", "credmesh.auth", "--secret-file", str(secret))  # fmt: skip
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    reader = command.with_profile(
        "reader", client_id=f"reader-{command.profile.parent.name}", client_secret_file=str(secret)
    )
    reader.ok("keys")
    result = reader.run("rotate-keys", "--json")
    assert result.exit_code == ExitCode.FAILED
    error = json.loads(result.stderr)["error"]
    assert error["reason"] == "SCOPE_MISSING"
    assert "credmesh.keys.write" in error["message"]
    assert "--scope credmesh.keys.write" in error["nextStep"]


def test_a_secret_of_a_mesh_before_is_said_to_be_so(command: Command) -> None:
    command.profile.with_name("operator.secret").write_text("cmc_of_another_mesh")
    result = command.run("keys")
    assert result.exit_code == ExitCode.FAILED
    assert "the auth service refuses client operator" in result.stderr
    assert "operator.secret" in result.stderr
    assert "cmc_" not in result.output
