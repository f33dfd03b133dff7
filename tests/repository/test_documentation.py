"""The README and docs/ are true: their code runs, their make targets exist, and their tables are complete."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_tools import protoc

from authsvc.cli.mesh import profile
from credmesh.samples.inventory.v1 import inventory_pb2, inventory_pb2_grpc
from docs import configuration
from interceptors.errors import Reason
from localmesh.addresses import PREFERRED
from localmesh.parts import TLS_VARIABLES_OF_ETCD
from localmesh.processes.process import Process
from tests.support.repository import REPOSITORY
from tests.support.running_mesh import RunningMesh, environment
from tests.support.waiting import wait_until

README = (REPOSITORY / "README.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()


def block(name: str) -> str:
    """The code block of the README that is marked with `runs in the tests: name`."""
    match = re.search(rf"<!-- runs in the tests: {name} -->\n```\w+\n(.*?)```", README, re.DOTALL)
    assert match is not None, f"the README has no code that is marked {name!r}"
    return match[1]


def significant(code: str) -> int:
    """The number of lines of code, without imports and empty lines."""
    return len([line for line in code.splitlines() if line.strip() and not line.startswith(("from ", "import "))])


def server(mesh: RunningMesh, folder: Path, **changes: str) -> Process:
    """The README's server in a process that is not started yet, with settings as a platform would set them."""
    found = mesh.profile
    script = folder / "inventory.py"
    script.write_text(block("server"))
    settings = {
        "ETCD_ENDPOINTS": found["etcd"],
        **{name: found[name.lower()] for name in TLS_VARIABLES_OF_ETCD},
        "CREDMESH_ETCD_PREFIX": found["etcd_prefix"],
        "CREDMESH_ISSUER": found["issuer"],
        "CREDMESH_SERVICE": "inventory",
        "CREDMESH_LISTEN": "127.0.0.1:0",
        "CREDMESH_TLS_CERT_FILE": str(mesh.folder / "tls" / "server.pem"),
        "CREDMESH_TLS_KEY_FILE": str(mesh.folder / "tls" / "server.key"),
    }
    return Process(
        [sys.executable, str(script)],
        environment=environment(**settings | changes),
        log_file=folder / "inventory.log",
    )


def lines(process: Process) -> list[dict[str, Any]]:
    """The lines of a process's log, each of which must be JSON."""
    whole = process.log_file.read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def test_the_server_in_ten_lines_runs_and_knows_its_caller(mesh: RunningMesh, tmp_path: Path) -> None:
    assert significant(block("server")) <= 13
    process = server(mesh, tmp_path)
    process.start()
    try:
        ports = wait_until(lambda: [one["port"] for one in lines(process) if "port" in one], 30, "it listens")
        metadata = (("authorization", f"Bearer {mesh.sign_in('alice').access_token}"),)
        request = inventory_pb2.GetStockRequest(sku="tea")
        with mesh.channel(f"127.0.0.1:{ports[0]}") as channel:
            stub = inventory_pb2_grpc.InventoryServiceStub(channel)
            answer = stub.GetStock(request, metadata=metadata, timeout=20)
            with pytest.raises(grpc.RpcError):
                stub.GetStock(request, timeout=20)
    finally:
        process.terminate()
        assert process.wait(20)
    assert process.exit_code == 0, process.log_file.read_text()
    assert (answer.left, answer.seen.subject) == (7, "alice")
    (audited,) = [one for one in lines(process) if one["logger"] == "credmesh.audit"]
    assert (audited["service"], audited["reason"]) == ("inventory", "CREDENTIAL_MISSING")


@pytest.mark.parametrize(
    ("variable", "example"),
    [
        ("ETCD_ENDPOINTS", "ETCD_ENDPOINTS=10.0.0.1:2379,10.0.0.2:2379"),
        ("CREDMESH_ISSUER", "CREDMESH_ISSUER=https://auth.example.com"),
        ("CREDMESH_LISTEN", "CREDMESH_LISTEN=0.0.0.0:8443"),
    ],
)
def test_a_missing_variable_is_reported_in_one_line_with_an_example(
    mesh: RunningMesh, tmp_path: Path, variable: str, example: str
) -> None:
    process = server(mesh, tmp_path, **{variable: ""})
    process.start()
    assert process.wait(30)
    assert process.exit_code == 2
    # The node has already logged lines of JSON when the server's settings are read.
    (said,) = [line for line in process.log_file.read_text().splitlines() if not line.startswith("{")]
    assert said == f"inventory: {variable} is not set; for example: {example}"


