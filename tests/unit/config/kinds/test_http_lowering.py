"""VirtualService: what its HTTP routes become in the model."""

from __future__ import annotations

import textwrap

import pytest

from headrace.model.traffic import Destination, Fault, MatchKind, Mirror, Redirect, Retries, Rewrite, StringMatch


def document(spec: str, version: str = "networking.istio.io/v1") -> str:
    head = f"apiVersion: {version}\nkind: VirtualService\nmetadata: {{name: chat}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def route(rest: str = "", match: str = "") -> str:
    """One HTTP rule to `chat` with more fields beside its route."""
    lines = ["hosts: [chat]", "http:", "- route: [{destination: {host: chat}}]"]
    lines += [f"  match: {match}"] if match else []
    return "\n".join([*lines, *(f"  {line}" for line in textwrap.dedent(rest).strip("\n").splitlines())])


def test_names_are_resolved(judge):
    found = judge(
        document("""
        hosts: [Chat, api.example.com, '*.foo.com']
        gateways: [mesh, door, ns/door, old.ns2.svc.cluster.local]
        http:
        - match: [{gateways: [door]}]
          route: [{destination: {host: chat, subset: v1, port: {number: 8000}}, weight: 7}]
        """)
    ).resource
    assert found.hosts == ("chat.default.svc.cluster.local", "api.example.com", "*.foo.com")
    assert found.gateways == ("mesh", "default/door", "ns/door", "ns2/old")
    assert found.http[0].matches[0].gateways == ("default/door",)
    assert found.http[0].route[0].destination == Destination("chat.default.svc.cluster.local", "v1", 8000)
    assert found.http[0].route[0].weight == 7


def test_without_gateways_it_is_for_sidecars(judge):
    assert judge(document(route())).resource.gateways == ("mesh",)


def test_matches_are_lowered(judge):
    match = (
        "[{uri: {prefix: /v1}, method: {}, headers: {b: {}, a: {exact: ''}, c: {regex: x.*}}, "
        "withoutHeaders: {d: {regex: '*'}}, queryParams: {q: {prefix: p}}, sourceLabels: {z: '1', y: '2'}}]"
    )
    (found,) = judge(document(route(match=match))).resource.http[0].matches
    assert found.uri == StringMatch(MatchKind.PREFIX, "/v1")
    assert found.method is None, "any method: no condition"
    assert found.headers == (
        ("a", StringMatch(MatchKind.EXACT, "")),
        ("b", StringMatch(MatchKind.PRESENT)),
        ("c", StringMatch(MatchKind.REGEX, "x.*")),
    )
    assert found.without_headers == (("d", StringMatch(MatchKind.PRESENT)),)
    assert found.source_labels == (("y", "2"), ("z", "1"))


def test_actions_are_lowered(judge):
    found = judge(
        document(
            route("""
            timeout: 2m
            retries: {attempts: 3, perTryTimeout: 2s, retryOn: '5xx,503', retryRemoteLocalities: true, backoff: 25ms}
            rewrite: {uriRegexRewrite: {match: ^/a, rewrite: /b}, authority: c}
            fault:
              delay: {fixedDelay: 5s, percentage: {value: 0.1}}
              abort: {grpcStatus: UNAVAILABLE, percentage: {value: 5}}
            mirrors: [{destination: {host: m}}, {destination: {host: n}, percentage: {value: 0}}]
            """)
        )
    ).resource.http[0]
    assert found.timeout == 120.0
    assert found.retries == Retries(3, 2.0, "5xx,503", True, None, 0.025)
    assert found.rewrite == Rewrite("", "c", "^/a", "/b")
    assert found.fault == Fault(delay=5.0, delay_percent=0.1, abort_grpc_status=14, abort_percent=5.0)
    assert found.mirrors == (Mirror(Destination("m.default.svc.cluster.local"), 100.0),), "0 % mirrors nothing"


@pytest.mark.parametrize(
    ("rest", "percent"),
    [("", 100.0), ("mirrorPercent: 20", 20.0), ("mirrorPercentage: {value: 0.5}\nmirrorPercent: 20", 0.5)],
)
def test_percentage_of_a_mirror(judge, rest, percent):
    (mirror,) = judge(document(route(f"mirror: {{host: m}}\n{rest}"))).resource.http[0].mirrors
    assert mirror.percent == percent


def test_redirects_and_direct_responses_are_lowered(judge):
    http = "[{redirect: {uri: /x, port: 8443, redirectCode: 307}}, {directResponse: {status: 503, body: {bytes: aGk}}}]"
    first, second = judge(document(f"hosts: [a.b]\nhttp: {http}")).resource.http
    assert first.redirect == Redirect(uri="/x", port=8443, code=307)
    assert (second.direct_response.status, second.direct_response.body) == (503, b"hi")


def test_a_redirect_by_prefix_is_lowered(judge):
    http = "[{match: [{uri: {prefix: /a}}], redirect: {prefixRewrite: /b}}]"
    verdict = judge(document(f"hosts: [a.b]\nhttp: {http}"))
    assert verdict.problems == ()
    assert verdict.resource.http[0].redirect == Redirect(prefix_rewrite="/b")


def test_a_route_knows_its_line(judge):
    verdict = judge("""
        apiVersion: networking.istio.io/v1
        kind: VirtualService
        metadata: {name: chat}
        spec:
          hosts: [chat]
          http:
          - route: [{destination: {host: a}}]
            match: [{uri: {prefix: /a}}]
          - route: [{destination: {host: b}}] # <<
        """)
    assert verdict.resource.http[1].line == verdict.marked
