"""Whatever a valid AuthorizationPolicy or RequestAuthentication says, Envoy accepts the listeners of its workload: one
that it refused would keep every later policy from that workload."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml
from tests.goldens.random_documents import SERVICES

from headrace.app import offline
from headrace.envoy.validation import refusal

MESHES = 10
POLICIES = 60
ODD = [
    "*", "**", "***", "*a", "a*", "*a*", "a*b", "/", "//", "/*", "*/", "*/*", "a/b", "a/*", "/{*}", "/{**}",
    "/a/{*}/{**}", "/{*}/{*}/{*}/{*}/{*}/{*}/{*}", "{*}", "{", "}", "\\", "[", "]", "[]", "[*]", "[a]", "(",
    ")", ".", "+", "?", "^$", "|", "%", "%00", "\u00fc", "\U0001f980", " ", "\t", "a\nb", "a\x00b", "\x7f",
    "'", '"', "spiffe://x", "x" * 5000, "-1", "0", "80", "65535", "65536", "10.0.0.1", "10.0.0.0/8",
    "0.0.0.0/0", "::/0", "fd00::1/64", "::ffff:10.0.0.1", "a.b.c", "*.b.c", "cluster.local/ns/a/sa/b",
    "*/ns/a/sa/b", "a/ns/b/sa/*", "*/", "https://i/x", "https://i/*", "GET", "get",
]  # fmt: skip
KEYS = [
    "source.ip", "remote.ip", "source.namespace", "source.principal", "source.serviceAccount", "source.trustDomain",
    "request.auth.principal", "request.auth.audiences", "request.auth.presenter", "request.auth.claims[a]",
    "request.auth.claims[a][b]", "request.auth.claims[[a]]", "request.auth.claims[a b\u00fc]", "request.headers[x]",
    "request.headers[:authority]", "request.headers[:path]", "request.headers[:foo]", "request.headers[!#]",
    "destination.ip", "destination.port", "connection.sni", "experimental.envoy.filters.http.x[y]",
    "experimental.envoy.filters.x[[y]]",
]  # fmt: skip
SOURCES = ["principals", "requestPrincipals", "namespaces", "serviceAccounts", "ipBlocks", "remoteIpBlocks"]
SOURCES += ["trustDomains"]
OPERATIONS = ["hosts", "ports", "methods", "paths"]
HTTP_SERVERS = ["chat.default.svc.cluster.local:8000", "i.example", "[::1]", "10.0.0.1:1"]
HTTPS_SERVERS = ["10.0.0.1:1", "I.example", "a" * 64 + ".b", "x_y", "[::1]:443", "i.example:8443"]
EC: dict[str, Any] = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
MESH_CONFIG = """
apiVersion: headrace.dev/v1alpha1
kind: MeshConfig
metadata: {name: mesh}
spec:
  trustDomainAliases: [old.local]
  extensionProviders:
  - {name: a, envoyExtAuthzHttp: {service: chat.default.svc.cluster.local, port: 8000}}
  - {name: a-b, envoyExtAuthzGrpc: {service: chat.default.svc.cluster.local, port: 9000}}
"""


class Policies:
    """Random policies of the namespaces of the random documents; about half of them are valid."""

    def __init__(self, source: random.Random) -> None:
        self.source = source

    def text(self) -> str:
        found = [self.authorization(number) for number in range(POLICIES)]
        found += [self.authentication(number) for number in range(POLICIES // 4)]
        return "\n---\n".join([SERVICES, MESH_CONFIG, *(yaml.safe_dump(item, allow_unicode=False) for item in found)])

    def values(self) -> list[str]:
        return [self.source.choice(ODD) for _ in range(self.source.randint(1, 2))]

    def some(self, names: list[str]) -> dict[str, list[str]]:
        found = {}
        for name in self.source.sample(names, self.source.randint(1, 2)):
            own = name if self.source.random() < 0.7 else f"not{name[0].upper()}{name[1:]}"
            found[own] = self.values()
        return found

    def authorization(self, number: int) -> dict[str, Any]:
        rule: dict[str, Any] = {}
        part = self.source.random()
        if part < 0.4:
            rule["from"] = [{"source": self.some(SOURCES)}]
        elif part < 0.7:
            rule["to"] = [{"operation": self.some(OPERATIONS)}]
        else:
            rule["when"] = [{"key": self.source.choice(KEYS), "values": self.values()}]
        spec: dict[str, Any] = {"action": self.source.choice(["ALLOW", "DENY", "AUDIT", "CUSTOM"]), "rules": [rule]}
        if spec["action"] == "CUSTOM":
            spec["provider"] = {"name": self.source.choice(["a", "a-b", "lost", "odd name*", "\u00fc"])}
        return self.document("AuthorizationPolicy", number, spec)

    def authentication(self, number: int) -> dict[str, Any]:
        key: dict[str, Any] = {
            **EC,
            **self.source.choice([{}, {}, {"alg": "RS256"}, {"kid": 7}, {"x": "AAAA"}, {"crv": "P-1"}, {"y": ""}]),
        }
        rule: dict[str, Any] = {"issuer": self.source.choice(ODD), "audiences": self.values()}
        rule |= self.source.choice(
            [
                {"jwks": json.dumps({"keys": [key]})},
                {"jwks": json.dumps(key)},
                {"jwks": '{"keys":[]}'},
                {"jwksUri": f"http://{self.source.choice(HTTP_SERVERS)}/k"},
                {"jwksUri": f"https://{self.source.choice(HTTPS_SERVERS)}/k"},
                {},
            ]
        )
        for name in ("fromParams", "fromCookies", "spaceDelimitedClaims"):
            if self.source.random() < 0.3:
                rule[name] = self.values()
        if self.source.random() < 0.3:
            rule["fromHeaders"] = [{"name": self.source.choice(["x", ":path", "a_b", "!"]), "prefix": self.values()[0]}]
        if self.source.random() < 0.3:
            rule["outputPayloadToHeader"] = self.source.choice(["x", ":path", "x y", "!"])
        if self.source.random() < 0.3:
            rule["outputClaimToHeaders"] = [
                {"header": self.source.choice(["x", "a_b", "!"]), "claim": self.values()[0]}
            ]
        return self.document("RequestAuthentication", number, {"jwtRules": [rule]})

    def document(self, kind: str, number: int, spec: dict[str, Any]) -> dict[str, Any]:
        namespace = self.source.choice(["default", "istio-system"])
        metadata = {"name": f"p{number}", "namespace": namespace}
        return {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": metadata, "spec": spec}


def test_envoy_accepts_what_random_policies_become(tmp_path: Path) -> None:
    sets, accepted = {}, 0
    for seed in range(MESHES):
        path = tmp_path / f"{seed}.yaml"
        path.write_text(Policies(random.Random(seed)).text())
        mesh = offline.load([path])
        accepted += len(mesh.snapshot.authorization_policies) + len(mesh.snapshot.request_authentications)
        for name in ("sidecar/default/chat", "gateway/istio-system/door"):
            proxy = offline.find_proxy(mesh.snapshot, offline.ProxyName.parse(name))
            sets[f"{seed}/{name}"] = offline.translate(mesh, proxy)
    assert accepted > MESHES * POLICIES / 4, "enough of the documents are valid, or this test shows nothing"
    assert refusal(sets) is None
