"""From the names in Envoy's configuration back to documents: file, line, and the rule that made a route.

Called by `walk`. Routes, clusters and connections carry the document that they come from in their metadata
(`translate.messages.document_path`), RBAC policies in their names (`translate.authorization.policy_name`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from headrace.envoy.readable import message_data
from headrace.envoy.trace.request import Data
from headrace.envoy.trace.routes import document
from headrace.envoy.translate.memo import Memo
from headrace.envoy.translate.routes import http_routes
from headrace.envoy.view import ProxyView
from headrace.model.names import MESH_GATEWAY
from headrace.model.resource import Labels, Metadata
from headrace.model.traffic import HttpRoute, VirtualService
from headrace.registry.mtls import deciding
from headrace.registry.snapshot import MeshSnapshot

_PATH = re.compile(r"/apis/[^/]+/[^/]+/namespaces/([^/]*)/([a-z-]+)/(.+)")
_POLICY = re.compile(r"ns\[([^]]*)]-policy\[([^]]*)]-rule\[(\d+)]")
_KINDS = {"virtual-service": "VirtualService", "destination-rule": "DestinationRule"}


class Origins:
    """The documents of one snapshot, by what Envoy's configuration says of them."""

    def __init__(self, snapshot: MeshSnapshot) -> None:
        self._snapshot = snapshot

    def of_path(self, path: str) -> str:
        """`VirtualService shop/chat (shop.yaml:12)`; '' for nothing."""
        found = _PATH.fullmatch(path)
        if found is None:
            return ""
        namespace, kind, name = found.groups()
        groups: dict[str, Iterable[Metadata]] = {
            "virtual-service": (item.meta for item in self._snapshot.virtual_services),
            "destination-rule": (item.meta for item in self._snapshot.destination_rules),
        }
        for meta in groups.get(kind, ()):
            if (meta.namespace, meta.name) == (namespace, name):
                return described(meta)
        return f"{_KINDS.get(kind, kind)} {namespace}/{name}"

    def of_policy(self, name: str) -> str:
        """`AuthorizationPolicy shop/deny rule 1 (shop.yaml:30)` for the name of an RBAC policy; '' for another name."""
        found = _POLICY.search(name)
        if found is None:
            return ""
        namespace, policy, rule = found.groups()
        for item in self._snapshot.authorization_policies:
            if (item.meta.namespace, item.meta.name) == (namespace, policy):
                return described(item.meta, f"rule {int(rule) + 1}" if item.rules else "which has no rules")
        return f"AuthorizationPolicy {namespace}/{policy}"

    def of_route(self, route: Data, view: ProxyView, port: int) -> str:
        """The VirtualService and the rule of it that made a route, with the rule's own line."""
        found = _PATH.fullmatch(document(route))
        if found is None:
            return ""
        namespace, _, name = found.groups()
        scope = view.scope
        bound = [(MESH_GATEWAY, scope.virtual_services), *scope.gateway_virtual_services.items()]
        ports = (*(served for served, here in view.instance.port_map if here == port), port)
        lines = (
            _rule_line(route, item, gateway, view, number)
            for gateway, items in bound
            for item in items
            if (item.meta.namespace, item.meta.name) == (namespace, name)
            for number in ports
        )
        line = next((line for line in lines if line), "")
        if line:
            return line
        return self.of_path(document(route))

    def of_mtls(self, namespace: str, labels: Labels, port: int) -> str:
        """The PeerAuthentication that settles what a workload's port accepts; '' where the default holds."""
        snapshot = self._snapshot
        found = deciding(snapshot.peer_authentications, snapshot.mesh.root_namespace, namespace, labels, port)
        return described(found.meta) if found is not None else ""


def _rule_line(route: Data, item: VirtualService, gateway: str, view: ProxyView, port: int) -> str:
    """The rule whose routes are this one: rules are translated one by one and compared."""
    for http in item.http:
        alone = replace(item, http=(http,))
        for tls in (False, True):
            made = http_routes(Memo(), view.scope, alone, port, gateway, tls=tls)
            if any(message_data(one) == route for one in made):
                place = f"{item.meta.origin.file}:{http.line or item.meta.origin.line}"
                return f"{route_name(item, http)} ({place})"
    return ""


def route_name(item: VirtualService, http: HttpRoute) -> str:
    """The document and the rule in it that a rule was made from. Rules of Gateway API's routes, several of which may
    make one VirtualService, are named `NAMESPACE.NAME.RULE`."""
    kind = item.meta.key.short_kind
    parts = http.name.split(".")
    if kind != "VirtualService" and len(parts) >= 3:
        return f"{kind} {parts[0]}/{'.'.join(parts[1:-1])} rules[{parts[-1]}]"
    return f"{kind} {item.meta.namespace}/{item.meta.name} http[{http.position}]"


def described(meta: Metadata, part: str = "") -> str:
    """Kind, name and place of a document."""
    words = f"{meta.key} {part}" if part else str(meta.key)
    return f"{words} ({meta.origin.file}:{meta.origin.line})"
