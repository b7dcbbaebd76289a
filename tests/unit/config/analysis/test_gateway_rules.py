"""HR0002 for rules that no server of a gateway asks, and for servers from which no rule leads anywhere."""

from __future__ import annotations

import pytest

from headrace.config.documents import read_text
from headrace.config.judge import judge

SERVERS = {
    "http": "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}",
    "tcp": "{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}",
    "through": "{port: {number: 443, name: through, protocol: TLS}, hosts: ['*'], tls: {mode: PASSTHROUGH}}",
    "ending": "{port: {number: 444, name: ending, protocol: TLS}, hosts: ['*'], tls: {mode: ISTIO_MUTUAL}}",
    "auto": "{port: {number: 445, name: auto, protocol: TLS}, hosts: ['*'], tls: {mode: AUTO_PASSTHROUGH}}",
}
RULES = {
    "http": "http: [{directResponse: {status: 204}}]",
    "tcp": "tcp: [{route: [{destination: {host: chat, port: {number: 80}}}]}]",
    "tls": "tls: [{match: [{sniHosts: [a.b]}], route: [{destination: {host: chat, port: {number: 80}}}]}]",
    "tcp-9001": "tcp: [{match: [{port: 9001}], route: [{destination: {host: chat, port: {number: 80}}}]}]",
}


def documents(servers: list[str], rules: list[str], gateways: str = "[door]") -> str:
    written = f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: rules}}
spec: {{hosts: [a.b], gateways: {gateways}, {", ".join(RULES[name] for name in rules)}}}
---
"""
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: chat}}
spec: {{ports: [{{name: tcp, port: 80}}]}}
---{written if rules else ""}
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: door}}
spec: {{selector: {{istio: ingressgateway}}, servers: [{", ".join(SERVERS[name] for name in servers)}]}}
"""


@pytest.mark.parametrize(
    ("servers", "rules", "expected"),
    [
        (["http"], ["http"], []),
        (["tcp"], ["tcp"], []),
        (["through"], ["tls"], []),
        (["ending"], ["tcp"], []),
        (["auto"], [], []),
        (["http"], [], []),
        (["http"], ["http", "tcp"], ["VirtualService spec.tcp"]),
        (["http", "ending"], ["http", "tls", "tcp"], ["VirtualService spec.tls"]),
        (["through"], ["http"], ["Gateway spec.servers[0]", "VirtualService spec.http"]),
        (["tcp"], [], ["Gateway spec.servers[0]"]),
        (["http", "tcp"], ["http", "tcp-9001"], ["Gateway spec.servers[1]"]),
        (["through"], ["tcp"], ["Gateway spec.servers[0]", "VirtualService spec.tcp"]),
    ],
)
def test_what_can_take_nothing(servers: list[str], rules: list[str], expected: list[str]) -> None:
    read = read_text(documents(servers, rules), "doors.yaml", "test")
    found = [problem for problem in judge([read]) if problem.code == "HR0002"]
    assert sorted(f"{problem.kind} {problem.field}" for problem in found) == expected


def test_rules_for_sidecars_too_are_left_alone() -> None:
    read = read_text(documents(["http"], ["http", "tcp"], "[door, mesh]"), "doors.yaml", "test")
    assert "HR0002" not in {problem.code for problem in judge([read])}
