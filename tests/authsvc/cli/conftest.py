"""Fixtures: a mesh with one real auth replica, and the `credmesh` command that uses it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from authsvc.cli.failure import ExitCode
from authsvc.cli.group import credmesh
from credmesh.store.v1 import mesh_pb2
from interceptors.etcd.client import Delete, EtcdClient, Put
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.processes import ISSUER, AuthProcess, seed
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_until

PASSWORD = "a good password"


@dataclass(frozen=True)
class Mesh:
    """A running mesh. Its accounts are those of the development seed."""

    auth: AuthProcess
    etcd: EtcdSettings
    secrets: dict[str, str]


@dataclass(frozen=True)
class Command:
    """The `credmesh` command with its own profile and environment variables."""

    profile: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def environ(self) -> dict[str, str]:
        """The environment of the command. It has nothing of the tests' environment."""
        here = {"PATH": os.environ["PATH"], "HOME": str(self.profile.parent), "CREDMESH_PROFILE": str(self.profile)}
        return {**here, **self.variables}

    @property
    def login_file(self) -> Path:
        """The file where `credmesh login` saves credentials."""
        return self.profile.with_name(f"{self.profile.stem}.credentials.json")

    def run(self, *arguments: str, stdin: str | None = None, password: str = "") -> Result:
        """Runs the command in this process with click's runner, without a terminal."""
        variables: dict[str, str | None] = dict.fromkeys(os.environ)
        variables |= self.environ | ({"CREDMESH_PASSWORD": password} if password else {})
        return CliRunner().invoke(credmesh, list(arguments), input=stdin, env=variables, prog_name="credmesh")

    def ok(self, *arguments: str, stdin: str | None = None, password: str = "") -> str:
        """Runs the command, which must succeed. Returns what it printed."""
        result = self.run(*arguments, stdin=stdin, password=password)
        assert result.exit_code == 0, f"{arguments}: {result.exit_code}\n{result.output}"
        return result.stdout

    def json(self, *arguments: str, password: str = "") -> Any:
        """Runs the command, which must succeed. Returns its answer from JSON."""
        return json.loads(self.ok(*arguments, "--json", password=password))

    def spawn(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Runs the command as a process of the system, with the variables too."""
        return subprocess.run(
            [sys.executable, "-m", "authsvc.cli", *arguments],
            env=self.environ | environ,
            cwd=REPOSITORY,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def with_profile(self, name: str, **changes: Any) -> Command:
        """The command with a profile that differs in these entries. An entry that is None is left out."""
        entries = {**json.loads(self.profile.read_text()), **changes}
        path = self.profile.with_name(f"{name}.json")
        path.write_text(json.dumps({key: value for key, value in entries.items() if value is not None}))
        return replace(self, profile=path)


def sign_in(command: Command, user: str) -> str:
    """Signs the user in, and returns the session's id."""
    session_id: str = command.json("login", user, password=PASSWORD)["sessionId"]
    return session_id


def active_key(command: Command) -> str:
    """The id of the key that signs."""
    keys = command.json("keys")["keys"]
    kid: str = next(key["kid"] for key in keys if key["state"] == "KEY_STATE_ACTIVE")
    return kid


def signed_out(command: Command) -> Result:
    """Waits until `whoami` is refused, and returns its result. A replica learns of a revocation milliseconds later."""

    def refused() -> Result | None:
        result = command.run("whoami")
        return result if result.exit_code == ExitCode.FAILED else None

    result = wait_until(refused, what="the saved login to be refused")
    assert result is not None
    return result


class SilentNode:
    """A registered node that never acknowledges."""

    def __init__(self, mesh: Mesh) -> None:
        self._etcd = EtcdClient(mesh.etcd)
        self._key = Layout(mesh.etcd.prefix).node("silent")

    def __enter__(self) -> None:
        record = mesh_pb2.NodeRecord(format=1, node_id="silent", service="orders")
        self._etcd.commit([], [Put(self._key, record.SerializeToString(), self._etcd.grant(600))])

    def __exit__(self, *_: object) -> None:
        self._etcd.commit([], [Delete(self._key)])
        self._etcd.close()


@pytest.fixture(scope="package")
def mesh(etcd: EtcdProcess) -> Iterator[Mesh]:
    """A mesh of one replica, shared by the tests of this folder that a worker runs. Tests make their own accounts."""
    settings = etcd.settings(f"/cli-{uuid.uuid4().hex}/")
    secrets = seed(settings)
    with AuthProcess(settings) as auth:
        yield Mesh(auth, settings, secrets)


@pytest.fixture
def command(mesh: Mesh, tmp_path: Path) -> Command:
    """The command, with the operator's profile."""
    (tmp_path / "operator.secret").write_text(mesh.secrets["operator"] + "\n")
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps(
            {
                "auth": mesh.auth.target,
                "plaintext": True,
                "client_id": "operator",
                "client_secret_file": "operator.secret",
                "issuer": ISSUER,
                "etcd": ",".join(mesh.etcd.endpoints),
            }
        )
    )
    return Command(profile)


@pytest.fixture
def user(command: Command) -> str:
    """A new user for this test, whose password is PASSWORD."""
    subject = f"user-{uuid.uuid4().hex[:12]}"
    command.ok(
        "user", "add", subject, "--scope", "shop.read", "--audience", "credmesh.auth", "--audience", "orders",
        password=PASSWORD,
    )  # fmt: skip
    return subject


@pytest.fixture
def name() -> str:
    """A name that no other test uses."""
    return f"name-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def nowhere(tmp_path: Path) -> Command:
    """The command with an empty profile, for tests that need no mesh."""
    path = tmp_path / "nowhere.json"
    path.write_text("{}")
    return Command(path)
