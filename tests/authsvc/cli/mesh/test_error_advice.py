"""The message and the exit code of a failed call: what happened, and what to do."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import grpc
import pytest

from authsvc.cli.failure import ExitCode
from authsvc.cli.mesh.error_advice import CallerAccount, CallError, failure_of_call
from authsvc.cli.mesh.profile import Profile
from interceptors.errors import Reason
from localmesh.certs import development_certificates
from tests.authsvc.cli.conftest import Command
from tests.authsvc.cli.misbehaving_server import Answer, fails, hangs, refuses, refuses_at_limit, served, signs_in

Code = grpc.StatusCode


@pytest.fixture
def stranger(nowhere: Command) -> Command:
    """The command with a client that no real mesh has."""
    (nowhere.profile.parent / "secret").write_text("cmc_never_shown")
    return nowhere.with_profile("stranger", plaintext=True, client_id="c", client_secret_file="secret")


def at(command: Command, target: str) -> Command:
    return command.with_profile("at", auth=target)


@pytest.mark.parametrize(
    ("answer", "exit_code", "says", "advises"),
    [
        (fails(Code.UNAVAILABLE, "etcd does not answer"), 3, "cannot answer now: etcd does not answer", "Try again"),
        (fails(Code.INTERNAL, "the auth service failed"), 1, "the auth service failed", "log"),
        (fails(Code.UNKNOWN), 1, "answered UNKNOWN", "log"),
        (fails(Code.NOT_FOUND, "there is no key k"), 4, "there is no key k", ""),
        (fails(Code.INVALID_ARGUMENT, "reason is too long"), 2, "reason is too long", ""),
        (fails(Code.FAILED_PRECONDITION, "not now"), 1, "not now", ""),
        (refuses(Reason.SCOPE_MISSING, scope="credmesh.keys.read"), 1, "credmesh.keys.read", "--scope credmesh.keys"),
        (refuses(Reason.SCOPE_MISSING), 1, "lacks a scope", "--scope SCOPE"),
        (refuses(Reason.AUDIENCE_MISMATCH), 1, "not for the auth service", "credmesh.auth"),
        (refuses(Reason.MESH_NOT_READY), 3, "cannot answer now", "etcd"),
        (refuses(Reason.MESH_STALE), 3, "cannot answer now", "etcd"),
        (refuses(Reason.RATE_LIMITED), 1, "too many attempts", "Wait a minute"),
        (
            refuses_at_limit("too many watches; use ListKeys"),
            1,
            "too many watches; use ListKeys",
            "`credmesh keys`",
        ),
        (refuses(Reason.METHOD_DENIED), 1, "no rule allows", ""),
        (refuses(Reason.CREDENTIAL_REVOKED), 1, "client c", "secret"),
    ],
)
def test_a_failed_call_says_what_happened_and_what_to_do(
    stranger: Command, answer: Answer, exit_code: int, says: str, advises: str
) -> None:
    with served(Login=signs_in, ListKeys=answer) as server:
        result = at(stranger, server.target).run("keys", "--json")
    assert result.exit_code == exit_code
    error = json.loads(result.stderr)["error"]
    assert says in error["message"]
    assert advises in error["nextStep"]
    assert result.stdout == ""
    assert "cmc_never_shown" not in result.output


def test_a_server_that_is_no_auth_service_is_reported_as_such(stranger: Command) -> None:
    with served() as server:
        result = at(stranger, server.target).run("keys")
    assert result.exit_code == ExitCode.FAILED
    assert "does not know this call" in result.stderr


def test_an_answer_that_cannot_be_read_is_an_error_and_no_traceback(stranger: Command) -> None:
    with served(Login=signs_in, ListKeys=lambda _: b"\xff\xff\xff") as server:
        result = at(stranger, server.target).run("keys")
    assert result.exit_code == ExitCode.FAILED
    assert "Traceback" not in result.output


def test_a_message_from_a_server_cannot_control_the_terminal(stranger: Command) -> None:
    with served(Login=fails(Code.FAILED_PRECONDITION, "\x1b[2J\x1b]0;owned\x07")) as server:
        result = at(stranger, server.target).run("keys")
    assert "\x1b" not in result.output
    assert "\\x1b[2J" in result.stderr


def test_a_call_without_an_answer_ends_after_the_timeout(stranger: Command) -> None:
    released = threading.Event()
    with served(Login=hangs(released)) as server:
        result = at(stranger, server.target).run("keys", "--timeout", "0.2")
        released.set()
    assert result.exit_code == ExitCode.UNREACHABLE
    assert "did not answer within 0.2 s" in result.stderr
    assert "--timeout" in result.stderr


def test_a_rotation_that_outlasts_the_timeout_is_said_to_continue(stranger: Command) -> None:
    released = threading.Event()
    with served(Login=signs_in, RotateKeys=hangs(released)) as server:
        result = at(stranger, server.target).run("rotate-keys", "--timeout", "0.2")
        released.set()
    assert result.exit_code == ExitCode.FAILED
    assert "the rotation continues" in result.stderr
    assert "credmesh keys" in result.stderr


def test_a_refused_token_is_renewed_only_once(stranger: Command) -> None:
    with served(Login=signs_in, ListKeys=refuses(Reason.KEY_UNKNOWN)) as server:
        result = at(stranger, server.target).run("keys")
    assert result.exit_code == ExitCode.FAILED
    assert [name for name, _ in server.calls] == ["Login", "ListKeys", "Login", "ListKeys"]


def test_a_secret_never_travels_without_tls_unless_the_profile_says_so(stranger: Command) -> None:
    with served(Login=signs_in) as server:
        encrypted = stranger.with_profile("encrypted", auth=server.target, plaintext=None)
        result = encrypted.run("keys")
    assert result.exit_code == ExitCode.UNREACHABLE
    assert server.calls == []


@pytest.mark.parametrize(
    ("entries", "says", "advises"),
    [
        ({"plaintext": None, "ca_file": "certs/ca.pem"}, "does not know this call", "auth service"),
        ({"plaintext": None, "ca_file": "other/ca.pem"}, "is not signed by", "ca_file"),
        ({"plaintext": None}, "is not signed by the system's CAs", "ca_file"),
        ({"plaintext": None, "ca_file": "certs/ca.pem", "server_name": "a.test"}, "is for another host", "server_name"),
        ({}, "closed a connection without TLS", "ca_file"),
    ],
)
def test_a_failed_tls_connection_names_the_entry_to_change(
    stranger: Command, tmp_path: Path, entries: dict[str, str | None], says: str, advises: str
) -> None:
    certificates = development_certificates(tmp_path / "certs")
    development_certificates(tmp_path / "other")
    with served(tls=certificates) as server:
        done = stranger.with_profile("tls", auth=server.target, **entries).spawn("keys")
    assert says in done.stderr
    assert advises in done.stderr
    assert len(done.stderr.splitlines()) == 2, "gRPC's own log is not shown"


def test_a_server_without_tls_is_reported_as_such(stranger: Command) -> None:
    with served(Login=signs_in) as server:
        result = stranger.with_profile("encrypted", auth=server.target, plaintext=None).run("keys")
    assert "does not use TLS" in result.stderr


def test_a_missing_ca_file_is_named(stranger: Command) -> None:
    result = stranger.with_profile("ca", auth="127.0.0.1:1", ca_file="absent.pem").run("keys")
    assert result.exit_code == ExitCode.USAGE
    assert "absent.pem" in result.stderr


@pytest.mark.parametrize("target", ["auth-1:1,auth-2:1", "127.0.0.1:1,[::1]:1"])
def test_an_unusable_address_is_reported(stranger: Command, target: str) -> None:
    result = at(stranger, target).run("keys")
    assert result.exit_code == ExitCode.USAGE
    assert "auth-1" in result.stderr or "mixes" in result.stderr


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ("failed to connect to all addresses; last error: UNKNOWN: Connection refused", "no server answers at"),
        ("", "no server answers at"),
        ("DNS resolution failed for auth.nowhere:1", "no server answers at"),
        ("Tls handshake failed: something new", "no TLS connection to"),
        ("etcd does not answer", "the auth service cannot answer now"),
    ],
)
def test_connection_problems_are_told_apart(details: str, says: str) -> None:
    profile = Profile(auth="127.0.0.1:1", source=Path("p.json"))
    failure = failure_of_call(CallError(Code.UNAVAILABLE, details), profile, CallerAccount(), timeout=1)
    assert says in failure.message
    assert failure.exit_code == ExitCode.UNREACHABLE


@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize(
    "account",
    [CallerAccount(), CallerAccount(name="alice"), CallerAccount("client", "c"), CallerAccount("user", "alice")],
)
def test_every_reason_has_a_message_and_the_right_exit_code(reason: Reason, account: CallerAccount) -> None:
    failure = failure_of_call(CallError(reason.status, reason.message, reason), Profile(auth="h:1"), account, timeout=1)
    assert failure.message
    assert failure.reason == reason.name
    unreachable = reason.status in (Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED)
    assert failure.exit_code == (ExitCode.UNREACHABLE if unreachable else ExitCode.FAILED)
