"""AuthorizationPolicy: what is accepted, what is refused and where, and what it becomes."""

from __future__ import annotations

import pytest

from headrace.model.authorization import Action, Attribute, Rule
from headrace.model.policy import GATEWAY_GROUP, PolicyTarget


def document(spec: str, annotations: str = "", version: str = "v1") -> str:
    return (
        f"apiVersion: security.istio.io/{version}\nkind: AuthorizationPolicy\n"
        f"metadata: {{name: p, annotations: {{{annotations}}}}}\nspec:\n  " + spec.replace("\n", "\n  ") + "\n"
    )


def source(text: str) -> str:
    return f"rules: [{{from: [{{source: {{{text}}}}}]}}]"


def operation(text: str) -> str:
    return f"rules: [{{to: [{{operation: {{{text}}}}}]}}]"


def when(text: str) -> str:
    return f"rules: [{{when: [{{{text}}}]}}]"


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_policy_is_lowered(judge, version):
    spec = """
selector: {matchLabels: {b: c, a: b}}
action: DENY
rules:
- from: [{source: {namespaces: [n], notPrincipals: [p], ipBlocks: [10.0.0.0/8]}}]
  to: [{operation: {paths: [/a], hosts: [h], notPorts: ["80"]}}]
  when: [{key: source.ip, values: [10.0.0.1]}]
- {}
"""
    verdict = judge(document(spec.strip(), version=version))
    assert verdict.problems == ()
    policy = verdict.resource
    assert (policy.action, policy.scope.selector) == (Action.DENY, (("a", "b"), ("b", "c")))
    assert policy.rules == (
        Rule(
            ((
                Attribute("source.principal", (), ("p",)),
                Attribute("source.namespace", ("n",)),
                Attribute("source.ip", ("10.0.0.0/8",)),
            ),),
            ((
                Attribute(":authority", ("h",)),
                Attribute(":path", ("/a",)),
                Attribute("destination.port", (), ("80",)),
            ),),
            (Attribute("source.ip", ("10.0.0.1",)),),
        ),
        Rule(),
    )  # fmt: skip


def test_without_a_spec_nothing_is_allowed(judge):
    verdict = judge("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p}\n")
    assert (verdict.problems, verdict.resource.action, verdict.resource.rules) == ((), Action.ALLOW, ())


def test_targets_are_read_in_both_forms(judge):
    target = f"{{group: {GATEWAY_GROUP}, kind: Gateway, name: g}}"
    for spec in (f"targetRef: {target}", f"targetRefs: [{target}]"):
        verdict = judge(document(spec))
        assert verdict.problems == ()
        assert verdict.resource.scope.targets == (PolicyTarget(GATEWAY_GROUP, "Gateway", "g"),)


@pytest.mark.parametrize("target", ["{kind: Service, name: s}", "{group: core, kind: Service, name: s}"])
def test_what_needs_a_waypoint_is_named(judge, target):
    assert judge(document(f"targetRefs: [{target}]")).codes == [("HR0001", "spec.targetRefs[0]")]


@pytest.mark.parametrize(("value", "dry"), [("true", True), ("1", True), ("T", True), ("false", False), ("0", False)])
def test_dry_run(judge, value, dry):
    verdict = judge(document("action: ALLOW", f'istio.io/dry-run: "{value}"'))
    assert (verdict.problems, verdict.resource.dry_run) == ((), dry)


