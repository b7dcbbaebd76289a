"""The security policies of one proxy: what stands before its workload, and which clusters that needs.

Part of a proxy's view, so that nothing of a policy reaches translation undeclared: a `Guard` compares by the very
policies, authorizers and clusters that it holds. Made by `envoy.scopes`, translated by `translate.authorization` and
`translate.jwt_authn`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from headrace.model.authorization import HOST, Action, AuthorizationPolicy, Authorizer
from headrace.model.destination import TlsMode
from headrace.model.jwks import split_uri
from headrace.model.names import outbound_cluster
from headrace.model.request_authentication import JwtRule, RequestAuthentication
from headrace.model.resource import Labels
from headrace.model.service import Protocol, Resolution
from headrace.registry.policies import PolicyTable
from headrace.registry.snapshot import MeshSnapshot

if TYPE_CHECKING:
    from headrace.envoy.view import Target


@dataclass(frozen=True, slots=True)
class Guard:
    """What a proxy enforces on requests and connections to its workload (a gateway: on all that come in).

    `authorization` in the order mesh, namespace, and by age; `rules` are those of all RequestAuthentications, sorted by
    issuer. `authorizers`: those that the CUSTOM policies name, with the cluster ('' : the service is not there).
    `key_clusters`: of the `jwksUri`s that a service of the mesh serves, the cluster.
    """

    authorization: tuple[AuthorizationPolicy, ...] = ()
    rules: tuple[JwtRule, ...] = ()
    authorizers: tuple[tuple[Authorizer, str], ...] = ()
    key_clusters: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.authorization or self.rules)

    @property
    def names_hosts(self) -> bool:
        """Whether a policy looks at the host that a request names."""
        found = (rule for policy in self.authorization for rule in policy.rules)
        return any(item.key == HOST for rule in found for operation in rule.operations for item in operation)


OPEN = Guard()
"""No policy at all."""


class Guards:
    """The policies of one snapshot, ready to be looked up."""

    def __init__(self, snapshot: MeshSnapshot) -> None:
        root = snapshot.mesh.root_namespace
        self._authorizers = {item.name: item for item in snapshot.mesh.authorizers}
        self._authorization: PolicyTable[AuthorizationPolicy] = PolicyTable(snapshot.authorization_policies, root)
        self._authentication: PolicyTable[RequestAuthentication] = PolicyTable(snapshot.request_authentications, root)

    def of(self, namespace: str, labels: Labels, by_host: Mapping[str, Target]) -> Guard:
        """The guard of a workload; `by_host` is what its proxy can call."""
        policies = self._authorization.of(namespace, labels)
        found = self._authentication.of(namespace, labels)
        if not policies and not found:
            return OPEN
        rules = tuple(sorted((rule for item in found for rule in item.rules), key=lambda rule: rule.issuer))
        named = {item.provider for item in policies if item.action is Action.CUSTOM}
        authorizers = tuple(
            (authorizer, service_cluster(by_host, authorizer.service, authorizer.port))
            for name, authorizer in sorted(self._authorizers.items())
            if name in named
        )
        return Guard(policies, rules, authorizers, tuple(_key_clusters(rules, by_host)))


def service_cluster(by_host: Mapping[str, Target], service: str, port: int) -> str:
    """The cluster of a service that is written as a host, or as `namespace/host`; '' where nothing is there."""
    namespace, slash, host = service.rpartition("/")
    target = by_host.get(host.lower())
    if target is None or (slash and target.service.namespace != namespace):
        return ""
    served = any(item.number == port and item.protocol is not Protocol.UDP for item in target.service.ports)
    if not served or target.service.resolution is Resolution.DYNAMIC_DNS:
        return ""
    return outbound_cluster(port, "", target.service.host)


def _key_clusters(rules: Iterable[JwtRule], by_host: Mapping[str, Target]) -> Iterable[tuple[str, str]]:
    for uri in sorted({rule.jwks_uri for rule in rules if rule.jwks_uri}):
        parts = split_uri(uri)
        cluster = service_cluster(by_host, parts.host, parts.port) if parts is not None else ""
        if parts is not None and cluster and (not parts.tls or _originates(by_host[parts.host], parts.port)):
            yield uri, cluster


def _originates(target: Target, port: int) -> bool:
    """Whether the rule of the service encrypts what the proxy sends in clear text."""
    policy = target.rule.policy if target.rule is not None else None
    if policy is None:
        return False
    tls = next((item for item in policy.ports if item.port == port), policy).tls
    return tls is not None and tls.mode in (TlsMode.SIMPLE, TlsMode.MUTUAL)
