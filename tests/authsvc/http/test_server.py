"""The HTTP face: any JWT library can verify our tokens by it, and it says no more than is true."""

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

from authsvc.http.server import HttpFace
from authsvc.keys.algorithms import public_der
from authsvc.keys.jwks import json_web_key
from credmesh.store.v1 import mesh_pb2
from interceptors.errors import CredmeshError
from interceptors.etcd.client import EtcdClient, Put
from interceptors.keyspace import Layout, moved_beacon
from interceptors.node.mesh_node import MeshNode
from interceptors.settings import EtcdSettings, MeshSettings
from interceptors.tokens.verification_key import VerificationKey, read_key
from tests.support.waiting import free_port, wait_until

# joserfc prefers the name that RFC 9864 gives the same algorithm.
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
        """The body, read as JSON."""
        return json.loads(self.body)


def get(port: int, path: str, **headers: str) -> Answer:
    """Asks the HTTP face on this machine."""
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
def face(node: MeshNode) -> Iterator[HttpFace]:
    face = HttpFace(node, "127.0.0.1:0")
    face.start()
    yield face
    face.stop()


@pytest.fixture
def held(node: MeshNode, etcd_client: EtcdClient, layout: Layout) -> dict[str, PrivateKey]:
    """A key of every algorithm, put into etcd and held by the node."""
    keys: dict[str, PrivateKey] = {
        "EdDSA": Ed25519PrivateKey.generate(),
        "ES256": generate_ec(SECP256R1()),
        "RS256": generate_rsa(65537, 2048),
    }
    etcd_client.commit(
        [],
        [
            *(Put(layout.key(f"kid-{name}"), _record(f"kid-{name}", name, key)) for name, key in keys.items()),
            moved_beacon(layout),
        ],
    )
    wait_until(lambda: len(node.bundle.keys) == 3, what="the node holds the keys")
    return keys


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
def test_another_library_verifies_by_the_key_set(face: HttpFace, held: dict[str, PrivateKey], algorithm: str) -> None:
    from jwt import encode  # PyJWT signs, joserfc verifies

    token = encode({"sub": "alice"}, held[algorithm], algorithm, headers={"kid": f"kid-{algorithm}"})
    keys = KeySet.import_key_set(get(face.port, "/.well-known/jwks.json").json())
    assert jwt.decode(token, keys, algorithms=[algorithm]).claims == {"sub": "alice"}


def test_the_key_set_is_public_keys_only(face: HttpFace, held: dict[str, PrivateKey]) -> None:
    answer = get(face.port, "/.well-known/jwks.json").json()
    assert [key["kid"] for key in answer["keys"]] == ["kid-ES256", "kid-EdDSA", "kid-RS256"]
    for key in answer["keys"]:
        assert key["use"] == "sig"
        assert not {"d", "p", "q", "dp", "dq", "qi", "k"} & set(key)


def test_the_key_set_may_be_kept_a_minute_and_is_sent_only_if_it_changed(
    face: HttpFace, held: dict[str, PrivateKey], node: MeshNode, etcd_client: EtcdClient, layout: Layout
) -> None:
    first = get(face.port, "/.well-known/jwks.json")
    assert first.headers["cache-control"] == "public, max-age=60"
    assert first.headers["content-type"] == "application/json"
    tag = first.headers["etag"]
    unchanged = get(face.port, "/.well-known/jwks.json", if_none_match=f'"other", W/{tag}')
    assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, b"", tag)
    another = Ed25519PrivateKey.generate()
    etcd_client.commit([], [Put(layout.key("kid-new"), _record("kid-new", "EdDSA", another)), moved_beacon(layout)])
    wait_until(lambda: "kid-new" in node.bundle.keys)
    changed = get(face.port, "/.well-known/jwks.json", if_none_match=tag)
    assert changed.status == 200
    assert changed.headers["etag"] != tag


def test_coordinates_keep_their_leading_zeros() -> None:
    """RFC 7518 section 6.2.1.2: 32 bytes, always. One key in 128 is shorter as a number."""
    scalar = next(
        n for n in range(1, 2000) if derive_private_key(n, SECP256R1()).public_key().public_numbers().x >> 248 == 0
    )
    found = json_web_key(_key("short", "ES256", derive_private_key(scalar, SECP256R1())))
    assert len(found["x"]) == len(found["y"]) == 43


def test_discovery_says_what_is_true(face: HttpFace) -> None:
    document = get(face.port, "/.well-known/openid-configuration").json()
    assert document["issuer"] == ISSUER
    assert document["jwks_uri"] == f"{ISSUER}/.well-known/jwks.json"
    assert document["id_token_signing_alg_values_supported"] == ["EdDSA", "ES256", "RS256"]
    # Credentials are had over gRPC: no library may believe that it could have them here.
    assert document["response_types_supported"] == []
    assert not {"token_endpoint", "authorization_endpoint", "userinfo_endpoint"} & set(document)


def test_without_a_key_it_is_alive_and_not_ready(face: HttpFace) -> None:
    assert get(face.port, "/healthz").status == 200
    for path in ("/readyz", "/.well-known/jwks.json"):
        answer = get(face.port, path)
        assert (answer.status, answer.headers["cache-control"]) == (503, "no-store")
        assert b"no signing key" in answer.body


def test_with_a_key_it_is_ready(face: HttpFace, held: dict[str, PrivateKey]) -> None:
    assert get(face.port, "/readyz").status == 200


def test_metrics_hold_the_nodes_figures_and_the_auth_services(face: HttpFace, node: MeshNode) -> None:
    answer = get(face.port, "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    lines = answer.body.decode().splitlines()
    assert "credmesh_ready 1.0" in lines
    for name in ("credmesh_password_hashes", "credmesh_audit_events", "credmesh_freshness_age_seconds"):
        assert any(line.startswith(f"# TYPE {name}") for line in lines)
    assert len({line for line in lines if line.startswith("# TYPE")}) == sum(
        line.startswith("# TYPE") for line in lines
    )


def test_before_etcd_answers_it_is_alive_and_not_ready() -> None:
    nowhere = EtcdSettings(endpoints=(f"127.0.0.1:{free_port()}",))
    face = HttpFace(MeshNode(MeshSettings(etcd=nowhere, service="auth", issuer=ISSUER)), "127.0.0.1:0")
    face.start()
    try:
        assert get(face.port, "/healthz").status == 200
        assert get(face.port, "/readyz").status == 503
    finally:
        face.stop()


def test_a_port_that_is_taken_is_named(node: MeshNode) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(CredmeshError, match=f"cannot listen for HTTP on {address}: .*CREDMESH_HTTP_LISTEN"):
            HttpFace(node, address)


def test_stopping_frees_the_port(node: MeshNode) -> None:
    face = HttpFace(node, "127.0.0.1:0")
    face.start()
    port = face.port
    assert get(port, "/healthz").status == 200
    face.stop()
    with socket.create_server(("127.0.0.1", port)):
        pass
