"""VirtualService: what is accepted, what is refused and where, and what it becomes."""

from __future__ import annotations

import textwrap

import pytest

from headrace.model.problem import Severity


def document(spec: str, version: str = "networking.istio.io/v1") -> str:
    head = f"apiVersion: {version}\nkind: VirtualService\nmetadata: {{name: chat}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def route(rest: str = "", match: str = "") -> str:
    """One HTTP rule to `chat` with more fields beside its route."""
    lines = ["hosts: [chat]", "http:", "- route: [{destination: {host: chat}}]"]
    lines += [f"  match: {match}"] if match else []
    return "\n".join([*lines, *(f"  {line}" for line in textwrap.dedent(rest).strip("\n").splitlines())])


@pytest.mark.parametrize("version", ["v1", "v1beta1", "v1alpha3"])
def test_every_served_version_is_read(judge, version):
    verdict = judge(document(route(), f"networking.istio.io/{version}"))
    assert verdict.problems == ()
    assert verdict.resource.hosts == ("chat.default.svc.cluster.local",)


ACCEPTED = {
    "weights that are no hundred": """
        hosts: [chat]
        http:
        - route:
          - {destination: {host: chat, subset: v1}, weight: 3}
          - {destination: {host: chat, subset: v2, port: {number: 8000}}, weight: 4}
        """,
    "every match": route(
        match="[{name: m, uri: {prefix: ''}, scheme: {exact: https}, method: {regex: GET|POST}, "
        "authority: {prefix: a}, headers: {x: {}, ':path': {exact: ''}}, withoutHeaders: {y: {regex: '*'}}, "
        "queryParams: {q: {exact: ''}}, "
        "port: 80, sourceLabels: {app: a}, sourceNamespace: ns, gateways: [mesh, ns/gw], ignoreUriCase: true}]"
    ),
    "numbers as text, snake case": route("retries: {attempts: '3', per_try_timeout: 2s, retry_on: '5xx,503'}"),
    "timeout and cors": route(
        "timeout: 1.5s\ncorsPolicy: {allowOrigins: [{exact: a}], maxAge: 24h, allowMethods: ['*']}"
    ),
    "redirect": "hosts: [a.b]\nhttp: [{redirect: {derivePort: FROM_REQUEST_PORT, redirectCode: 308}}]",
    "direct response": "hosts: [a.b]\nhttp: [{directResponse: {status: 503, body: {bytes: aGk=}}}]",
    "gateway wildcard": "hosts: ['*']\ngateways: [gw]\nhttp: [{route: [{destination: {host: chat}}]}]",
    "an address as host": "hosts: [10.0.0.1]\nhttp: [{route: [{destination: {host: chat}}]}]",
    "null means not written": route("timeout: null\nretries: null"),
    "header variables": route("headers: {request: {set: {a: '%REQ(x)% 100%%'}, remove: [b]}}"),
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_accepted(judge, spec):
    verdict = judge(document(spec))
    assert verdict.errors == []
    assert verdict.resource is not None


REJECTED = {
    "no routes": ("hosts: [a]", "spec.http", "needs routes"),
    "star in the mesh": ("hosts: ['*']\nhttp: [{route: [{destination: {host: a}}]}]", "spec.hosts[0]", "sidecars"),
    "bad host": ("hosts: [a_b.c]\nhttp: [{route: [{destination: {host: a}}]}]", "spec.hosts[0]", "not a host name"),
    "numeric top-level domain": ("hosts: [a.12]\nhttp: [{redirect: {uri: /}}]", "spec.hosts[0]", "may not be a number"),
    "overlapping hosts": (
        "hosts: ['*.a.com', b.a.com]\nhttp: [{redirect: {uri: /}}]",
        "spec.hosts[1]",
        "within, '*.a.com'",
    ),
    "delegate with gateways": ("gateways: [a]\nhttp: [{redirect: {uri: /}}]", "spec.gateways", "delegate"),
    "unknown field": (route("timeOut: 1s"), "spec.http[0].timeOut", "unknown field"),
    "timeout 0": (route("timeout: 0s"), "spec.http[0].timeout", "at least 1ms"),
    "timeout below a millisecond": (route("timeout: 1.0001s"), "spec.http[0].timeout", "millisecond"),
    "not a duration": (route("timeout: soon"), "spec.http[0].timeout", "not a duration"),
    "route and redirect": (route("redirect: {uri: /}"), "spec.http[0].route", "exclude"),
    "route and directResponse": (route("directResponse: {status: 200}"), "spec.http[0].route", "exclude"),
    "fault and redirect": (
        "hosts: [a]\nhttp: [{redirect: {uri: /}, fault: {delay: {fixedDelay: 1s}}}]",
        "spec.http[0].fault",
        "exclude",
    ),
    "no action": ("hosts: [a]\nhttp: [{timeout: 1s}]", "spec.http[0].route", "must do something"),
    "delegate and route": (route("delegate: {name: x}"), "spec.http[0].route", "exclude"),
    "mirror and mirrors": (
        route("mirror: {host: a}\nmirrors: [{destination: {host: b}}]"),
        "spec.http[0].mirror",
        "exclude",
    ),
    "mirror percentage": (route("mirrorPercentage: {value: 101}"), "spec.http[0].mirrorPercentage.value", "percentage"),
    "weights of 0": (
        "hosts: [a]\nhttp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]",
        "spec.http[0].route",
        "add up to 0",
    ),
    "negative weight": (
        "hosts: [a]\nhttp: [{route: [{destination: {host: a}, weight: -1}]}]",
        "spec.http[0].route[0].weight",
        "out of range",
    ),
    "destination star": (
        "hosts: [a]\nhttp: [{route: [{destination: {host: '*'}}]}]",
        "spec.http[0].route[0].destination.host",
        "'*'",
    ),
    "subset name": (
        "hosts: [a]\nhttp: [{route: [{destination: {host: a, subset: a.b}}]}]",
        "spec.http[0].route[0].destination.subset",
        "subset's name",
    ),
    "port of a destination": (
        "hosts: [a]\nhttp: [{route: [{destination: {host: a, port: {number: 65536}}}]}]",
        "spec.http[0].route[0].destination.port.number",
        "out of range",
    ),
    "two kinds of match": (
        route(match="[{uri: {exact: a, prefix: b}}]"),
        "spec.http[0].match[0].uri.prefix",
        "exclude",
    ),
    "empty prefix of a header": (
        route(match="[{headers: {a: {prefix: ''}}}]"),
        "spec.http[0].match[0].headers.a.prefix",
        "empty",
    ),
    "look-ahead": (route(match="[{uri: {regex: '(?=a)'}}]"), "spec.http[0].match[0].uri.regex", "RE2"),
    "long pattern": (route(match=f"[{{uri: {{regex: {'a' * 1025}}}}}]"), "spec.http[0].match[0].uri.regex", "too long"),
    "star as a header's pattern": (
        route(match="[{headers: {a: {regex: '*'}}}]"),
        "spec.http[0].match[0].headers.a.regex",
        "RE2",
    ),
    "header name": (route(match="[{headers: {'a b': {}}}]"), 'spec.http[0].match[0].headers["a b"]', "header name"),
    "claim in the mesh": (
        route(match="[{headers: {'@request.auth.claims.sub': {exact: a}}}]"),
        'spec.http[0].match[0].headers["@request.auth.claims.sub"]',
        "gateways only",
    ),
    "namespace of a source": (
        route(match="[{sourceNamespace: a/b}]"),
        "spec.http[0].match[0].sourceNamespace",
        "namespace",
    ),
    "gateway of a match": (route(match="[{gateways: [a/b/c]}]"), "spec.http[0].match[0].gateways[0]", "gateway's name"),
    "empty redirect": (
        "hosts: [a]\nhttp: [{redirect: {redirectCode: 301}}]",
        "spec.http[0].redirect",
        "change something",
    ),
    "redirect code": (
        "hosts: [a]\nhttp: [{redirect: {uri: /, redirectCode: 200}}]",
        "spec.http[0].redirect.redirectCode",
        "200",
    ),
    "redirect port twice": (
        "hosts: [a]\nhttp: [{redirect: {port: 80, derivePort: FROM_REQUEST_PORT}}]",
        "spec.http[0].redirect.derivePort",
        "exclude",
    ),
    "prefixRewrite without a prefix": (
        "hosts: [a]\nhttp: [{match: [{uri: {exact: /a}}], redirect: {prefixRewrite: /b}}]",
        "spec.http[0].match[0].uri",
        "prefix",
    ),
    "empty rewrite": (route("rewrite: {}"), "spec.http[0].rewrite", "change something"),
    "two rewrites": (
        route("rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}"),
        "spec.http[0].rewrite.uriRegexRewrite",
        "exclude",
    ),
    "half a regex rewrite": (
        route("rewrite: {uriRegexRewrite: {match: a}}"),
        "spec.http[0].rewrite.uriRegexRewrite.rewrite",
        "required",
    ),
    "empty fault": (route("fault: {}"), "spec.http[0].fault", "delay or an abort"),
    "exponential delay": (
        route("fault: {delay: {exponentialDelay: 1s}}"),
        "spec.http[0].fault.delay.exponentialDelay",
        "not supported",
    ),
    "http2 error": (route("fault: {abort: {http2Error: x}}"), "spec.http[0].fault.abort.http2Error", "not supported"),
    "tiny percentage": (
        route("fault: {delay: {fixedDelay: 1s, percentage: {value: 0.00001}}}"),
        "spec.http[0].fault.delay.percentage.value",
        "percentage",
    ),
    "grpc status": (
        route("fault: {abort: {grpcStatus: BAD}}"),
        "spec.http[0].fault.abort.grpcStatus",
        "one of its values",
    ),
    "retries off and on": (route("retries: {attempts: 0, retryOn: 5xx}"), "spec.http[0].retries.retryOn", "attempts 0"),
    "unknown retry condition": (
        route("retries: {attempts: 1, retryOn: '5xx, reset'}"),
        "spec.http[0].retries.retryOn",
        "' reset'",
    ),
    "negative attempts": (route("retries: {attempts: -1}"), "spec.http[0].retries.attempts", "out of range"),
    "cors method": (
        route("corsPolicy: {allowMethods: [FETCH]}"),
        "spec.http[0].corsPolicy.allowMethods[0]",
        "one of its values",
    ),
    "cors age": (route("corsPolicy: {maxAge: 1.5s}"), "spec.http[0].corsPolicy.maxAge", "whole seconds"),
    "cors origin": (
        route("corsPolicy: {allowOrigins: [{}]}"),
        "spec.http[0].corsPolicy.allowOrigins[0]",
        "needs a text",
    ),
    "response host": (
        route("headers: {response: {set: {host: a}}}"),
        "spec.http[0].headers.response.set.host",
        "may not",
    ),
    "unfinished variable": (
        route("headers: {request: {add: {a: 'x%y'}}}"),
        "spec.http[0].headers.request.add.a",
        "%VARIABLE%",
    ),
    "line break in a header": (
        route('headers: {request: {add: {a: "x\\ny"}}}'),
        "spec.http[0].headers.request.add.a",
        "control",
    ),
    "host set twice": (
        route("rewrite: {authority: a}\nheaders: {request: {set: {':authority': b}}}"),
        "spec.http[0].headers.request",
        "2 times",
    ),
    "body is not base64": (
        "hosts: [a]\nhttp: [{directResponse: {status: 200, body: {bytes: '*'}}}]",
        "spec.http[0].directResponse.body.bytes",
        "base64",
    ),
    "large body": (
        f"hosts: [a]\nhttp: [{{directResponse: {{status: 200, body: {{string: {'a' * 1_048_577}}}}}}}]",
        "spec.http[0].directResponse.body",
        "too large",
    ),
    "exportTo ~": (route() + "\nexportTo: ['~']", "spec.exportTo[0]", "not allowed"),
    "exportTo star and more": (route() + "\nexportTo: ['*', a]", "spec.exportTo", "alone"),
    "exportTo twice": (route() + "\nexportTo: [., default]", "spec.exportTo[1]", "twice"),
    "tls without a match": (
        "hosts: [a.b]\ntls: [{match: [], route: [{destination: {host: a}}]}]",
        "spec.tls[0].match",
        "needs a match",
    ),
    "sni of somebody else": (
        "hosts: [a.b]\ntls: [{match: [{sniHosts: [c.d]}], route: [{destination: {host: a}}]}]",
        "spec.tls[0].match[0].sniHosts[0]",
        "none of",
    ),
    "tcp without a route": ("hosts: [a.b]\ntcp: [{match: [{port: 80}]}]", "spec.tcp[0].route", "needs a destination"),
    "tcp subnet": (
        "hosts: [a.b]\ntcp: [{match: [{destinationSubnets: [10.0.0.0/33]}], route: [{destination: {host: a}}]}]",
        "spec.tcp[0].match[0].destinationSubnets[0]",
        "CIDR",
    ),
}


@pytest.mark.parametrize(("spec", "field", "message"), REJECTED.values(), ids=REJECTED.keys())
def test_rejected(judge, spec, field, message):
    verdict = judge(document(spec))
    assert verdict.resource is None
    assert (field, "IST0106") in [(problem.field, problem.code) for problem in verdict.errors], verdict.errors
    assert any(message in problem.message for problem in verdict.errors), verdict.errors


def test_problems_stand_at_the_line_of_their_field(judge):
    verdict = judge("""
        apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata:
          name: chat
        spec:
          hosts: [chat]
          http:
          - name: first
            route:
            - destination:
                host: chat
          - name: second
            retries:
              attempts: 3
              perTryTimeout: fast # <<
            route:
            - destination:
                host: chat
        """)
    (problem,) = verdict.errors
    assert (problem.line, problem.field) == (verdict.marked, "spec.http[1].retries.perTryTimeout")
    assert "1.5s" in problem.remedy


def test_a_delegate_is_named_by_namespace_and_name(judge):
    delegated = "{match: [{uri: {prefix: /a}}], delegate: {name: a}}, {delegate: {name: b, namespace: other}}"
    verdict = judge(document(f"hosts: [a.b]\nhttp: [{delegated}, {{route: [{{destination: {{host: b}}}}]}}]"))
    assert verdict.problems == ()
    assert [route.delegate for route in verdict.resource.http] == [("default", "a"), ("other", "b"), None]


def test_without_hosts_it_is_a_delegate(judge):
    verdict = judge(document("http: [{route: [{destination: {host: a}}]}]"))
    assert verdict.problems == ()
    assert verdict.resource.hosts == ()


def test_connections_are_told_apart_by_name_and_address(judge):
    match = "{sniHosts: [A.b, a.b, '*-x.b'], destinationSubnets: [10.1.2.3/8, 10.0.0.1], port: 443}"
    way = "route: [{destination: {host: c}, weight: 2}]"
    verdict = judge(document(f"hosts: ['*.b']\ntls: [{{match: [{match}], {way}}}]"))
    (found,) = verdict.resource.tls[0].matches
    assert (found.sni_hosts, found.subnets, found.port) == (("a.b",), ("10.0.0.0/8", "10.0.0.1/32"), 443)
    assert verdict.resource.tls[0].route[0].weight == 2
    assert ("HR0002", "spec.tls[0].match[0].sniHosts[2]") in verdict.codes


def test_a_status_that_envoy_cannot_send(judge):
    rule = "{directResponse: {status: 600}}"
    verdict = judge(document(f"hosts: [a.b]\nhttp: [{rule}]"))
    assert verdict.codes == [("HR0002", "spec.http[0].directResponse.status")]
    assert verdict.resource.http[0].direct_response.status == 599


def test_a_subnet_is_no_netmask(judge):
    match = "{destinationSubnets: [10.0.0.0/255.0.0.0]}"
    verdict = judge(document(f"hosts: [a.b]\ntcp: [{{match: [{match}], route: [{{destination: {{host: c}}}}]}}]"))
    assert [problem.field for problem in verdict.errors] == ["spec.tcp[0].match[0].destinationSubnets[0]"]


def test_a_claim_is_a_condition_like_a_header(judge):
    claims = "{match: [{headers: {'@request.auth.claims.sub': {exact: a}}}], route: [{destination: {host: a}}]}"
    verdict = judge(document(f"hosts: [a.b]\ngateways: [g]\nhttp: [{claims}]"))
    assert verdict.problems == ()
    assert [name for name, _ in verdict.resource.http[0].matches[0].headers] == ["@request.auth.claims.sub"]


WARNED = {
    "old gateway name": (
        "hosts: [a.b]\ngateways: [g.ns.svc.cluster.local]\nhttp: [{redirect: {uri: /}}]",
        "IST0133",
        "spec.gateways[0]",
    ),
    "mirrorPercent": (route("mirrorPercent: 50"), "IST0133", "spec.http[0].mirrorPercent"),
    "abort without status": (route("fault: {abort: {percentage: {value: 1}}}"), "IST0133", "spec.http[0].fault.abort"),
    "fault without percentage": (route("fault: {delay: {fixedDelay: 1s}}"), "HR0002", "spec.http[0].fault.delay"),
    "redirect that Envoy has not": (
        "hosts: [a]\nhttp: [{redirect: {uri: /, redirectCode: 304}}]",
        "HR0002",
        "spec.http[0].redirect.redirectCode",
    ),
    "tcp after a catch-all": (
        "hosts: [a.b]\ntcp: [{route: [{destination: {host: a}}]}, {route: [{destination: {host: b}}]}]",
        "IST0130",
        "spec.tcp[1]",
    ),
    "tls match twice": (
        "hosts: [a.b]\ntls: [{match: [{sniHosts: [a.b]}, {sniHosts: [a.b]}], route: [{destination: {host: a}}]}]",
        "IST0131",
        "spec.tls[0].match[1]",
    ),
}


@pytest.mark.parametrize(("spec", "code", "field"), WARNED.values(), ids=WARNED.keys())
def test_warned(judge, spec, code, field):
    verdict = judge(document(spec))
    assert (code, field) in verdict.codes
    assert verdict.errors == []
    assert verdict.resource is not None


def test_severities_of_warnings(judge):
    verdict = judge(document(route("mirrorPercent: 50")))
    assert {problem.severity for problem in verdict.problems} == {Severity.WARNING}
