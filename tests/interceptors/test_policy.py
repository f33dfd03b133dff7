"""The rules of methods are read from the descriptors. In doubt a method is denied."""

from __future__ import annotations

import pytest

from credmesh.admin.v1 import keys_pb2
from credmesh.auth.v1 import auth_pb2
from credmesh.samples.inventory.v1 import inventory_pb2
from credmesh.samples.orders.v1 import orders_pb2
from interceptors import Policy, PolicyError, Reason, Refusal
from interceptors.policy import _seconds
from tests.support.probe import schema

schema.load()

AUTH = auth_pb2.DESCRIPTOR.services_by_name["AuthService"].full_name
KEYS = keys_pb2.DESCRIPTOR.services_by_name["KeyService"].full_name
ORDERS = orders_pb2.DESCRIPTOR.services_by_name["OrdersService"].full_name
INVENTORY = inventory_pb2.DESCRIPTOR.services_by_name["InventoryService"].full_name


def test_a_rule_has_the_values_of_the_proto() -> None:
    policy = Policy()
    rule = policy.rule(f"/{KEYS}/RotateKeys")
    assert (rule.audience, rule.scopes, rule.public) == ("credmesh.auth", frozenset({"credmesh.keys.write"}), False)
    assert policy.rule(f"/{AUTH}/Login").public
    assert policy.rule(f"/{AUTH}/WhoAmI").scopes == frozenset()
    assert policy.rule(f"/{ORDERS}/CancelOrders").freshness == 5.0
    assert policy.rule(f"/{INVENTORY}/WatchStock").follow_session


def test_probes_and_grpcurl_need_no_credential() -> None:
    for method in ("/grpc.health.v1.Health/Check", "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"):
        assert Policy().rule(method).public


@pytest.mark.parametrize(
    "method",
    [
        f"/{schema.SERVICE}/Unruled",
        f"/{schema.SERVICE}/Contradictory",
        f"/{schema.SERVICE}/Nothing",
        "/no.such.Service/Method",
        "nonsense",
        "",
        "//",
    ],
)
def test_a_method_without_a_valid_rule_is_denied(method: str) -> None:
    with pytest.raises(Refusal) as caught:
        Policy().rule(method)
    assert caught.value.reason is Reason.METHOD_DENIED


def test_check_finds_a_missing_rule_and_shows_how_to_write_it() -> None:
    with pytest.raises(PolicyError, match=r"Unruled has no rule; add `option \(credmesh.policy.v1.rule\)"):
        Policy().check((schema.SERVICE,))
    Policy().check((AUTH, KEYS, ORDERS, INVENTORY, "grpc.health.v1.Health"))


def test_check_names_an_unknown_service() -> None:
    with pytest.raises(PolicyError, match=r"no service 'no.such.Service': its _pb2 module has to be imported first"):
        Policy().check((INVENTORY, "no.such.Service"))


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("2m", 120.0), ("1.5s", 1.5)])
def test_durations_are_parsed(text: str, seconds: float) -> None:
    assert _seconds("m", text) == seconds


@pytest.mark.parametrize("text", ["5", "5 s", "s", "-1s", "0s", "0ms", "1h", "five"])
def test_a_freshness_that_is_not_a_duration_is_an_error(text: str) -> None:
    with pytest.raises(PolicyError):
        _seconds("m", text)


def test_the_longest_freshness_limits_every_rule_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = Policy()
    policy.limit_freshness(2.0)
    policy.check((ORDERS,))
    policy.check((ORDERS,))
    (warning,) = caplog.messages
    assert f"/{ORDERS}/CancelOrders" in warning
    assert "CREDMESH_LONGEST_FRESHNESS" in warning
    assert policy.rule(f"/{ORDERS}/CancelOrders").freshness == 2.0
    policy.limit_freshness(60.0)
    assert policy.rule(f"/{ORDERS}/CancelOrders").freshness == 5.0
