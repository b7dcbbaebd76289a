"""Makes and keeps what proxies see: scopes, their targets and workloads' inbound sides, from snapshot to snapshot.

Called by `app` for every proxy and snapshot, through `view_of`. All proxies of one scope share one object a snapshot,
and a part that did not change is the previous snapshot's object, so that `translate.memo` can key on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from weakref import WeakValueDictionary

from headrace.envoy.attachments import Attachments
from headrace.envoy.guards import Guard, Guards
from headrace.envoy.imports import WHOLE, Cutter, Imported, Part, SidecarTable, imports, union
from headrace.envoy.listening import ListeningScopes
from headrace.envoy.own_side import own_pools, own_ports
from headrace.envoy.view import Inbound, ProxyView, Scope, ScopeKey, Target
from headrace.envoy.visibility import MeshIndex, RuleMerger
from headrace.model.destination import DestinationRule
from headrace.model.gateway import Gateway, is_reference, secret_name
from headrace.model.inference import InferencePolicy
from headrace.model.locality import LOCALITY_LABELS
from headrace.model.names import MESH_GATEWAY
from headrace.model.proxy import Proxy, ProxyKind
from headrace.model.resource import Labels, ResourceKey
from headrace.model.security import Secret
from headrace.model.service import Service
from headrace.model.sidecar import Sidecar
from headrace.model.traffic import Pairs, VirtualService
from headrace.registry.inbound import workload_ports, written_addresses
from headrace.registry.mtls import settle
from headrace.registry.snapshot import MeshSnapshot

_TargetParts = tuple[
    Service, DestinationRule | None, tuple[str, ...], InferencePolicy | None, InferencePolicy | None, tuple[int, ...]
]


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """The targets of one namespace, with the parts of the snapshot that they are made of (`parts`)."""

    parts: tuple[object, ...]
    targets: tuple[Target, ...]
    by_host: Mapping[str, Target]
    credentials: frozenset[str]


_Place = tuple[tuple[str, Pairs], ResourceKey | None, int]
"""A namespace and what its DestinationRules select callers by, the Sidecar that cuts the view down, and the place of a
listener in that (-1: all together)."""


_Imports = tuple[tuple[object, ...], tuple[Imported, ...]]
"""What the egress listeners of a Sidecar let through, behind what that was made of."""


class Scopes:
    """Keeps scopes, targets and inbound sides from snapshot to snapshot; one for a control plane, not thread-safe."""

    def __init__(self) -> None:
        self._snapshot: MeshSnapshot | None = None
        self._index: MeshIndex | None = None
        self._guards: Guards | None = None
        self._attachments = Attachments()
        self._listening = ListeningScopes()
        self._merger = RuleMerger()
        self._cutter = Cutter()
        self._sidecars = SidecarTable((), "")
        self._current: dict[ScopeKey, Scope] = {}
        self._last: dict[ScopeKey, Scope] = {}
        self._targets: WeakValueDictionary[_TargetParts, Target] = WeakValueDictionary()
        self._imports: dict[tuple[str, ResourceKey], _Imports] = {}
        self._last_imports: dict[tuple[str, ResourceKey], _Imports] = {}
        self._seen: dict[_Place, _Seen] = {}
        self._last_seen: dict[_Place, _Seen] = {}
        self._written: frozenset[tuple[str, str]] = frozenset()
        self._inbound: dict[tuple[ProxyKind, str, str, Pairs, tuple[str, ...]], Inbound] = {}

    def view(self, snapshot: MeshSnapshot, proxy: Proxy) -> ProxyView:
        """The view of `proxy`; see `view_of`."""
        index = self._turn(snapshot)
        sidecar = self._sidecars.of(proxy.namespace, proxy.labels) if proxy.kind is ProxyKind.SIDECAR else None
        key = _scope_key(index, proxy, self._attachments.labels, sidecar)
        scope = self._current.get(key)
        if scope is None:
            scope = self._settle(index, snapshot, key, sidecar)
        inbound = self._inbound_of(snapshot, proxy, scope)
        return ProxyView(scope, snapshot.endpoints, inbound, proxy, self._listening.of(scope, proxy))

    def _turn(self, snapshot: MeshSnapshot) -> MeshIndex:
        """The index of the snapshot; where more than endpoints changed, the current scopes become the last ones."""
        old = self._snapshot
        self._snapshot = snapshot
        if self._index is None or old is None or not snapshot.same_but_endpoints(old):
            self._index = MeshIndex(snapshot, self._merger)
            self._last, self._current = self._current, {}
            self._last_imports, self._imports = self._imports, {}
            self._last_seen, self._seen = self._seen, {}
            self._inbound, self._guards = {}, None
            self._attachments.turn(snapshot)
            self._listening.keep(self._last.values())
            self._sidecars = SidecarTable(snapshot.sidecars, snapshot.mesh.root_namespace)
            self._written = written_addresses(snapshot)
            if old is None or old.services is not snapshot.services:
                self._cutter.turn()
            if old is None or old.destination_rules is not snapshot.destination_rules:
                self._merger.turn()
        return self._index

    def _settle(self, index: MeshIndex, snapshot: MeshSnapshot, key: ScopeKey, sidecar: Sidecar | None) -> Scope:
        """A scope of this snapshot: the last one where every part is the same."""
        if sidecar is not None and sidecar.egress:
            return self._settle_cut(index, snapshot, key, sidecar)
        seen = self._targets_of(index, snapshot, (_caller(index, key), None, -1), None)
        visible = index.visible_virtual_services(key.namespace)
        gateways: tuple[Gateway, ...] = ()
        by_gateway: dict[str, tuple[VirtualService, ...]] = {}
        virtual_services: tuple[VirtualService, ...] = ()
        if key.kind is ProxyKind.GATEWAY:
            labels = dict(key.labels)
            gateways = tuple(item for item in snapshot.gateways if item.takes(key.namespace, labels, key.before))
            for gateway in gateways:
                name = f"{gateway.meta.namespace}/{gateway.meta.name}"
                by_gateway[name] = tuple(item for item in visible if name in item.gateways)
        else:
            virtual_services = tuple(item for item in visible if MESH_GATEWAY in item.gateways)
        credentials = seen.credentials | _gateway_credentials(gateways, key.namespace)
        attached, patches = self._attachments.of(key.namespace, dict(key.labels), seen.by_host)
        return self._kept(
            Scope(
                key=key,
                mesh=snapshot.mesh,
                targets=seen.targets,
                by_host=seen.by_host,
                virtual_services=virtual_services,
                gateways=gateways,
                gateway_virtual_services=by_gateway,
                secrets=_secrets(snapshot, key.namespace, credentials),
                attached=attached,
                patches=patches,
                sidecar=sidecar,
            )
        )

    def _settle_cut(self, index: MeshIndex, snapshot: MeshSnapshot, key: ScopeKey, sidecar: Sidecar) -> Scope:
        """A scope that a Sidecar cuts down, and those of its listeners (none where one takes all that is called)."""
        place = (key.namespace, sidecar.meta.key)
        basis = (sidecar, snapshot.mesh, snapshot.services, snapshot.virtual_services)
        known = self._imports.get(place) or self._last_imports.get(place)
        if known is None or any(one is not other for one, other in zip(known[0], basis, strict=True)):
            known = (basis, imports(index, sidecar, key.namespace))
        self._imports[place] = known
        found = known[1]
        caller = (_caller(index, key), sidecar.meta.key)
        seen = self._targets_of(index, snapshot, (*caller, -1), union(found))
        attached, patches = self._attachments.of(key.namespace, dict(key.labels), seen.by_host)
        whole = Scope(
            key=key,
            mesh=snapshot.mesh,
            targets=seen.targets,
            by_host=seen.by_host,
            virtual_services=tuple(dict.fromkeys(item for part in found for item in part.virtual_services)),
            secrets=_secrets(snapshot, key.namespace, seen.credentials),
            attached=attached,
            patches=patches,
            sidecar=sidecar,
        )
        listening = [self._targets_of(index, snapshot, (*caller, at), part.services) for at, part in enumerate(found)]
        if len(found) == 1 and found[0].listener.takes_all_ports and len(listening[0].targets) == len(seen.targets):
            return self._kept(replace(whole, listener=found[0].listener))
        through = tuple(
            self._kept(
                replace(
                    whole,
                    key=replace(key, listener=at),
                    targets=listening[at].targets,
                    virtual_services=part.virtual_services,
                    listener=part.listener,
                )
            )
            for at, part in enumerate(found)
        )
        return self._kept(replace(whole, through=through))

    def _kept(self, scope: Scope) -> Scope:
        """The last scope of the same key where every part is the same, else this one; it is the current one."""
        last = self._last.get(scope.key)
        if last is not None and last.parts() == scope.parts():
            scope = last
        self._current[scope.key] = scope
        return scope

    def _targets_of(
        self, index: MeshIndex, snapshot: MeshSnapshot, place: _Place, chosen: tuple[Part, ...] | None
    ) -> _Seen:
        """What a namespace sees of services, or of the `chosen` ones only; made again only where something that it is
        made of changed."""
        policies = snapshot.inference_policies
        parts = (snapshot.mesh, snapshot.services, snapshot.destination_rules, snapshot.accounts, policies, chosen)
        namespace, labels = place[0]
        known = self._seen.get(place) or self._last_seen.get(place)
        if known is not None and known.parts == parts:
            self._seen[place] = known
            return known
        if chosen is None:
            chosen = tuple((service, WHOLE) for service in index.visible_services(namespace))
        targets = tuple(self._target(index, snapshot, part, (namespace, dict(labels))) for part in chosen)
        if known is not None and known.targets == targets:
            seen = _Seen(parts, known.targets, known.by_host, known.credentials)
        else:
            by_host = {target.service.host: target for target in targets}
            seen = _Seen(parts, targets, by_host, _rule_credentials(targets))
        self._seen[place] = seen
        return seen

    def _target(self, index: MeshIndex, snapshot: MeshSnapshot, part: Part, caller: tuple[str, Labels]) -> Target:
        service = part[0]
        accounts = snapshot.accounts.get((service.namespace, service.host), ())
        rule, injects = index.rule_for(service, *caller), index.credential_for(service, caller[0])
        seen, cut = self._cutter.service(part), tuple(sorted(part[1]))
        parts = (seen, rule, accounts, index.inference_for(service), injects, cut)
        target = self._targets.get(parts)
        if target is None:
            target = self._targets[parts] = Target(*parts)
        return target

    def _inbound_of(self, snapshot: MeshSnapshot, proxy: Proxy, scope: Scope) -> Inbound:
        addresses = tuple(item for item in proxy.addresses if (proxy.namespace, item) in self._written)
        key = (proxy.kind, proxy.namespace, proxy.workload, tuple(sorted(proxy.labels.items())), addresses)
        inbound = self._inbound.get(key)
        if inbound is not None:
            return inbound
        guard = self._guard_of(snapshot, proxy, scope)
        if proxy.kind is ProxyKind.GATEWAY:
            inbound = Inbound(guard=guard)
        else:
            policy = settle(snapshot.peer_authentications, snapshot.mesh.root_namespace, proxy.namespace, proxy.labels)
            found = workload_ports(snapshot, proxy.namespace, proxy.workload, proxy.labels, addresses)
            ports = own_ports(found, scope)
            ingress = scope.sidecar.ingress if scope.sidecar is not None else ()
            inbound = Inbound(ports, policy, tuple(own_pools(ports, scope)), guard, ingress)
        self._inbound[key] = inbound
        return inbound

    def _guard_of(self, snapshot: MeshSnapshot, proxy: Proxy, scope: Scope) -> Guard:
        """The policies for the proxy's workload, by all of its labels: whatever one of them selects on counts."""
        if self._guards is None:
            self._guards = Guards(snapshot)
        return self._guards.of(proxy.namespace, proxy.labels, scope.by_host)