def test_the_client_in_ten_lines_runs(mesh: RunningMesh) -> None:
    code = block("client")
    assert significant(code) <= 11
    usual = {name: f"127.0.0.1:{PREFERRED[name]}" for name in ("auth-1", "auth-2", "inventory")}
    for part, address in usual.items():
        assert address in code, f"the README's address of {part} is the one that `make run` takes"
    code = code.replace(f"{usual['auth-1']},{usual['auth-2']}", mesh.profile["auth"])
    code = code.replace(usual["inventory"], mesh.profile["services"]["inventory"])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=mesh.folder.parent,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert 'subject: "alice"' in done.stdout


def test_the_reason_of_a_refused_call_is_read_as_the_readme_says(
    mesh: RunningMesh, capsys: pytest.CaptureFixture[str]
) -> None:
    with mesh.channel(mesh.profile["services"]["inventory"]) as channel:
        stub = inventory_pb2_grpc.InventoryServiceStub(channel)
        exec(block("reason"), {"inventory_pb2": inventory_pb2, "stub": stub})  # noqa: S102 - the README's own
    assert capsys.readouterr().out == "Reason.CREDENTIAL_MISSING\n"


def test_the_proto_in_the_readme_is_the_samples_own_and_compiles(tmp_path: Path) -> None:
    sample = (REPOSITORY / "protos/credmesh/samples/inventory/v1/inventory.proto").read_text()
    for line in block("proto").splitlines():
        assert line.strip() in sample, f"not in the sample: {line}"
    (tmp_path / "inventory.proto").write_text(block("proto"))
    well_known = resources.files("grpc_tools") / "_proto"
    paths = [f"--proto_path={path}" for path in (tmp_path, REPOSITORY / "protos", well_known)]
    assert protoc.main(["protoc", *paths, f"--python_out={tmp_path}", "inventory.proto"]) == 0


def test_the_readme_and_the_runbook_locate_the_command_before_using_it() -> None:
    for page in ("README.md", "docs/operations.md"):
        text = (REPOSITORY / page).read_text()
        used = re.search(r"`credmesh [a-z-]|\$ credmesh ", text)
        assert used is not None
        assert -1 < text.find("`.venv/bin/credmesh`") < used.start(), page


def test_every_make_target_in_the_docs_exists() -> None:
    text = README + "".join(path.read_text() for path in (REPOSITORY / "docs").glob("*.md"))
    named = set(re.findall(r"`make ([a-z-]+)", text))
    targets = set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))
    assert named
    assert named <= targets


def test_the_table_of_reasons_is_complete() -> None:
    table = README.split("## When a call is refused")[1]
    for row in [row for row in table.splitlines() if row.startswith("| `")]:
        reasons, status = row.split("|")[1:3]
        for name in re.findall(r"`([A-Z_]+)`", reasons):
            assert Reason[name].status.name == status.strip(), name
    assert set(re.findall(r"`([A-Z_]+)`", table)) == set(Reason.__members__)


def test_every_file_that_the_docs_name_exists() -> None:
    for page in (REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md")):
        text = page.read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
        for path in re.findall(
            r"`((?:interceptors|authsvc|services|localmesh|protos|tests|deploy)/[\w/.-]+\.\w+)`", text
        ):
            assert (REPOSITORY / path).exists(), f"{page.name} names {path}"


def test_the_page_of_the_settings_is_up_to_date() -> None:
    assert configuration.PAGE.read_text() == configuration.page(), "run `make docs`"


def test_every_variable_in_the_code_is_on_the_page_of_the_settings() -> None:
    """The page is generated from the settings objects. A variable that is read elsewhere would be missing."""
    known = set(re.findall(r"(?m)^\| `([A-Z_]+)`", configuration.PAGE.read_text()))
    for folder in ("interceptors", "authsvc", "services", "localmesh"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            texts = {str(one.value) for one in ast.walk(ast.parse(path.read_text())) if isinstance(one, ast.Constant)}
            named = {text for text in texts if re.fullmatch(r"(CREDMESH|ETCD)_[A-Z_]*[A-Z]|[A-Z]+_TARGET", text)}
            assert named <= known, path


def test_every_variable_of_a_profile_is_in_the_commands_table() -> None:
    part = configuration.PAGE.read_text().split("## The `credmesh` command")[1].split("\n## ")[0]
    described = set(re.findall(r"(?m)^\| `([A-Z_]+)`", part))
    assert set(profile._VARIABLES.values()) <= described
