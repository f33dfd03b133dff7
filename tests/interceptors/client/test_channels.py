"""Channels are encrypted unless told otherwise, and reach one server or several."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from interceptors.client import AioCredentials, Credentials, FixedToken, aio_channel, channel
from interceptors.client.channel_arguments import ChannelArguments, channel_arguments
from interceptors.errors import Reason
from tests.interceptors.client.auth_server import World, methods, reason_in
from tests.support.waiting import wait_until

MINE = Credentials(FixedToken("mine"))


@dataclass(frozen=True)
class Identity:
    """A self-signed certificate, which is its own CA."""

    cert_file: Path
    key_file: Path

    @classmethod
    def make(cls, folder: Path, name: str, *hosts: str) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        names: list[x509.GeneralName] = []
        for host in hosts:
            try:
                names.append(x509.IPAddress(ipaddress.ip_address(host)))
            except ValueError:
                names.append(x509.DNSName(host))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        made = cls(folder / f"{name}.pem", folder / f"{name}.key")
        made.cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made

    def serving(self, client: Identity | None = None) -> grpc.ServerCredentials:
        """Returns a server's credentials; with `client`, the server requires that client certificate."""
        pair = (self.key_file.read_bytes(), self.cert_file.read_bytes())
        roots = None if client is None else client.cert_file.read_bytes()
        return grpc.ssl_server_credentials([pair], roots, require_client_auth=client is not None)


