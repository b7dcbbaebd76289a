"""AuthorizationPolicies in a real Envoy, with certificates of the mesh: who gets through, who does not, and why."""

from __future__ import annotations

import asyncio

import pytest
from tests.flows.policy_rig import guarded

ONLY_THE_GATEWAY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: only-the-gateway}
spec:
  selector: {matchLabels: {app: chat}}
  rules:
  - from: [{source: {principals: [cluster.local/ns/default/sa/gateway]}}]
"""


async def test_only_one_identity_gets_through() -> None:
    async with guarded(ONLY_THE_GATEWAY) as chat:
        allowed = await chat.ask(caller="ns/default/sa/gateway")
        assert allowed.status == 200
        for caller in ("ns/default/sa/web", "ns/default/sa/gateway2", "ns/other/sa/gateway", "ns/default/sa/Gateway"):
            refused = await chat.ask("/why", caller)
            assert (refused.status, refused.body) == (403, "RBAC: access denied"), caller
        forged = {"x-forwarded-client-cert": "URI=spiffe://cluster.local/ns/default/sa/gateway"}
        assert (await chat.ask(caller="ns/default/sa/web", headers=forged)).status == 403
        assert (await chat.ask(caller="")).status == 0, "STRICT refuses clear text"
        assert (await chat.connect("ns/default/sa/gateway")) == b"tcp:hello"
        assert (await chat.connect("ns/default/sa/web")) == b""
        async with asyncio.timeout(30):
            while not any(line.startswith("/why 403 rbac_access_denied_matched_policy[none]") for line in chat.log()):
                await asyncio.sleep(0.2)


async def test_clear_text_has_no_identity_under_permissive() -> None:
    alias = ONLY_THE_GATEWAY.replace("cluster.local/", "old.local/")
    async with guarded(alias, mode="PERMISSIVE") as chat:
        assert (await chat.ask(caller="ns/default/sa/gateway")).status == 200, "the alias means the mesh's trust domain"
        assert (await chat.ask(caller="")).status == 403
        assert await chat.connect("") == b""


DENY_BEFORE_ALLOW = """
apiVersion: v1
kind: Namespace
metadata: {name: ops}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: anybody-reads}
spec: {rules: [{to: [{operation: {methods: [GET]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: istio-system}
spec:
  action: DENY
  rules:
  - to: [{operation: {paths: [/admin*], notPorts: ["1"]}}]
    from: [{source: {notNamespaces: [ops]}}]
  - to: [{operation: {paths: ["/v1/{*}/secret/{**}"]}}]
    when: [{key: "request.headers[x-pass]", notValues: ["open*"]}]
"""


async def test_deny_comes_before_allow_and_the_log_names_the_rule() -> None:
    async with guarded(DENY_BEFORE_ALLOW) as chat:
        assert (await chat.ask("/free")).status == 200
        assert (await chat.ask("/free", method="POST")).status == 403
        assert (await chat.ask("/admin/x?y")).status == 403
        assert (await chat.ask("/admin", "ns/ops/sa/web")).status == 200
        assert (await chat.ask("/v1/models/secret/a/b")).status == 403
        assert (await chat.ask("/v1/models/more/secret/a")).status == 200
        assert (await chat.ask("/v1/models/secret/a", headers={"x-pass": "open-sesame"})).status == 200
        wanted = {
            "/admin/x?y 403 rbac_access_denied_matched_policy[ns[istio-system]-policy[no-admin]-rule[0]]",
            "/v1/models/secret/a/b 403 rbac_access_denied_matched_policy[ns[istio-system]-policy[no-admin]-rule[1]]",
        }
        async with asyncio.timeout(30):
            while not all(any(line.startswith(text) for line in chat.log()) for text in wanted):
                await asyncio.sleep(0.2)


@pytest.mark.parametrize(
    ("spec", "through", "refused"),
    [
        ("spec: {}", [], ["/"]),
        ("spec: {rules: [{}]}", ["/"], []),
        ("spec: {action: DENY, rules: [{}]}", [], ["/"]),
    ],
    ids=["allow nothing", "allow all", "deny all"],
)
async def test_empty_rules(spec: str, through: list[str], refused: list[str]) -> None:
    head = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n"
    async with guarded(head + spec) as chat:
        assert [(await chat.ask(path)).status for path in through] == [200] * len(through)
        assert [(await chat.ask(path)).status for path in refused] == [403] * len(refused)
        assert (await chat.connect() == b"tcp:hello") is bool(through)


HTTP_ONLY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  action: %s
  rules: [{to: [{operation: {methods: [GET]}}]}]
"""


async def test_a_rule_of_http_allows_no_connection_and_denies_every_one() -> None:
    async with guarded(HTTP_ONLY % "ALLOW") as chat:
        assert (await chat.ask()).status == 200
        assert await chat.connect() == b""
    async with guarded(HTTP_ONLY % "DENY") as chat:
        assert (await chat.ask()).status == 403
        assert (await chat.ask(method="POST")).status == 200
        assert await chat.connect() == b""
        async with asyncio.timeout(30):
            while "- 0 - rbac_access_denied_matched_policy[ns[default]-policy[p]-rule[0]]" not in chat.log():
                await asyncio.sleep(0.2)


DRY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: dry, annotations: {istio.io/dry-run: "true"}}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/dry]}}]}]}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: noted}
spec: {action: AUDIT, rules: [{}]}
"""


async def test_a_dry_run_refuses_nothing_and_is_counted() -> None:
    async with guarded(DRY) as chat:
        assert (await chat.ask("/dry")).status == 200
        counted = await asyncio.to_thread(chat.envoy.stats, r"http.*istio_dry_run_deny_\.shadow_denied")
        assert sum(counted.values()) == 1, counted


HOSTS = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: p}
spec:
  action: DENY
  rules: [{to: [{operation: {hosts: [secret.example, "secret.example:*"]}}]}]
"""


