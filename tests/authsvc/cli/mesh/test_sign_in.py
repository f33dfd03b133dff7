"""Calls as the profile's client: pages, missing scopes and old secrets, with a real auth replica."""

from __future__ import annotations

import json
import stat

from authsvc.cli.failure import ExitCode
from authsvc.cli.mesh.profile import load_profile
from authsvc.cli.mesh.sign_in import connect_signed_in
from credmesh.admin.v1 import accounts_pb2, accounts_pb2_grpc
from tests.authsvc.cli.conftest import Command


def test_a_list_of_several_pages_is_complete_and_without_duplicates(command: Command, user: str) -> None:
    with connect_signed_in(load_profile(command.profile, {}), timeout=10, account="", preferred="client") as auth:
        stub = accounts_pb2_grpc.AccountServiceStub(auth.channel)
        answer = auth.every_page(stub.ListUsers, accounts_pb2.ListUsersRequest(), page_size=1)
    subjects = [one.subject for one in answer.users]
    assert {user, "alice", "bob"} <= set(subjects)
    assert len(subjects) == len(set(subjects))
    assert answer.next_page_token == ""


def test_a_missing_scope_is_named_with_the_command_that_adds_it(command: Command) -> None:
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


def test_a_secret_of_an_earlier_mesh_is_refused_with_its_file(command: Command) -> None:
    command.profile.with_name("operator.secret").write_text("cmc_of_another_mesh")
    result = command.run("keys")
    assert result.exit_code == ExitCode.FAILED
    assert "the auth service refuses client operator" in result.stderr
    assert "operator.secret" in result.stderr
    assert "cmc_" not in result.output