@pytest.fixture(scope="session")
def identity(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.make(tmp_path_factory.mktemp("tls"), "server", "localhost", "127.0.0.1", "orders.example.com")


@pytest.fixture
def secure(identity: Identity) -> Iterator[World]:
    world = World()
    world.start(credentials=identity.serving())
    yield world
    world.stop()


@pytest.fixture
def second(identity: Identity) -> Iterator[World]:
    world = World()
    world.start(credentials=identity.serving())
    yield world
    world.stop()


def call(target: str, **options: Any) -> bytes:
    """Makes one call over a new channel, which must succeed."""
    with channel(target, credentials=MINE, **options) as made:
        answer: bytes = methods(made)[0](b"x", timeout=10)
        return answer


async def call_aio(target: str, **options: Any) -> bytes:
    async with aio_channel(target, credentials=AioCredentials(FixedToken("mine")), **options) as made:
        answer: bytes = await methods(made)[0](b"x", timeout=10)
        return answer


def test_a_call_goes_over_tls_with_its_credential(secure: World, identity: Identity) -> None:
    assert call(secure.target, ca_file=identity.cert_file) == b"mine: x"
    assert call(f"localhost:{secure.port}", ca_file=str(identity.cert_file)) == b"mine: x"
    assert asyncio.run(call_aio(secure.target, ca_file=identity.cert_file)) == b"mine: x"


def test_plaintext_is_used_only_if_it_is_allowed(world: World) -> None:
    with pytest.raises(grpc.RpcError) as error:
        call(world.target)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert world.calls == []
    assert call(world.target, allow_plaintext=True) == b"mine: x"
    with pytest.raises(grpc.aio.AioRpcError):
        asyncio.run(call_aio(world.target))
    assert asyncio.run(call_aio(world.target, allow_plaintext=True)) == b"mine: x"


def test_permission_for_plaintext_does_not_turn_tls_off(world: World, identity: Identity) -> None:
    with pytest.raises(grpc.RpcError):
        call(world.target, ca_file=identity.cert_file, allow_plaintext=True)
    assert world.calls == []


def test_a_server_with_an_untrusted_certificate_gets_no_credential(secure: World, tmp_path: Path) -> None:
    other = Identity.make(tmp_path, "other", "127.0.0.1")
    for options in ({}, {"ca_file": other.cert_file}):
        with pytest.raises(grpc.RpcError) as error:
            call(secure.target, **options)
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert secure.calls == []


def test_a_server_with_another_name_gets_no_credential(secure: World, identity: Identity) -> None:
    with pytest.raises(grpc.RpcError, match="Verification"):
        call(secure.target, ca_file=identity.cert_file, server_name="elsewhere.example.com")
    assert secure.calls == []
    assert call(secure.target, ca_file=identity.cert_file, server_name="orders.example.com") == b"mine: x"


def test_a_client_certificate_is_presented(identity: Identity, tmp_path: Path) -> None:
    client = Identity.make(tmp_path, "client", "client")
    world = World()
    world.start(credentials=identity.serving(client))
    try:
        with pytest.raises(grpc.RpcError):
            call(world.target, ca_file=identity.cert_file)
        answer = call(world.target, ca_file=identity.cert_file, cert_file=client.cert_file, key_file=client.key_file)
        assert answer == b"mine: x"
    finally:
        world.stop()


def test_a_unix_socket_needs_no_tls(tmp_path: Path) -> None:
    world = World()
    world.start(address=f"unix:{tmp_path}/orders.sock")
    try:
        assert call(f"unix:{tmp_path}/orders.sock") == b"mine: x"
    finally:
        world.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_several_servers_share_the_calls_and_replace_each_other(
    secure: World, second: World, identity: Identity, host: str
) -> None:
    target = f"{host}:{secure.port}, {host}:{second.port}"
    with channel(target, ca_file=identity.cert_file, credentials=MINE) as made:
        unary = methods(made)[0]
        wait_until(lambda: unary(b"x", timeout=10) and secure.calls and second.calls)
        secure.stop()
        wait_until(lambda: answers(unary))
        before = len(second.calls)
        for _ in range(10):
            unary(b"x", timeout=10)
        assert len(second.calls) == before + 10


def answers(unary: Any) -> bool:
    try:
        unary(b"x", timeout=10)
    except grpc.RpcError:
        return False
    return True


def test_several_servers_in_plaintext(world: World) -> None:
    with (
        World() as other,
        channel(f"{world.target},{other.target}", credentials=MINE, allow_plaintext=True) as made,
    ):
        unary = methods(made)[0]
        wait_until(lambda: unary(b"x", timeout=10) and world.calls and other.calls)


@pytest.mark.parametrize("no_proxy", [None, "127.0.0.1,localhost"], ids=["proxy", "no_proxy"])
@pytest.mark.parametrize(
    "target",
    ["127.0.0.1:{0},127.0.0.1:{0}", "ipv4:127.0.0.1:{0}", "127.0.0.1:{0}", "localhost:{0}", "dns:///localhost:{0}"],
)
def test_a_proxy_is_not_used_for_several_or_local_addresses(
    world: World, monkeypatch: pytest.MonkeyPatch, target: str, no_proxy: str | None
) -> None:
    proxy_in_environment(monkeypatch, no_proxy)
    target = target.format(world.port)
    assert call(target, allow_plaintext=True) == b"mine: x"
    assert asyncio.run(call_aio(target, allow_plaintext=True)) == b"mine: x"


def test_a_proxy_is_left_to_one_remote_host() -> None:
    """A proxy takes one host. A list in its place would fail at the proxy, whatever the addresses are."""
    for target in ("10.0.0.1:8443,10.0.0.2:8443", "ipv4:10.0.0.1:8443,10.0.0.2:8443", "unix:/run/orders.sock"):
        assert ("grpc.enable_http_proxy", 0) in arguments_of(target).options
    for target in ("10.0.0.1:8443", "auth.example.com:8443", "dns:///auth.example.com:8443", "[fd00::1]:8443"):
        assert ("grpc.enable_http_proxy", 0) not in arguments_of(target).options
    for target in ("[::1]:8443", "ipv6:[::1]:8443", "127.0.0.2:8443", "LOCALHOST:8443", "dns://10.0.0.53/localhost:1"):
        assert ("grpc.enable_http_proxy", 0) in arguments_of(target).options


def proxy_in_environment(monkeypatch: pytest.MonkeyPatch, no_proxy: str | None) -> None:
    """Names a proxy as a developer's shell does. It does not answer."""
    for name in ("grpc_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    if no_proxy is not None:
        monkeypatch.setenv("no_proxy", no_proxy)


def arguments_of(target: str) -> ChannelArguments:
    return channel_arguments(target, None, None, None, None, allow_plaintext=True, options=())


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "the target is empty"),
        (" ", "the target is empty"),
        ("auth-1:8443,auth-2:8443", "one DNS name that resolves to all"),
        ("10.0.0.1:8443,[fd00::1]:8443", "mixes IPv4 and IPv6"),
        ("10.0.0.1,10.0.0.2", "is not host:port"),
        ("10.0.0.1:8443,10.0.0.2:https", "is not host:port"),
        ("10.0.0.1:8443,10.0.0.2:8443", "server_name"),
    ],
)
def test_an_impossible_target_is_refused_with_what_to_write_instead(target: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        channel(target)
    with pytest.raises(ValueError, match=message):
        aio_channel(target)


def test_several_hosts_need_a_server_name_only_for_tls() -> None:
    channel("10.0.0.1:8443,10.0.0.2:8443", allow_plaintext=True).close()
    channel("10.0.0.1:8443,10.0.0.2:8443", server_name="auth.example.com").close()
    channel("[fd00::1]:8443,[fd00::2]:8443", server_name="auth.example.com").close()


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pem"):
        channel("127.0.0.1:1", ca_file=tmp_path / "absent.pem")
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(ValueError, match=r"ca\.pem holds no PEM certificate"):
        channel("127.0.0.1:1", ca_file=tmp_path / "ca.pem")
    with pytest.raises(ValueError, match="cert_file and key_file go together"):
        channel("127.0.0.1:1", cert_file=tmp_path / "client.pem")
    with pytest.raises(ValueError, match="cert_file needs TLS"):
        channel("127.0.0.1:1", cert_file=tmp_path / "a", key_file=tmp_path / "b", allow_plaintext=True)


def test_credentials_of_the_other_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="AioCredentials go with aio_channel"):
        channel("127.0.0.1:1", credentials=AioCredentials(FixedToken("mine")))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Credentials go with channel"):
        aio_channel("127.0.0.1:1", credentials=MINE)  # type: ignore[arg-type]


def test_a_channel_with_credentials_has_all_that_a_channel_has(secure: World, identity: Identity) -> None:
    states: list[grpc.ChannelConnectivity] = []
    made = channel(secure.target, ca_file=identity.cert_file, credentials=MINE)
    grpc.channel_ready_future(made).result(10)
    made.subscribe(states.append)
    wait_until(lambda: grpc.ChannelConnectivity.READY in states)
    made.unsubscribe(states.append)
    assert methods(grpc.intercept_channel(made, *MINE.interceptors()))[0].future(b"x").exception(10) is not None
    made.close()
    with pytest.raises(ValueError, match="closed"):
        methods(made)[0](b"x")


def test_the_callers_channel_options_take_precedence(secure: World, identity: Identity) -> None:
    options = [("grpc.default_authority", "orders.example.com"), ("grpc.max_send_message_length", 4)]
    with channel(
        secure.target, ca_file=identity.cert_file, server_name="elsewhere.example.com", options=options
    ) as made:
        with pytest.raises(grpc.RpcError) as error:
            methods(made)[0](b"larger than four bytes", timeout=10)
        assert error.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as error:
            methods(made)[0](b"x", timeout=10)
        assert reason_in(error.value) is Reason.CREDENTIAL_MISSING
