"""What the judgements look things up in: one pass over a revision's resources, and the names they go by.

Built by `analyse` for each run; nothing here judges.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from headrace.config.analysis.codes import Code
from headrace.config.analysis.given import given
from headrace.config.analysis.written import Catalogue, mapping
from headrace.config.documents import Document
from headrace.config.schema import parse_path
from headrace.model.authorization import AuthorizationPolicy
from headrace.model.destination import DestinationRule
from headrace.model.gateway import Gateway
from headrace.model.inference import InferencePolicy
from headrace.model.ingress import Ingress, IngressClass
from headrace.model.mesh import MeshConfig
from headrace.model.names import resolve_host
from headrace.model.problem import Problem
from headrace.model.request_authentication import RequestAuthentication
from headrace.model.resource import Labels, Metadata, ResourceKey, selects
from headrace.model.security import PeerAuthentication, Secret
from headrace.model.service import Service, ServiceEntry
from headrace.model.traffic import VirtualService
from headrace.model.workload import Engine, StaticWorkload, Workload, WorkloadRole

IGNORED_NAMESPACES = frozenset(("kube-system", "kube-public", "kube-node-lease", "local-path-storage"))
"""Namespaces of a cluster's own, which Istio leaves alone."""
_MOST_NAMES = 10


@dataclass(frozen=True, slots=True)
class Target:
    """Something that can be called: a Service, or one host of a ServiceEntry."""

    meta: Metadata
    host: str
    ports: tuple[int, ...]
    export_to: tuple[str, ...]
    selector: Labels | None
    source: Service | ServiceEntry


@dataclass(frozen=True, slots=True)
class Running:
    """A workload of any kind, as selectors see it. `gateway`: a Workload of that role; `pod`: a Pod, or what makes some
    (a Deployment)."""

    meta: Metadata
    labels: Labels
    engine: Engine | None = None
    gateway: bool = False
    pod: bool = False

    @property
    def annotations(self) -> Labels:
        return self.meta.annotations


def covers(wide: str, narrow: str) -> bool:
    """Whether host pattern `wide` (`*`, `*.a.b`, `a.b`) holds everything that `narrow` holds."""
    if not wide.startswith("*"):
        return wide == narrow
    suffix = wide[1:]
    if narrow.startswith("*"):
        return len(narrow) >= len(wide) and narrow[1:].endswith(suffix)
    return narrow.endswith(suffix)


def overlaps(one: str, other: str) -> bool:
    """Whether some host fits both patterns, by Istio's rule (one covers the other)."""
    return covers(one, other) or covers(other, one)


