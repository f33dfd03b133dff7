"""What a person gets who waits for the nodes: receipts, and a rotation told step by step."""

from __future__ import annotations

import json

import pytest

from authsvc.cli.failure import ExitCode
from authsvc.cli.receipts import show_receipt
from authsvc.cli.rotation_progress import Line, RotationStory
from authsvc.cli.terminal.output import Output
from credmesh.admin.v1 import keys_pb2, receipt_pb2, revocation_pb2
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, Put
from interceptors.keyspace import Layout
from tests.authsvc.cli.conftest import PASSWORD, Command, Mesh
from tests.authsvc.cli.misbehaving_server import served, signs_in

PREPARED, ACTIVE, RETIRING = (
    keys_pb2.KEY_STATE_PREPARED,
    keys_pb2.KEY_STATE_ACTIVE,
    keys_pb2.KEY_STATE_RETIRING,
)


class Silent:
    """A node that is registered and never answers."""

    def __init__(self, mesh: Mesh) -> None:
        self._etcd = EtcdClient(mesh.etcd)
        self._key = Layout(mesh.etcd.prefix).node("silent")

    def __enter__(self) -> None:
        record = mesh_pb2.NodeRecord(format=1, node_id="silent", service="orders")
        self._etcd.commit([], [Put(self._key, record.SerializeToString(), self._etcd.grant(600))])

    def __exit__(self, *_: object) -> None:
        self._etcd.commit([], [Delete(self._key)])
        self._etcd.close()


def test_revoke_with_wait_shows_who_applied_it_and_from_when_everybody_else_refuses(
    command: Command, user: str
) -> None:
    command.ok("login", user, password=PASSWORD)
    first, titles, *rows = command.ok("revoke", "--subject", user, "--wait").splitlines()
    assert f"Revoked what was issued to {user}" in first
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


def test_a_node_that_lags_is_named_and_the_exit_code_tells(command: Command, mesh: Mesh, user: str) -> None:
    with Silent(mesh):
        result = command.run("revoke", "--subject", user, "--at-most", "0.3")
        assert result.exit_code == ExitCode.FAILED
        assert "silent" in result.stdout
        assert "lags" in result.stdout
        assert "1 of 2 nodes applied it" in result.stdout
        assert "silent: no answer." in result.stdout
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
    """Every node in it has applied the revocation, and it is not complete: the list could not be read afterwards."""
    show_receipt(Output(as_json=False), receipt)
    shown = capsys.readouterr().out
    assert (UNREAD in shown) is unread
    assert ("Every node applied it" in shown) is receipt.complete


def test_a_receipt_that_may_lack_a_node_is_not_answered_with_an_exit_code_alone(nowhere: Command) -> None:
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
    assert result.stderr == "", "this server has no list of users, so nothing is said of alice"


def test_revoking_a_key_comes_with_a_receipt(command: Command) -> None:
    kid = next(key["kid"] for key in command.json("keys")["keys"] if key["state"] == "KEY_STATE_ACTIVE")
    assert "Every node applied it within " in command.ok("revoke-key", kid, "--wait")


def test_a_rotation_is_told_step_by_step_until_the_new_key_signs(command: Command, mesh: Mesh) -> None:
    (node,) = command.json("nodes")["nodes"]
    lines = command.ok("rotate-keys", "--watch").splitlines()
    texts = [line.partition(" s  ")[2] for line in lines]
    assert texts[0] == "asked for a new signing key"
    kid = texts[1].split()[0]
    assert texts[1] == f"{kid} PREPARED: it signs when every live node holds it"
    assert any(text.startswith(f"{node['nodeId']} holds it after ") for text in texts)
    assert f"{kid} ACTIVE: it signs" in texts
    assert any(" RETIRING: " in text for text in texts)
    assert kid in command.ok("keys")


def test_a_rotation_that_is_held_up_says_by_whom_and_goes_on_when_the_time_is_up(command: Command, mesh: Mesh) -> None:
    with Silent(mesh):
        result = command.run("rotate-keys", "--watch", "--timeout", "5")
        assert result.exit_code == ExitCode.FAILED
        assert "waits for silent" in result.stdout
        assert "the rotation goes on all the same" in result.stderr
    assert "ACTIVE: it signs" in command.ok("rotate-keys", "--watch")


def test_the_steps_in_json_are_an_object_per_line(command: Command) -> None:
    answers = [json.loads(line) for line in command.ok("rotate-keys", "--watch", "--json").splitlines()]
    assert answers[-1]["keys"][-1]["state"] == "KEY_STATE_ACTIVE"
    assert answers[0]["keys"][-1]["kid"] != answers[-1]["keys"][-1]["kid"]


def key(kid: str, state: keys_pb2.KeyState.ValueType, *, held_by: str = "", waits_for: str = "") -> keys_pb2.Key:
    acknowledged = [keys_pb2.KeyAcknowledgement(node_id=node) for node in held_by]
    return keys_pb2.Key(kid=kid, state=state, acknowledged=acknowledged, waiting_for=list(waits_for))


def told(story: RotationStory, *keys: keys_pb2.Key) -> list[str]:
    lines: list[Line] = list(story.feed(list(keys), 0.0))
    return [line.text for line in lines]


def test_the_story_tells_each_thing_once_in_its_order() -> None:
    story = RotationStory()
    assert told(story, key("old", ACTIVE)) == []
    assert told(story, key("old", ACTIVE), key("new", PREPARED, waits_for="ab")) == [
        "new PREPARED: it signs when every live node holds it",
        "waits for a b",
    ]
    assert told(story, key("old", ACTIVE), key("new", PREPARED, held_by="a", waits_for="b")) == [
        "a holds it",
        "waits for b",
    ]
    assert not story.done
    assert told(story, key("old", RETIRING), key("new", ACTIVE, held_by="ab")) == [
        "b holds it",
        "new ACTIVE: it signs",
        "old RETIRING: what it signed is still accepted",
    ]
    assert story.done


def test_a_rotation_that_was_under_way_is_joined() -> None:
    story = RotationStory()
    assert told(story, key("old", ACTIVE), key("new", PREPARED, waits_for="a"))[0].startswith("new PREPARED")
    assert story.kid == "new"


def test_a_rotation_that_nobody_saw_begin_is_told_by_its_end() -> None:
    story = RotationStory()
    told(story, key("old", ACTIVE))
    assert "new ACTIVE: it signs" in told(story, key("old", RETIRING), key("new", ACTIVE))
    assert story.done


def test_a_key_that_is_revoked_before_it_signs_begins_the_story_anew() -> None:
    story = RotationStory()
    told(story, key("old", ACTIVE))
    told(story, key("old", ACTIVE), key("new", PREPARED, held_by="a"))
    assert told(story, key("old", ACTIVE)) == ["new was removed before it signed; the rotation begins anew"]
    texts = told(story, key("old", ACTIVE), key("next", PREPARED, held_by="a"))
    assert texts == ["next PREPARED: it signs when every live node holds it", "a holds it"]
