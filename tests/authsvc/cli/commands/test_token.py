"""`credmesh token inspect`: what a token holds, and whether and why the mesh would accept it now."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from authsvc.cli.failure import ExitCode
from authsvc.cli.mesh.saved_login import read_login
from credmesh.auth.v1 import auth_pb2
from interceptors.errors import Reason
from interceptors.tokens.opaque_token import OpaqueKind, OpaqueToken
from localmesh.forged_tokens import with_claims
from tests.authsvc.cli.conftest import PASSWORD, Command
from tests.authsvc.cli.misbehaving_server import Answer, fails, refuses, served, signs_in
from tests.support.processes import ISSUER
from tests.support.waiting import free_port, wait_until


@pytest.fixture
def token(command: Command, user: str) -> str:
    """An access token of a user who has signed in."""
    command.ok("login", user, password=PASSWORD)
    return command.ok("token", "print").strip()


def inspected(command: Command, token: str, *options: str) -> tuple[int, Any]:
    """The exit code of `token inspect` and its answer from JSON."""
    result = command.run("token", "inspect", "-", "--json", *options, stdin=token)
    assert token not in result.output
    return result.exit_code, json.loads(result.stdout)


def refused(command: Command, token: str) -> Any:
    """Waits until the token is refused, and returns the answer. A replica learns of a revocation milliseconds later."""

    def verdict() -> Any:
        code, answer = inspected(command, token)
        return answer if (code, answer["verdict"]) == (1, "refused") else None

    return wait_until(verdict, what="the token to be refused")


def finds(answer: Any) -> dict[str, str]:
    return {check["check"]: check["finds"] for check in answer["checks"]}


def foreign(**claims: Any) -> str:
    """A well-formed token with the signature of a key that the mesh does not have."""
    whole = {
        "iss": ISSUER, "sub": "alice", "aud": "orders", "exp": time.time() + 60, "nbf": 1, "iat": 1, "jti": "j",
        "client_id": "c", "scope": "", "epoch": 1, **claims,
    }  # fmt: skip
    return jwt.encode(whole, Ed25519PrivateKey.generate(), "EdDSA", {"kid": "theirs", "typ": "at+jwt"})


def test_a_good_token_is_accepted_and_every_check_says_so(command: Command, user: str, token: str) -> None:
    code, answer = inspected(command, token, "--audience", "orders")
    assert (code, answer["verdict"], answer["kind"]) == (0, "accepted", "ACCESS_TOKEN")
    assert answer["claims"]["sub"] == user
    assert answer["meanings"]["sub"]["source"] == "RFC 7519 section 4.1.2"
    names = ("form", "header", "signature", "claims", "issuer", "time", "audience", "now")
    assert finds(answer) == dict.fromkeys(names, "GOOD")


def test_each_claim_is_shown_with_its_meaning_and_source(command: Command, user: str, token: str) -> None:
    shown = command.ok("token", "inspect", token)
    assert "It would be accepted now" in shown
    row = next(line for line in shown.splitlines() if line.startswith("sub "))
    assert user in row
    assert "the subject: a user" in row
    assert "RFC 7519 §4.1.2" in row
    assert "min)" in next(line for line in shown.splitlines() if line.startswith("exp "))
    assert token.rpartition(".")[2] not in shown


def test_a_token_is_read_from_an_argument_stdin_a_file_or_the_login(
    command: Command, token: str, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"authorization: Bearer {token}\r\n")
    for arguments, stdin in (
        ((token,), None),
        (("-",), f"Bearer {token}\n"),
        (("--file", str(file)), None),
        ((), None),
    ):
        command.ok("token", "inspect", *arguments, stdin=stdin)
    assert command.run("token", "inspect", token, "--file", str(file)).exit_code == ExitCode.USAGE


@pytest.mark.parametrize(("arguments", "stdin"), [((), None), (("-",), ""), (("-",), "Bearer \n"), (("",), None)])
def test_a_missing_token_exits_with_2(command: Command, arguments: tuple[str, ...], stdin: str | None) -> None:
    assert command.run("token", "inspect", *arguments, stdin=stdin).exit_code == ExitCode.USAGE


def test_a_token_at_another_service_is_refused_for_its_audience(command: Command, token: str) -> None:
    code, answer = inspected(command, token, "--audience", "inventory")
    assert (code, answer["verdict"]) == (1, "refused")
    assert "not for inventory" in answer["why"]
    assert finds(answer)["now"] == "GOOD"


def test_a_revoked_token_is_reported_as_revoked(command: Command, user: str, token: str) -> None:
    command.ok("revoke", "--subject", user)
    answer = refused(command, token)
    assert "it was revoked" in answer["why"]
    assert str(answer["claims"]["epoch"]) in answer["why"]
    assert finds(answer)["signature"] == "GOOD"


def test_a_token_whose_key_was_revoked_says_so(command: Command, token: str) -> None:
    kid = jwt.get_unverified_header(token)["kid"]
    command.ok("revoke-key", kid)
    command.ok("rotate-keys")
    answer = refused(command, token)
    assert f"the mesh has no key {kid}: it was removed or revoked" in answer["why"]


def test_the_signature_of_an_altered_token_is_bad(command: Command, token: str) -> None:
    code, answer = inspected(command, with_claims(token, sub="root"))
    assert (code, finds(answer)["signature"]) == (1, "BAD")


def test_a_session_token_shows_its_session_and_is_introspected(command: Command, user: str) -> None:
    session_id = command.json("login", user, "--opaque", password=PASSWORD)["sessionId"]
    token = command.ok("token", "print").strip()
    code, answer = inspected(command, token)
    assert (code, answer["verdict"], answer["kind"]) == (0, "accepted", "SESSION_TOKEN")
    assert answer["sessionId"] == session_id
    command.ok("kick", session_id)
    refused(command, token)


def test_a_refresh_token_is_introspected_and_not_used_up(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    saved = read_login(command.login_file)
    assert saved is not None
    code, answer = inspected(command, saved.refresh_token)
    assert (code, answer["verdict"], answer["kind"]) == (0, "accepted", "REFRESH_TOKEN")
    command.ok("logout")
    refused(command, saved.refresh_token)


def test_without_the_scope_to_introspect_the_token_makes_a_call_itself(command: Command, user: str, token: str) -> None:
    clientless = command.with_profile("clientless", client_id=None, client_secret_file=None)
    code, answer = inspected(clientless, token)
    assert (code, answer["verdict"]) == (0, "accepted")
    command.ok("revoke", "--subject", user)
    answer = refused(clientless, token)
    assert "it was revoked" in answer["why"]


def test_with_an_unreachable_mesh_the_answer_says_what_is_unchecked(command: Command, token: str) -> None:
    away = command.with_profile("away", auth=f"127.0.0.1:{free_port()}")
    code, answer = inspected(away, token)
    assert (code, answer["verdict"]) == (0, "unknown")
    assert finds(answer)["signature"] == finds(answer)["now"] == "UNKNOWN"
    assert "no server answers at" in answer["why"]
    expired = foreign(exp=time.time() - 600)
    code, answer = inspected(away, expired)
    assert (code, answer["why"]) == (1, "expired 10 min ago")


def test_offline_or_without_a_profile_no_server_is_asked(nowhere: Command) -> None:
    with served() as server:
        here = nowhere.with_profile("here", auth=server.target, plaintext=True, issuer=ISSUER)
        code, answer = inspected(here, foreign(), "--offline")
        assert server.calls == []
    assert (code, answer["verdict"]) == (0, "unknown")
    code, answer = inspected(nowhere, foreign())
    assert (code, answer["verdict"]) == (0, "unknown")
    assert "address of the auth service is not known" in answer["why"]


@pytest.mark.parametrize(
    "token",
    [
        foreign(iss="https://other.test"),
        foreign(),
        OpaqueToken.generate(OpaqueKind.CLIENT_SECRET).text(),
        OpaqueToken.generate(OpaqueKind.SESSION).text()[:-1] + "!",
        "nothing",
    ],
    ids=["another-issuer", "another-key", "client-secret", "broken-session-token", "no-token"],
)
def test_a_token_that_is_not_the_meshs_is_sent_nowhere(nowhere: Command, token: str) -> None:
    with served(GetKeySet=lambda _: b"") as server:
        here = nowhere.with_profile("here", auth=server.target, plaintext=True, issuer=ISSUER)
        code, answer = inspected(here, token)
    assert (code, answer["verdict"]) == (1, "refused")
    assert [name for name, _ in server.calls] in ([], ["GetKeySet"])
    assert all(not credential for _, credential in server.calls)


@pytest.mark.parametrize(
    ("reason", "verdict", "says"),
    [
        (Reason.AUDIENCE_MISMATCH, "accepted", "valid, but for other services"),
        (Reason.CREDENTIAL_REVOKED, "refused", "it was revoked"),
        (Reason.CREDENTIAL_EXPIRED, "refused", "it expired"),
        (Reason.CREDENTIAL_INVALID, "refused", "no such session"),
        (Reason.MESH_NOT_READY, "unknown", "could not be checked"),
    ],
)
def test_each_reason_of_the_auth_service_is_explained(
    nowhere: Command, reason: Reason, verdict: str, says: str
) -> None:
    session = OpaqueToken.generate(OpaqueKind.SESSION).text()
    with served(WhoAmI=refuses(reason)) as server:
        here = nowhere.with_profile("here", auth=server.target, plaintext=True)
        _, answer = inspected(here, session)
    assert answer["verdict"] == verdict
    assert says in answer["why"]
    assert server.calls == [("WhoAmI", f"Bearer {session}")]


def accepts(expires_at: float) -> Answer:
    """An Introspect that reports a token as active."""
    answer = auth_pb2.IntrospectResponse(active=True, identity=auth_pb2.Identity(subject="alice"))
    answer.expires_at.FromMicroseconds(int(expires_at * 1e6))
    return lambda _: answer.SerializeToString()


@pytest.mark.parametrize(
    ("ago", "says"),
    [
        (-60, "and it expires in "),
        (1.5, "within the 5 s of clock skew that nodes tolerate"),
        (30, "this machine's clock is ahead, or the auth service's CREDMESH_LEEWAY is above 5 s"),
    ],
)
def test_a_token_that_is_accepted_after_its_expiry_is_explained(nowhere: Command, ago: float, says: str) -> None:
    (nowhere.profile.parent / "secret").write_text("cmc_never_shown")
    expires = time.time() - ago
    away = fails(grpc.StatusCode.UNAVAILABLE)
    with served(Login=signs_in, GetKeySet=away, Introspect=accepts(expires)) as server:
        here = nowhere.with_profile(
            "here", auth=server.target, plaintext=True, client_id="c", client_secret_file="secret", issuer=ISSUER
        )
        code, answer = inspected(here, foreign(exp=expires))
        shown = here.run("token", "inspect", "-", stdin=foreign(exp=expires)).stdout
    assert (code, answer["verdict"]) == (0, "accepted")
    assert says in answer["why"]
    ages = set(re.findall(r"expire[sd] (?:in )?([0-9.]+ \w+)", shown))
    assert len(ages) == 1, "all of the answer is about one point in time"


def test_a_refresh_token_is_never_sent_as_a_credential(nowhere: Command) -> None:
    with served(WhoAmI=refuses(Reason.CREDENTIAL_INVALID)) as server:
        here = nowhere.with_profile("here", auth=server.target, plaintext=True)
        code, answer = inspected(here, OpaqueToken.generate(OpaqueKind.REFRESH).text())
    assert (code, answer["verdict"]) == (0, "unknown")
    assert server.calls == []


def test_a_failing_auth_service_leaves_the_verdict_unknown(nowhere: Command) -> None:
    session = OpaqueToken.generate(OpaqueKind.SESSION).text()
    with served(WhoAmI=fails(grpc.StatusCode.INTERNAL, "broken")) as server:
        here = nowhere.with_profile("here", auth=server.target, plaintext=True)
        code, answer = inspected(here, session)
    assert (code, answer["verdict"]) == (0, "unknown")
    assert "broken" in answer["why"]


def test_a_claim_cannot_control_the_terminal(nowhere: Command) -> None:
    token = foreign(sub="\x1b[2J\u202egnp.exe", **{"\x1b]0;owned\x07": "[bold]x"})
    result = nowhere.run("token", "inspect", token, "--offline")
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output
    assert "\\x1b[2J" in result.stdout
    assert "[bold]x" in result.stdout
