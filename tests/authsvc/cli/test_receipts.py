"""Receipts of revocations, as the command shows them."""

from __future__ import annotations

import json

import pytest

from authsvc.cli.failure import ExitCode
from authsvc.cli.receipts import show_receipt
from authsvc.cli.terminal.output import Output
from credmesh.admin.v1 import receipt_pb2, revocation_pb2
from tests.authsvc.cli.conftest import PASSWORD, Command, Mesh, SilentNode
from tests.authsvc.cli.misbehaving_server import served, signs_in


def test_revoke_wait_shows_who_applied_it_and_when_other_nodes_refuse(command: Command, user: str) -> None:
    command.ok("login", user, password=PASSWORD)
    first, titles, *rows = command.ok("revoke", "--subject", user, "--wait").splitlines()
    assert f"Revoked everything issued to {user}" in first
    assert titles.split()[:4] == ["NODE", "SERVICE", "ADDRESS", "APPLIED"]
    assert " ms " in rows[0]
    assert rows[-2].startswith("Every node applied it within ")
    assert rows[-2].endswith("; no stream was open.")
    assert "every other node refuses it too on methods with a freshness rule" in rows[-1]


def test_a_receipt_in_json_has_every_node(command: Command, user: str) -> None:
    session_id = command.json("login", user, password=PASSWORD)["sessionId"]
    receipt = command.json("kick", session_id, "--wait")["receipt"]
    assert receipt["complete"]
    assert [node["state"] for node in receipt["nodes"]] == ["STATE_APPLIED"]
    assert float(receipt["strictIn"].removesuffix("s")) > 5


def test_a_node_that_lags_is_named_and_the_exit_code_is_1(command: Command, mesh: Mesh, user: str) -> None:
    with SilentNode(mesh):
        result = command.run("revoke", "--subject", user, "--at-most", "0.3")
        assert result.exit_code == ExitCode.FAILED
        assert "silent" in result.stdout
        assert "lags" in result.stdout
        assert "1 of 2 nodes applied it" in result.stdout
        assert "No answer from silent." in result.stdout
        result = command.run("revoke", "--subject", user, "--at-most", "0.3", "--json")
        assert result.exit_code == ExitCode.FAILED
        assert not json.loads(result.stdout)["receipt"]["complete"]


UNREAD = "The list of nodes could not be read in time"


def receipt_of(*states: receipt_pb2.NodeReceipt.State.ValueType, complete: bool) -> receipt_pb2.Receipt:
    nodes = [receipt_pb2.NodeReceipt(node_id=f"n{number}", state=state) for number, state in enumerate(states)]
    return receipt_pb2.Receipt(revision=7, complete=complete, nodes=nodes)


@pytest.mark.parametrize(
    ("receipt", "unread"),
    [
        (receipt_of(receipt_pb2.NodeReceipt.STATE_APPLIED, complete=True), False),
        (receipt_of(receipt_pb2.NodeReceipt.STATE_APPLIED, complete=False), True),
        (receipt_of(complete=False), True),
        (receipt_of(receipt_pb2.NodeReceipt.STATE_LAGGING, complete=False), False),
    ],
)
def test_a_receipt_that_may_lack_a_node_says_so(
    receipt: receipt_pb2.Receipt, unread: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is incomplete although every listed node applied it: the list could not be read after the commit."""
    show_receipt(Output(as_json=False), receipt)
    shown = capsys.readouterr().out
    assert (UNREAD in shown) is unread
    assert ("Every node applied it" in shown) is receipt.complete


def test_an_incomplete_receipt_is_explained_beside_its_exit_code(nowhere: Command) -> None:
    receipt = receipt_of(receipt_pb2.NodeReceipt.STATE_APPLIED, complete=False)
    answer = revocation_pb2.RevokeResponse(revision=7, receipt=receipt).SerializeToString()
    (nowhere.profile.parent / "secret").write_text("cmc_x")
    with served(Login=signs_in, Revoke=lambda _: answer) as server:
        stranger = nowhere.with_profile(
            "stranger", auth=server.target, plaintext=True, client_id="c", client_secret_file="secret"
        )
        result = stranger.run("revoke", "--subject", "alice", "--at-most", "0.001")
    assert result.exit_code == ExitCode.FAILED
    assert UNREAD in result.stdout
    assert result.stderr == "", "this server has no list of users, so there is no warning about alice"


def test_revoking_a_key_comes_with_a_receipt(command: Command) -> None:
    kid = next(key["kid"] for key in command.json("keys")["keys"] if key["state"] == "KEY_STATE_ACTIVE")
    assert "Every node applied it within " in command.ok("revoke-key", kid, "--wait")