async def test_hosts_are_the_same_in_every_case() -> None:
    async with guarded(HOSTS) as chat:
        for host in ("secret.example", "SECRET.Example", "Secret.example:8443", "secret.example:80"):
            assert (await chat.ask(host=host)).status == 403, host
        assert (await chat.ask(host="public.example")).status == 200
        absolute = await chat.ask("http://secret.example/", host="public.example")
        assert absolute.status == 403, "the target's host counts, not the header's"
        for host in ("secret.example.", "SECRET.example.:80"):
            assert (await chat.ask(host=host)).status == 403, host


NO_ADMIN = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin}
spec: {action: DENY, rules: [{to: [{operation: {paths: [/admin, /admin/*]}}]}]}
"""
TRICKS = [
    "/admin",
    "/admin/",
    "/x/../admin",
    "/./admin",
    "/%61dmin",
    "/x/%2e%2e/admin",
    "/x\\..\\admin",
    "/admin?x",
]
SLASHES = ["//admin", "/%2fadmin", "/x/..%2fadmin", "/admin%2fx", "/%5cadmin", "///admin//x"]


async def test_a_path_cannot_be_written_around_a_policy() -> None:
    async with guarded(NO_ADMIN) as chat:
        for path in TRICKS:
            assert (await chat.ask(path)).status in (400, 403), path
        assert (await chat.ask("/Admin")).status == 200, "another path"
        for target in ("http://chat/admin", "http://elsewhere/admin", "https://chat/x/../admin?y"):
            assert (await chat.ask(target)).status in (400, 403), target
    normal = "  pathNormalization: {normalization: DECODE_AND_MERGE_SLASHES}"
    async with guarded(NO_ADMIN, settings=normal) as chat:
        for path in (*TRICKS, *SLASHES):
            answer = await chat.ask(path)
            assert answer.status in (400, 403), (path, answer)
        assert (await chat.ask("/a//b")).seen["path"] == "/a/b"


async def test_what_a_policy_allows_cannot_be_widened_by_a_path() -> None:
    allow = NO_ADMIN.replace("action: DENY, ", "").replace("[/admin, /admin/*]", "[/public/*]")
    async with guarded(allow) as chat:
        assert (await chat.ask("/public/x")).status == 200
        for path in ("/public/../admin", "/public/%2e%2e/admin", "/public/./../admin", "/public\\..\\admin"):
            assert (await chat.ask(path)).status in (400, 403), path
