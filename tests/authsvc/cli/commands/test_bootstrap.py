"""The key-encryption key and the first client are made once, without a credential."""

from __future__ import annotations

import base64
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from authsvc.accounts.bootstrap import OPERATOR_SCOPES
from authsvc.cli.failure import ExitCode
from credmesh.store.v1 import auth_pb2
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.settings import EtcdSettings
from localmesh.certs import etcd_certificates
from localmesh.etcd.process import EtcdProcess, EtcdTls
from tests.authsvc.cli.conftest import Command
from tests.support.waiting import free_port


@pytest.fixture
def with_etcd(nowhere: Command, etcd_settings: EtcdSettings) -> Command:
    """The command with an empty etcd, as in an operator's shell in the cluster."""
    endpoints = ",".join(etcd_settings.endpoints)
    variables = {"ETCD_ENDPOINTS": endpoints, "CREDMESH_ETCD_PREFIX": etcd_settings.prefix}
    return replace(nowhere, variables=variables)


def test_a_key_encryption_key_is_made_once_and_only_for_its_owner(nowhere: Command, tmp_path: Path) -> None:
    file = tmp_path / "kek"
    shown = nowhere.ok("bootstrap", "kek", str(file))
    assert f"CREDMESH_KEK_FILE={file}" in shown
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = file.read_text()
    assert len(base64.b64decode(key)) == 32
    assert key.strip() not in shown
    again = nowhere.run("bootstrap", "kek", str(file))
    assert again.exit_code == ExitCode.FAILED
    assert "was not changed" in again.stderr
    assert file.read_text() == key


def test_a_file_that_cannot_be_written_is_reported(nowhere: Command, tmp_path: Path) -> None:
    result = nowhere.run("bootstrap", "kek", str(tmp_path / "no" / "kek"))
    assert result.exit_code == ExitCode.USAGE
    assert "cannot be written" in result.stderr


def test_an_operator_is_made_with_every_scope(
    with_etcd: Command, etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    result = with_etcd.run("bootstrap", "operator", "--client-id", "root")
    assert result.exit_code == 0
    assert result.stdout.strip().startswith("cmc_")
    key = Layout(etcd_settings.prefix).client("root")
    record = auth_pb2.ClientRecord.FromString(etcd_client.read(key).values[key].value)
    assert set(record.scopes) == set(OPERATOR_SCOPES)
    assert list(record.audiences) == ["credmesh.auth"]


def test_the_profile_can_hold_the_address_of_etcd(
    nowhere: Command, etcd_client: EtcdClient, etcd_settings: EtcdSettings
) -> None:
    with_etcd = nowhere.with_profile("b", etcd=",".join(etcd_settings.endpoints), etcd_prefix=etcd_settings.prefix)
    with_etcd.ok("bootstrap", "operator")
    assert etcd_client.count(Layout(etcd_settings.prefix).clients) == 1


def test_an_etcd_that_requires_certificates_is_reached_by_the_profile(nowhere: Command, tmp_path: Path) -> None:
    """The etcd of `make run` does. Paths are relative to the profile, and do not depend on the working directory."""
    made = etcd_certificates(tmp_path)
    server = made.server
    files = {
        "etcd_ca_file": os.path.relpath(made.client.ca_file, nowhere.profile.parent),
        "etcd_cert_file": os.path.relpath(made.client.cert_file, nowhere.profile.parent),
        "etcd_key_file": os.path.relpath(made.client.key_file, nowhere.profile.parent),
    }
    with EtcdProcess(
        tmp_path / "etcd",
        log_file=tmp_path / "etcd.log",
        tls=EtcdTls(ca_file=server.ca_file, cert_file=server.cert_file, key_file=server.key_file),
    ) as etcd:
        with_etcd = nowhere.with_profile("tls", etcd=etcd.endpoint, **files)
        with_etcd.ok("bootstrap", "operator")
        without = nowhere.with_profile("none", etcd=etcd.endpoint)
        result = replace(without, variables={"CREDMESH_ETCD_TIMEOUT": "1"}).run("bootstrap", "operator")
        assert result.exit_code == ExitCode.UNREACHABLE


def test_an_existing_operator_is_not_changed(with_etcd: Command, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    assert with_etcd.json("bootstrap", "operator", "--secret-file", str(file))["clientSecretFile"] == str(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = with_etcd.run("bootstrap", "operator", "--secret-file", str(tmp_path / "other"))
    assert again.exit_code == ExitCode.NOTHING
    assert "--client-id" in again.stderr
    assert not (tmp_path / "other").exists()


def test_an_invalid_client_id_is_refused(with_etcd: Command) -> None:
    result = with_etcd.run("bootstrap", "operator", "--client-id", "")
    assert result.exit_code == ExitCode.USAGE
    assert "client_id" in result.stderr


def test_an_unreachable_etcd_exits_with_3_and_names_the_setting(nowhere: Command) -> None:
    address = f"127.0.0.1:{free_port()}"
    by_file = replace(nowhere.with_profile("away", etcd=address), variables={"CREDMESH_ETCD_TIMEOUT": "0.3"})
    by_variable = replace(by_file, variables={**by_file.variables, "ETCD_ENDPOINTS": address})
    for command, source in ((by_file, str(by_file.profile)), (by_variable, "ETCD_ENDPOINTS")):
        result = command.run("bootstrap", "operator")
        assert result.exit_code == ExitCode.UNREACHABLE
        assert f"The address is from {source}." in result.stderr


def test_without_an_address_of_etcd_the_variable_is_named(nowhere: Command) -> None:
    result = nowhere.run("bootstrap", "operator")
    assert result.exit_code == ExitCode.USAGE
    assert "ETCD_ENDPOINTS" in result.stderr
