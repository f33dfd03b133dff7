"""The steps of a rotation, and watching one for longer than the watcher's credential is valid."""

from __future__ import annotations

import json
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from authsvc.cli.failure import ExitCode
from authsvc.cli.rotation_progress import RotationProgress
from credmesh.admin.v1 import keys_pb2
from localmesh.etcd.process import EtcdProcess
from tests.authsvc.cli.conftest import Command, Mesh, SilentNode
from tests.support.processes import AuthProcess, seed
from tests.support.waiting import wait_until

Done = subprocess.CompletedProcess[str]
PREPARED, ACTIVE, RETIRING = (
    keys_pb2.KEY_STATE_PREPARED,
    keys_pb2.KEY_STATE_ACTIVE,
    keys_pb2.KEY_STATE_RETIRING,
)


@pytest.fixture(scope="module")
def short_lived(etcd: EtcdProcess) -> Iterator[Mesh]:
    """A mesh whose access tokens are valid for two seconds."""
    settings = etcd.settings(f"/watch-{uuid.uuid4().hex}/")
    secrets = seed(settings)
    with AuthProcess(settings, environ={"CREDMESH_TOKEN_LIFETIME": "2", "CREDMESH_LEEWAY": "0"}) as auth:
        yield Mesh(auth, settings, secrets)


