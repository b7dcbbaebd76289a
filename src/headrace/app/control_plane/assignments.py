"""What each host must run: Workloads and gateways become replicas with stable ids. Pure.

Called by the control plane after every revision; the agent reconciles towards the answer.

A Gateway document needs a proxy that its selector selects. Where no Workload of role `gateway` has those labels, one is
derived, named as in Istio's default installation: selector `istio: ingressgateway` gives workload
`istio-ingressgateway` in the root namespace with service account `istio-ingressgateway-service-account`. A Gateway of
the Gateway API that names no address gets a proxy of its own, `NAME-CLASS` in its own namespace.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from headrace.model.exclusions import PREFIX
from headrace.model.gateway import Gateway
from headrace.model.identity import Identity
from headrace.model.mesh import MeshConfig
from headrace.model.proxy_config import UNSET, ProxyConfig, ProxySettings
from headrace.model.resource import Labels, selects
from headrace.model.workload import Probe, Workload, WorkloadPort, WorkloadRole
from headrace.registry.proxy_configs import settle_proxy
from headrace.wire import agent_v1_pb2 as wire


@dataclass(frozen=True)
class PlannedReplica:
    """One replica that some host must run: the document it comes from, its place in it, and its identity."""

    id: str
    namespace: str
    workload: str
    index: int
    role: WorkloadRole
    identity: Identity
    labels: Labels
    ports: tuple[WorkloadPort, ...]
    spec: Workload | None
    proxy: ProxySettings = UNSET
    host: str = ""
    """The host that must run it; empty: that of the control plane."""

    @cached_property
    def spec_hash(self) -> str:
        """Hash of what a running replica cannot take over without being replaced: for an application all but probes
        and grace period; for a gateway only who it is (its ports change in place)."""
        parts: dict[str, object] = {
            "identity": self.identity.uri,
            "role": self.role.value,
            "labels": sorted(self.labels.items()),
        }
        if self.proxy != UNSET:
            parts["proxy"] = (self.proxy.concurrency, self.proxy.variables)
        if self.spec is not None and self.role is WorkloadRole.SIDECAR:
            if rules := _capture_rules(self.spec):
                parts["annotations"] = sorted(rules.items())
            parts |= {
                "command": self.spec.command,
                "env": self.spec.env,
                "directory": self.spec.directory,
                "ports": [(port.number, port.name, port.protocol) for port in self.ports],
            }
        return hashlib.blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=8).hexdigest()


def plan(
    workloads: Iterable[Workload],
    gateways: Sequence[Gateway],
    mesh: MeshConfig,
    proxy_configs: Sequence[ProxyConfig] = (),
) -> tuple[PlannedReplica, ...]:
    """Every replica that the mesh wants, sorted by id."""
    planned: list[PlannedReplica] = []
    declared: list[tuple[str, Labels]] = []
    for workload in workloads:
        labels = dict(workload.labels or {})
        ports = workload.ports
        if workload.role is WorkloadRole.GATEWAY:
            declared.append((workload.meta.namespace, labels))
            ports = _gateway_ports(workload.meta.namespace, labels, gateways)
        identity = Identity(mesh.trust_domain, workload.meta.namespace, workload.service_account)
        planned += [
            PlannedReplica(
                id=f"{workload.meta.namespace}/{workload.meta.name}-{index}",
                namespace=workload.meta.namespace,
                workload=workload.meta.name,
                index=index,
                role=workload.role,
                identity=identity,
                labels=labels,
                ports=ports,
                spec=workload,
                host=workload.hosts[index % len(workload.hosts)] if workload.hosts else "",
            )
            for index in range(workload.replicas)
        ]
    planned += _own_gateways(gateways, declared, mesh)
    planned += _derived_gateways([item for item in gateways if item.proxy is None], declared, mesh)
    planned.sort(key=lambda replica: replica.id)
    return tuple(
        replace(item, proxy=settings) if (settings := _proxy_settings(item, mesh, proxy_configs)) != UNSET else item
        for item in planned
    )


def _proxy_settings(item: PlannedReplica, mesh: MeshConfig, configs: Sequence[ProxyConfig]) -> ProxySettings:
    """What is said of the replica's proxy: by its own document, then by the settled ProxyConfigs and MeshConfig."""
    own = item.spec.proxy if item.spec is not None else UNSET
    return own.over(settle_proxy(configs, mesh, item.namespace, item.labels))