def _scope_key(index: MeshIndex, proxy: Proxy, attached: frozenset[str], sidecar: Sidecar | None) -> ScopeKey:
    """`attached`: the labels by which documents are attached to workloads."""
    names = index.gateway_label_names if proxy.kind is ProxyKind.GATEWAY else frozenset[str]()
    names = names | index.caller_label_names | LOCALITY_LABELS | attached
    labels = tuple(sorted((name, value) for name, value in proxy.labels.items() if name in names))
    owner = sidecar.meta.key if sidecar is not None else None
    return ScopeKey(proxy.kind, proxy.namespace, labels, owner, before=tuple(service for service, _ in proxy.behind))


def _caller(index: MeshIndex, key: ScopeKey) -> tuple[str, Pairs]:
    """A scope's namespace, and those of its labels that DestinationRules of that namespace select callers by."""
    names = index.selector_names(key.namespace)
    return key.namespace, tuple(pair for pair in key.labels if pair[0] in names)


def _rule_credentials(targets: tuple[Target, ...]) -> frozenset[str]:
    """Secrets that the DestinationRules of these targets, and the policies whose credentials are injected, name."""
    names = {
        target.injects.credential.secret
        for target in targets
        if target.injects is not None and target.injects.credential is not None
    }
    for rule in {target.rule for target in targets if target.rule is not None}:
        for policy in rule.policies():
            blocks = [policy.tls, *(port.tls for port in policy.ports)]
            names.update(tls.credential_name for tls in blocks if tls is not None)
    return frozenset(name for name in names if name and not name.startswith("kubernetes-gateway://"))