CUSTOM = "action: CUSTOM\nprovider: {name: x}\n"
ACCEPTED = {
    "every key": when("key: 'request.headers[:authority]', values: [a]"),
    "nested claim": when("key: 'request.auth.claims[a][b]', notValues: [a]"),
    "metadata": when("key: 'experimental.envoy.filters.http.x[y]', values: ['[a]']"),
    "IPv6": source("ipBlocks: ['fd00::/8', 'fd00::1']"),
    "port 0": operation("ports: ['0', '65535']"),
    "templates": operation("paths: ['/{*}/b/{**}', '/a/{**}/', '/{*}']"),
    "wildcards": operation("paths: ['*', '*/a', 'a/*', '/a*b*']"),
    "trust domains": source("trustDomains: ['a.b', '*.b', 'a*', '*']"),
    "accounts": source("serviceAccounts: [a, b/c], ipBlocks: [10.0.0.1]"),
    "custom": CUSTOM + "rules: [{}]",
    "custom by address": CUSTOM + source("ipBlocks: [10.0.0.1]"),
    "all selected": "selector: {matchLabels: {a: ''}}",
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(judge, spec):
    verdict = judge(document(spec))
    assert verdict.problems == ()
    assert verdict.resource is not None


AT = "spec.rules[0]"
SRC, OPER = f"{AT}.from[0].source", f"{AT}.to[0].operation"
REJECTED = {
    "action": ("action: REFUSE", "spec.action"),
    "deny without rules": ("action: DENY", "spec.rules"),
    "custom without rules": ("action: CUSTOM\nprovider: {name: x}", "spec.rules"),
    "custom without provider": ("action: CUSTOM\nrules: [{}]", "spec.provider"),
    "custom with an empty provider": ("action: CUSTOM\nprovider: {name: ''}\nrules: [{}]", "spec.provider.name"),
    "provider of another action": ("provider: {name: x}", "spec.provider"),
    "custom principals": (CUSTOM + source("principals: [a]"), f"{SRC}.principals"),
    "custom notNamespaces": (CUSTOM + source("notNamespaces: [a]"), f"{SRC}.notNamespaces"),
    "custom claims": (CUSTOM + when("key: 'request.auth.claims[a]', values: [b]"), f"{AT}.when[0].key"),
    "custom source.principal": (CUSTOM + when("key: source.principal, values: [b]"), f"{AT}.when[0].key"),
    "no rule": ("rules: [null]", AT),
    "empty from": ("rules: [{from: []}]", f"{AT}.from"),
    "empty to": ("rules: [{to: []}]", f"{AT}.to"),
    "no source": ("rules: [{from: [{}]}]", SRC),
    "empty source": ("rules: [{from: [{source: {}}]}]", SRC),
    "no operation": ("rules: [{to: [{}]}]", OPER),
    "empty operation": ("rules: [{to: [{operation: {paths: []}}]}]", OPER),
    "empty value": (source("principals: ['']"), f"{SRC}.principals[0]"),
    "empty not value": (source("notRequestPrincipals: [a, '']"), f"{SRC}.notRequestPrincipals[1]"),
    "address": (source("ipBlocks: [1.2.3]"), f"{SRC}.ipBlocks[0]"),
    "netmask": (source("remoteIpBlocks: [10.0.0.0/255.0.0.0]"), f"{SRC}.remoteIpBlocks[0]"),
    "bits": (source("notIpBlocks: [10.0.0.0/33]"), f"{SRC}.notIpBlocks[0]"),
    "zone": (source("ipBlocks: ['fe80::1%eth0']"), f"{SRC}.ipBlocks[0]"),
    "accounts with principals": (source("serviceAccounts: [a], principals: [b]"), f"{SRC}.serviceAccounts"),
    "account wildcard": (source("serviceAccounts: ['a*']"), f"{SRC}.serviceAccounts[0]"),
    "account slashes": (source("notServiceAccounts: [a/b/c]"), f"{SRC}.notServiceAccounts[0]"),
    "account without name": (source("serviceAccounts: [a/]"), f"{SRC}.serviceAccounts[0]"),
    "17 accounts": (source(f"serviceAccounts: [{', '.join('abcdefghijklmnopq')}]"), f"{SRC}.serviceAccounts"),
    "trust domain with slash": (source("trustDomains: [a/b]"), f"{SRC}.trustDomains[0]"),
    "two wildcards": (source("trustDomains: ['*a*']"), f"{SRC}.trustDomains[0]"),
    "wildcard inside": (source("trustDomains: ['a*b']"), f"{SRC}.trustDomains[0]"),
    "port": (operation("ports: ['65536']"), f"{OPER}.ports[0]"),
    "port as number": (operation("ports: [80]"), f"{OPER}.ports[0]"),
    "port with sign": (operation("notPorts: ['+80']"), f"{OPER}.notPorts[0]"),
    "template not last": (operation("paths: ['/{**}/a/{*}']"), f"{OPER}.paths[0]"),
    "half a template": (operation("paths: ['/a{*}']"), f"{OPER}.paths[0]"),
    "braces": (operation("notPaths: ['/{a}']"), f"{OPER}.notPaths[0]"),
    "template and wildcard": (operation("paths: ['/a*/{*}']"), f"{OPER}.paths[0]"),
    "template without slash": (operation("paths: ['{*}/a']"), f"{OPER}.paths[0]"),
    "empty segment beside a template": (operation("paths: ['/a//{*}']"), f"{OPER}.paths[0]"),
    "no key": (when("values: [a]"), f"{AT}.when[0].key"),
    "no values": (when("key: source.ip"), f"{AT}.when[0].values"),
    "unknown key": (when("key: source.name, values: [a]"), f"{AT}.when[0].key"),
    "old key": (when("key: 'destination.labels[a]', values: [a]"), f"{AT}.when[0].key"),
    "header without brackets": (when("key: request.headers, values: [a]"), f"{AT}.when[0].key"),
    "header with a tail": (when("key: 'request.headersX[a]', values: [a]"), f"{AT}.when[0].key"),
    "header name": (when("key: 'request.headers[a b]', values: [a]"), f"{AT}.when[0].key"),
    "empty claim": (when("key: 'request.auth.claims[a][]', values: [a]"), f"{AT}.when[0].key"),
    "when address": (when("key: remote.ip, notValues: [x]"), f"{AT}.when[0].notValues[0]"),
    "when port": (when("key: destination.port, values: ['x']"), f"{AT}.when[0].values[0]"),
    "selector and target": (
        f"selector: {{matchLabels: {{a: b}}}}\ntargetRefs: [{{group: {GATEWAY_GROUP}, kind: Gateway, name: g}}]",
        "spec.targetRefs",
    ),
    "target without name": (f"targetRefs: [{{group: {GATEWAY_GROUP}, kind: Gateway}}]", "spec.targetRefs[0].name"),
    "target elsewhere": (
        f"targetRef: {{group: {GATEWAY_GROUP}, kind: Gateway, name: g, namespace: x}}",
        "spec.targetRef.namespace",
    ),
    "target kind": ("targetRefs: [{group: apps, kind: Deployment, name: g}]", "spec.targetRefs[0].kind"),
    "selector wildcard": ("selector: {matchLabels: {a: '*'}}", "spec.selector.matchLabels.a"),
    "second spelling": ("rules: [{from_: []}]", AT),
    "unknown field": (source("principal: [a]"), f"{SRC}.principal"),
}


@pytest.mark.parametrize(("spec", "field"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, spec, field):
    verdict = judge(document(spec))
    assert verdict.resource is None
    assert field in [problem.field for problem in verdict.errors], [problem.as_line() for problem in verdict.errors]
    assert all(problem.message for problem in verdict.errors)


@pytest.mark.parametrize(
    ("spec", "value"),
    [("action: AUDIT", "true"), (CUSTOM + "rules: [{}]", "false"), ("action: ALLOW", "foo"), ("action: ALLOW", "yes")],
)
def test_dry_run_is_for_allow_and_deny_and_a_truth_value(judge, spec, value):
    verdict = judge(document(spec, f'istio.io/dry-run: "{value}"'))
    assert [problem.field for problem in verdict.errors] == ['metadata.annotations["istio.io/dry-run"]']


def test_the_line_of_a_wrong_value_is_named(judge):
    verdict = judge("""
        apiVersion: security.istio.io/v1
        kind: AuthorizationPolicy
        metadata: {name: p}
        spec:
          rules:
          - to:
            - operation:
                paths:
                - /a
                - /a{*}  # <<
        """)
    (problem,) = verdict.errors
    assert (problem.line, problem.field) == (verdict.marked, f"{OPER}.paths[1]")


DENY = "action: DENY\n"
HTTP_ONLY = {
    "from": DENY + source("requestPrincipals: [a]"),
    "to": DENY + operation("methods: [GET]"),
    "from and to": DENY + "rules: [{from: [{source: {namespaces: [a]}}], to: [{operation: {paths: [/]}}]}]",
}


@pytest.mark.parametrize("spec", HTTP_ONLY.values(), ids=HTTP_ONLY.keys())
def test_a_deny_rule_of_http_alone_is_warned_of(judge, spec):
    verdict = judge(document(spec))
    assert verdict.codes == [("IST0133", AT)]
    assert verdict.resource is not None


@pytest.mark.parametrize(
    "spec",
    [
        DENY + "rules: [{from: [{source: {requestPrincipals: [a]}}], to: [{operation: {paths: [/], ports: ['80']}}]}]",
        DENY + source("namespaces: [a]"),
        DENY + "rules: [{}]",
        operation("methods: [GET]"),
    ],
)
def test_other_rules_are_not(judge, spec):
    assert judge(document(spec)).problems == ()
