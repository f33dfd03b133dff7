"""The rule of each method, read from the .proto files' options (credmesh/policy/v1/policy.proto)."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from credmesh.policy.v1 import policy_pb2
from interceptors.errors import CredmeshError, Reason, Refusal

__all__ = ["MethodRule", "Policy", "PolicyError"]

_log: Final = logging.getLogger("credmesh.policy")

_DURATION: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m)")
_UNIT_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}

# Kubernetes probes and grpcurl send no credential. The .proto files of these services cannot state a rule.
_PUBLIC_SERVICES: Final = frozenset(
    {"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"}
)


class PolicyError(CredmeshError, ValueError):
    """A rule is missing or contradicts itself, or a service is unknown. The text names it and says what to do."""


@dataclass(frozen=True, slots=True)
class MethodRule:
    """Which credentials may call one method.

    audience        the credential must name it; empty only for public methods
    scopes          the credential must hold all of them
    freshness       seconds: the call is refused while the node's freshness is above this. None: no limit
    follow_session  an open stream outlives its credential for as long as the session lives
    """

    method: str
    public: bool = False
    audience: str = ""
    scopes: frozenset[str] = frozenset()
    freshness: float | None = None
    follow_session: bool = False


class Policy:
    """The rules of all methods whose descriptors are loaded. A rule is read once per method, then cached."""

    def __init__(
        self,
        *,
        public_services: frozenset[str] = _PUBLIC_SERVICES,
        pool: descriptor_pool.DescriptorPool | None = None,
    ) -> None:
        self._public_services = public_services
        self._pool = pool or descriptor_pool.Default()
        self._rules: dict[str, MethodRule] = {}
        self._longest_freshness = math.inf
        self._warned: set[str] = set()

    def limit_freshness(self, seconds: float) -> None:
        """Limits the `freshness` of every rule to this. Call it before the first call is served."""
        self._longest_freshness = seconds
        self._rules.clear()

    def rule(self, method: str) -> MethodRule:
        """Returns the rule of `/package.Service/Method`. Refusal METHOD_DENIED if it is missing or not valid."""
        known = self._rules.get(method)
        if known is not None:
            return known
        try:
            found = self._find(method)
        except (PolicyError, KeyError) as error:
            # Not cached: the caller chooses the name, and could fill the memory with names that do not exist.
            raise Refusal(Reason.METHOD_DENIED, str(error)) from None
        self._rules[method] = found
        return found

    def _limited(self, rule: MethodRule) -> MethodRule:
        if rule.freshness is None or rule.freshness <= self._longest_freshness:
            return rule
        if rule.method not in self._warned:
            self._warned.add(rule.method)
            _log.warning(
                "%s: its rule has a freshness of %g s; CREDMESH_LONGEST_FRESHNESS limits it to %g s, since receipts "
                "depend on that limit",
                rule.method,
                rule.freshness,
                self._longest_freshness,
            )
        return replace(rule, freshness=self._longest_freshness)

    def _find(self, method: str) -> MethodRule:
        service_name, _, method_name = method.removeprefix("/").partition("/")
        if service_name in self._public_services:
            return MethodRule(method, public=True)
        service = self._pool.FindServiceByName(service_name)
        return self._limited(rule_of(service, service.methods_by_name[method_name]))

    def check(self, service_names: Mapping[str, object] | frozenset[str] | tuple[str, ...]) -> None:
        """Raises PolicyError if a method of these services has no valid rule, or a service is unknown.

        For start-up and tests. A service is unknown until its _pb2 module was imported. Logs a warning for each rule
        whose freshness is above the limit.
        """
        for name in service_names:
            if name not in self._public_services:
                try:
                    service = self._pool.FindServiceByName(name)
                except KeyError:
                    raise PolicyError(
                        f"there is no service {name!r}: its _pb2 module has to be imported first, and its name given "
                        'with the package; for example: "notes.v1.NotesService"'
                    ) from None
                for method in service.methods:
                    self._limited(rule_of(service, method))


def rule_of(service: ServiceDescriptor, method: MethodDescriptor) -> MethodRule:
    """Returns the rule of one method. PolicyError if the rule is missing or contradicts itself."""
    name = f"/{service.full_name}/{method.name}"
    options = method.GetOptions()
    if not options.HasExtension(policy_pb2.rule):
        raise PolicyError(f'{name} has no rule; add `option (credmesh.policy.v1.rule) = {{scopes: "…"}};` to it')
    rule = options.Extensions[policy_pb2.rule]
    if (rule.public, rule.authenticated, bool(rule.scopes)).count(True) != 1:
        raise PolicyError(f"{name}: its rule must set exactly one of public, authenticated and scopes")
    if any(not scope or " " in scope for scope in rule.scopes):
        raise PolicyError(f"{name}: a scope is empty or has a space (RFC 6749 section 3.3)")
    if rule.public:
        return MethodRule(name, public=True)
    audience: str = service.GetOptions().Extensions[policy_pb2.audience]
    if not audience:
        raise PolicyError(f'{name}: add `option (credmesh.policy.v1.audience) = "…";` to service {service.full_name}')
    return MethodRule(
        name,
        audience=audience,
        scopes=frozenset(rule.scopes),
        freshness=_seconds(name, rule.freshness) if rule.freshness else None,
        follow_session=rule.on_expiry == policy_pb2.ON_EXPIRY_FOLLOW_SESSION,
    )


def _seconds(name: str, text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None or float(match[1]) == 0:
        raise PolicyError(f'{name}: freshness {text!r} is not a duration; write e.g. "5s", "500ms" or "2m"')
    return float(match[1]) * _UNIT_SECONDS[match[2]]