def _own_gateways(
    gateways: Sequence[Gateway], declared: Sequence[tuple[str, Labels]], mesh: MeshConfig
) -> list[PlannedReplica]:
    """The proxies that Gateways of the Gateway API get for themselves, unless a declared gateway workload is theirs."""
    own: dict[tuple[str, str], PlannedReplica] = {}
    for gateway in gateways:
        proxy = gateway.proxy
        if proxy is None or any(gateway.takes(namespace, labels, ()) for namespace, labels in declared):
            continue
        labels = dict(proxy.labels)
        own[proxy.namespace, proxy.name] = PlannedReplica(
            id=f"{proxy.namespace}/{proxy.name}-0",
            namespace=proxy.namespace,
            workload=proxy.name,
            index=0,
            role=WorkloadRole.GATEWAY,
            identity=Identity(mesh.trust_domain, proxy.namespace, proxy.service_account),
            labels=labels,
            ports=_gateway_ports(proxy.namespace, labels, gateways),
            spec=None,
        )
    return list(own.values())


def _derived_gateways(
    gateways: Sequence[Gateway], declared: Sequence[tuple[str, Labels]], mesh: MeshConfig
) -> list[PlannedReplica]:
    """One proxy for each selector that no declared gateway workload satisfies; a selector that a more specific
    derived proxy already satisfies gets none of its own."""
    selectors = sorted(
        {gateway.selector for gateway in gateways if gateway.selector}, key=lambda item: (-len(item), item)
    )
    known = [labels for _, labels in declared]
    derived = []
    for selector in selectors:
        if any(selects(dict(selector), labels) for labels in known):
            continue
        labels = dict(selector)
        name = f"istio-{labels['istio']}" if "istio" in labels else selector[0][1]
        labels.setdefault("app", name)
        known.append(labels)
        derived.append(
            PlannedReplica(
                id=f"{mesh.root_namespace}/{name}-0",
                namespace=mesh.root_namespace,
                workload=name,
                index=0,
                role=WorkloadRole.GATEWAY,
                identity=Identity(mesh.trust_domain, mesh.root_namespace, f"{name}-service-account"),
                labels=labels,
                ports=_gateway_ports(mesh.root_namespace, labels, gateways),
                spec=None,
            )
        )
    return derived


def _gateway_ports(namespace: str, labels: Labels, gateways: Iterable[Gateway]) -> tuple[WorkloadPort, ...]:
    """The ports of every Gateway server that selects a proxy with these labels."""
    ports = {
        server.port: WorkloadPort(server.port, server.port_name, server.protocol)
        for gateway in gateways
        if gateway.takes(namespace, labels, ())
        for server in gateway.servers
        if server.port
    }
    return tuple(ports[number] for number in sorted(ports))


def assignment(planned: Iterable[PlannedReplica], gateway_bind: str) -> wire.Assignment:
    """The replicas as the agent API carries them; `revision` is a hash of their content."""
    replicas = [_replica(item, gateway_bind) for item in planned]
    digest = hashlib.blake2b(digest_size=8)
    for replica in replicas:
        digest.update(replica.SerializeToString(deterministic=True))
    return wire.Assignment(revision=digest.hexdigest(), replicas=replicas)


def _replica(item: PlannedReplica, gateway_bind: str) -> wire.Replica:
    spec = item.spec
    replica = wire.Replica(
        id=item.id,
        namespace=item.namespace,
        workload=item.workload,
        index=item.index,
        role=item.role.value,
        service_account=item.identity.service_account,
        labels=item.labels,
        ports=[wire.Port(number=port.number, name=port.name, protocol=port.protocol) for port in item.ports],
        identity=item.identity.uri,
        spec_hash=item.spec_hash,
        bind=gateway_bind if item.role is WorkloadRole.GATEWAY else "",
        grace_period_ms=int((spec.grace_period if spec else 30.0) * 1000),
    )
    if item.proxy.concurrency is not None:
        replica.concurrency = item.proxy.concurrency
    replica.proxy_env.extend(wire.Variable(name=name, value=value) for name, value in item.proxy.variables)
    if spec is not None and item.role is WorkloadRole.SIDECAR:
        replica.annotations.update(_capture_rules(spec))
        replica.command.extend(spec.command)
        replica.env.extend(wire.Variable(name=name, value=value) for name, value in spec.env)
        replica.directory = spec.directory
        replica.engine = spec.engine.value if spec.engine else ""
        for field, probe in (("readiness", spec.readiness), ("liveness", spec.liveness), ("startup", spec.startup)):
            if probe is not None:
                getattr(replica, field).CopyFrom(_probe(probe))
    return replica


def _capture_rules(spec: Workload) -> Labels:
    """Istio's annotations of what transparent capture leaves alone."""
    return {name: value for name, value in spec.meta.annotations.items() if name.startswith(PREFIX)}


def _probe(probe: Probe) -> wire.Probe:
    return wire.Probe(
        http_path=probe.http_path,
        http_headers=[wire.Variable(name=name, value=value) for name, value in probe.http_headers],
        tcp=probe.tcp,
        command=probe.command,
        port=probe.port,
        initial_delay_ms=int(probe.initial_delay * 1000),
        period_ms=int(probe.period * 1000),
        timeout_ms=int(probe.timeout * 1000),
        success_threshold=probe.success_threshold,
        failure_threshold=probe.failure_threshold,
    )
