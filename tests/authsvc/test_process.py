"""The auth service as an operator sees it: a process, its settings, its ports, its etcd."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from authsvc.accounts.bootstrap import generate_kek
from credmesh.auth.v1 import auth_pb2, auth_pb2_grpc
from interceptors.errors import Reason, reason_of
from interceptors.settings import EtcdSettings
from localmesh.certs import development_certificates
from localmesh.etcd.process import EtcdProcess
from tests.authsvc.http.test_server import get
from tests.support.processes import ISSUER, KEK, AuthProcess, seed
from tests.support.repository import REPOSITORY
from tests.support.waiting import wait_until

GOOD = {
    "ETCD_ENDPOINTS": "127.0.0.1:1",
    "CREDMESH_ISSUER": ISSUER,
    "CREDMESH_LISTEN": "127.0.0.1:0",
    "CREDMESH_PLAINTEXT": "true",
    "CREDMESH_KEK": KEK,
}


@dataclass(frozen=True)
class Shared:
    """A replica with the development accounts, and the secrets of its clients by client id."""

    replica: AuthProcess
    secrets: dict[str, str]


@pytest.fixture(scope="module")
def shared(etcd: EtcdProcess) -> Iterator[Shared]:
    """One replica, shared by the tests that change little."""
    settings = etcd.settings(f"/process-{os.getpid()}/")
    secrets = seed(settings)
    with AuthProcess(settings) as process:
        yield Shared(process, secrets)


@pytest.fixture
def replica(shared: Shared) -> AuthProcess:
    """The shared replica."""
    return shared.replica


def _run(environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "authsvc"], env=dict(environ), capture_output=True, text=True, timeout=30, check=False
    )


def _login(stub: auth_pb2_grpc.AuthServiceStub, subject: str, password: str) -> auth_pb2.Credentials:
    grant = auth_pb2.PasswordGrant(subject=subject, password=password)
    return stub.Login(auth_pb2.LoginRequest(password=grant), timeout=20).credentials


def _refusal(call: Any, request: Any, **options: Any) -> tuple[grpc.StatusCode, Reason | None, str]:
    with pytest.raises(grpc.RpcError) as failed:
        call(request, timeout=20, **options)
    error: Any = failed.value
    return error.code(), reason_of(error.trailing_metadata()), error.details()


ABSENT = ("ETCD_ENDPOINTS", "CREDMESH_ISSUER", "CREDMESH_LISTEN", "CREDMESH_KEK")
WRONG = (
    ("CREDMESH_TOKEN_LIFETIME", "soon"),
    ("CREDMESH_KEY_ALGORITHM", "none"),
    ("CREDMESH_KEK", "dG9vIHNob3J0"),
    ("CREDMESH_KEK", "not base64!"),
    ("CREDMESH_HTTP_LISTEN", "8080"),
    ("CREDMESH_LISTEN", "nowhere"),
    ("CREDMESH_LOG_LEVEL", "loud"),
)

RUN_EACH = """
import contextlib, io, json, os, sys
from authsvc.__main__ import main

ends = []
for environ in json.load(sys.stdin):
    os.environ.clear()
    os.environ.update(environ)
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            code = end.code
    ends.append((code, said.getvalue()))
