"""Watching a rotation for longer than a credential lives, against real replicas."""

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
from localmesh.etcd.process import EtcdProcess
from tests.authsvc.cli.conftest import Command, Mesh
from tests.authsvc.cli.test_receipts import Silent
from tests.support.processes import AuthProcess, seed
from tests.support.waiting import wait_until

Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def brief(etcd: EtcdProcess) -> Iterator[Mesh]:
    """A mesh whose access tokens live for two seconds."""
    settings = etcd.settings(f"/watch-{uuid.uuid4().hex}/")
    secrets = seed(settings)
    with AuthProcess(settings, environ={"CREDMESH_TOKEN_LIFETIME": "2", "CREDMESH_LEEWAY": "0"}) as auth:
        yield Mesh(auth, settings, secrets)


@contextmanager
def watching(command: Command, *arguments: str) -> Iterator[Future[Done]]:
    """The command as a process, which watches a rotation."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(command.spawn, "rotate-keys", "--watch", *arguments)


def logins(mesh: Mesh) -> int:
    return len(mesh.auth.log(event="login", subject="operator", outcome="ok"))


def is_watched(mesh: Mesh) -> bool:
    """Whether a stream is open at the replica."""
    with urllib.request.urlopen(f"{mesh.auth.http_url}/metrics", timeout=5) as answer:  # noqa: S310 - the replica's
        return b"\ncredmesh_open_streams 1.0\n" in answer.read()


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_rotation_is_watched_for_longer_than_a_credential_lives_and_nothing_is_told_twice(
    command: Command, brief: Mesh, tmp_path: Path, form: str
) -> None:
    (tmp_path / "brief.secret").write_text(brief.secrets["operator"])
    mine = command.with_profile("brief", auth=brief.auth.target, client_secret_file="brief.secret")
    # A mesh that has just been made has no key to sign with yet.
    wait_until(lambda: mine.run("whoami").exit_code == ExitCode.OK, timeout=30)
    before = logins(brief)
    with watching(mine, *(["--json"] if form == "json" else [])) as done:
        with Silent(brief):
            # The first is the one that it begins with. Two more: the second stream was cut, too.
            wait_until(lambda: logins(brief) >= before + 3 or done.done(), timeout=30)
            assert not done.done(), done.result()
        result = done.result(timeout=30)
    assert result.returncode == ExitCode.OK, result.stderr
    told = result.stdout.splitlines()
    if form == "json":
        held_by = [len(key["acknowledged"]) for line in told for key in json.loads(line)["keys"][-1:]]
        assert held_by == sorted(held_by)  # who has acknowledged once has done so for good
        assert "KEY_STATE_ACTIVE" in told[-1]
    else:
        told = [line.partition(" s  ")[2] for line in told]
        assert told.count("asked for a new signing key") == 1
        assert any("ACTIVE: it signs" in line for line in told)
        assert "waits for silent" in told
    assert len(told) == len(set(told)), told


def test_a_watch_goes_on_after_one_revocation_and_ends_with_the_second(command: Command, mesh: Mesh) -> None:
    """The first may have been meant for somebody else who had the secret; whoever revokes again means this one."""
    with watching(command) as done, Silent(mesh):
        wait_until(lambda: is_watched(mesh))
        before = logins(mesh)
        command.ok("revoke", "--client", "operator")
        # The command that revokes signs in, and so does the one that watches.
        wait_until(lambda: (logins(mesh) >= before + 2 and is_watched(mesh)) or done.done())
        assert not done.done(), done.result()
        command.ok("revoke", "--client", "operator")
        result = done.result(timeout=30)
    assert result.returncode == ExitCode.FAILED
    assert "revoked" in result.stderr