@contextmanager
def watching(command: Command, *arguments: str) -> Iterator[Future[Done]]:
    """Runs the command as a process that watches a rotation."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(command.spawn, "rotate-keys", "--watch", *arguments)


def logins(mesh: Mesh) -> int:
    return len(mesh.auth.log(event="login", subject="operator", outcome="ok"))


def is_watched(mesh: Mesh) -> bool:
    """Whether exactly one stream is open at the replica."""
    with urllib.request.urlopen(f"{mesh.auth.http_url}/metrics", timeout=5) as answer:  # noqa: S310 - the replica's
        return b"\ncredmesh_open_streams 1.0\n" in answer.read()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_watch_outlives_its_credential_and_repeats_no_step(
    command: Command, short_lived: Mesh, tmp_path: Path, form: str
) -> None:
    (tmp_path / "brief.secret").write_text(short_lived.secrets["operator"])
    mine = command.with_profile("brief", auth=short_lived.auth.target, client_secret_file="brief.secret")
    # A new mesh has no signing key for a moment.
    wait_until(lambda: mine.run("whoami").exit_code == ExitCode.OK, timeout=30)
    before = logins(short_lived)
    with watching(mine, *(["--json"] if form == "json" else [])) as done:
        with SilentNode(short_lived):
            # One login to start with. Two more show that the second stream was ended, too.
            wait_until(lambda: logins(short_lived) >= before + 3 or done.done(), timeout=30)
            assert not done.done(), done.result()
        result = done.result(timeout=30)
    assert result.returncode == ExitCode.OK, result.stderr
    lines = result.stdout.splitlines()
    if form == "json":
        held_by = [len(key["acknowledged"]) for line in lines for key in json.loads(line)["keys"][-1:]]
        assert held_by == sorted(held_by)  # an acknowledgement stays
        assert "KEY_STATE_ACTIVE" in lines[-1]
    else:
        lines = [line.partition(" s  ")[2] for line in lines]
        assert lines.count("asked for a new signing key") == 1
        assert any("ACTIVE: it signs" in line for line in lines)
        assert "waits for silent" in lines
    assert len(lines) == len(set(lines)), lines


def test_a_watch_goes_on_after_one_revocation_and_ends_with_the_second(command: Command, mesh: Mesh) -> None:
    """The first may be meant for another user of the same client. A second is probably meant for this watch."""
    with watching(command) as done, SilentNode(mesh):
        wait_until(lambda: is_watched(mesh))
        before = logins(mesh)
        command.ok("revoke", "--client", "operator")
        # The revoking command signs in, and the watching one signs in again.
        wait_until(lambda: (logins(mesh) >= before + 2 and is_watched(mesh)) or done.done())
        assert not done.done(), done.result()
        command.ok("revoke", "--client", "operator")
        result = done.result(timeout=30)
    assert result.returncode == ExitCode.FAILED
    assert "revoked" in result.stderr


def test_watch_shows_each_step_of_a_rotation_until_the_new_key_signs(command: Command, mesh: Mesh) -> None:
    (node,) = command.json("nodes")["nodes"]
    lines = command.ok("rotate-keys", "--watch").splitlines()
    texts = [line.partition(" s  ")[2] for line in lines]
    assert texts[0] == "asked for a new signing key"
    kid = texts[1].split()[0]
    assert texts[1] == f"{kid} PREPARED: it signs when every registered node holds it"
    assert any(text.startswith(f"{node['nodeId']} holds it after ") for text in texts)
    assert f"{kid} ACTIVE: it signs" in texts
    assert any(" RETIRING: " in text for text in texts)
    assert kid in command.ok("keys")


def test_a_delayed_rotation_names_the_node_and_outlives_the_timeout(command: Command, mesh: Mesh) -> None:
    with SilentNode(mesh):
        result = command.run("rotate-keys", "--watch", "--timeout", "5")
        assert result.exit_code == ExitCode.FAILED
        assert "waits for silent" in result.stdout
        assert "the rotation continues" in result.stderr
    assert "ACTIVE: it signs" in command.ok("rotate-keys", "--watch")


def test_watch_in_json_prints_an_object_per_line(command: Command) -> None:
    answers = [json.loads(line) for line in command.ok("rotate-keys", "--watch", "--json").splitlines()]
    assert answers[-1]["keys"][-1]["state"] == "KEY_STATE_ACTIVE"
    assert answers[0]["keys"][-1]["kid"] != answers[-1]["keys"][-1]["kid"]


def key(kid: str, state: keys_pb2.KeyState.ValueType, *, held_by: str = "", waits_for: str = "") -> keys_pb2.Key:
    acknowledged = [keys_pb2.KeyAcknowledgement(node_id=node) for node in held_by]
    return keys_pb2.Key(kid=kid, state=state, acknowledged=acknowledged, waiting_for=list(waits_for))


def steps(progress: RotationProgress, *keys: keys_pb2.Key) -> list[str]:
    return [step.text for step in progress.update(list(keys), 0.0)]


def test_each_step_is_shown_once_and_in_order() -> None:
    progress = RotationProgress()
    assert steps(progress, key("old", ACTIVE)) == []
    assert steps(progress, key("old", ACTIVE), key("new", PREPARED, waits_for="ab")) == [
        "new PREPARED: it signs when every registered node holds it",
        "waits for a b",
    ]
    assert steps(progress, key("old", ACTIVE), key("new", PREPARED, held_by="a", waits_for="b")) == [
        "a holds it",
        "waits for b",
    ]
    assert not progress.done
    assert steps(progress, key("old", RETIRING), key("new", ACTIVE, held_by="ab")) == [
        "b holds it",
        "new ACTIVE: it signs",
        "old RETIRING: its tokens are still accepted",
    ]
    assert progress.done


def test_a_rotation_in_progress_is_joined() -> None:
    progress = RotationProgress()
    assert steps(progress, key("old", ACTIVE), key("new", PREPARED, waits_for="a"))[0].startswith("new PREPARED")
    assert progress.kid == "new"


def test_a_rotation_whose_start_was_missed_is_shown_by_its_end() -> None:
    progress = RotationProgress()
    steps(progress, key("old", ACTIVE))
    assert "new ACTIVE: it signs" in steps(progress, key("old", RETIRING), key("new", ACTIVE))
    assert progress.done


def test_a_key_that_is_revoked_before_it_signs_restarts_the_steps() -> None:
    progress = RotationProgress()
    steps(progress, key("old", ACTIVE))
    steps(progress, key("old", ACTIVE), key("new", PREPARED, held_by="a"))
    assert steps(progress, key("old", ACTIVE)) == ["new was removed before it signed; the rotation starts again"]
    texts = steps(progress, key("old", ACTIVE), key("next", PREPARED, held_by="a"))
    assert texts == ["next PREPARED: it signs when every registered node holds it", "a holds it"]
