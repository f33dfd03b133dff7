"""AccountService over a real server: every field is checked, and every error says what the caller can do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2

from authsvc.accounts.accounts import Accounts
from authsvc.accounts.passwords import Passwords
from authsvc.api.account_service import AccountServicer
from authsvc.api.status_mapping import StatusMappingInterceptor
from authsvc.revocation.revoker import Revoker
from authsvc.settings import AuthSettings
from credmesh.admin.v1 import accounts_pb2 as pb
from credmesh.admin.v1 import accounts_pb2_grpc
from interceptors.errors import Reason, reason_of
from interceptors.etcd.client import EtcdClient
from interceptors.keyspace import Layout
from interceptors.node.mesh_node import MeshNode
from interceptors.server import ServerInterceptor
from interceptors.settings import EtcdSettings, MeshSettings
from localmesh.etcd.process import EtcdProcess
from tests.support.probe.issuer import Issuer
from tests.support.processes import ISSUER

PASSWORD = "correct horse"


@dataclass(frozen=True)
class Api:
    """The service, and credentials for all of its methods."""

    stub: accounts_pb2_grpc.AccountServiceStub
    issuer: Issuer

    def call(self, method: str, request: Any, *, scope: str = "credmesh.accounts.read credmesh.accounts.write") -> Any:
        """Calls a method as an operator whose token has this scope."""
        token = self.issuer.token(sub="operator", client_id="operator", aud=["credmesh.auth"], scope=scope, sid=None)
        metadata = (("authorization", f"Bearer {token}"),)
        return getattr(self.stub, method)(request, metadata=metadata, timeout=10)

    def refused(self, method: str, request: Any, **options: str) -> grpc.Call:
        """Calls a method that must fail, and returns the failure."""
        with pytest.raises(grpc.RpcError) as failed:
            self.call(method, request, **options)
        assert isinstance(failed.value, grpc.Call)
        return failed.value


def _serve(accounts: Accounts, node: MeshNode, issuer: Issuer) -> Iterator[Api]:
    server = grpc.server(ThreadPoolExecutor(4), interceptors=[ServerInterceptor(node), StatusMappingInterceptor()])
    accounts_pb2_grpc.add_AccountServiceServicer_to_server(AccountServicer(accounts=accounts), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Api(accounts_pb2_grpc.AccountServiceStub(channel), issuer)
    server.stop(0).wait()


@pytest.fixture
def node(etcd_settings: EtcdSettings) -> Iterator[MeshNode]:
    with MeshNode(MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER)) as node:
        yield node


@pytest.fixture
def api(accounts: Accounts, node: MeshNode, etcd_client: EtcdClient, etcd_settings: EtcdSettings) -> Iterator[Api]:
    yield from _serve(accounts, node, Issuer(etcd_client, etcd_settings.prefix))


def _user(subject: str, **fields: Any) -> pb.CreateUserRequest:
    return pb.CreateUserRequest(user=pb.User(subject=subject, **fields), password=PASSWORD)


def _client(client_id: str, **fields: Any) -> pb.CreateClientRequest:
    return pb.CreateClientRequest(client=pb.Client(client_id=client_id, **fields))


def test_a_user_is_created_listed_changed_and_deleted(
    api: Api, accounts: Accounts, etcd_client: EtcdClient, layout: Layout
) -> None:
    made = api.call("CreateUser", _user("alice", scopes=["a", "b", "a"], audiences=["orders"])).user
    assert (made.subject, made.scopes, made.audiences) == ("alice", ["a", "b"], ["orders"])
    assert made.created_at.seconds > 0
    assert list(api.call("ListUsers", pb.ListUsersRequest()).users) == [made]
    changed = api.call("SetPassword", pb.SetPasswordRequest(subject="alice", password="another password"))
    deleted = api.call("DeleteUser", pb.DeleteUserRequest(subject="alice"))
    epoch = layout.epoch("sub/alice")
    assert etcd_client.read(epoch).values[epoch].mod_revision == deleted.revision > changed.revision > 0
    assert not api.call("ListUsers", pb.ListUsersRequest()).users


def test_a_client_is_created_listed_and_deleted(api: Api, accounts: Accounts) -> None:
    made = api.call("CreateClient", _client("app", scopes=["a"], audiences=["an unknown one"]))
    assert accounts.authenticate_client("app", made.client_secret).audiences == ("an unknown one",)
    assert list(api.call("ListClients", pb.ListClientsRequest()).clients) == [made.client]
    assert api.call("DeleteClient", pb.DeleteClientRequest(client_id="app")).revision > 0
    assert not api.call("ListClients", pb.ListClientsRequest()).clients


def test_lists_come_in_pages(api: Api, accounts: Accounts) -> None:
    for number in range(5):
        accounts.create_client(f"app-{number}", scopes=[], audiences=[])
    first = api.call("ListClients", pb.ListClientsRequest(page_size=3))
    second = api.call("ListClients", pb.ListClientsRequest(page_size=3, page_token=first.next_page_token))
    names = [client.client_id for page in (first, second) for client in page.clients]
    assert names == [f"app-{number}" for number in range(5)]
    assert second.next_page_token == ""


def _mask(*paths: str) -> FieldMask:
    return FieldMask(paths=paths)


def _update(method: str, name: str, *paths: str, **fields: Any) -> Any:
    if method == "UpdateUser":
        return pb.UpdateUserRequest(user=pb.User(subject=name, **fields), update_mask=_mask(*paths))
    return pb.UpdateClientRequest(client=pb.Client(client_id=name, **fields), update_mask=_mask(*paths))


@pytest.mark.parametrize("method", ["UpdateUser", "UpdateClient"])
def test_only_masked_fields_change_and_the_revision_tells_of_a_revocation(api: Api, method: str) -> None:
    api.call("CreateUser", _user("name", scopes=["a"], audiences=["x"]))
    api.call("CreateClient", _client("name", scopes=["a"], audiences=["x"]))
    kind = method.removeprefix("Update").lower()
    more = api.call(method, _update(method, "name", "scopes", scopes=["a", "b"]))
    account = getattr(more, kind)
    assert (list(account.scopes), list(account.audiences), more.revision) == (["a", "b"], ["x"], 0)
    less = api.call(method, _update(method, "name", "audiences", scopes=["ignored"]))
    account = getattr(less, kind)
    assert (list(account.scopes), list(account.audiences)) == (["a", "b"], [])
    assert less.revision > 0


def test_secrets_are_listed_by_their_ids_added_and_removed(api: Api) -> None:
    made = api.call("CreateClient", _client("app"))
    added = api.call("AddClientSecret", pb.AddClientSecretRequest(client_id="app"))
    assert added.client_secret.startswith("cmc_")
    (listed,) = api.call("ListClients", pb.ListClientsRequest()).clients
    assert listed == added.client
    assert [one.secret_id for one in listed.secrets][:1] == [one.secret_id for one in made.client.secrets]
    assert all(one.HasField("created_at") for one in listed.secrets)
    full = api.refused("AddClientSecret", pb.AddClientSecretRequest(client_id="app"))
    assert full.code() is grpc.StatusCode.FAILED_PRECONDITION
    removing = pb.RemoveClientSecretRequest(client_id="app", secret_id=listed.secrets[0].secret_id)
    removed = api.call("RemoveClientSecret", removing)
    assert removed.revision > 0
    assert list(removed.client.secrets) == [listed.secrets[1]]
    assert api.refused("RemoveClientSecret", removing).code() is grpc.StatusCode.NOT_FOUND


_LONG = "x" * 257


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("CreateUser", pb.CreateUserRequest(), "user.subject"),
        ("CreateUser", _user(_LONG), "user.subject"),
        ("CreateUser", _user("two\nlines"), "user.subject"),
        ("CreateUser", _user("alice", scopes=["two scopes"]), "user.scopes"),
        ("CreateUser", _user("alice", scopes=[""]), "user.scopes"),
        ("CreateUser", _user("alice", scopes=[f"s{i}" for i in range(300)]), "user.scopes"),
        ("CreateUser", _user("alice", audiences=["\x00"]), "user.audiences"),
        ("CreateUser", _user("alice", audiences=[f"a{i}" for i in range(33)]), "user.audiences"),
        ("CreateUser", pb.CreateUserRequest(user=pb.User(subject="alice")), "password"),
        ("CreateUser", pb.CreateUserRequest(user=pb.User(subject="alice"), password="seven 7"), "password"),
        ("CreateUser", pb.CreateUserRequest(user=pb.User(subject="alice"), password="x" * 1025), "password"),
        ("ListUsers", pb.ListUsersRequest(page_size=-1), "page_size"),
        ("ListUsers", pb.ListUsersRequest(page_size=1001), "page_size"),
        ("ListUsers", pb.ListUsersRequest(page_token="made up"), "page_token"),
        ("UpdateUser", pb.UpdateUserRequest(update_mask=_mask("scopes")), "user.subject"),
        ("UpdateUser", pb.UpdateUserRequest(user=pb.User(subject="alice", scopes=["a"])), "update_mask"),
        ("UpdateUser", _update("UpdateUser", "alice", "scopes", "subject"), "update_mask"),
        ("UpdateUser", _update("UpdateUser", "alice", "scopes", scopes=["two scopes"]), "user.scopes"),
        ("UpdateUser", _update("UpdateUser", "alice", "audiences", audiences=[""]), "user.audiences"),
        ("UpdateClient", pb.UpdateClientRequest(update_mask=_mask("scopes")), "client.client_id"),
        ("UpdateClient", _update("UpdateClient", "app"), "update_mask"),
        ("UpdateClient", _update("UpdateClient", "app", "scopes", scopes=['"']), "client.scopes"),
        ("SetPassword", pb.SetPasswordRequest(password=PASSWORD), "subject"),
        ("SetPassword", pb.SetPasswordRequest(subject="alice", password="short"), "password"),
        ("DeleteUser", pb.DeleteUserRequest(), "subject"),
        ("DeleteUser", pb.DeleteUserRequest(subject="a\x7f"), "subject"),
        ("CreateClient", pb.CreateClientRequest(), "client.client_id"),
        ("CreateClient", _client("password"), "client_id"),
        ("CreateClient", _client(_LONG), "client.client_id"),
        ("CreateClient", _client("app", scopes=['"']), "client.scopes"),
        ("CreateClient", _client("app", audiences=[""]), "client.audiences"),
        ("ListClients", pb.ListClientsRequest(page_size=100_000), "page_size"),
        ("ListClients", pb.ListClientsRequest(page_token="!"), "page_token"),
        ("AddClientSecret", pb.AddClientSecretRequest(), "client_id"),
        ("RemoveClientSecret", pb.RemoveClientSecretRequest(secret_id="a"), "client_id"),
        ("RemoveClientSecret", pb.RemoveClientSecretRequest(client_id="app"), "secret_id"),
        ("DeleteClient", pb.DeleteClientRequest(), "client_id"),
    ],
)
def test_an_invalid_field_is_named(
    api: Api, etcd_client: EtcdClient, layout: Layout, method: str, request_: Any, field: str
) -> None:
    failure = api.refused(method, request_)
    assert failure.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failure.details().startswith(f"{field} ")
    (detail,) = _status(failure).details
    bad_request = error_details_pb2.BadRequest()
    assert detail.Unpack(bad_request)
    assert [violation.field for violation in bad_request.field_violations] == [field]
    assert etcd_client.count(layout.users) == etcd_client.count(layout.clients) == 0


def test_existing_and_missing_accounts_get_their_own_status(api: Api) -> None:
    api.call("CreateUser", _user("alice"))
    api.call("CreateClient", _client("app"))
    for method, request in (("CreateUser", _user("alice")), ("CreateClient", _client("app"))):
        assert api.refused(method, request).code() is grpc.StatusCode.ALREADY_EXISTS
    missing: list[tuple[str, Any]] = [
        ("SetPassword", pb.SetPasswordRequest(subject="nobody", password=PASSWORD)),
        ("DeleteUser", pb.DeleteUserRequest(subject="nobody")),
        ("UpdateUser", _update("UpdateUser", "nobody", "scopes")),
        ("UpdateClient", _update("UpdateClient", "nobody", "scopes")),
        ("DeleteClient", pb.DeleteClientRequest(client_id="nobody")),
    ]
    for method, request in missing:
        failure = api.refused(method, request)
        assert failure.code() is grpc.StatusCode.NOT_FOUND
        assert "'nobody'" in failure.details()


def test_reading_and_writing_require_different_scopes(api: Api) -> None:
    readers, writers = "credmesh.accounts.read", "credmesh.accounts.write"
    calls: list[tuple[str, Any, str]] = [
        ("CreateUser", _user("alice"), readers),
        ("SetPassword", pb.SetPasswordRequest(subject="alice", password=PASSWORD), readers),
        ("DeleteUser", pb.DeleteUserRequest(subject="alice"), readers),
        ("UpdateUser", _update("UpdateUser", "alice", "scopes"), readers),
        ("UpdateClient", _update("UpdateClient", "app", "scopes"), readers),
        ("CreateClient", _client("app"), readers),
        ("DeleteClient", pb.DeleteClientRequest(client_id="app"), readers),
        ("AddClientSecret", pb.AddClientSecretRequest(client_id="app"), readers),
        ("RemoveClientSecret", pb.RemoveClientSecretRequest(client_id="app", secret_id="a"), readers),
        ("ListUsers", pb.ListUsersRequest(), writers),
        ("ListClients", pb.ListClientsRequest(), writers),
    ]
    for method, request, scope in calls:
        failure = api.refused(method, request, scope=scope)
        assert (failure.code(), _reason(failure)) == (grpc.StatusCode.PERMISSION_DENIED, Reason.SCOPE_MISSING), method


def test_without_etcd_the_caller_is_told_to_retry(
    own_etcd: EtcdProcess, passwords: Passwords, settings: AuthSettings
) -> None:
    etcd_settings = own_etcd.settings("/credmesh/", timeout=0.5)
    with (
        EtcdClient(etcd_settings) as client,
        MeshNode(MeshSettings(etcd=etcd_settings, service="auth", issuer=ISSUER)) as node,
    ):
        layout = Layout(etcd_settings.prefix)
        issuer = Issuer(client, etcd_settings.prefix)
        revision = issuer.revision()
        issuer_token = issuer.token(aud=["credmesh.auth"], scope="credmesh.accounts.read", epoch=revision)
        accounts = Accounts(client, layout, passwords, Revoker(client, layout, settings))
        for api in _serve(accounts, node, issuer):
            metadata = (("authorization", f"Bearer {issuer_token}"),)
            api.stub.ListUsers(pb.ListUsersRequest(), metadata=metadata, timeout=10)
            own_etcd.kill()
            with pytest.raises(grpc.RpcError) as failed:
                api.stub.ListUsers(pb.ListUsersRequest(), metadata=metadata, timeout=10)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "etcd does not answer" in str(failed.value.details())


def test_an_unexpected_exception_is_hidden_from_the_caller(
    node: MeshNode, etcd_client: EtcdClient, etcd_settings: EtcdSettings, caplog: pytest.LogCaptureFixture
) -> None:
    broken: Any = object()
    for api in _serve(broken, node, Issuer(etcd_client, etcd_settings.prefix)):
        failure = api.refused("ListUsers", pb.ListUsersRequest())
        assert failure.code() not in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
        assert "object" not in failure.details()
        assert "users" not in failure.details()
    assert "AttributeError" in caplog.text


def test_a_new_secret_is_in_no_log(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    secret = api.call("CreateClient", _client("app")).client_secret
    api.call("CreateUser", _user("alice"))
    api.call("UpdateUser", _update("UpdateUser", "alice", "scopes", scopes=["a"]))
    api.call("UpdateClient", _update("UpdateClient", "app", "scopes", scopes=["a"]))
    added = api.call("AddClientSecret", pb.AddClientSecretRequest(client_id="app"))
    secret_id = added.client.secrets[0].secret_id
    api.call("RemoveClientSecret", pb.RemoveClientSecretRequest(client_id="app", secret_id=secret_id))
    events = [record for record in caplog.records if record.name == "credmesh.audit"]
    assert [record.getMessage() for record in events] == [
        "client.create", "user.create", "user.update", "client.update", "client.secret.add", "client.secret.remove"
    ]  # fmt: skip
    everything = "\n".join(str(vars(record)) for record in caplog.records)
    assert "'actor': 'operator'" in everything
    assert secret not in everything
    assert added.client_secret not in everything
    assert PASSWORD not in everything


def _status(failure: grpc.Call) -> status_pb2.Status:
    values = dict(failure.trailing_metadata() or ())
    return status_pb2.Status.FromString(values["grpc-status-details-bin"])


def _reason(failure: grpc.Call) -> Reason | None:
    found: Callable[..., Reason | None] = reason_of
    return found(failure.trailing_metadata())
