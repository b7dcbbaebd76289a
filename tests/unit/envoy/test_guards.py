"""Policies reach exactly the proxies that they are for, and nothing of an older policy stays in any cache.

Documents change one by one under one control plane's views and translator; after every change each proxy's resources
must be those that a translator without a memory makes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from headrace.app import offline
from headrace.config.documents import read_text
from headrace.config.store import ConfigStore
from headrace.envoy.resources import LISTENER, TYPES, ResourceSet
from headrace.envoy.scopes import Scopes, view_of
from headrace.envoy.translate import Translator
from headrace.model.problem import Severity
from headrace.model.proxy import Capture, CaptureKind, Proxy
from headrace.registry.build import build_snapshot
from headrace.registry.snapshot import MeshSnapshot

PROXIES = {
    "sidecar/shop/web": {"app": "web"},
    "sidecar/shop/chat": {"app": "chat", "tier": "gold"},
    "sidecar/shop/chat-2": {"app": "chat", "tier": "tin"},
    "sidecar/dev/chat": {"app": "chat", "tier": "gold"},
    "gateway/edge/door": {"istio": "door", "gateway.networking.k8s.io/gateway-name": "front"},
    "gateway/edge/other": {"istio": "door", "gateway.networking.k8s.io/gateway-name": "back"},
}
Document = dict[str, Any]


def document(kind: str, namespace: str, name: str, spec: Document, **annotations: str) -> Document:
    metadata: Document = {"name": name, "namespace": namespace}
    if annotations:
        metadata["annotations"] = annotations
    return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def ground() -> Iterator[Document]:
    """Workloads of equal and different labels, a service in front of each app, gateways, and a MeshConfig."""
    for name, labels in PROXIES.items():
        kind, namespace, own = name.split("/")
        spec = {"role": "gateway", "labels": labels} if kind == "gateway" else {"command": ["run"], "labels": labels}
        yield {
            "apiVersion": "headrace.dev/v1alpha1",
            "kind": "Workload",
            "metadata": {"name": own, "namespace": namespace},
            "spec": spec,
        }
    for namespace, app in (("shop", "web"), ("shop", "chat"), ("dev", "chat"), ("shop", "asker")):
        ports = [{"name": "http", "port": 80}, {"name": "tcp", "port": 90}]
        yield {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": app, "namespace": namespace},
            "spec": {"selector": {"app": app}, "ports": ports},
        }
    yield {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "front", "namespace": "edge"},
        "spec": {
            "selector": {"istio": "door"},
            "servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}],
        },
    }
    provider = {"name": "asker", "envoyExtAuthzHttp": {"service": "asker.shop.svc.cluster.local", "port": 80}}
    yield {
        "apiVersion": "headrace.dev/v1alpha1",
        "kind": "MeshConfig",
        "metadata": {"name": "mesh"},
        "spec": {"extensionProviders": [provider]},
    }


class Control:
    """A control plane's documents, snapshots, views and translator, through changes."""

    def __init__(self) -> None:
        self.documents = {self._key(item): item for item in ground()}
        self.store = ConfigStore()
        self.scopes, self.translator = Scopes(), Translator()
        self.last: MeshSnapshot | None = None

    @staticmethod
    def _key(item: Document) -> tuple[str, str, str]:
        return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]

    def put(self, item: Document) -> None:
        self.documents[self._key(item)] = item

    def drop(self, item: Document) -> None:
        del self.documents[self._key(item)]

    def snapshot(self) -> MeshSnapshot:
        text = "\n---\n".join(yaml.safe_dump(item) for item in self.documents.values())
        revision = self.store.replace_source("test", read_text(text, "test.yaml", "test"))
        errors = [problem for problem in revision.problems if problem.severity is Severity.ERROR]
        assert not [item for item in errors if item.code.startswith("IST0106")], errors
        self.last = build_snapshot(revision, {}, self.last)
        return self.last

    def translated(self) -> dict[str, ResourceSet]:
        """Every proxy's resources, judged against a translator that knows nothing of the past."""
        snapshot = self.snapshot()
        found = {}
        for name, proxy in proxies(snapshot).items():
            kept = self.translator.resources(view_of(snapshot, proxy, self.scopes))
            fresh = Translator().resources(view_of(snapshot, proxy, Scopes()))
            assert versions(kept) == versions(fresh), name
            found[name] = kept
        return found