def _gateway_credentials(gateways: tuple[Gateway, ...], namespace: str) -> frozenset[str]:
    """The Secrets of `namespace` that the servers name; those of other namespaces only by what was a document of the
    Gateway API, whose references were judged."""
    written = {
        credential
        for gateway in gateways
        for server in gateway.servers
        if server.tls is not None and server.tls.terminates
        for credential in (*server.tls.credentials, *server.tls.ca_candidates)
        if gateway.judged or not is_reference(credential)
    }
    return frozenset({secret_name(credential, namespace) for credential in written} - {""})


def _secrets(snapshot: MeshSnapshot, namespace: str, names: frozenset[str]) -> dict[str, Secret]:
    """The Secrets of `namespace` with these names; `NAME-cacert` belongs to NAME (Istio's rule)."""
    wanted = names | {f"{name}-cacert" for name in names}
    found = {
        name: snapshot.credentials.get(name) if is_reference(name) else snapshot.secrets.get((namespace, name))
        for name in sorted(wanted)
    }
    return {name: secret for name, secret in found.items() if secret is not None}


def view_of(snapshot: MeshSnapshot, proxy: Proxy, scopes: Scopes) -> ProxyView:
    """What `proxy` sees of `snapshot`; `scopes` is the store that makes scopes shared."""
    return scopes.view(snapshot, proxy)
