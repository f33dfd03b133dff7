"""The HTTP endpoints: any JWT library can verify the tokens by them, and the metadata is correct."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from joserfc import jwt
from joserfc.jwk import KeySet

from authsvc.http.server import HttpServer
from authsvc.keys.algorithms import public_der
from authsvc.keys.jwks import json_web_key
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout, beacon_update
from interceptors.node.mesh_node import MeshNode
from interceptors.settings import EtcdSettings, MeshSettings
from interceptors.tokens.verification_key import VerificationKey, read_key
from tests.support.waiting import free_port, wait_until

# joserfc prefers the name that RFC 9864 gives to the same algorithm.
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated")

ISSUER = "https://auth.test"
PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey


@dataclass(frozen=True)
class Answer:
    """An HTTP answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, parsed as JSON."""
        return json.loads(self.body)


def get(port: int, path: str, **headers: str) -> Answer:
    """Sends a request to the HTTP server on this machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


def _record(kid: str, algorithm: str, private_key: PrivateKey) -> bytes:
    return mesh_pb2.VerificationKey(
        format=1,
        kid=kid,
        algorithm=algorithm,
        public_key=public_der(private_key),
        state=mesh_pb2.VerificationKey.STATE_ACTIVE,
    ).SerializeToString()


def _key(kid: str, algorithm: str, private_key: PrivateKey) -> VerificationKey:
    return read_key(_record(kid, algorithm, private_key))


@pytest.fixture
def node(etcd_settings: EtcdSettings) -> Iterator[MeshNode]:
    with MeshNode(MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER)) as node:
        yield node


@pytest.fixture
def server(node: MeshNode) -> Iterator[HttpServer]:
    server = HttpServer(node, "127.0.0.1:0")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def private_keys(node: MeshNode, etcd_client: EtcdClient, layout: Layout) -> dict[str, PrivateKey]:
    """Puts a key of every algorithm into etcd, and waits until the node has them."""
    keys: dict[str, PrivateKey] = {
        "EdDSA": Ed25519PrivateKey.generate(),
        "ES256": generate_ec(SECP256R1()),
        "RS256": generate_rsa(65537, 2048),
    }
    etcd_client.commit(
        [],
        [
            *(Put(layout.key(f"kid-{name}"), _record(f"kid-{name}", name, key)) for name, key in keys.items()),
            beacon_update(layout),
        ],
    )
    wait_until(lambda: len(node.bundle.keys) == 3, what="the node to have the keys")
    return keys


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_another_library_verifies_by_the_key_set(
    server: HttpServer, private_keys: dict[str, PrivateKey], algorithm: str
) -> None:
    from jwt import encode  # PyJWT signs, joserfc verifies

    token = encode({"sub": "alice"}, private_keys[algorithm], algorithm, headers={"kid": f"kid-{algorithm}"})
    keys = KeySet.import_key_set(get(server.port, "/.well-known/jwks.json").json())
    assert jwt.decode(token, keys, algorithms=[algorithm]).claims == {"sub": "alice"}


def test_the_key_set_contains_only_public_keys(server: HttpServer, private_keys: dict[str, PrivateKey]) -> None:
    answer = get(server.port, "/.well-known/jwks.json").json()
    assert [key["kid"] for key in answer["keys"]] == ["kid-ES256", "kid-EdDSA", "kid-RS256"]
    for key in answer["keys"]:
        assert key["use"] == "sig"
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(key)


def test_the_key_set_may_be_cached_a_minute_and_is_sent_only_if_it_changed(
    server: HttpServer, private_keys: dict[str, PrivateKey], node: MeshNode, etcd_client: EtcdClient, layout: Layout
) -> None:
    first = get(server.port, "/.well-known/jwks.json")
    assert first.headers["cache-control"] == "public, max-age=60"
    assert first.headers["content-type"] == "application/json"
    tag = first.headers["etag"]
    unchanged = get(server.port, "/.well-known/jwks.json", if_none_match=f'"other", W/{tag}')
    assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, b"", tag)
    another = Ed25519PrivateKey.generate()
    etcd_client.commit([], [Put(layout.key("kid-new"), _record("kid-new", "EdDSA", another)), beacon_update(layout)])
    wait_until(lambda: "kid-new" in node.bundle.keys)
    changed = get(server.port, "/.well-known/jwks.json", if_none_match=tag)
    assert changed.status == 200
    assert changed.headers["etag"] != tag


def test_coordinates_keep_their_leading_zeros() -> None:
    """RFC 7518 section 6.2.1.2: always 32 bytes. For one key in 128 a coordinate is a shorter number."""
    scalar = next(
        n for n in range(1, 2000) if derive_private_key(n, SECP256R1()).public_key().public_numbers().x >> 248 == 0
    )
    found = json_web_key(_key("short", "ES256", derive_private_key(scalar, SECP256R1())))
    assert len(found["x"]) == len(found["y"]) == 43


def test_discovery_is_correct(server: HttpServer) -> None:
    document = get(server.port, "/.well-known/openid-configuration").json()
    assert document["issuer"] == ISSUER
    assert document["jwks_uri"] == f"{ISSUER}/.well-known/jwks.json"
    assert document["id_token_signing_alg_values_supported"] == ["EdDSA", "ES256", "RS256"]
    # Credentials are issued over gRPC only, so no library may find an endpoint for them here.
    assert document["response_types_supported"] == []
    assert not {"token_endpoint", "authorization_endpoint", "userinfo_endpoint"} & set(document)


def test_without_a_key_the_replica_is_alive_and_not_ready(server: HttpServer) -> None:
    assert get(server.port, "/healthz").status == 200
    for path in ("/readyz", "/.well-known/jwks.json"):
        answer = get(server.port, path)
        assert (answer.status, answer.headers["cache-control"]) == (503, "no-store")
        assert b"no signing key" in answer.body


def test_with_a_key_the_replica_is_ready(server: HttpServer, private_keys: dict[str, PrivateKey]) -> None:
    assert get(server.port, "/readyz").status == 200


def test_metrics_include_those_of_the_node_and_of_the_process(server: HttpServer, node: MeshNode) -> None:
    answer = get(server.port, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.body.decode().splitlines()
    assert "credmesh_ready 1.0" in lines
    for name in ("credmesh_password_hashes", "credmesh_audit_events", "credmesh_freshness_age_seconds"):
        assert any(line.startswith(f"# TYPE {name}") for line in lines)
    assert len({line for line in lines if line.startswith("# TYPE")}) == sum(
        line.startswith("# TYPE") for line in lines
    )


def test_before_etcd_answers_the_replica_is_alive_and_not_ready() -> None:
    nowhere = EtcdSettings(endpoints=(f"127.0.0.1:{free_port()}",))
    server = HttpServer(MeshNode(MeshSettings(etcd=nowhere, service="auth", issuer=ISSUER)), "127.0.0.1:0")
    server.start()
    try:
        assert get(server.port, "/healthz").status == 200
        assert get(server.port, "/readyz").status == 503
    finally:
        server.stop()


def test_an_occupied_port_is_named(node: MeshNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CredmeshError, match=f"cannot listen for HTTP on {address}: .*CREDMESH_HTTP_LISTEN"):
            HttpServer(node, address)


def test_stopping_frees_the_port(node: MeshNode) -> None:
    server = HttpServer(node, "127.0.0.1:0")
    server.start()
    port = server.port
    assert get(port, "/healthz").status == 200
    server.stop()
    with socket.create_server(("127.0.0.1", port)):
        pass
