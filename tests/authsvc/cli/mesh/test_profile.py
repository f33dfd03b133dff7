"""The profile: read from a file and the environment, and a clear failure if it is missing or wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from authsvc.cli.failure import ExitCode, Failure
from authsvc.cli.mesh.error_advice import CallerAccount, CallError, failure_of_call
from authsvc.cli.mesh.profile import load_profile, require_auth
from tests.authsvc.cli.conftest import Command


def write(path: Path, **entries: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


def test_paths_in_a_profile_are_relative_to_it(tmp_path: Path) -> None:
    path = write(tmp_path / "mesh" / "profile.json", auth="h:1", ca_file="ca.pem", client_secret_file="/etc/secret")
    profile = load_profile(path, {})
    assert profile.ca_file == tmp_path / "mesh" / "ca.pem"
    assert profile.client_secret_file == Path("/etc/secret")
    assert profile.credentials_file == tmp_path / "mesh" / "profile.credentials.json"


def test_the_profile_of_make_run_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / ".mesh" / "profile.json", auth="127.0.0.1:1,127.0.0.1:2", services={"orders": "x"}, later=[1])
    monkeypatch.chdir(tmp_path)
    assert load_profile(None, {}).auth == "127.0.0.1:1,127.0.0.1:2"


def test_the_environment_overrides_a_profile_entry_by_entry(tmp_path: Path) -> None:
    path = write(tmp_path / "profile.json", auth="h:1", client_id="operator", issuer="https://a.test")
    profile = load_profile(path, {"CREDMESH_AUTH": "h:2", "CREDMESH_PLAINTEXT": "true", "CREDMESH_ISSUER": " "})
    assert (profile.auth, profile.client_id, profile.plaintext) == ("h:2", "operator", True)
    assert profile.issuer == "https://a.test"


def test_the_environment_alone_is_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    profile = load_profile(None, {"CREDMESH_AUTH": "h:2", "XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert require_auth(profile).auth == "h:2"
    assert profile.credentials_file == tmp_path / "config" / "credmesh" / "environment.credentials.json"


def test_two_profiles_in_one_folder_keep_their_credentials_apart(tmp_path: Path) -> None:
    files = {
        load_profile(write(tmp_path / f"{name}.json", auth="h:1"), {}).credentials_file for name in ("dev", "prod")
    }
    assert len(files) == 2


def test_without_a_profile_the_failure_says_how_to_make_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Failure) as caught:
        require_auth(load_profile(None, {}))
    assert caught.value.exit_code == ExitCode.USAGE
    assert "make run" in caught.value.next_step
    assert "CREDMESH_AUTH" in caught.value.next_step


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not JSON"),
        ("[]", "is not a JSON object"),
        ('{"auth": 3}', "its entry auth is not a string"),
        ('{"auth": "h:1", "plaintext": "yes"}', "its entry plaintext is not true or false"),
    ],
)
def test_a_profile_that_cannot_be_used_says_what_is_wrong_with_it(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(Failure) as caught:
        load_profile(path, {})
    assert problem in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_named_profile_that_does_not_exist_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Failure, match="No such file"):
        load_profile(tmp_path / "absent.json", {"CREDMESH_AUTH": "h:1"})


@pytest.mark.parametrize("environ", [{"CREDMESH_PLAINTEXT": "perhaps"}, {"CREDMESH_CERT_FILE": "cert.pem"}])
def test_a_wrong_variable_is_named(tmp_path: Path, environ: dict[str, str]) -> None:
    path = write(tmp_path / "profile.json", auth="h:1")
    with pytest.raises(Failure) as caught:
        load_profile(path, environ)
    assert next(iter(environ)) in caught.value.message + caught.value.next_step


def test_the_clients_secret_is_read_when_needed_and_is_in_no_repr(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("cmc_verysecret\n")
    profile = load_profile(write(tmp_path / "p.json", auth="h:1", client_id="c", client_secret_file="secret"), {})
    assert profile.client_secret() == "cmc_verysecret"
    assert "verysecret" not in repr(profile)


@pytest.mark.parametrize("content", [None, "", "\n"])
def test_a_missing_or_empty_secret_is_reported(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "secret").write_text(content)
    profile = load_profile(write(tmp_path / "p.json", auth="h:1", client_id="c", client_secret_file="secret"), {})
    with pytest.raises(Failure) as caught:
        profile.client_secret()
    assert str(tmp_path / "secret") in caught.value.message


def test_messages_name_the_file_or_the_variable_that_sets_an_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "profile.json", auth="h:1", ca_file="ca.pem", etcd="e:1")
    profile = load_profile(path, {"CREDMESH_AUTH": "h:2", "CREDMESH_CA_FILE": " ", "ETCD_ENDPOINTS": ""})
    assert (profile.source_of("auth"), profile.setting_of("auth")) == ("CREDMESH_AUTH", "CREDMESH_AUTH")
    assert (profile.source_of("ca_file"), profile.setting_of("ca_file")) == (str(path), f"ca_file in {path}")
    assert (profile.source_of("etcd"), profile.setting_of("server_name")) == (str(path), f"server_name in {path}")
    monkeypatch.chdir(tmp_path)
    assert load_profile(None, {"CREDMESH_AUTH": "h:2"}).setting_of("ca_file") == "CREDMESH_CA_FILE"


@pytest.mark.parametrize(
    ("code", "details", "variable"),
    [
        (grpc.StatusCode.UNAVAILABLE, "", "CREDMESH_AUTH"),
        (grpc.StatusCode.UNIMPLEMENTED, "", "CREDMESH_AUTH"),
        (grpc.StatusCode.UNAVAILABLE, "CERTIFICATE_VERIFY_FAILED", "CREDMESH_CA_FILE"),
        (grpc.StatusCode.UNAVAILABLE, "SSL handshake failed", "CREDMESH_CA_FILE"),
        (grpc.StatusCode.UNAVAILABLE, "Peer name a.test is not in peer certificate", "CREDMESH_SERVER_NAME"),
    ],
)
def test_advice_names_the_variable_or_the_file_that_sets_the_entry(
    tmp_path: Path, code: grpc.StatusCode, details: str, variable: str
) -> None:
    entries = {"auth": "h:1", "ca_file": "ca.pem", "server_name": "a.test"}
    names = {"CREDMESH_AUTH": "auth", "CREDMESH_CA_FILE": "ca_file", "CREDMESH_SERVER_NAME": "server_name"}
    path = write(tmp_path / "profile.json", **entries)
    for environ in ({}, {variable: "other"}):
        failure = failure_of_call(CallError(code, details), load_profile(path, environ), CallerAccount(), timeout=1)
        assert (variable in failure.next_step) is bool(environ)
        assert (str(path) in failure.next_step) is not bool(environ)
    del entries[names[variable]]
    profile = load_profile(write(tmp_path / "profile.json", **entries), {variable: "other"})
    assert variable in failure_of_call(CallError(code, details), profile, CallerAccount(), timeout=1).next_step


def test_a_missing_file_is_reported_with_what_names_it(nowhere: Command) -> None:
    profile = nowhere.with_profile("ca", auth="127.0.0.1:1", ca_file="absent.pem")
    assert f"absent.pem does not exist; {profile.profile} names it" in profile.run("login", "a", password="p").stderr
    overridden = replace(profile, variables={"CREDMESH_CA_FILE": "gone.pem"})
    assert "gone.pem does not exist; CREDMESH_CA_FILE names it" in overridden.run("login", "a", password="p").stderr