def proxies(snapshot: MeshSnapshot) -> dict[str, Proxy]:
    found = {name: offline.find_proxy(snapshot, offline.ProxyName.parse(name)) for name in PROXIES}
    capture = Capture(CaptureKind.LOOPBACK, 15001, offline.SAMPLE_CREDENTIALS)
    loopback = offline.find_proxy(snapshot, offline.ProxyName.parse("sidecar/shop/chat"), capture)
    own = offline.find_proxy(snapshot, offline.ProxyName.parse("sidecar/shop/chat"), Capture(own_namespace=True))
    return {**found, "loopback/shop/chat": loopback, "netns/shop/chat": own}


def versions(resources: ResourceSet) -> dict[tuple[str, str], str]:
    return {(kind, name): item.version for kind in TYPES for name, item in resources.of_type(kind).items()}


def changed(before: dict[str, ResourceSet], after: dict[str, ResourceSet]) -> set[str]:
    """Proxies of which anything changed."""
    return {name for name in after if versions(before[name]) != versions(after[name])}


DENY = {"action": "DENY", "rules": [{}]}
CHAT = {"sidecar/shop/chat", "loopback/shop/chat", "netns/shop/chat"}
"""The same workload under every way of capture."""
SHOP_CHATS = {*CHAT, "sidecar/shop/chat-2"}
GOLD = CHAT
SHOP = {*SHOP_CHATS, "sidecar/shop/web"}
FRONT = {"targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "front"}]}
TOKENS = {"jwtRules": [{"issuer": "i", "jwksUri": "https://issuer.example/keys"}]}
SELECTED: dict[str, tuple[Document, set[str]]] = {
    "namespace": (document("AuthorizationPolicy", "shop", "p", DENY), SHOP),
    "label": (
        document("AuthorizationPolicy", "shop", "p", {**DENY, "selector": {"matchLabels": {"app": "chat"}}}),
        SHOP_CHATS,
    ),
    "labels within a service": (
        document("AuthorizationPolicy", "shop", "p", {**DENY, "selector": {"matchLabels": {"tier": "gold"}}}),
        GOLD,
    ),
    "label that nobody else uses": (
        document("AuthorizationPolicy", "edge", "p", {**DENY, "selector": {"matchLabels": {"istio": "door"}}}),
        {"gateway/edge/door", "gateway/edge/other"},
    ),
    "mesh": (document("AuthorizationPolicy", "istio-system", "p", DENY), {*PROXIES, *CHAT}),
    "mesh by label": (
        document("AuthorizationPolicy", "istio-system", "p", {**DENY, "selector": {"matchLabels": {"tier": "gold"}}}),
        {*GOLD, "sidecar/dev/chat"},
    ),
    "target": (document("AuthorizationPolicy", "edge", "p", {**DENY, **FRONT}), {"gateway/edge/door"}),
    "target of another namespace": (document("AuthorizationPolicy", "shop", "p", {**DENY, **FRONT}), set()),
    "nobody": (document("AuthorizationPolicy", "lost", "p", DENY), set()),
    "tokens": (
        document("RequestAuthentication", "shop", "p", {**TOKENS, "selector": {"matchLabels": {"tier": "gold"}}}),
        GOLD,
    ),
    "tokens at a target": (document("RequestAuthentication", "edge", "p", {**TOKENS, **FRONT}), {"gateway/edge/door"}),
}


@pytest.mark.parametrize(("policy", "wanted"), SELECTED.values(), ids=SELECTED.keys())
def test_a_policy_changes_exactly_the_proxies_that_it_is_for(policy: Document, wanted: set[str]) -> None:
    control = Control()
    before = control.translated()
    control.put(policy)
    with_policy = control.translated()
    assert changed(before, with_policy) == wanted
    for name in wanted:
        assert before[name].of_type(LISTENER) != with_policy[name].of_type(LISTENER), name
    control.drop(policy)
    assert changed(before, control.translated()) == set()


def test_an_edited_policy_and_an_edited_label_change_what_they_concern() -> None:
    control = Control()
    policy = document("AuthorizationPolicy", "shop", "p", {**DENY, "selector": {"matchLabels": {"tier": "gold"}}})
    control.put(policy)
    first = control.translated()
    control.put({**policy, "spec": {**policy["spec"], "selector": {"matchLabels": {"tier": "tin"}}}})
    second = control.translated()
    assert changed(first, second) == {*GOLD, "sidecar/shop/chat-2"}
    dry = document("AuthorizationPolicy", "shop", "p", second_spec(policy), **{"istio.io/dry-run": "true"})
    control.put(dry)
    third = control.translated()
    assert changed(second, third) == {"sidecar/shop/chat-2"}
    workload = control.documents["Workload", "shop", "web"]
    control.put({**workload, "spec": {**workload["spec"], "labels": {"app": "web", "tier": "tin"}}})
    assert "sidecar/shop/web" in changed(third, control.translated())


def second_spec(policy: Document) -> Document:
    return {**policy["spec"], "selector": {"matchLabels": {"tier": "tin"}}}


def test_what_a_policy_needs_of_the_mesh_is_part_of_it() -> None:
    """The authorizer's settings and its service, and a service that serves keys, come and go after the policy."""
    control = Control()
    custom = {"action": "CUSTOM", "provider": {"name": "asker"}, "rules": [{}]}
    control.put(document("AuthorizationPolicy", "shop", "p", {**custom, "selector": {"matchLabels": {"app": "web"}}}))
    keys = {"jwtRules": [{"issuer": "i", "jwksUri": "http://keys.shop.svc.cluster.local/keys"}]}
    control.put(document("RequestAuthentication", "dev", "t", keys))
    first = control.translated()
    asker = control.documents["Service", "shop", "asker"]
    control.drop(asker)
    second = control.translated()
    assert b"deny-due-to-bad-CUSTOM-action" in second["sidecar/shop/web"].of_type(LISTENER)["virtualInbound"].body
    assert b"deny-due-to-bad-CUSTOM-action" not in first["sidecar/shop/web"].of_type(LISTENER)["virtualInbound"].body
    control.put({**asker, "metadata": {"name": "keys", "namespace": "shop"}})
    third = control.translated()
    before, after = (one["sidecar/dev/chat"].of_type(LISTENER)["virtualInbound"] for one in (second, third))
    assert b"jwks|80||keys.shop.svc.cluster.local" in before.body
    assert b"outbound|80||keys.shop.svc.cluster.local" in after.body
    mesh = control.documents["MeshConfig", "", "mesh"]
    control.put({**mesh, "spec": {**mesh["spec"], "trustDomainAliases": ["old"]}})
    control.translated()


def test_no_sequence_of_changes_leaves_anything_behind() -> None:
    source = random.Random(20261122)
    control = Control()
    held: dict[tuple[str, str, str], Document] = {}
    control.translated()
    for _ in range(40):
        if held and source.random() < 0.4:
            item = held.pop(source.choice(sorted(held)))
            control.drop(item)
        else:
            item = made(source)
            held[Control._key(item)] = item
            control.put(item)
        control.translated()


def made(source: random.Random) -> Document:
    """Some policy of any kind, for anybody."""
    namespace = source.choice(["shop", "dev", "edge", "istio-system"])
    spec: Document = {}
    if source.random() < 0.6:
        label = source.choice([("app", "chat"), ("tier", "gold"), ("tier", "tin"), ("istio", "door"), ("app", "web")])
        spec["selector"] = {"matchLabels": dict([label])}
    elif source.random() < 0.3:
        spec |= FRONT
    name = source.choice("abc")
    kind = source.choice(["AuthorizationPolicy", "AuthorizationPolicy", "RequestAuthentication", "PeerAuthentication"])
    if kind == "PeerAuthentication":
        spec = {name: value for name, value in spec.items() if name == "selector"}
        return document(kind, namespace, name, {**spec, "mtls": {"mode": source.choice(["STRICT", "DISABLE"])}})
    if kind == "RequestAuthentication":
        return document(kind, namespace, name, {**spec, "jwtRules": [{"issuer": source.choice("xyz")}]})
    action = source.choice(["ALLOW", "DENY", "AUDIT", "CUSTOM"])
    spec |= {"action": action, "rules": [{"to": [{"operation": {"paths": [source.choice(["/a", "/b"])]}}]}]}
    if action == "CUSTOM":
        spec["provider"] = {"name": source.choice(["asker", "lost"])}
    return document(kind, namespace, name, spec)