@dataclass(slots=True)
class Index:
    """The resources by kind and by name. `add` fills it; judgements only read."""

    mesh: MeshConfig
    written: Catalogue = field(default_factory=Catalogue)
    hosted: bool = False
    """Whether Headrace runs workloads of these documents: all of them, and the gateways, have proxies."""
    mesh_fields: Mapping[str, Any] = field(default_factory=dict)
    """MeshConfig's fields as they are written."""
    now: datetime = datetime.min
    """When certificates must be valid."""
    virtual_services: list[VirtualService] = field(default_factory=list)
    destination_rules: list[DestinationRule] = field(default_factory=list)
    gateways: dict[str, Gateway] = field(default_factory=dict)
    services: list[Service] = field(default_factory=list)
    service_entries: list[ServiceEntry] = field(default_factory=list)
    peer_authentications: list[PeerAuthentication] = field(default_factory=list)
    authorization_policies: list[AuthorizationPolicy] = field(default_factory=list)
    request_authentications: list[RequestAuthentication] = field(default_factory=list)
    inference_policies: list[InferencePolicy] = field(default_factory=list)
    ingresses: list[Ingress] = field(default_factory=list)
    ingress_classes: dict[str, IngressClass] = field(default_factory=dict)
    secrets: dict[tuple[str, str], Secret] = field(default_factory=dict)
    running: list[Running] = field(default_factory=list)
    metas: list[Metadata] = field(default_factory=list)
    _documents: Mapping[ResourceKey, Document] = field(default_factory=dict)
    _exact: dict[str, list[Target]] = field(default_factory=lambda: defaultdict(list))
    _wild: list[Target] = field(default_factory=list)
    _in_namespace: dict[str, list[Running]] = field(default_factory=lambda: defaultdict(list))
    _labelled: dict[tuple[str, str, str], list[Running]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def of(
        cls,
        resources: Iterable[object],
        mesh: MeshConfig,
        documents: Mapping[ResourceKey, Document],
        unread: Iterable[Document],
        now: datetime,
    ) -> Index:
        """The index of `resources`, oldest first; resources of other kinds only count as metadata. `documents` are
        those that the resources were made of, `unread` those that nothing is made of."""
        found = [item for item in _with_meta(resources) if item[0].namespace not in IGNORED_NAMESPACES]
        written = [item for item in chain(documents.values(), unread) if not _is_ignored(item)]
        fields = next((mapping(item.data, "spec") for item in written if item.kind == "MeshConfig"), {})
        hosted = any(isinstance(resource, Workload) for _, resource in found)
        if written and not hosted:
            names = {(item.kind, item.namespace, item.name) for item in written}
            for document, resource in given(fields):
                if (document.kind, document.namespace, document.name) not in names:
                    written.append(document)
                    found += _with_meta([resource])
        index = cls(mesh, Catalogue.of(written), hosted, fields, now, _documents=documents)
        for meta, resource in sorted(found, key=lambda item: item[0].age()):
            index._add(meta, resource)
        return index

    def _add(self, meta: Metadata, resource: object) -> None:
        self.metas.append(meta)
        match resource:
            case VirtualService():
                self.virtual_services.append(resource)
            case DestinationRule():
                self.destination_rules.append(resource)
            case Gateway():
                self.gateways[f"{meta.namespace}/{meta.name}"] = resource
            case PeerAuthentication():
                self.peer_authentications.append(resource)
            case AuthorizationPolicy():
                self.authorization_policies.append(resource)
            case RequestAuthentication():
                self.request_authentications.append(resource)
            case InferencePolicy():
                self.inference_policies.append(resource)
            case Ingress():
                self.ingresses.append(resource)
            case IngressClass():
                self.ingress_classes[meta.name] = resource
            case Secret():
                self.secrets[meta.namespace, meta.name] = resource
            case Service() | ServiceEntry():
                self._add_callable(resource)
            case Workload():
                gateway = resource.role is WorkloadRole.GATEWAY
                self._add_running(Running(meta, resource.labels or {}, resource.engine, gateway))
            case StaticWorkload():
                described = not meta.key.kind.startswith("networking.istio.io/")
                self._add_running(Running(meta, resource.labels, pod=described))
            case _:
                pass

    def _add_callable(self, resource: Service | ServiceEntry) -> None:
        ports = tuple(port.number for port in resource.ports)
        if isinstance(resource, Service):
            self.services.append(resource)
            selector = resource.selector
            hosts: tuple[str, ...] = (resource.host,)
        else:
            self.service_entries.append(resource)
            selector = resource.workload_selector
            hosts = tuple(resolve_host(host, resource.meta.namespace) for host in resource.hosts)
        for host in hosts:
            target = Target(resource.meta, host, ports, resource.export_to, selector, resource)
            if host.startswith("*"):
                self._wild.append(target)
            else:
                self._exact[host].append(target)

    def find_target(self, host: str, namespaces: Iterable[str]) -> Target | None:
        """What `host` (a full name or a wildcard) calls from any of `namespaces`: an exact name before a wildcard
        that covers it, the caller's own namespace before others."""
        wanted = tuple(namespaces)
        visible = [target for target in self._exact.get(host, ()) if self._visible(target, wanted)]
        visible.sort(key=lambda target: target.meta.namespace not in wanted)
        if visible:
            return visible[0]
        for target in self._wild:
            if covers(target.host, host) and self._visible(target, wanted):
                return target
        if host.startswith("*"):
            for name in sorted(self._exact):
                for target in self._exact[name]:
                    if covers(host, name) and self._visible(target, wanted):
                        return target
        return None

    def find_host(self, host: str, namespace: str, scopes: Iterable[str]) -> Target | None:
        """What a document of a namespace means by a full host name, by the rule of Istio's analysis: the service that
        everybody sees, then one that is exported to who the document is for, then a ServiceEntry's wildcard."""
        exact = self._exact.get(host, [])
        for scope in ("*", *scopes):
            for target in exact:
                if scope in self._scopes(target):
                    return target
        tail = host.removeprefix("*")
        for target in self._wild:
            fits = target.host == host or tail.endswith(target.host[1:])
            if fits and not {"*", namespace}.isdisjoint(self._scopes(target)):
                return target
        return None

    def _scopes(self, target: Target) -> set[str]:
        """Namespaces that see a target; `*`: all."""
        scopes = target.export_to or self.mesh.default_service_export_to
        return {target.meta.namespace if scope == "." else scope for scope in scopes}

    def ports_of(self, target: Target) -> frozenset[int]:
        """All ports of a target: ServiceEntries of one namespace for the same host are one service."""
        beside = (
            other.ports
            for other in self._exact.get(target.host, ())
            if isinstance(other.source, ServiceEntry) and other.meta.namespace == target.meta.namespace
        )
        return frozenset(target.ports).union(*beside)

    def _visible(self, target: Target, namespaces: tuple[str, ...]) -> bool:
        scopes = self._scopes(target)
        return "*" in scopes or not scopes.isdisjoint(namespaces)

    def workloads_of(self, target: Target) -> list[Running]:
        """Workloads behind a target, in its namespace; none for a target without a selector."""
        return self.workloads_with(target.meta.namespace, target.selector) if target.selector else []

    def workloads_with(self, namespace: str, labels: Labels) -> list[Running]:
        """Workloads of a namespace with all of these labels."""
        if not labels:
            return self._in_namespace.get(namespace, [])
        found = min((self._labelled.get((namespace, *pair), []) for pair in labels.items()), key=len)
        return [running for running in found if selects(labels, running.labels)]

    def workloads_anywhere(self, labels: Labels) -> list[Running]:
        """Workloads of all namespaces with all of these labels."""
        return [running for name in self._in_namespace for running in self.workloads_with(name, labels)]

    def pods_with(self, namespace: str, labels: Labels) -> list[Running]:
        """Workloads of a namespace that Headrace or Kubernetes runs, with all of these labels."""
        return [running for running in self.workloads_with(namespace, labels) if running.pod or self.hosted]

    def is_ambient(self, running: Running) -> bool:
        """Whether the workload's traffic goes through the node's proxy instead of a sidecar."""
        return running.annotations.get("ambient.istio.io/redirection") == "enabled"

    def _add_running(self, running: Running) -> None:
        self.running.append(running)
        self._in_namespace[running.meta.namespace].append(running)
        for pair in running.labels.items():
            self._labelled[(running.meta.namespace, *pair)].append(running)

    def problem(self, meta: Metadata, code: Code, place: str, message: str, remedy: str) -> Problem:
        """A problem of the document; `place` is a field path."""
        document = self._documents.get(meta.key)
        return Problem(
            file=document.file if document else meta.origin.file,
            line=document.locate(parse_path(place))[1] if document else meta.origin.line,
            code=code.code,
            severity=code.severity,
            kind=meta.key.short_kind,
            namespace=meta.namespace,
            name=meta.name,
            field=place,
            message=message,
            remedy=remedy,
        )


def _with_meta(resources: Iterable[object]) -> Iterator[tuple[Metadata, object]]:
    for resource in resources:
        meta = getattr(resource, "meta", None)
        if isinstance(meta, Metadata):
            yield meta, resource


def _is_ignored(document: Document) -> bool:
    namespace = document.name if document.kind == "Namespace" else document.namespace
    return namespace in IGNORED_NAMESPACES


def shown(labels: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """Labels as people write selectors: `a=b,c=d`, sorted."""
    pairs = labels.items() if isinstance(labels, Mapping) else labels
    return ",".join(f"{name}={value}" for name, value in sorted(pairs))


def listed(metas: Iterable[Metadata]) -> str:
    """Names of documents for a message: sorted, `namespace/name`, at most ten."""
    return enumerated(f"{meta.namespace}/{meta.name}" for meta in metas)


def enumerated(found: Iterable[str]) -> str:
    """Names for a message: each once, sorted, at most ten."""
    names = sorted(set(found))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
