"""Random policy documents that are valid, for the test that Envoy accepts whatever they become.

Every choice comes from the given `random.Random`, so a seed names a mesh. Hosts, subsets and ports are drawn from a
fixed set of services, so that rules meet each other; some name what does not exist.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import yaml

Data = dict[str, Any]

SERVICES = """
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {serviceAccountName: client, containers: [{name: app}]}
status: {podIP: 10.0.0.9}
---
apiVersion: v1
kind: Pod
metadata: {name: chat, labels: {app: chat, version: v1}}
spec: {serviceAccountName: chat, containers: [{name: app}]}
status: {podIP: 10.0.0.1}
---
apiVersion: v1
kind: Pod
metadata: {name: door, namespace: istio-system, labels: {istio: ingressgateway}}
spec: {serviceAccountName: door, containers: [{name: app}]}
status: {podIP: 10.0.0.2}
---
apiVersion: v1
kind: Service
metadata: {name: chat}
spec:
  clusterIP: 10.96.0.1
  selector: {app: chat}
  ports:
  - {name: http, port: 8000}
  - {name: grpc, port: 9000, targetPort: 5000}
  - {name: tcp, port: 7001}
  - {name: undeclared, port: 7002}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: other}
spec: {clusterIP: None, selector: {app: far}, ports: [{name: tcp, port: 9000}, {name: http2, port: 8000}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api}
spec:
  hosts: [api.example.com]
  resolution: DNS
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 443}, {number: 443, name: tls, protocol: TLS}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild}
spec: {hosts: ["*.wild.example.com"], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}
"""
_HOSTS = ("chat", "chat.default.svc.cluster.local", "far.other.svc.cluster.local", "api.example.com", "ghost")
_MODES = ("STRICT", "PERMISSIVE", "DISABLE", "UNSET")


class Documents:
    """Makes documents; `text` is a whole mesh."""

    def __init__(self, source: random.Random) -> None:
        self._random = source
        self.one: Callable[..., Any] = source.choice

    def text(self) -> str:
        documents = [self.virtual_service(number) for number in range(3)]
        documents += [self.delegate(), *(self.destination_rule(number) for number in range(3))]
        documents += [self.peer_authentication(number) for number in range(2)]
        documents.append(self.gateway())
        return "---".join([SERVICES, *("\n" + yaml.safe_dump(_written(item), sort_keys=False) for item in documents)])

    def maybe(self, make: Callable[[], Any], chance: float = 0.35) -> Any:
        return make() if self._random.random() < chance else None

    def some(self, make: Callable[[], Any], most: int = 3) -> list[Any]:
        return [make() for _ in range(self._random.randint(1, most))]

    def string(self) -> Data:
        return self.one([{"exact": "a b"}, {"prefix": "v"}, {"regex": "[a-z]+|x"}, {"regex": "(?i).*"}])

    def path(self) -> Data:
        return self.one([{"exact": "/x?y"}, {"prefix": "/"}, {"prefix": "/p/"}, {"regex": "/v[0-9]+/.*"}])

    def destination(self) -> Data:
        port = self.maybe(lambda: {"number": self.one([80, 8000, 9000])})
        return {"host": self.one(_HOSTS), "subset": self.maybe(lambda: self.one(["v1", "v2"])), "port": port}

    def match(self) -> Data:
        return {
            "uri": self.maybe(self.path, 0.6),
            "ignoreUriCase": self.maybe(lambda: True),
            "method": self.maybe(self.string),
            "authority": self.maybe(self.string),
            "headers": self.maybe(lambda: {"x-a": self.one([self.string(), {}])}),
            "withoutHeaders": self.maybe(lambda: {"x-b": self.one([self.string(), {}])}),
            "queryParams": self.maybe(lambda: {"q": self.one([self.string(), {}])}),
            "sourceLabels": self.maybe(lambda: {"app": self.one(["client", "door"])}),
        }

    def operations(self) -> Data:
        changes = self.maybe(lambda: {"x-c": self.one(["plain", "%REQ(x-d)%", "100%%"])})
        return {"set": changes, "add": self.maybe(lambda: {"x-e": "1"}), "remove": self.maybe(lambda: ["x-f"])}

    def headers(self) -> Data:
        return {"request": self.maybe(self.operations), "response": self.maybe(self.operations)}

    def rule(self) -> Data:
        rule: Data = {"match": self.maybe(lambda: self.some(self.match), 0.7), "headers": self.maybe(self.headers)}
        kind = self._random.random()
        if kind < 0.1:
            return rule | {
                "redirect": self.one([{"uri": "/x", "redirectCode": 308}, {"authority": "a.b", "port": 8443}])
            }
        if kind < 0.2:
            return rule | {
                "directResponse": self.one([{"status": 503}, {"status": 200, "body": {"string": "x" * 5000}}])
            }
        destinations = self.some(self.destination)
        weights = [self._random.randint(1, 100) for _ in destinations] if len(destinations) > 1 else [None]
        rule["route"] = [
            {"destination": item, "weight": weight, "headers": self.maybe(self.headers)}
            for item, weight in zip(destinations, weights, strict=True)
        ]
        return rule | self.policies()

    def policies(self) -> Data:
        percent = self.maybe(lambda: {"value": self.one([0.1, 50, 100])}, 0.7)
        retries = {"attempts": 3, "perTryTimeout": "2s", "retryOn": "5xx,429", "retryRemoteLocalities": True}
        rewrites = [{"uri": "/n", "authority": "q"}, {"uriRegexRewrite": {"match": "/a/(.*)", "rewrite": "/\\1"}}]
        return {
            "rewrite": self.maybe(lambda: self.one(rewrites)),
            "timeout": self.maybe(lambda: self.one(["1.5s", "500ms", "2h"])),
            "retries": self.maybe(lambda: self.one([{"attempts": 0}, {"attempts": 1}, retries])),
            "fault": self.maybe(lambda: {"delay": {"fixedDelay": "1s", "percentage": percent}}),
            "mirrors": self.maybe(lambda: [{"destination": self.destination(), "percentage": percent}]),
            "corsPolicy": self.maybe(lambda: {"allowOrigins": [self.string()], "maxAge": self.maybe(lambda: "1h")}),
        }

    def virtual_service(self, number: int) -> Data:
        hosts = ["chat", "api.example.com", "v.example.com", "*.v.example.com", "10.1.2.3"]
        gateways = self.one([None, ["mesh"], ["mesh", "door"], ["door"]])
        spec = {"hosts": self._random.sample(hosts, 2), "gateways": gateways, "http": self.some(self.rule, 4)}
        spec["tcp"] = self.maybe(lambda: self.some(self.tcp_rule))
        spec["tls"] = self.maybe(lambda: [self.tls_rule(host) for host in spec["hosts"] if host != "10.1.2.3"])
        delegated = {"match": self.maybe(lambda: self.some(self.match), 0.7), "delegate": {"name": "delegate"}}
        spec["http"] += self.maybe(lambda: [delegated]) or []
        return _document("networking.istio.io/v1", "VirtualService", f"vs{number}", spec)

    def delegate(self) -> Data:
        spec = {"http": self.some(self.rule, 3), "exportTo": self.maybe(lambda: ["."])}
        return _document("networking.istio.io/v1", "VirtualService", "delegate", spec)

    def caller(self) -> Data:
        blocks = ["10.96.0.0/16", "10.96.0.1", "2001:db8::/32", "0.0.0.0/0"]
        return {
            "port": self.maybe(lambda: self.one([7001, 9000, 443])),
            "destinationSubnets": self.maybe(lambda: self._random.sample(blocks, 2)),
            "sourceLabels": self.maybe(lambda: {"app": self.one(["client", "door"])}),
            "gateways": self.maybe(lambda: [self.one(["mesh", "door"])]),
        }

    def weighted(self) -> list[Data]:
        destinations = self.some(self.destination)
        weights = [self._random.randint(1, 9) for _ in destinations] if len(destinations) > 1 else [None]
        return [{"destination": item, "weight": weight} for item, weight in zip(destinations, weights, strict=True)]

    def tcp_rule(self) -> Data:
        return {"match": self.maybe(lambda: self.some(self.caller), 0.7), "route": self.weighted()}

    def tls_rule(self, host: str) -> Data:
        names = [host, host.replace("*", "a"), host.replace("*.", "*-b.")]
        match = self.some(lambda: self.caller() | {"sniHosts": self._random.sample(names, 2)})
        return {"match": match, "route": self.weighted()}

    def policy(self) -> Data:
        hashes = [{"useSourceIp": True}, {"httpHeaderName": "x", "maglev": {"tableSize": 65537}}]
        http = {"http1MaxPendingRequests": 7, "maxRequestsPerConnection": 1, "idleTimeout": "10s"}
        balancers = [{"simple": name} for name in ("RANDOM", "PASSTHROUGH", "ROUND_ROBIN", "LEAST_REQUEST")]
        pools = [{"tcp": {"maxConnections": 9, "connectTimeout": "1s"}}, {"http": http}]
        pools.append({"http": {"h2UpgradePolicy": "UPGRADE", "maxConcurrentStreams": 10}})
        pools.append({"http": {"http2KeepAlive": {"interval": "3s", "timeout": "1s"}}})
        ejections = [{"consecutive5xxErrors": 0, "minHealthPercent": 50}, {"interval": "1s", "maxEjectionPercent": 100}]
        ejections += [{"outlierDetectionHttpErrorCodes": codes} for codes in ([429], [500, 503])]
        balancer = self.one([*balancers, *({"consistentHash": item} for item in hashes)])
        return {
            "loadBalancer": balancer | {"warmup": self.maybe(lambda: {"duration": "5s"})} | self.localities(),
            "connectionPool": self.maybe(lambda: self.one(pools)),
            "outlierDetection": self.maybe(lambda: self.one(ejections)),
            "tls": self.maybe(self.tls),
        }

    def localities(self) -> Data:
        spread = {"distribute": [{"from": "*", "to": {"eu/*": 70, "us/a/1": 30}}]}
        settings = [{"enabled": False}, spread, {"failover": [{"from": "eu", "to": "us"}]}]
        settings.append({"failoverPriority": ["app", "version=v1"]})
        zones = {"zoneAwareLbSetting": {"enabled": self.one([True, False, None]), "minClusterSize": 3}}
        return self.one([{}, zones, *({"localityLbSetting": item} for item in settings)])

    def connections(self) -> Data:
        """What only a whole policy has."""
        around = [{"proxyProtocol": {"version": "V2"}}, {"tunnel": {"targetHost": "a.b", "targetPort": 9}}, {}]
        budget = self.maybe(lambda: {"percent": self.one([0, 33.3]), "budgetInterval": self.one(["1s", None])})
        return {"retryBudget": budget, **self.one(around)}

    def tls(self) -> Data:
        files = {"clientCertificate": "/c", "privateKey": "/k", "caCertificates": "/r"}
        names = ["x.y", "spiffe://a/b", "10.0.0.1"]
        return self.one(
            [
                {"mode": "DISABLE"},
                {"mode": "ISTIO_MUTUAL"},
                {"mode": "SIMPLE", "sni": "a.b"},
                {"mode": "SIMPLE", "caCertificates": "/missing.pem", "subjectAltNames": names},
                {"mode": "SIMPLE", "insecureSkipVerify": True},
                {"mode": "MUTUAL", **files},
            ]
        )

    def destination_rule(self, number: int) -> Data:
        hosts = ["chat", "api.example.com", "*.default.svc.cluster.local", "*.wild.example.com", "*"]
        policy = (
            self.policy()
            | self.connections()
            | {"portLevelSettings": self.maybe(lambda: [{"port": {"number": 8000}, **self.policy()}])}
        )
        subsets = [
            {"name": name, "labels": {"version": name}, "trafficPolicy": self.maybe(self.policy)}
            for name in ("v1", "v2")
        ]
        spec = {"host": self.one(hosts), "trafficPolicy": policy, "subsets": self.maybe(lambda: subsets, 0.6)}
        spec["workloadSelector"] = self.maybe(lambda: {"matchLabels": {"app": self.one(["client", "other"])}}, 0.2)
        return _document("networking.istio.io/v1", "DestinationRule", f"dr{number}", spec)

    def peer_authentication(self, number: int) -> Data:
        spec: Data = {"mtls": {"mode": self.one(_MODES)}}
        if number:
            spec["selector"] = {"matchLabels": {"app": "chat"}}
            spec["portLevelMtls"] = {port: {"mode": self.one(_MODES)} for port in (8000, 9999)}
        return _document("security.istio.io/v1", "PeerAuthentication", f"pa{number}", spec)

    def server(self, number: int) -> Data:
        kinds: list[Data | None] = [
            None,
            {"httpsRedirect": True},
            {"mode": "SIMPLE", "credentialName": "c", "minProtocolVersion": "TLSV1_3"},
            {"mode": "MUTUAL", "credentialName": "c", "subjectAltNames": ["a.b"]},
            {"mode": "SIMPLE", "serverCertificate": "/c", "privateKey": "/k"},
            {"mode": "ISTIO_MUTUAL"},
            {"mode": "PASSTHROUGH"},
        ]
        tls = self.one(kinds)
        protocol = "HTTPS" if tls and "mode" in tls else "HTTP"
        port = {"number": self.one([80, 443, 8080]), "name": f"p{number}", "protocol": protocol}
        hosts = self._random.sample(["*", "v.example.com", "*.example.com", "default/chat.example.com", "./b.org"], 2)
        return {"port": port, "hosts": hosts, "tls": tls}

    def gateway(self) -> Data:
        servers = [self.server(number) for number in range(self._random.randint(1, 4))]
        spec = {"selector": {"istio": "ingressgateway"}, "servers": servers}
        return _document("networking.istio.io/v1", "Gateway", "door", spec)


def _document(version: str, kind: str, name: str, spec: Data) -> Data:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _written(value: Any) -> Any:
    """Without what was left out (None)."""
    if isinstance(value, dict):
        return {name: _written(item) for name, item in value.items() if item is not None}
    return [_written(item) for item in value] if isinstance(value, list) else value
