"""BackendTLSPolicies become DestinationRules of Istio's model: TLS towards the servers behind a Service.

Called by `convert`. Of several policies for one target (and port) the oldest counts, and the others are told so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from headrace.model.destination import ClientTls, DestinationRule, PortPolicy, TlsMode, TrafficPolicy
from headrace.model.gateway_api import CONTROLLER, BackendTlsPolicy, PolicyTargetRef
from headrace.model.policy import GATEWAY_GROUP
from headrace.model.resource import ResourceKey
from headrace.model.service import Service, ServiceEntry
from headrace.registry.gateway_api.certificates import References, authority_problem
from headrace.registry.gateway_api.conditions import ACCEPTED, RESOLVED, Conditions, Refusal, Status
from headrace.registry.gateway_api.gateways import INTERNAL
from headrace.registry.gateway_api.world import World

IGNORE = "istio.io/ignore-policy-attachment"
"""Annotation of a policy that is for another implementation (Istio's)."""
MESH_CONTROLLER = "istio.io/mesh-controller"
_MOST_ANCESTORS = 16
_UNKNOWN = "invalid://"
"""A credential that there never is: connections fail rather than go unverified."""
_VALID = "Configuration is valid"


@dataclass(slots=True)
class Originated:
    """What the policies become: rules (one a host), and statuses."""

    rules: list[DestinationRule] = field(default_factory=list)
    statuses: dict[ResourceKey, Status] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Piece:
    """What one policy says of one host; `port` 0: every port."""

    policy: BackendTlsPolicy
    name: str
    host: str
    port: int
    tls: ClientTls


def originate(
    world: World,
    references: References,
    policies: Sequence[BackendTlsPolicy],
    behind: Mapping[tuple[str, str, str, str], set[tuple[str, str]]],
) -> Originated:
    """All policies, oldest first; `behind` are the Gateways that lead to a backend."""
    found = Originated()
    pieces: dict[tuple[str, str, str], list[_Piece]] = {}
    claims: dict[tuple[str, PolicyTargetRef], BackendTlsPolicy] = {}
    for policy in policies:
        if policy.meta.annotations.get(IGNORE, "").lower() == "true":
            found.statuses[policy.meta.key] = _ignored(policy)
            continue
        for target in policy.targets:
            claims.setdefault((policy.meta.namespace, target), policy)
        for piece in _apply(world, references, policy, claims, behind, found):
            pieces.setdefault((policy.meta.namespace, piece.name, piece.host), []).append(piece)
    found.rules = [_rule(pieces[key]) for key in sorted(pieces)]
    return found


def _apply(
    world: World,
    references: References,
    policy: BackendTlsPolicy,
    claims: Mapping[tuple[str, PolicyTargetRef], BackendTlsPolicy],
    behind: Mapping[tuple[str, str, str, str], set[tuple[str, str]]],
    found: Originated,
) -> Iterator[_Piece]:
    conditions = Conditions()
    conditions.good(ACCEPTED, ACCEPTED, _VALID)
    conditions.good(RESOLVED, RESOLVED, _VALID)
    tls = ClientTls(
        mode=TlsMode.SIMPLE,
        sni=policy.hostname,
        subject_alt_names=policy.subject_alt_names or (policy.hostname,),
        credential_name=_authority(world, references, policy, conditions),
    )
    ancestors: list[Status] = []
    gateways: set[tuple[str, str]] = set()
    for target in policy.targets:
        own = Conditions(dict(conditions.found))
        service, port, problem = _target(world, policy.meta.namespace, target)
        winner = claims[policy.meta.namespace, target]
        if problem:
            own.bad(ACCEPTED, Refusal("TargetNotFound", f"targetRefs invalid: {problem}"))
        elif winner is not policy:
            message = f'Conflicts with BackendTLSPolicy "{winner.meta.name}" targeting the same backend'
            own.bad(ACCEPTED, Refusal("Conflicted", message))
        elif service is not None:
            hosts = service.hosts if isinstance(service, ServiceEntry) else (service.host,)
            for host in hosts:
                yield _Piece(policy, target.name, host, port, tls)
        if not problem:
            gateways |= behind.get((target.group, target.kind, policy.meta.namespace, target.name), set())
        ancestors.append(_ancestor(_written(target), MESH_CONTROLLER, own))
    for namespace, name in sorted(gateways):
        ref = {"group": GATEWAY_GROUP, "kind": "Gateway", "name": name}
        if namespace != policy.meta.namespace:
            ref["namespace"] = namespace
        ancestors.append(_ancestor(ref, CONTROLLER, conditions))
    found.statuses[policy.meta.key] = {"ancestors": ancestors[:_MOST_ANCESTORS]}


def _ancestor(ref: Mapping[str, str], controller: str, conditions: Conditions) -> Status:
    return {"ancestorRef": dict(ref), "controllerName": controller, "conditions": conditions.data()}


def _ignored(policy: BackendTlsPolicy) -> Status:
    conditions = Conditions()
    conditions.bad(ACCEPTED, Refusal("IgnoredByIstio", f"Ignored by Istio due to annotation {IGNORE}=true"))
    return {"ancestors": [_ancestor(_written(target), MESH_CONTROLLER, conditions) for target in policy.targets]}


def _written(target: PolicyTargetRef) -> dict[str, str]:
    """The reference as the document writes it."""
    ref = {"group": target.group, "kind": target.kind, "name": target.name}
    return {**ref, "sectionName": target.section} if target.section else ref


def _target(world: World, namespace: str, target: PolicyTargetRef) -> tuple[Service | ServiceEntry | None, int, str]:
    """The service of a target, the number of its port (0: every one), and what is wrong."""
    place = (namespace, target.name)
    found: Service | ServiceEntry | None
    if (target.group, target.kind) == ("", "Service"):
        found = world.services.get(place)
    elif (target.group, target.kind) == ("networking.istio.io", "ServiceEntry"):
        found = world.entries.get(place)
    else:
        return None, 0, f"unsupported kind {target.kind}"
    if found is None:
        return None, 0, f"reference {namespace}/{target.name} (of kind {target.kind}) not found"
    if not target.section:
        return found, 0, ""
    port = next((port.number for port in found.ports if port.name == target.section), 0)
    if not port:
        return None, 0, f'sectionName "{target.section}" does not exist in {target.kind} {namespace}/{target.name}'
    return found, port, ""


def _authority(world: World, references: References, policy: BackendTlsPolicy, conditions: Conditions) -> str:
    """The credential of the CA that must have signed ('' the host's own CAs)."""
    if policy.well_known:
        if policy.well_known != "System":
            message = f"Unknown wellKnownCACertificates: {policy.well_known}"
            conditions.bad(ACCEPTED, Refusal("Invalid", message))
            return _UNKNOWN
        return ""
    ref, namespace = policy.authorities[0], policy.meta.namespace
    if len(policy.authorities) > 1:
        message = f"{_VALID}; warning: only the first caCertificateRefs will be used"
        conditions.good(ACCEPTED, ACCEPTED, message)
    problem = Refusal("InvalidKind", f"Certificate reference invalid: unsupported reference kind: {ref.kind}")
    if (ref.group, ref.kind) == ("", "ConfigMap"):
        config = world.config_maps.get((namespace, ref.name))
        if config is None:
            message = f"Certificate reference not found: reference {namespace}/{ref.name} (of kind ConfigMap) not found"
            problem = Refusal("InvalidCACertificateRef", message)
        else:
            wrong = authority_problem({key: text.encode() for key, text in config.data.items()})
            if not wrong:
                return references.bundle("ConfigMap", namespace, ref.name)
            problem = Refusal("InvalidCACertificateRef", f"Certificate invalid: {wrong}")
    conditions.bad(RESOLVED, problem)
    conditions.bad(ACCEPTED, Refusal("NoValidCACertificate", problem.message))
    return _UNKNOWN


def _rule(pieces: Sequence[_Piece]) -> DestinationRule:
    """The rule of one host: of the pieces for the whole of it, and for each port, the oldest."""
    first = pieces[0]
    ports: dict[int, PortPolicy] = {}
    whole: ClientTls | None = None
    for piece in pieces:
        if not piece.port:
            whole = whole or piece.tls
        else:
            ports.setdefault(piece.port, PortPolicy(piece.port, tls=piece.tls))
    meta = first.policy.meta
    policies = list(dict.fromkeys(piece.policy for piece in pieces))
    digest = "+".join(item.meta.digest for item in policies)
    name = f"{first.name}~{first.host}~{INTERNAL}"
    return DestinationRule(
        meta=replace(meta, key=ResourceKey(meta.key.kind, meta.namespace, name), digest=digest),
        host=first.host,
        policy=TrafficPolicy(tls=whole, ports=tuple(ports[number] for number in sorted(ports))),
    )
