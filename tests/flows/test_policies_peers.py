"""PeerAuthentications in a real Envoy: which of clear text and mutual TLS a port takes, by mesh, namespace, workload
and port."""

from __future__ import annotations

import pytest
from tests.flows.policy_rig import Guarded, guarded

CALLER = "ns/default/sa/web"


async def taken(chat: Guarded) -> dict[str, tuple[bool, bool]]:
    """For each port: whether it takes clear text, and mutual TLS."""
    return {
        "http": ((await chat.ask(caller="")).status == 200, (await chat.ask(caller=CALLER)).status == 200),
        "tcp": (await chat.connect("") == b"tcp:hello", await chat.connect(CALLER) == b"tcp:hello"),
    }


def policy(name: str, spec: str) -> str:
    return f"""
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: {name}}}
spec: {{{spec}}}
---
"""


BOTH, CLEAR, TLS = (True, True), (True, False), (False, True)
OWN = "selector: {matchLabels: {app: chat}}"
CASES = {
    "mesh": ("STRICT", "", TLS, TLS),
    "mesh, permissive": ("PERMISSIVE", "", BOTH, BOTH),
    "mesh, off": ("DISABLE", "", CLEAR, CLEAR),
    "namespace over mesh": ("STRICT", policy("ns", "mtls: {mode: DISABLE}"), CLEAR, CLEAR),
    "namespace that inherits": ("STRICT", policy("ns", "mtls: {mode: UNSET}"), TLS, TLS),
    "workload over namespace": (
        "DISABLE",
        policy("ns", "mtls: {mode: PERMISSIVE}") + policy("own", f"{OWN}, mtls: {{mode: STRICT}}"),
        TLS,
        TLS,
    ),
    "another workload's": ("STRICT", policy("x", "selector: {matchLabels: {app: x}}, mtls: {mode: DISABLE}"), TLS, TLS),
    "port over workload": (
        "PERMISSIVE",
        policy("own", f'{OWN}, mtls: {{mode: STRICT}}, portLevelMtls: {{"%TCP%": {{mode: DISABLE}}}}'),
        TLS,
        CLEAR,
    ),
    "port that inherits": (
        "STRICT",
        policy("own", f'{OWN}, portLevelMtls: {{"%HTTP%": {{mode: PERMISSIVE}}, "%TCP%": {{mode: UNSET}}}}'),
        BOTH,
        TLS,
    ),
}


@pytest.mark.parametrize(("mesh", "policies", "http", "tcp"), CASES.values(), ids=CASES.keys())
async def test_what_a_port_takes(mesh: str, policies: str, http: tuple[bool, bool], tcp: tuple[bool, bool]) -> None:
    async with guarded(policies, mode=mesh) as chat:
        assert await taken(chat) == {"http": http, "tcp": tcp}