print(json.dumps(ends))
"""
"""Runs the main program under each of the given environments. The start of a process costs more than the rest."""


@pytest.fixture(scope="module")
def ends() -> dict[tuple[str, str | None], tuple[int, list[str]]]:
    """By variable and value, None if absent: the exit code and the lines on stderr of the main program."""
    environs: dict[tuple[str, str | None], dict[str, str]] = {
        (absent, None): {name: value for name, value in GOOD.items() if name != absent} for absent in ABSENT
    }
    environs |= {(variable, wrong): {**GOOD, variable: wrong} for variable, wrong in WRONG}
    done = subprocess.run(
        [sys.executable, "-c", RUN_EACH],
        input=json.dumps(list(environs.values())),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    found = [(code, said.splitlines()) for code, said in json.loads(done.stdout)]
    return dict(zip(environs, found, strict=True))


@pytest.mark.parametrize("absent", ABSENT)
def test_an_absent_setting_is_one_line_and_exit_code_2(
    ends: dict[tuple[str, str | None], tuple[int, list[str]]], absent: str
) -> None:
    code, (line,) = ends[absent, None]
    assert code == 2
    assert line.startswith(f"auth: {absent}")
    assert "for example: " in line


@pytest.mark.parametrize(("variable", "wrong"), WRONG)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    ends: dict[tuple[str, str | None], tuple[int, list[str]]], variable: str, wrong: str
) -> None:
    code, (line,) = ends[variable, wrong]
    assert code == 2, line
    assert line.startswith(f"auth: {variable}")
    assert variable != "CREDMESH_KEK" or wrong not in line


def test_a_missing_file_of_the_key_encryption_key_is_named(tmp_path: Path) -> None:
    environ = {name: value for name, value in GOOD.items() if name != "CREDMESH_KEK"}
    missing = tmp_path / "kek"
    ended = _run({**environ, "CREDMESH_KEK_FILE": str(missing)})
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1)
    assert f"CREDMESH_KEK_FILE={missing}" in ended.stderr


@pytest.mark.parametrize("variable", ["CREDMESH_LISTEN", "CREDMESH_HTTP_LISTEN"])
def test_a_port_that_is_taken_is_named(etcd_settings: EtcdSettings, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        replica = AuthProcess(etcd_settings, environ={variable: address})
        replica.start(wait=False)
        assert replica.wait() == 1
    assert address in replica.output
    assert variable in replica.output
    assert "Traceback" not in replica.output


def test_it_starts_before_etcd_and_logs_what_it_waits_for(own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings()
    own_etcd.stop()
    replica = AuthProcess(settings, environ={"CREDMESH_ETCD_TIMEOUT": "0.5"})
    replica.start(wait=False)
    try:
        replica.wait_for(
            lambda: any(own_etcd.endpoint in line["message"] for line in replica.log(level="WARNING")),
            "it says that etcd does not answer",
        )
        port = int(replica.log(message="the HTTP server listens")[0]["port"])
        assert get(port, "/healthz").status == 200
        assert get(port, "/readyz").status == 503
        assert not replica.log(message="auth listens")
        own_etcd.start()
        replica.wait_for(lambda: replica.log(message="auth listens"), "it listens")
        wait_until(lambda: get(port, "/readyz").status == 200, timeout=20, what="it is ready")
        assert "Traceback" not in replica.output
    finally:
        assert replica.stop() == 0


def test_it_can_be_stopped_while_it_waits_for_etcd(own_etcd: EtcdProcess) -> None:
    settings = own_etcd.settings()
    own_etcd.stop()
    replica = AuthProcess(settings)
    replica.start(wait=False)
    replica.wait_for(lambda: f"reading the mesh's state from etcd at {own_etcd.endpoint}" in replica.output, "it waits")
    assert replica.stop() == 0
    assert "Traceback" not in replica.output


def test_it_serves_health_checks_reflection_and_http(replica: AuthProcess) -> None:
    with replica.channel() as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for service in ("", "credmesh.auth.v1.AuthService", "credmesh.admin.v1.AccountService"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING, service
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        (listed,) = reflection.ServerReflectionInfo(iter([ask]), timeout=10)
    names = {service.name for service in listed.list_services_response.service}
    assert {
        "credmesh.admin.v1.AccountService",
        "credmesh.admin.v1.KeyService",
        "credmesh.admin.v1.NodeService",
        "credmesh.admin.v1.RevocationService",
        "credmesh.admin.v1.SessionService",
        "credmesh.auth.v1.AuthService",
    } <= names
    # It may listen before its first signing key is active. A login waits for that.
    wait_until(lambda: get(_http(replica), "/readyz").status == 200, what="it is ready")


def test_another_library_verifies_our_token_with_our_key_set(replica: AuthProcess) -> None:
    with replica.channel() as channel:
        token = _login(auth_pb2_grpc.AuthServiceStub(channel), "alice", "alice-password").access_token
    keys = KeySet.import_key_set(get(_http(replica), "/.well-known/jwks.json").json())
    decoded = jwt.decode(token, keys, algorithms=["ES256"])
    assert decoded.header == {"alg": "ES256", "kid": decoded.header["kid"], "typ": "at+jwt"}
    registry = jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": ISSUER},
        sub={"essential": True, "value": "alice"},
        aud={"essential": True, "value": "storefront"},
        exp={"essential": True},
        jti={"essential": True},
        client_id={"essential": True},
    )
    registry.validate(decoded.claims)
    # Not vacuous: a changed token fails, and so does a key set without the key.
    head, body, signature = token.split(".")
    with pytest.raises((JoseError, ValueError)):
        jwt.decode(f"{head}.{body}.{signature[::-1]}", keys, algorithms=["ES256"])
    with pytest.raises((JoseError, ValueError)):
        jwt.decode(token, KeySet([ECKey.generate_key("P-256")]), algorithms=["ES256"])


def test_tokens_signed_by_another_key_are_refused(replica: AuthProcess) -> None:
    """Everything but the key is right: the claims are those of our token, and one of them names our kid."""
    with replica.channel() as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        ours = _login(stub, "alice", "alice-password").access_token
        keys = KeySet.import_key_set(get(_http(replica), "/.well-known/jwks.json").json())
        decoded = jwt.decode(ours, keys, algorithms=["ES256"])
        theirs = ECKey.generate_key("P-256")
        only = ["ES256"]
        forgeries = {
            "their key under our kid": (
                jwt.encode(decoded.header, decoded.claims, theirs, algorithms=only),
                Reason.CREDENTIAL_INVALID,
            ),
            "their key under their kid": (
                jwt.encode({**decoded.header, "kid": "theirs"}, decoded.claims, theirs, algorithms=only),
                Reason.KEY_UNKNOWN,
            ),
        }
        good = (("authorization", f"Bearer {ours}"),)
        assert stub.WhoAmI(auth_pb2.WhoAmIRequest(), metadata=good, timeout=10).identity.subject == "alice"
        for what, (forged, reason) in forgeries.items():
            forged_metadata = (("authorization", f"Bearer {forged}"),)
            outcome = _refusal(stub.WhoAmI, auth_pb2.WhoAmIRequest(), metadata=forged_metadata)
            assert outcome[:2] == (grpc.StatusCode.UNAUTHENTICATED, reason), what


def test_an_unknown_user_and_a_wrong_password_get_the_same_answer(replica: AuthProcess) -> None:
    with replica.channel() as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        outcomes = []
        for subject in ("alice", "nobody"):
            before = _hashes(replica)
            grant = auth_pb2.PasswordGrant(subject=subject, password="a wrong password")
            outcome = _refusal(stub.Login, auth_pb2.LoginRequest(password=grant))
            outcomes.append((*outcome, _hashes(replica) - before))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][:2] == (grpc.StatusCode.UNAUTHENTICATED, Reason.CREDENTIAL_INVALID)
    assert outcomes[0][3] == 1


def test_guessing_is_slowed_for_one_account_only(etcd_settings: EtcdSettings) -> None:
    seed(etcd_settings)
    with (
        AuthProcess(etcd_settings, environ={"CREDMESH_LOGIN_FAILURES_PER_ACCOUNT": "2"}) as replica,
        replica.channel() as channel,
    ):
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        wrong = auth_pb2.LoginRequest(password=auth_pb2.PasswordGrant(subject="alice", password="wrong"))
        assert [_refusal(stub.Login, wrong)[1] for _ in range(2)] == [Reason.CREDENTIAL_INVALID] * 2
        # Each further failure doubles the delay, so that one is longer than the pause before the next attempt.
        wait_until(lambda: _refusal(stub.Login, wrong)[1] is Reason.RATE_LIMITED, what="an attempt to be refused")
        assert _login(stub, "bob", "bob-password").access_token


def test_logins_and_calls_are_counted(replica: AuthProcess) -> None:
    method = "/credmesh.auth.v1.AuthService/Login"
    names = (
        'credmesh_audit_events_total{event="login",outcome="ok"}',
        'credmesh_audit_events_total{event="login",outcome="refused"}',
        f'credmesh_auth_calls_total{{code="OK",method="{method}"}}',
        f'credmesh_auth_calls_total{{code="UNAUTHENTICATED",method="{method}"}}',
    )
    before = [_metric(replica, name) for name in names]
    with replica.channel() as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        _login(stub, "bob", "bob-password")
        wrong = auth_pb2.LoginRequest(password=auth_pb2.PasswordGrant(subject="bob", password="wrong"))
        _refusal(stub.Login, wrong)
    assert [_metric(replica, name) - was for name, was in zip(names, before, strict=True)] == [1, 1, 1, 1]


def test_it_serves_tls_with_a_kek_from_a_file_and_takes_no_plaintext(
    etcd_settings: EtcdSettings, tmp_path: Path
) -> None:
    generate_kek(tmp_path / "kek")
    seed(etcd_settings)
    kek = {"CREDMESH_KEK": "", "CREDMESH_KEK_FILE": str(tmp_path / "kek")}
    with AuthProcess(etcd_settings, tls=development_certificates(tmp_path / "tls"), environ=kek) as replica:
        with replica.channel() as channel:
            assert _login(auth_pb2_grpc.AuthServiceStub(channel), "alice", "alice-password").access_token
        with grpc.insecure_channel(replica.target) as channel:
            stub = auth_pb2_grpc.AuthServiceStub(channel)
            assert _refusal(stub.WhoAmI, auth_pb2.WhoAmIRequest())[0] is grpc.StatusCode.UNAVAILABLE
        assert replica.stop() == 0


def test_the_development_accounts_sign_in(shared: Shared) -> None:
    with shared.replica.channel() as channel:
        stub = auth_pb2_grpc.AuthServiceStub(channel)
        for subject in ("alice", "bob"):
            assert sorted(_login(stub, subject, f"{subject}-password").scopes) == ["shop.buy", "shop.read"]
        assert shared.secrets
        for client_id, secret in shared.secrets.items():
            grant = auth_pb2.ClientCredentialsGrant(client_id=client_id, client_secret=secret)
            given = stub.Login(auth_pb2.LoginRequest(client_credentials=grant), timeout=20).credentials
            assert given.access_token
            assert not given.refresh_token


def test_two_replicas_serve_one_mesh(etcd_settings: EtcdSettings) -> None:
    """Each accepts what the other has issued, also after the other was killed."""
    seed(etcd_settings)
    with AuthProcess(etcd_settings) as first, AuthProcess(etcd_settings) as second:
        with first.channel() as channel:
            given = _login(auth_pb2_grpc.AuthServiceStub(channel), "alice", "alice-password")
        first.kill()
        with second.channel() as channel:
            stub = auth_pb2_grpc.AuthServiceStub(channel)
            metadata = (("authorization", f"Bearer {given.access_token}"),)
            assert stub.WhoAmI(auth_pb2.WhoAmIRequest(), metadata=metadata, timeout=10).identity.subject == "alice"
            renewed = stub.Refresh(auth_pb2.RefreshRequest(refresh_token=given.refresh_token), timeout=20)
            assert renewed.credentials.session_id == given.session_id


def test_its_log_holds_no_credential_and_sigterm_ends_it_with_exit_code_0(etcd_settings: EtcdSettings) -> None:
    secrets = seed(etcd_settings)
    with AuthProcess(etcd_settings, environ={"CREDMESH_LOG_LEVEL": "debug"}) as replica:
        with replica.channel() as channel:
            stub = auth_pb2_grpc.AuthServiceStub(channel)
            given = _login(stub, "alice", "alice-password")
            wrong = auth_pb2.LoginRequest(
                password=auth_pb2.PasswordGrant(subject="alice", password="my-other-password")
            )
            _refusal(stub.Login, wrong)
            renewed = stub.Refresh(auth_pb2.RefreshRequest(refresh_token=given.refresh_token), timeout=20).credentials
            stub.Logout(auth_pb2.LogoutRequest(token=renewed.refresh_token), timeout=20)
            bad = (("authorization", f"Bearer {renewed.access_token[:-4]}AAAA"),)
            _refusal(stub.WhoAmI, auth_pb2.WhoAmIRequest(), metadata=bad)
        assert replica.stop() == 0
    shown = [
        "alice-password",
        "my-other-password",
        KEK,
        given.access_token,
        given.refresh_token,
        renewed.access_token,
        renewed.access_token.rpartition(".")[0],
        renewed.refresh_token,
        *secrets.values(),
    ]
    assert [secret for secret in shown if secret in replica.output] == []
    events = {line["event"] for line in replica.log(logger="credmesh.audit")}
    assert {"login", "refresh", "logout", "refused"} <= events
    assert replica.log(message="auth has stopped")
    assert "Traceback" not in replica.output


def _http(replica: AuthProcess) -> int:
    return int(replica.http_url.rpartition(":")[2])


def _hashes(replica: AuthProcess) -> float:
    return _metric(replica, 'credmesh_password_hashes_total{purpose="verify"}')


def _metric(replica: AuthProcess, name: str) -> float:
    for line in get(_http(replica), "/metrics").body.decode().splitlines():
        if line.startswith(name + " "):
            return float(line.rpartition(" ")[2])
    return 0.0
